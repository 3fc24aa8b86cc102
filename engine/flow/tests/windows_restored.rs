//! Sliding and session windows, and windows with a trigger of their own, in jobs that crash and go on with another
//! number of shards: they come to what a naive computation comes to, and nothing of it comes twice.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "other tests use more of it")]
mod common;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "common/windows.rs"]
mod windows;

use std::sync::Arc;
use std::time::Duration;

use common::world::{Store, Table};
use common::{Ended, Life, Random};
use thalweg_flow::*;
use thalweg_kernel::{
    ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Partitions, Source,
    SourceSpec, SourceStatus, Timestamp,
};
use windows::{Kind, Record, Row, naive};

/// Partitions that are read on from where an epoch has left them.
#[derive(Clone)]
struct Replayed(Arc<[Vec<Record>]>);

struct Partition {
    records: Arc<[Vec<Record>]>,
    number: usize,
    next: usize,
}

impl SourceSpec for Replayed {
    type Item = Record;
    type Partition = Partition;

    fn describe(&self) -> String {
        "replayed".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }

    fn open(&self, id: &PartitionId, cx: &OpenContext) -> Result<Partition, ConnectorError> {
        let number = id.number().unwrap();
        let position = cx.durability.position.as_deref();
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        Ok(Partition { records: Arc::clone(&self.0), number, next: next as usize })
    }
}

impl Source for Partition {
    type Item = Record;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Record>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..records_max {
            let Some(&record) = self.records[self.number].get(self.next) else {
                return Ok(SourceStatus::Ended);
            };
            out.record(record, now, &Generated);
            self.next += 1;
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {}

    fn snapshot(&mut self, _: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&(self.next as u64).to_le_bytes());
    }
}

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

fn job(source: &Replayed, table: &Table) -> impl Fn(&Flow) + use<> {
    let (source, sink) = (source.clone(), table.sink());
    let ms = |ms: i64| Duration::from_millis(ms as u64);
    move |flow| {
        let bound = if source.0.len() > 1 { 1_000_000 } else { BOUND_MS };
        let watermarks = Watermarks::bounded_out_of_orderness(ms(bound))
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
        let random = &mut Random(seed);
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
        let source = Replayed(parts.into());
        // Between partitions the order decides what is late, so there nothing is.
        let bound = if partitions > 1 { 1_000_000 } else { BOUND_MS };
        let mut expected = Vec::new();
        let (size, slide, offset) = SLIDING;
        for (name, kind) in [
            ("sliding", Kind::Sliding(size, slide, offset)),
            ("session", Kind::Session(GAP_MS)),
            ("triggered", Kind::Session(GAP_MS)),
        ] {
            let (rows, _) = naive(kind, &all, bound);
            let show = |row: Row| format!("{} {:?}", Timestamp::from(row.2 - 1), (name, row));
            expected.extend(rows.into_iter().map(show));
        }
        expected.sort();
        let (store, table) = (Store::default(), Table::default());
        for life in 0.. {
            let moves_max = if life < 6 { random.below(400) } else { 1_000_000 };
            let (shards, epoch_every) = (1 + random.below(4), 1 + random.below(40));
            let life = Life { shards, store: &store, random, moves_max, epoch_every };
            if life.live(&job(&source, &table)) == Ended::Done {
                break;
            }
        }
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
        let random = &mut Random(7);
        let life = Life { shards: 2, store: &store, random, moves_max: 1_000_000, epoch_every: 30 };
        let source = Replayed(vec![records].into());
        assert_eq!(life.live(&job(&source, &table)), Ended::Done);
        let rows = table.rows();
        for name in ["session", "triggered"] {
            let of = rows.iter().filter(|row| row.contains(name));
            assert_eq!(of.count(), 3, "{name} at {at}: {rows:?}");
        }
        // Of each key one for every nine milliseconds at least.
        assert!(rows.iter().filter(|row| row.contains("sliding")).count() >= 3 * 7, "{rows:?}");
    }
}

/// Goal: windows leave memory over its limit, and what has left is in the rows all the same.
/// Method: far more keys than memory may hold, in tumbling and in overlapping windows, with an epoch now and then; after
/// each the shard says whether its state takes more than it may.
#[test]
fn windows_that_the_store_has_leave_memory_and_fire_from_there() {
    const KEYS: u32 = 20_000;
    let ms = Duration::from_millis;
    let aligned = |size: u64, slide: u64| {
        let records: Vec<Record> =
            (0..3 * KEYS).map(|n| (n % KEYS, i64::from(n / 300), i64::from(n))).collect();
        let (store, table, source) =
            (Store::default(), Table::default(), Replayed(vec![records.clone()].into()));
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
        let storage = Some(store.storage());
        let cx = BuildContext { storage, tuning, ..BuildContext::single("memory") };
        let mut shard = Shard::build(&job, &cx).unwrap();
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
                let _changed = take_epoch(&mut shard, now);
                if !shard.awaits_epoch() {
                    crowded += u32::from(take_epoch(&mut shard, now));
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
