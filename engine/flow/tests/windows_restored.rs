//! Sliding and session windows, and windows with a trigger of their own, in jobs that crash and go on with another
//! number of shards. They come to what a naive computation comes to, and nothing of it comes twice.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::windows::{Kind, Record, Row, naive};
use common::*;
use thalweg_flow::*;
use thalweg_kernel::Timestamp;

/// Yields a result at the end alone, and counts the records of a window for itself until then.
struct Counting;

impl Trigger<Record> for Counting {
    type State = u64;

    fn record(&mut self, _: &Record, _: Timestamp, cx: &mut TriggerContext<'_, u64>) -> Fires {
        *cx.state += 1;
        // Asks once more before the end, for nothing.
        cx.event_timer(cx.window.last.minus_ms(3));
        Fires::No
    }

    fn event_time(&mut self, time: Timestamp, cx: &mut TriggerContext<'_, u64>) -> Fires {
        assert!(*cx.state > 0, "a window without records");
        if time < cx.window.last { Fires::No } else { Fires::Yes }
    }

    fn merge(&mut self, into: &mut u64, other: &u64) {
        *into += other;
    }
}

fn totals() -> impl Aggregate<Record, Accumulator = (i64, u64), Output = (i64, u64)> {
    Fold::new(
        || (0, 0),
        |sum: &mut (i64, u64), record: Record| *sum = (sum.0 + record.2, sum.1 + 1),
        |sum: &mut (i64, u64), other: &(i64, u64)| *sum = (sum.0 + other.0, sum.1 + other.1),
    )
}

fn row(row: Windowed<u32, (i64, u64)>) -> Row {
    (row.start.as_millis(), row.key, row.end.as_millis(), row.value.0, row.value.1)
}

const SLIDING: (i64, i64, i64) = (60, 9, 4);
const GAP_MS: i64 = 14;
const BOUND_MS: i64 = 25;

fn job(source: &Scripted<Record>, bound_ms: i64, table: &Table) -> impl Fn(&Flow) + use<> {
    let (source, sink) = (source.clone(), table.sink());
    let ms = |ms: i64| Duration::from_millis(ms as u64);
    move |flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(ms(bound_ms))
            .timestamps(|record: &Record| record.1)
            .without_clock_guard();
        let records = flow.source_as("source", source.clone(), watermarks);
        let [sliding, session, triggered] = records.split();
        let (size, slide, offset) = SLIDING;
        let windows = Sliding::of(ms(size), ms(slide)).offset(ms(offset));
        let sliding = sliding.key_by(|record| record.0).window(windows).aggregate(totals());
        sliding.uid("sliding").map(|found| ("sliding", row(found))).sink_as("1", sink.clone());
        let windows = session.key_by(|record| record.0).window(Session::gap(ms(GAP_MS)));
        let session = windows.aggregate(totals());
        session.uid("session").map(|found| ("session", row(found))).sink_as("2", sink.clone());
        let windows = triggered.key_by(|record| record.0).window(Session::gap(ms(GAP_MS)));
        let session = windows.trigger(Counting).aggregate(totals());
        session.uid("triggered").map(|found| ("triggered", row(found))).sink_as("3", sink.clone());
    }
}

#[test]
fn windows_come_to_what_they_would_have_without_crashes() {
    for seed in 0..40 {
        let random = &mut Random::new(seed);
        let (count, keys) = (random.below(600), [1, 4, 50][random.below(3)]);
        let partitions = 1 + random.below(3);
        let mut time = 0;
        let all: Vec<Record> = (0..count)
            .map(|n| {
                time += if random.one_in(20) { random.below(60) } else { random.below(3) } as i64;
                let late = random.below(40) as i64;
                (random.below(keys) as u32, time - late, n as i64 * 7 % 31 - 9)
            })
            .collect();
        let mut parts = vec![Vec::new(); partitions];
        all.iter().for_each(|&record| parts[random.below(partitions)].push(record));
        let source = Scripted::of_records(parts);
        // Between partitions the order decides what is late, so there nothing is.
        let bound_ms = if partitions > 1 { 1_000_000 } else { BOUND_MS };
        let mut expected = Vec::new();
        let (size, slide, offset) = SLIDING;
        for (name, kind) in [
            ("sliding", Kind::Sliding(size, slide, offset)),
            ("session", Kind::Session(GAP_MS)),
            ("triggered", Kind::Session(GAP_MS)),
        ] {
            let (rows, _) = naive(kind, &all, bound_ms);
            let show = |row: Row| format!("{} {:?}", Timestamp::from(row.2 - 1), (name, row));
            expected.extend(rows.into_iter().map(show));
        }
        expected.sort();
        let (store, table) = (Store::default(), Table::default());
        let crashing = Crashes { lives_max: 6, epoch_every_max: 40, ..Crashes::default() };
        crashing.until_done(random, &store, &job(&source, bound_ms, &table));
        let found = table.rows();
        let missing = expected.iter().find(|row| !found.contains(row));
        let extra = found.iter().find(|row| !expected.contains(row));
        assert!(
            found == expected,
            "seed {seed}: {} rows of {}, missing {missing:?}, extra {extra:?}",
            found.len(),
            expected.len()
        );
    }
}

