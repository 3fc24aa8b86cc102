//! Filters that gather records, in jobs that take checkpoints and crash, on any number of shards. What a barrier leaves
//! behind it comes once, whatever was put aside when the barrier came.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::{Epoch, Timestamp};

/// Key, time, number.
type Record = (u32, i64, u64);

/// Polls at which a partition is silent: longer than it takes to be idle.
const SILENT_POLLS: usize = 30;

/// So that about half of them pass, and none can be guessed.
fn first(record: &Record) -> bool {
    !mix(record.2).is_multiple_of(3)
}

fn second(record: &Record) -> bool {
    mix(record.2) >> 9 & 1 == 0
}

fn third(record: &Record) -> bool {
    mix(record.2) >> 13 & 1 == 0
}

/// Where a partition may be idle while others speak, what it says then may be late: there, one window holds all.
fn size_ms(partitions: usize) -> i64 {
    if partitions > 1 { 1_000_000_000 } else { 700 }
}

fn job(
    source: &Scripted<Record>,
    size_ms: i64,
    table: &Table,
    crash_at: Option<u64>,
) -> impl Fn(&Flow) + use<> {
    let (source, sink, calls) = (source.clone(), table.sink(), Arc::new(AtomicUsize::new(0)));
    let size = Duration::from_millis(size_ms as u64);
    move |flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(Duration::from_millis(20))
            .idle_after(Duration::from_millis(10))
            .timestamps(|record: &Record| record.1)
            .without_clock_guard();
        let calls = Arc::clone(&calls);
        let kept = flow.source_as("source", source.clone(), watermarks).filter(first).filter(
            move |record| {
                if Some(calls.fetch_add(1, Relaxed) as u64) == crash_at {
                    // A panic that nobody reports.
                    std::panic::resume_unwind(Box::new("as it was told to"));
                }
                second(record)
            },
        );
        let [rows, left, right] = kept.split();
        rows.filter(third).sink_as("rows", sink.clone());
        left.filter(third)
            .union(right.filter(|record| !third(record)))
            .key_by(|record| record.0)
            .window(Tumbling::of(size))
            .aggregate(Count)
            .uid("counts")
            .map(|row| (row.start, row.key, row.value))
            .sink_as("counts", sink.clone());
    }
}

/// In order of time, and in partitions that fall silent now and then.
fn records(random: &mut Random, count: u64) -> (Vec<Vec<Act<Record>>>, Vec<Record>) {
    let partitions = 1 + random.below(3);
    let silences: Vec<_> = (0..random.below(6)).map(|_| random.below(count)).collect();
    let (mut acts, mut all, mut time) = (vec![Vec::new(); partitions], Vec::new(), 0);
    for n in 0..count {
        time += i64::from(random.one_in(40)) * random.below(9_i64);
        let (record, part) = ((mix(n) as u32 % 50, time, n), &mut acts[n as usize % partitions]);
        let silence = if silences.contains(&n) { SILENT_POLLS } else { 0 };
        part.extend(std::iter::repeat_n(Act::Silence, silence));
        part.push(Act::Record(record));
        all.push(record);
    }
    (acts, all)
}

fn expected(all: &[Record], size_ms: i64) -> (Vec<String>, BTreeMap<(i64, u32), u64>) {
    let kept = all.iter().filter(|record| first(record) && second(record));
    let (mut rows, mut counts) = (Vec::new(), BTreeMap::new());
    for record in kept {
        if third(record) {
            rows.push(format!("{} {record:?}", Timestamp::from(record.1)));
        }
        *counts.entry((record.1.div_euclid(size_ms) * size_ms, record.0)).or_insert(0) += 1;
    }
    rows.sort();
    (rows, counts)
}

