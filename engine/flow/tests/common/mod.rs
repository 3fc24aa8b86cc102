//! A world in which jobs crash, and seeded lives of jobs in it.

pub(crate) mod world;

use std::sync::Arc;
use std::task::Waker;

use thalweg_flow::{BuildContext, Flow, Now, Shard, ShardSnapshot, Step, Tuning};
use thalweg_kernel::{Epoch, Shared};

use self::world::Store;

/// SplitMix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One life of a job, from its start to its end or to a crash.
pub(crate) struct Life<'a> {
    pub(crate) shards: usize,
    pub(crate) store: &'a Store,
    pub(crate) random: &'a mut Random,
    /// It crashes after this many moves, wherever it is then.
    pub(crate) moves_max: usize,
    /// It begins an epoch once in so many moves.
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
            step_records_max,
            step_work_max: [1, 3, 2_048][batch_records % 3],
            batch_records,
            lane_batches,
            state_memory_bytes_max,
            state_pending_bytes_max,
            // No draw of its own, so that seeds keep what they mean.
            state_cache_bytes: [0, 1 << 19][lane_batches % 2],
        };
        let shared = Arc::<Shared>::default();
        let mut shards: Vec<_> = (0..count)
            .map(|shard| {
                let cx = BuildContext {
                    shard,
                    wakers: vec![Waker::noop().clone(); count].into(),
                    shared: Arc::clone(&shared),
                    tuning,
                    storage: Some(store.storage()),
                    ..BuildContext::single("life")
                };
                Shard::build(job, &cx).unwrap()
            })
            .collect();
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
            now.steady += std::time::Duration::from_millis(1);
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
        assert!(moves_max < 1_000_000, "it does not come to an end");
        Ended::Crashed
    }
}