/// Goal: neither the first nor the last moments of time overflow, are lost or fire twice.
#[test]
fn windows_at_the_ends_of_time_hold_what_falls_into_them() {
    for at in [i64::MIN, i64::MAX - 60] {
        let records: Vec<Record> = (0..60).map(|n| (n as u32 % 3, at + n, 1)).collect();
        let (store, table) = (Store::default(), Table::default());
        let job = job(&Scripted::of_records([records]), BOUND_MS, &table);
        Crashes::none(2).until_done(&mut Random::new(7), &store, &job);
        let rows = table.rows();
        for name in ["session", "triggered"] {
            let of = rows.iter().filter(|row| row.contains(name));
            assert_eq!(of.count(), 3, "{name} at {at}: {rows:?}");
        }
        // Of each key one for every nine milliseconds at least.
        assert!(rows.iter().filter(|row| row.contains("sliding")).count() >= 3 * 7, "{rows:?}");
    }
}

/// Goal: windows leave memory over its limit, and what has left is in the rows nevertheless.
/// Method: far more keys than memory may hold, in tumbling and in overlapping windows, with an epoch now and then. After
/// each epoch the shard says whether its state takes more than it may.
#[test]
fn windows_that_the_store_has_leave_memory_and_fire_from_there() {
    const KEYS: u32 = 20_000;
    let aligned = |size: u64, slide: u64| {
        let records: Vec<Record> =
            (0..3 * KEYS).map(|n| (n % KEYS, i64::from(n / 300), i64::from(n))).collect();
        let (store, table, source) =
            (Store::default(), Table::default(), Scripted::of_records([records.clone()]));
        let sink = table.sink();
        let job = move |flow: &Flow| {
            let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
            let records = flow.source_as("source", source.clone(), watermarks);
            let windows = Sliding::of(ms(size), ms(slide));
            let found = records.key_by(|record| record.0).window(windows).aggregate(totals());
            found.uid("windows").map(row).sink_as("rows", sink.clone());
        };
        let tuning =
            Tuning { state_memory_bytes_max: 500_000, step_records_max: 500, ..Tuning::default() };
        let mut shards = try_build(1, tuning, Some(store.storage()), &job).unwrap();
        let shard = &mut shards[0];
        let (mut crowded, mut epochs, mut now) = (0, 0, Now::default());
        let take_epoch = |shard: &mut Shard, now: Now| {
            let epoch = store.epoch().next();
            shard.begin(epoch);
            for _ in 0..100_000 {
                let done = shard.step(now).unwrap() == Step::Done;
                if let Some(snapshot) = shard.snapshot().unwrap() {
                    store.commit(epoch, std::slice::from_ref(&snapshot));
                    shard.committed(epoch, epoch).unwrap();
                    return snapshot.crowded;
                }
                assert!(!done, "an end without an epoch");
            }
            panic!("an epoch does not come to an end");
        };
        for _ in 0..100_000 {
            now.steady += ms(1);
            now.wall = now.wall.plus_ms(1_000);
            if shard.step(now).unwrap() == Step::Done {
                break;
            }
            if shard.awaits_epoch() || now.steady.as_millis().is_multiple_of(20) {
                // What changes no more leaves memory with the epochs that follow.
                let _changed = take_epoch(shard, now);
                if !shard.awaits_epoch() {
                    crowded += u32::from(take_epoch(shard, now));
                    epochs += 1;
                }
            }
        }
        let (rows, _) = naive(Kind::Sliding(size as i64, slide as i64, 0), &records, 0);
        let expected: Vec<_> = {
            let show = |row: Row| format!("{} {row:?}", Timestamp::from(row.2 - 1));
            let mut rows: Vec<_> = rows.into_iter().map(show).collect();
            rows.sort();
            rows
        };
        assert_eq!(table.rows().len(), expected.len());
        assert!(table.rows() == expected, "other rows");
        (crowded, epochs)
    };
    let (crowded, epochs) = aligned(1_000, 1_000);
    assert!(epochs > 3 && crowded == 0, "{crowded} of {epochs}");
    // What overlapping windows share stays; it is rows only that are compared.
    let (_, epochs) = aligned(60, 20);
    assert!(epochs > 3, "{epochs}");
}
