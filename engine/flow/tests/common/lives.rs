//! Lives of jobs that crash anywhere, drawn from a seed.

use std::time::Duration;

use thalweg_flow::{Flow, Now, Shard, ShardSnapshot, Step, Tuning};
use thalweg_kernel::Epoch;
use thalweg_testing::Random;

use super::shards::{build_from, epoch, ms, try_build};
use super::world::Store;

/// How a job crashes before it comes to its end.
#[derive(Clone, Copy)]
pub(crate) struct Crashes<'a> {
    /// The first lives, this many, may crash.
    pub(crate) lives_max: u32,
    /// A life that may crash has three moves, and up to this many more.
    pub(crate) moves_max: usize,
    /// A life begins an epoch once in this many moves, or more often.
    pub(crate) epoch_every_max: usize,
    /// Each life is on one of these numbers of shards.
    pub(crate) shards: &'a [usize],
    /// The first life is on this number of shards.
    pub(crate) first_shards: Option<usize>,
}

impl Default for Crashes<'_> {
    fn default() -> Self {
        Self {
            lives_max: 4,
            moves_max: 400,
            epoch_every_max: 60,
            shards: &[1, 2, 3, 8],
            first_shards: None,
        }
    }
}

/// Runs a job to its end on one shard, as it is run where nothing is scarce, with no epoch but the last.
pub(crate) fn undisturbed(store: &Store, job: &dyn Fn(&Flow)) {
    let mut shards = build_from(store, 1, job);
    while shards[0].step(Now::default()).unwrap() != Step::Done {
        if shards[0].awaits_epoch() {
            epoch(&mut shards, store, Now::default());
        }
    }
}

impl Crashes<'_> {
    /// No crash, on this number of shards.
    pub(crate) fn none(shards: usize) -> Self {
        Self { lives_max: 0, first_shards: Some(shards), ..Self::default() }
    }

    /// Runs a job through crashes to its end: how often it has crashed.
    pub(crate) fn until_done(
        &self,
        random: &mut Random,
        store: &Store,
        job: &dyn Fn(&Flow),
    ) -> u32 {
        let mut crashes = 0;
        loop {
            let moves = 3 + random.below(self.moves_max);
            let moves_max = if crashes < self.lives_max { moves } else { MOVES_MAX };
            let any = self.shards[random.below(self.shards.len())];
            let shards = self.first_shards.filter(|_| crashes == 0).unwrap_or(any);
            let epoch_every = 1 + random.below(self.epoch_every_max);
            let life = Life { shards, store, random, moves_max, epoch_every };
            if life.live(job) == Ended::Done {
                return crashes;
            }
            crashes += 1;
        }
    }
}

/// A life that needs more moves does not come to an end.
const MOVES_MAX: usize = 1_000_000;

/// One life of a job, from its start to its end or to a crash.
pub(crate) struct Life<'a> {
    pub(crate) shards: usize,
    pub(crate) store: &'a Store,
    pub(crate) random: &'a mut Random,
    /// It crashes after this many moves, wherever it is then.
    pub(crate) moves_max: usize,
    /// It begins an epoch once in this many moves.
    pub(crate) epoch_every: usize,
}

/// How a life ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Crashed,
}

impl Life<'_> {
    pub(crate) fn live(self, job: &dyn Fn(&Flow)) -> Ended {
        let Self { shards: count, store, random, moves_max, epoch_every } = self;
        let step_records_max = 1 + random.below(40);
        let batch_records = 1 + random.below(20);
        let lane_batches = 1 + random.below(4);
        // Often so little that nearly every key is read from storage, or that sources wait for nearly every epoch.
        let (state_memory_bytes_max, state_pending_bytes_max) =
            [(0, 1 << 25), (20_000, 300), (usize::MAX, 1 << 25)][random.below(3)];
        let tuning = Tuning {
            latency_budget: Duration::ZERO,
            step_records_max,
            step_work_max: [1, 3, 2_048][batch_records % 3],
            batch_records,
            lane_batches,
            state_memory_bytes_max,
            state_pending_bytes_max,
            // No draw of its own, so that seeds keep what they mean.
            state_cache_bytes: [0, 1 << 19][lane_batches % 2],
            watermark_delay_max: [Duration::MAX, Duration::ZERO, ms(5)][step_records_max % 3],
        };
        let mut shards = try_build(count, tuning, Some(store.storage()), job).unwrap();
        let mut done = vec![false; count];
        let (mut next, mut open) = (store.epoch().next(), None);
        let mut begun = vec![Epoch::NONE; count];
        let mut told = vec![store.epoch(); count];
        let mut snapshots = Vec::<ShardSnapshot>::new();
        let mut now = Now::default();
        for _ in 0..moves_max {
            if done.iter().all(|&done| done) {
                return Ended::Done;
            }
            now.steady += ms(1);
            let awaited =
                shards.iter().zip(&done).all(|(shard, done)| *done || shard.awaits_epoch());
            let living = shards.iter().zip(&done).filter(|(_, done)| !**done);
            let wanted = living.map(|(shard, _)| shard).any(Shard::wants_epoch);
            if open.is_none() && (awaited || wanted || random.one_in(epoch_every)) {
                open = Some(next);
                next = next.next();
                snapshots.clear();
            }
            let chosen = random.below(count);
            if done[chosen] {
                continue;
            }
            let shard = &mut shards[chosen];
            if told[chosen] < store.epoch() && random.one_in(2) {
                told[chosen] = store.epoch();
                shard.committed(store.epoch(), store.epoch()).unwrap();
            }
            if let Some(epoch) = open
                && begun[chosen] < epoch
                && random.one_in(2)
            {
                begun[chosen] = epoch;
                shard.begin(epoch);
            }
            done[chosen] = shard.step(now).unwrap() == Step::Done;
            snapshots.extend(shard.snapshot().unwrap());
            if let Some(epoch) = open {
                let missing = (0..count)
                    .filter(|&n| !done[n] && !snapshots.iter().any(|snapshot| snapshot.shard == n));
                if missing.count() == 0 {
                    snapshots.sort_by_key(|snapshot| snapshot.shard);
                    if !snapshots.is_empty() {
                        store.commit(epoch, &snapshots);
                    }
                    open = None;
                }
            }
        }
        assert!(moves_max < MOVES_MAX, "it does not come to an end");
        Ended::Crashed
    }
}