/// One life, from its start to its end or to a crash; whether it has ended. Steps have enough records for filters to
/// gather.
fn live(
    random: &mut Random,
    shards: usize,
    store: &Store,
    moves_max: usize,
    job: &dyn Fn(&Flow),
) -> bool {
    let tuning = Tuning {
        step_records_max: 100 + random.below(300),
        batch_records: 1 + random.below(200),
        lane_batches: 1 + random.below(4),
        step_work_max: 1 + random.below(50),
        ..Tuning::default()
    };
    let mut all = try_build(shards, tuning, Some(store.storage()), job).unwrap();
    let (mut done, mut begun) = (vec![false; shards], vec![Epoch::NONE; shards]);
    let (mut open, mut snapshots) = (None::<Epoch>, Vec::new());
    let mut now = Now::default();
    for _ in 0..moves_max {
        if done.iter().all(|&done| done) {
            return true;
        }
        now.steady += Duration::from_millis(1);
        let awaited = all.iter().zip(&done).all(|(shard, done)| *done || shard.awaits_epoch());
        if open.is_none() && (awaited || random.one_in(20)) {
            open = Some(store.epoch().next());
        }
        let at = random.below(shards);
        if done[at] {
            continue;
        }
        if let Some(epoch) = open.filter(|&epoch| begun[at] < epoch) {
            begun[at] = epoch;
            all[at].begin(epoch);
        }
        done[at] = all[at].step(now).unwrap() == Step::Done;
        snapshots.extend(all[at].snapshot().unwrap());
        if let Some(epoch) = open
            && snapshots.len() + done.iter().filter(|&&done| done).count() >= shards
            && !snapshots.is_empty()
        {
            snapshots.sort_by_key(|snapshot: &ShardSnapshot| snapshot.shard);
            store.commit(epoch, &std::mem::take(&mut snapshots));
            for (shard, _) in all.iter_mut().zip(&done).filter(|(_, done)| !**done) {
                shard.committed(epoch, epoch).unwrap();
            }
            open = None;
        }
    }
    assert!(moves_max < 1_000_000, "it does not come to an end");
    false
}

#[test]
fn what_is_gathered_comes_once_whatever_ends_the_process() {
    for seed in 0..20 {
        let random = &mut Random::new(seed);
        let count = 20_000 + random.below(20_000);
        let (acts, all) = records(random, count);
        let (size_ms, source) = (size_ms(acts.len()), Scripted::new(acts));
        let (rows, counts) = expected(&all, size_ms);
        let (store, table) = (Store::default(), Table::default());
        for life in 0.. {
            let shards = 1 + random.below(3);
            let moves = if life < 6 { 30 + random.below(300) } else { 1_000_000 };
            let crash_at = (life < 6 && random.one_in(2)).then(|| random.below(8_000));
            let job = job(&source, size_ms, &table, crash_at);
            let lived = std::panic::AssertUnwindSafe(|| live(random, shards, &store, moves, &job));
            if std::panic::catch_unwind(lived).is_ok_and(|done| done) {
                break;
            }
        }
        let (mut found, mut windows) = (Vec::new(), BTreeMap::new());
        for row in table.rows() {
            match row.split_once(" (Timestamp(") {
                None => found.push(row),
                Some((_, row)) => {
                    let row: Vec<i64> = row
                        .split(|c: char| !c.is_ascii_digit() && c != '-')
                        .filter(|part| !part.is_empty())
                        .map(|part| part.parse().unwrap())
                        .collect();
                    let at = (row[0], row[1] as u32);
                    assert!(
                        windows.insert(at, row[2] as u64).is_none(),
                        "seed {seed}: {at:?} twice"
                    );
                }
            }
        }
        found.sort();
        assert!(found == rows, "seed {seed}: {} rows of {}", found.len(), rows.len());
        let different: Vec<_> = counts
            .iter()
            .filter(|(at, count)| windows.get(at) != Some(count))
            .map(|(at, count)| (at, count, windows.get(at)))
            .take(5)
            .collect();
        assert!(windows == counts, "seed {seed}: {different:?} {} {}", windows.len(), counts.len());
    }
}
