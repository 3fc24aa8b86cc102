//! The parts of the hot path, each beside the least that anything could take for the same work.
//! `cargo bench -p thalweg-flow`; under `cargo test` each runs once.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic")]

use std::cell::Cell;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use hashbrown::HashMap;
use rtrb::RingBuffer;
use thalweg_flow::internals::{Watermark, lane};
use thalweg_flow::*;
use thalweg_kernel::{
    Batch, Collector, ConnectorError, Emit, Generated, Mark, OpenContext, PartitionId, Shared,
    Source, SourceSpec, SourceStatus, Timestamp,
};
use thalweg_testing::mix;

/// Records in a step, and so in a measured iteration.
const STEP: usize = 1_024;

#[derive(Clone, Copy)]
struct Event {
    key: u64,
    ts: i64,
}

/// Events of random keys without end.
#[derive(Clone, Copy)]
struct Events {
    next: u64,
    keys: u64,
    /// Events in a millisecond of event time.
    per_ms: u64,
}

impl Events {
    fn of(keys: u64, per_ms: u64) -> Self {
        Self { next: 0, keys, per_ms }
    }

    #[inline(always)]
    fn event(&mut self) -> Event {
        let n = self.next;
        self.next += 1;
        Event {
            key: (((mix(n) >> 16) & 0xffff_ffff) * self.keys) >> 32,
            ts: (n / self.per_ms) as i64,
        }
    }
}

impl SourceSpec for Events {
    type Item = Event;
    type Partition = Self;

    fn describe(&self) -> String {
        "events".into()
    }

    fn open(&self, _: &PartitionId, _: &OpenContext) -> Result<Self, ConnectorError> {
        Ok(*self)
    }
}

impl Source for Events {
    type Item = Event;

    #[inline]
    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Event>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..records_max {
            out.record(self.event(), now, &Generated);
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {}
}

fn watermarks() -> Watermarks<impl EventTime<Event>> {
    Watermarks::monotonous().timestamps(|event: &Event| event.ts).without_clock_guard()
}

/// The shards of a job, to be stepped by hand.
fn shards(shards: usize, job: impl Fn(&Flow)) -> Vec<Shard> {
    let wakers: Arc<[Waker]> = vec![Waker::noop().clone(); shards].into();
    let shared = Arc::<Shared>::default();
    let build = |shard| {
        let (wakers, shared) = (Arc::clone(&wakers), Arc::clone(&shared));
        let cx = BuildContext { shard, wakers, shared, ..BuildContext::single("bench") };
        Shard::build(&job, &cx).unwrap()
    };
    (0..shards).map(build).collect()
}

fn bench_job(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    on: usize,
    warm_up: u64,
    job: impl Fn(&Flow),
) {
    let mut shards = shards(on, job);
    let mut step = || {
        for shard in &mut shards {
            black_box(shard.step(Now::default()).unwrap());
        }
    };
    (0..warm_up).for_each(|_| step());
    group.throughput(Throughput::Elements(STEP as u64));
    group.bench_function(id, |b| b.iter(&mut step));
}

fn windowed(flow: &Flow, events: Events, size: Duration) {
    flow.source(events, watermarks())
        .key_by(|event| event.key)
        .window(Tumbling::of(size))
        .keys_max(2_000_000)
        .aggregate(Count)
        .discard();
}

/// Counts the records of a key.
struct Counting {
    counts: ValueState<u64, u64>,
    all: Rc<Cell<usize>>,
}

impl Process<u64, Event> for Counting {
    type Out = u64;

    fn record(&mut self, _: Event, cx: &mut Context<'_, u64>, _: &mut impl Collector<u64>) {
        self.counts.update(cx, |count| *count += 1);
        self.all.set(self.all.get() + 1);
    }
}

/// Does so. A step of such a job takes fewer records, so several are one iteration.
fn process_update(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64) {
    let all = Rc::new(Cell::new(0));
    let mut shards = shards(1, |flow: &Flow| {
        flow.source(Events::of(keys, 1_000), watermarks())
            .key_by(|event| event.key)
            .keys_max(2_000_000, Overflow::DeadLetter)
            .process(|states| Counting { counts: states.value("count"), all: Rc::clone(&all) })
            .discard();
    });
    let mut step = || {
        let enough = all.get() + STEP;
        while all.get() < enough {
            black_box(shards[0].step(Now::default()).unwrap());
        }
    };
    (0..steps_for(keys)).for_each(|_| step());
    let id = BenchmarkId::new("process function", keys);
    group.throughput(Throughput::Elements(STEP as u64));
    group.bench_function(id, |b| b.iter(&mut step));
}

/// Steps after which nearly all keys have been there.
fn steps_for(keys: u64) -> u64 {
    if cfg!(debug_assertions) { 10 } else { 6 * keys / STEP as u64 + 100 }
}

const YEAR: Duration = Duration::from_secs(31_536_000);

/// Counting by key in an open window, and in a process function with state, beside the same events counted in a bare map.
fn window_update(c: &mut Criterion) {
    let mut group = c.benchmark_group("window update");
    for keys in [100, 10_000, 1_000_000_u64] {
        let id = BenchmarkId::new("window", keys);
        bench_job(&mut group, id, 1, steps_for(keys), |flow| {
            windowed(flow, Events::of(keys, 1_000), YEAR);
        });
        process_update(&mut group, keys);
        let mut counts = HashMap::<u64, u64>::new();
        let mut events = Events::of(keys, 1_000);
        let mut step = || {
            for _ in 0..STEP {
                *counts.entry(black_box(events.event()).key).or_default() += 1;
            }
        };
        (0..steps_for(keys)).for_each(|_| step());
        group.bench_function(BenchmarkId::new("bare map", keys), |b| b.iter(&mut step));
    }
    group.finish();
}

/// A keyed job on two shards, stepped in turn by one thread, beside the same job on one. The source
/// is on the first shard; with 100 keys sums cross, with a million every second record.
fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange");
    for keys in [100, 1_000_000_u64] {
        for on in [1, 2] {
            let id = BenchmarkId::new(format!("{on} shards"), keys);
            bench_job(&mut group, id, on, steps_for(keys), |flow| {
                windowed(flow, Events::of(keys, 1_000), YEAR);
            });
        }
    }
    group.finish();
}

