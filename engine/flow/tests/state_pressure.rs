#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! State that changes faster than it is stored. Sources wait for epochs that nobody but a full shard asks for, and
//! what a shard holds stays bounded.

mod common;

use std::time::Duration;

use common::world::TableSink;
use common::*;
use thalweg_flow::{
    Collection, Context, Flow, MapState, Now, Process, Shard, Step, Tuning, ValueState, Watermarks,
};
use thalweg_kernel::{Collector, Epoch};

const KEYS: u64 = 300;
const VALUE_BYTES: usize = 1_024;
const PENDING_BYTES: usize = 10 * VALUE_BYTES;

/// Adds one to every word of a value, and says which they were.
struct Add {
    words: ValueState<u64, Vec<u64>>,
}

impl Process<u64, u64> for Add {
    type Out = (u64, u64);

    fn record(
        &mut self,
        key: u64,
        cx: &mut Context<'_, u64>,
        out: &mut impl Collector<(u64, u64)>,
    ) {
        let before = self.words.with(cx, |words| words.map_or(0, |words| words[VALUE_BYTES / 9]));
        self.words.set(cx, vec![before + 1; VALUE_BYTES / 8]);
        out.record(cx.time(), (key, before));
    }
}

fn job(flow: &Flow, sink: TableSink) {
    let keys = (0..KEYS).chain((0..KEYS).rev()).collect::<Vec<_>>();
    let watermarks = Watermarks::monotonous().timestamps(|&key: &u64| key as i64);
    flow.source(Collection::new(keys), watermarks)
        .key_by(|&key| key)
        .process(|states| Add { words: states.value("words") })
        .sink_as("said", sink);
}

/// What has become of a job.
struct Ended {
    rows: Vec<String>,
    /// The longest block of an epoch.
    block_bytes_max: usize,
    shards: Vec<Shard>,
    /// Whether a shard was ever over its limit without a way to become less.
    was_over: bool,
}

/// Runs a job on up to three shards, with an epoch only where a shard asks for one. An epoch is readable at once.
fn run(seed: u64, tuning: Tuning, job: impl Fn(&Flow, TableSink)) -> Ended {
    let mut random = Random::new(seed);
    let (store, table) = (Store::default(), Table::default());
    let count = 1 + random.below(3);
    let sink = table.sink();
    let job = |flow: &Flow| job(flow, sink.clone());
    let mut shards = try_build(count, tuning, Some(store.storage()), &job).unwrap();
    let mut done = vec![false; count];
    let (mut begun, mut told) = (vec![Epoch::NONE; count], vec![Epoch::NONE; count]);
    let (mut open, mut snapshots) = (None, Vec::new());
    let (mut block_bytes_max, mut was_over, mut now) = (0, false, Now::default());
    for _ in 0..200_000 {
        if done.iter().all(|&done| done) {
            break;
        }
        let living = || shards.iter().zip(&done).filter(|(_, done)| !**done).map(|it| it.0);
        if open.is_none() && (living().any(Shard::wants_epoch) || living().all(Shard::awaits_epoch))
        {
            open = Some(store.epoch().next());
        }
        let at = random.below(count);
        if done[at] {
            continue;
        }
        now.steady += Duration::from_millis(1);
        let shard = &mut shards[at];
        if told[at] < store.epoch() && random.one_in(3) {
            told[at] = store.epoch();
            shard.committed(store.epoch(), store.epoch()).unwrap();
        }
        if let Some(epoch) = open.filter(|&epoch| begun[at] < epoch)
            && random.one_in(10)
        {
            begun[at] = epoch;
            shard.begin(epoch);
        }
        done[at] = shard.step(now).unwrap() == Step::Done;
        was_over |= shard.is_over_limit();
        if let Some(snapshot) = shard.snapshot().unwrap() {
            block_bytes_max = block_bytes_max.max(snapshot.changes.len());
            snapshots.push(snapshot);
        }
        let handed_over = |at| snapshots.iter().any(|it| it.shard == at);
        if let Some(epoch) = open
            && (0..count).all(|at| done[at] || handed_over(at))
            && !snapshots.is_empty()
        {
            store.commit(epoch, &snapshots);
            snapshots.clear();
            open = None;
        }
    }
    assert!(done.iter().all(|&done| done), "seed {seed}: it comes to no end");
    Ended { rows: table.rows(), block_bytes_max, shards, was_over }
}

