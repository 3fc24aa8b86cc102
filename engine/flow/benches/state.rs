//! Keyed state and timers, each beside the least that anything could take for the same work.
//! `cargo bench -p thalweg-flow --bench state`; under `cargo test` each runs once.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use thalweg_flow::internals::{Found, KeyedTable, NEVER, Timers, table_hash};
use thalweg_kernel::{Changes, Epoch, KeyGroups, StateId, Timestamp};
use thalweg_testing::mix;

/// Operations in a measured iteration.
const STEP: u64 = 1_024;
/// Timers that live, and keys of a large table.
const MANY: u64 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
const NOW: Timestamp = Timestamp::MIN;

#[inline(always)]
fn key_of(n: u64, keys: u64) -> u64 {
    (((mix(n) >> 16) & 0xffff_ffff) * keys) >> 32
}

/// Updates of random keys, beside those of a bare map.
fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("state update");
    group.throughput(Throughput::Elements(STEP));
    for keys in [100, 10_000, MANY] {
        let mut table = KeyedTable::<_, _, ()>::new();
        (0..keys).for_each(|key| _ = table.insert(table_hash(&key), key, 0_u64, NEVER));
        let mut n = 0;
        group.bench_function(BenchmarkId::new("table", keys), |b| {
            b.iter(|| {
                for _ in 0..STEP {
                    n += 1;
                    let key = black_box(key_of(n, keys));
                    if let Found::Here(held) = table.get_mut(table_hash(&key), &key, NOW) {
                        held.value += 1;
                    }
                }
            });
        });
        let mut map: HashMap<u64, u64> = (0..keys).map(|key| (key, 0)).collect();
        let mut n = 0;
        group.bench_function(BenchmarkId::new("bare map", keys), |b| {
            b.iter(|| {
                for _ in 0..STEP {
                    n += 1;
                    *map.entry(black_box(key_of(n, keys))).or_default() += 1;
                }
            });
        });
    }
    group.finish();
}

/// A snapshot of a tenth of the keys with values of 64 bytes, beside the copy of as many bytes.
fn snapshot(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    let (id, groups) = (StateId::of("bench", "value"), KeyGroups::default());
    for dirty in [MANY / 1_000, MANY / 10, MANY] {
        let mut table = KeyedTable::<_, _, ()>::new();
        (0..MANY).for_each(|key| _ = table.insert(table_hash(&key), key, [0_u64; 8], NEVER));
        let (mut changes, mut epoch, mut n) = (Changes::new(), Epoch::NONE.next(), 0);
        table.snapshot(id, groups, &mut changes, |_, out| out);
        group.bench_function(BenchmarkId::new("dirty keys", dirty), |b| {
            b.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    epoch = epoch.next();
                    table.begin_epoch(epoch, epoch);
                    for _ in 0..dirty {
                        n += 1;
                        let key = mix(n % dirty) % MANY;
                        if let Found::Here(held) = table.get_mut(table_hash(&key), &key, NOW) {
                            held.value[0] = n;
                        }
                    }
                    changes.clear();
                    let start = Instant::now();
                    table.snapshot(id, groups, &mut changes, |held, mut out| {
                        held.value
                            .iter()
                            .for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
                        out
                    });
                    taken += start.elapsed();
                }
                taken
            });
        });
        let (bytes, mut copy) = (changes.as_bytes().to_vec(), Vec::new());
        group.bench_function(BenchmarkId::new("a copy of as many bytes", dirty), |b| {
            b.iter(|| {
                copy.clear();
                copy.extend_from_slice(black_box(&bytes));
            });
        });
    }
    group.finish();
}

const DAY_MS: u64 = 86_400_000;

fn time(n: u64) -> Timestamp {
    Timestamp::from((mix(n) % DAY_MS) as i64)
}

fn insert_all(timers: &mut Timers<u64>) {
    (0..MANY).for_each(|n| _ = timers.insert(time(n), table_hash(&n), n));
}

/// The time that `work` takes with each of the things that `make` makes.
fn timed<T>(times: u64, mut make: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> Duration {
    let mut taken = Duration::ZERO;
    for _ in 0..times {
        let mut made = make();
        let start = Instant::now();
        work(&mut made);
        taken += start.elapsed();
        black_box(&made);
    }
    taken
}

/// A million timers at random times of a day: all in, all fired, all deleted in another order. Beside that a
/// binary heap, which can neither delete nor tell that two are equal, and a bare map, which has no order.
fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timers");
    group.throughput(Throughput::Elements(MANY));
    let full = || {
        let mut timers = Timers::new(usize::MAX);
        insert_all(&mut timers);
        timers
    };
    let fire = |timers: &mut Timers<u64>| while timers.pop_due(Timestamp::MAX).is_some() {};
    let delete = |timers: &mut Timers<u64>| {
        for n in (0..MANY).map(|n| n * 7 % MANY) {
            assert!(timers.delete(time(n), table_hash(&n), &n));
        }
    };
    group.bench_function("insert", |b| {
        b.iter_custom(|times| timed(times, || Timers::new(usize::MAX), insert_all));
    });
    group.bench_function("fire", |b| b.iter_custom(|times| timed(times, full, fire)));
    group.bench_function("delete", |b| b.iter_custom(|times| timed(times, full, delete)));
    // In the long run: as many live, and what was stored and is gone is not noted again and again.
    let (mut timers, mut n) = (full(), MANY);
    let mut changes = Changes::new();
    let (id, groups) = (StateId::of("bench", "timers"), KeyGroups::default());
    group.bench_function("fire one, insert one", |b| {
        b.iter_custom(|times| {
            let mut taken = Duration::ZERO;
            for _ in 0..times {
                timers.snapshot(id, groups, &mut changes);
                changes.clear();
                let start = Instant::now();
                for _ in 0..MANY {
                    let now = timers.pop_due(Timestamp::MAX).map_or(0, |(now, _)| now.as_millis());
                    n += 1;
                    timers.insert(time(n).plus_ms(now), table_hash(&n), n);
                }
                taken += start.elapsed();
            }
            taken
        });
    });
    group.bench_function("a binary heap: push", |b| {
        let push =
            |heap: &mut BinaryHeap<_>| (0..MANY).for_each(|n| heap.push(Reverse((time(n), n))));
        b.iter_custom(|times| timed(times, BinaryHeap::new, push));
    });
    group.bench_function("a binary heap: pop", |b| {
        let full = || (0..MANY).map(|n| Reverse((time(n), n))).collect::<BinaryHeap<_>>();
        b.iter_custom(|times| timed(times, full, |heap| while heap.pop().is_some() {}));
    });
    group.bench_function("a bare map: remove", |b| {
        let full = || (0..MANY).map(|n| ((time(n).as_millis(), n), ())).collect::<HashMap<_, _>>();
        let remove = |map: &mut HashMap<(i64, u64), ()>| {
            for n in (0..MANY).map(|n| n * 7 % MANY) {
                assert!(map.remove(&(time(n).as_millis(), n)).is_some());
            }
        };
        b.iter_custom(|times| timed(times, full, remove));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = update, snapshot, timers
}
criterion_main!(benches);