struct Sum(u64);

impl Collector<Event> for Sum {
    #[inline]
    fn record(&mut self, _: Timestamp, event: Event) {
        self.0 = self.0.wrapping_add(event.key);
    }

    fn mark(&mut self, _: Mark) {}
}

/// A batch of records through a lane on one thread, beside the same buffers through a bare ring.
fn ring(c: &mut Criterion) {
    const RECORDS: usize = 256;
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let (mut sender, mut receiver) = lane::<Event>(16, RECORDS).unwrap();
    let mut batch = Batch::default();
    let (mut events, mut sum) = (Events::of(100, 1_000), Sum(0));
    group.bench_function("lane", |b| {
        b.iter(|| {
            for _ in 0..RECORDS {
                let event = events.event();
                sender.record(event.ts.into(), event);
            }
            assert!(sender.flush() && receiver.take(&mut batch));
            batch.drain_into(&mut sum);
        });
    });
    let (mut full, mut take_full) = RingBuffer::<Vec<(i64, Event)>>::new(16);
    let (mut empty, mut take_empty) = RingBuffer::<Vec<(i64, Event)>>::new(16);
    group.bench_function("bare ring", |b| {
        b.iter(|| {
            let mut open = take_empty.pop().unwrap_or_default();
            open.extend((0..RECORDS).map(|_| events.event()).map(|event| (event.ts, event)));
            full.push(open).unwrap();
            let mut got = take_full.pop().unwrap();
            got.drain(..).for_each(|(time, event)| sum.record(time.into(), event));
            empty.push(got).unwrap();
        });
    });
    black_box(sum.0);
    group.finish();
}

/// A watermark of one of several inputs, beside the least value of an array. A watermark for each record of a job,
/// beside one for a thousand records.
fn watermark(c: &mut Criterion) {
    let mut group = c.benchmark_group("watermark");
    for inputs in [1, 2, 8, 64] {
        let (mut merged, mut n) = (Watermark::of(inputs), 0);
        group.bench_function(BenchmarkId::new("merge", inputs), |b| {
            b.iter(|| {
                n += 1;
                merged.advance(n % inputs, (n as i64).into())
            });
        });
        let mut bare = vec![0_i64; inputs];
        group.bench_function(BenchmarkId::new("least of an array", inputs), |b| {
            b.iter(|| {
                n += 1;
                bare[n % inputs] = n as i64;
                *black_box(&bare).iter().min().unwrap()
            });
        });
    }
    for per_ms in [1, 1_000] {
        let id = BenchmarkId::new("job, records for each", per_ms);
        bench_job(&mut group, id, 1, 100, |flow| {
            windowed(flow, Events::of(100, per_ms), YEAR);
        });
    }
    group.finish();
}

/// Windows of a millisecond that fire all the time, beside a bare map that is filled and drained as often. Each pair of
/// key and window is a timer that goes off.
fn firing(c: &mut Criterion) {
    let mut group = c.benchmark_group("firing");
    for keys in [10, 1_000_u64] {
        let id = BenchmarkId::new("windows of 1,000 records", keys);
        let millisecond = Duration::from_millis(1);
        bench_job(&mut group, id, 1, 100, |flow| {
            windowed(flow, Events::of(keys, 1_000), millisecond);
        });
        let (mut counts, mut events) = (HashMap::<u64, u64>::new(), Events::of(keys, 1_000));
        let (mut window, mut fired) = (0, 0);
        group.bench_function(BenchmarkId::new("a map drained as often", keys), |b| {
            b.iter(|| {
                for _ in 0..STEP {
                    let event = black_box(events.event());
                    if event.ts != window {
                        window = event.ts;
                        counts.drain().for_each(|(_, count)| fired += count);
                    }
                    *counts.entry(event.key).or_default() += 1;
                }
            });
        });
        black_box(fired);
    }
    group.finish();
}

/// The fixed hash of a key, beside the hasher of a map.
fn hash(c: &mut Criterion) {
    use thalweg_kernel::{Key, Str};
    let mut group = c.benchmark_group("hash");
    let (name, bare) = (Str::from("d00042"), hashbrown::DefaultHashBuilder::default());
    group.bench_function("fixed, u64", |b| b.iter(|| black_box(42_u64).key_hash()));
    group.bench_function("foldhash, u64", |b| b.iter(|| bare.hash_one(black_box(42_u64))));
    group.bench_function("fixed, name", |b| b.iter(|| black_box(&name).key_hash()));
    group.bench_function("foldhash, name", |b| b.iter(|| bare.hash_one(black_box(&name))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = ring, exchange, window_update, watermark, firing, hash
}
criterion_main!(benches);