#[test]
fn a_full_shard_makes_sources_wait_and_gets_the_epochs_that_it_needs() {
    for seed in 0..20 {
        let tuning = Tuning {
            step_records_max: 4,
            batch_records: 2,
            lane_batches: 2,
            state_memory_bytes_max: (seed as usize % 2) * 2 * PENDING_BYTES,
            state_pending_bytes_max: PENDING_BYTES,
            ..Tuning::default()
        };
        let ended = run(seed, tuning, job);
        let row = |key, before| format!("{key} {:?}", (key, before));
        let mut expected: Vec<_> = (0..KEYS).flat_map(|key| [row(key, 0), row(key, 1)]).collect();
        expected.sort();
        assert!(ended.rows == expected, "seed {seed}: not each key twice, in order");
        let waited_ms = metric(&ended.shards, "accumulateStateBackPressuredTimeMs");
        assert!(waited_ms > 0, "seed {seed}: nobody had to wait");
        // What was on its way when the sources began to wait comes on top: a step of the source, and the lanes.
        let on_its_way = (4 + 2 * (2 + 2)) * VALUE_BYTES;
        let (longest, bound) = (ended.block_bytes_max, (PENDING_BYTES + on_its_way) * 11 / 10);
        assert!(longest <= bound, "seed {seed}: a block of {longest} bytes, bound {bound}");
    }
}

/// Counts the records of a key under many numbers, so that its map is large.
struct CountMany {
    counts: MapState<u64, u64, u64>,
}

const LARGE_KEYS: u64 = 60;
const ENTRIES: u64 = 100;

impl Process<u64, u64> for CountMany {
    type Out = (u64, u64);

    fn record(
        &mut self,
        key: u64,
        cx: &mut Context<'_, u64>,
        out: &mut impl Collector<(u64, u64)>,
    ) {
        let mut sum = 0;
        for entry in 0..ENTRIES {
            let count = self.counts.get(cx, &entry).unwrap_or(0) + 1;
            self.counts.put(cx, entry, count);
            sum += count;
        }
        out.record(cx.time(), (key, sum));
    }
}

/// Goal: a job goes on whose state cannot be made as small as it may be.
/// Method: of a large key memory keeps what there is to know of its entries. That alone is more than this job may
/// take, so no epoch makes room.
#[test]
fn a_job_whose_state_cannot_be_made_small_enough_goes_on() {
    for seed in 0..6 {
        let tuning = Tuning {
            step_records_max: 4,
            batch_records: 2,
            lane_batches: 2,
            state_memory_bytes_max: 0,
            state_pending_bytes_max: 1_000,
            ..Tuning::default()
        };
        let ended = run(seed, tuning, |flow, sink| {
            let keys = (0..LARGE_KEYS).chain(0..LARGE_KEYS).collect::<Vec<_>>();
            let watermarks = Watermarks::monotonous().timestamps(|&key: &u64| key as i64);
            flow.source(Collection::new(keys), watermarks)
                .key_by(|&key| key)
                .process(|states| CountMany { counts: states.map("counts") })
                .sink_as("said", sink);
        });
        let row = |key, sum| format!("{key} {:?}", (key, sum));
        let each = |key| [row(key, ENTRIES), row(key, 2 * ENTRIES)];
        let mut expected: Vec<_> = (0..LARGE_KEYS).flat_map(each).collect();
        expected.sort();
        assert!(ended.rows == expected, "seed {seed}: {:?}", ended.rows);
        assert!(ended.was_over, "seed {seed}: it is told");
        assert!(metric(&ended.shards, "stateBytesOverLimit") > 0, "seed {seed}: it is counted");
    }
}
