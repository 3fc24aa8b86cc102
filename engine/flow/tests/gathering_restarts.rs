//! Filters that gather records, in jobs that take checkpoints and crash: what a barrier leaves behind it comes once,
//! whatever was put aside when it came, on any number of shards.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "other tests use more of it")]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use common::Random;
use common::world::{Store, Table};
use thalweg_flow::*;
use thalweg_kernel::{
    ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Partitions, Shared, Source,
    SourceSpec, SourceStatus, Timestamp,
};

/// Key, time, number.
type Record = (u32, i64, u64);

/// Partitions that fall silent now and then, longer than it takes to be idle, in front of these records.
#[derive(Clone)]
struct Pausing(Arc<[Vec<Record>]>, Arc<[u64]>);

struct Partition {
    records: Arc<[Vec<Record>]>,
    silences: Arc<[u64]>,
    number: usize,
    next: usize,
    silent_polls: u32,
}

impl SourceSpec for Pausing {
    type Item = Record;
    type Partition = Partition;

    fn describe(&self) -> String {
        "pausing".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }

    fn open(&self, id: &PartitionId, cx: &OpenContext) -> Result<Partition, ConnectorError> {
        let number = id.number().unwrap();
        let position = cx.durability.position.as_deref();
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let Self(records, silences) = self.clone();
        Ok(Partition { records, silences, number, next: next as usize, silent_polls: 0 })
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
        let records = &self.records[self.number];
        for _ in 0..records_max {
            let Some(&record) = records.get(self.next) else { return Ok(SourceStatus::Ended) };
            if self.silent_polls < 30 && self.silences.contains(&record.2) {
                self.silent_polls += 1;
                return Ok(SourceStatus::Waiting(None));
            }
            self.silent_polls = 0;
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

fn mix(n: u64) -> u64 {
    let z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

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
fn size_ms(source: &Pausing) -> i64 {
    if source.0.len() > 1 { 1_000_000_000 } else { 700 }
}

fn job(source: &Pausing, table: &Table, crash_at: Option<u64>) -> impl Fn(&Flow) + use<> {
    let (source, sink, calls) = (source.clone(), table.sink(), Arc::new(AtomicUsize::new(0)));
    let size = Duration::from_millis(size_ms(&source) as u64);
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

/// In order of time.
fn records(random: &mut Random, count: u64) -> (Pausing, Vec<Record>) {
    let partitions = 1 + random.below(3) as u64;
    let mut all = vec![Vec::new(); partitions as usize];
    let mut time = 0;
    for n in 0..count {
        time += random.one_in(40) as i64 * random.below(9) as i64;
        all[(n % partitions) as usize].push((mix(n) as u32 % 50, time, n));
    }
    let silences = (0..random.below(6)).map(|_| random.below(count as usize) as u64).collect();
    (Pausing(all.clone().into(), silences), all.concat())
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

/// One life, from its start to its end or to a crash; whether it has ended. Steps have so many records that filters
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
    let shared = Arc::<Shared>::default();
    let build = |shard| {
        let (shared, storage) = (Arc::clone(&shared), Some(store.storage()));
        let wakers = vec![Waker::noop().clone(); shards].into();
        let single = BuildContext::single("life");
        Shard::build(job, &BuildContext { shard, wakers, shared, tuning, storage, ..single })
            .unwrap()
    };
    let mut all: Vec<_> = (0..shards).map(build).collect();
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
        let random = &mut Random(seed);
        let count = 20_000 + random.below(20_000) as u64;
        let (source, all) = records(random, count);
        let (rows, counts) = expected(&all, size_ms(&source));
        let (store, table) = (Store::default(), Table::default());
        for life in 0.. {
            let shards = 1 + random.below(3);
            let moves = if life < 6 { 30 + random.below(300) } else { 1_000_000 };
            let crash_at = (life < 6 && random.one_in(2)).then(|| random.below(8_000) as u64);
            let job = job(&source, &table, crash_at);
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
