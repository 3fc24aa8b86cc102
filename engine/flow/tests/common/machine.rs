//! Shards that sleep, as a driver lets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use thalweg_flow::{BuildContext, Flow, Shard, Step, Tuning};
use thalweg_kernel::Shared;
use thalweg_testing::Feed;

use super::shards::{Rec, at};

/// Wakes a shard.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Shards that are stepped only when they have more to do, when they are woken, or at the time that they have named.
pub(crate) struct Machine {
    pub(crate) shards: Vec<Shard>,
    bells: Vec<Arc<Bell>>,
    pub(crate) last: Vec<Step>,
    /// How often each of them was woken while it slept.
    pub(crate) wake_ups: Vec<usize>,
    pub(crate) now: u64,
}

impl Machine {
    pub(crate) fn new(count: usize, tuning: Tuning, job: &dyn Fn(&Flow)) -> Self {
        let bells: Vec<_> = (0..count).map(|_| Arc::<Bell>::default()).collect();
        let wakers: Arc<[_]> = bells.iter().map(|bell| Waker::from(Arc::clone(bell))).collect();
        let shared = Arc::<Shared>::default();
        let build = |shard| {
            let (wakers, shared) = (Arc::clone(&wakers), Arc::clone(&shared));
            let single = BuildContext::single("test");
            Shard::build(job, &BuildContext { shard, wakers, shared, tuning, ..single }).unwrap()
        };
        let shards = (0..count).map(build).collect();
        let (last, wake_ups) = (vec![Step::Busy; count], vec![0; count]);
        let mut machine = Self { shards, bells, last, wake_ups, now: 0 };
        machine.settle();
        machine
    }

    /// Something has come for the source on this shard.
    pub(crate) fn ring(&mut self, shard: usize) {
        self.last[shard] = Step::Busy;
    }

    pub(crate) fn settle(&mut self) {
        self.settle_in_order(|shards| shards - 1);
    }

    /// Steps shards until all are asleep. `choose` is given how many may be stepped, and says which one is.
    pub(crate) fn settle_in_order(&mut self, mut choose: impl FnMut(usize) -> usize) {
        for _ in 0..100_000 {
            let now = at(self.now);
            let rings = |shard: usize| self.bells[shard].0.load(Ordering::Relaxed);
            let may_step = |&shard: &usize| match self.last[shard] {
                Step::Busy => true,
                Step::Idle(until) => rings(shard) || until.is_some_and(|until| until <= now.steady),
                Step::Done => false,
            };
            let mut ready: Vec<_> = (0..self.shards.len()).filter(may_step).collect();
            if ready.is_empty() {
                return;
            }
            let chosen = ready.swap_remove(choose(ready.len()));
            let was_rung = self.bells[chosen].0.swap(false, Ordering::Relaxed);
            self.wake_ups[chosen] +=
                usize::from(was_rung && matches!(self.last[chosen], Step::Idle(_)));
            self.last[chosen] = self.shards[chosen].step(now).unwrap();
        }
        panic!("the shards do not come to rest");
    }

    /// Both clocks go on by this much, and what is due by them is done.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.settle();
    }

    /// A record has come for the source on shard `at`.
    pub(crate) fn feed(&mut self, at: usize, feed: &Feed<Rec>, record: Rec) {
        feed.push(record);
        self.ring(at);
        self.settle();
    }
}
