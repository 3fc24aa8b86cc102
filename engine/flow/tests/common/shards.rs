//! Shards that a test steps by hand.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use thalweg_flow::{
    BuildContext, EventTime, Flow, Metric, Now, Shard, ShardSnapshot, Step, Storage, Tuning,
    Watermarks,
};
use thalweg_kernel::{ConnectorError, Shared, Timestamp};

use super::world::Store;

/// Key, time, number.
pub(crate) type Rec = (u32, i64, u64);

/// The time of such a record, and watermarks that far behind it.
pub(crate) fn wm(bound: u64) -> Watermarks<impl EventTime<Rec>> {
    Watermarks::bounded_out_of_orderness(ms(bound)).timestamps(|r: &Rec| r.1).without_clock_guard()
}

/// So little of everything that all of it is met.
pub(crate) const TINY: Tuning = Tuning {
    latency_budget: Duration::ZERO,
    step_records_max: 3,
    step_work_max: 2,
    batch_records: 2,
    lane_batches: 1,
    state_memory_bytes_max: 0,
    state_pending_bytes_max: 0,
    state_cache_bytes: 0,
    watermark_delay_max: Duration::MAX,
};

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Both clocks show this.
pub(crate) fn at(ms: u64) -> Now {
    Now { wall: Timestamp::from(ms), steady: Duration::from_millis(ms) }
}

/// The job on this number of shards, from what the storage has.
pub(crate) fn try_build(
    count: usize,
    tuning: Tuning,
    storage: Option<Storage>,
    job: &dyn Fn(&Flow),
) -> Result<Vec<Shard>, ConnectorError> {
    let wakers: Arc<[_]> = vec![Waker::noop().clone(); count].into();
    let shared = Arc::<Shared>::default();
    let build = |shard| {
        let (wakers, shared) = (Arc::clone(&wakers), Arc::clone(&shared));
        let (storage, single) = (storage.clone(), BuildContext::single("test"));
        Shard::build(job, &BuildContext { shard, wakers, shared, tuning, storage, ..single })
    };
    (0..count).map(build).collect()
}

/// The job on this number of shards, without checkpoints.
pub(crate) fn build(count: usize, tuning: Tuning, job: &dyn Fn(&Flow)) -> Vec<Shard> {
    try_build(count, tuning, None, job).unwrap()
}

/// The job on this number of shards, from what the store has.
pub(crate) fn build_from(store: &Store, count: usize, job: &dyn Fn(&Flow)) -> Vec<Shard> {
    try_build(count, Tuning::default(), Some(store.storage()), job).unwrap()
}

/// Why a job is not built.
pub(crate) fn refusal(job: &dyn Fn(&Flow)) -> String {
    try_build(1, Tuning::default(), None, job).err().unwrap().to_string()
}

/// Runs a job on this number of shards to its end: the shards, for their metrics.
pub(crate) fn run(count: usize, tuning: Tuning, job: &dyn Fn(&Flow)) -> Vec<Shard> {
    let mut shards = build(count, tuning, job);
    run_to_end(&mut shards, Now::default());
    shards
}

/// Steps all shards in turn until all are done.
pub(crate) fn run_to_end(shards: &mut [Shard], now: Now) {
    let mut done_before = 0;
    for round in 0..1_000_000 {
        let steps: Vec<_> = shards.iter_mut().map(|shard| shard.step(now).unwrap()).collect();
        let done = steps.iter().filter(|step| **step == Step::Done).count();
        if done == shards.len() {
            return;
        }
        // A shard that is done has just taken what another had no room for.
        let idle = steps.iter().all(|step| *step != Step::Busy) && done == done_before;
        done_before = done;
        assert!(!idle, "stalled in round {round}: {steps:?}");
    }
    panic!("it does not come to an end");
}

/// Steps all shards in turn until none has more to do now.
pub(crate) fn settle(shards: &mut [Shard], now: Now) {
    for _ in 0..100_000 {
        let mut busy = false;
        for shard in shards.iter_mut() {
            busy |= shard.step(now).unwrap() == Step::Busy;
        }
        if !busy {
            return;
        }
    }
    panic!("busy for ever");
}

/// Steps all shards fifty times in turn, also those that have nothing to do until another has sent something.
pub(crate) fn step_all(shards: &mut [Shard], now: Now) {
    for _ in 0..50 {
        for shard in shards.iter_mut() {
            shard.step(now).unwrap();
        }
    }
}

/// Takes an epoch: what the shards hand over for it.
pub(crate) fn epoch(shards: &mut [Shard], store: &Store, now: Now) -> Vec<ShardSnapshot> {
    let epoch = store.epoch().next();
    shards.iter_mut().for_each(|shard| shard.begin(epoch));
    step_all(shards, now);
    let snapshots = shards.iter_mut().map(|shard| shard.snapshot().unwrap());
    let snapshots: Vec<_> = snapshots.map(|snapshot| snapshot.unwrap()).collect();
    store.commit(epoch, &snapshots);
    shards.iter_mut().for_each(|shard| shard.committed(epoch, epoch).unwrap());
    step_all(shards, now);
    snapshots
}

/// The sum of a metric over all operators of all shards.
pub(crate) fn metric(shards: &[Shard], name: &str) -> i64 {
    metric_of(shards, name, "")
}

/// The sum of a metric over the operators with this in their names.
pub(crate) fn metric_of(shards: &[Shard], name: &str, operator: &str) -> i64 {
    let metrics = shards.iter().flat_map(Shard::metrics);
    let found = metrics.filter(|it| it.name == name && it.operator.contains(operator));
    found.map(Metric::value).sum()
}
