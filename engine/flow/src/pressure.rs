//! Back pressure of state: when sources wait, because what has changed has not reached storage.
//!
//! Keyed state drops from memory what storage can give back. What it cannot give back yet has changed since the last
//! epoch, or is stored and not folded, and stays. Its bound is [`Tuning::state_pending_bytes_max`](crate::Tuning):
//!
//! | on a shard | |
//! |---|---|
//! | half of it has changed since the last epoch | the shard asks for an epoch at once |
//! | more than all of it has | sources wait for that epoch |
//! | state takes more than all of it and its memory, and more than all of it awaits storage | sources wait for epochs and folding |
//!
//! The sources of all shards wait, since any of them may send to the one that is full. Meanwhile what they have emitted
//! flows on, barriers pass and timers fire. So epochs alone make room on a full shard, which asks for one after the
//! other.
//!
//! # What sources wait for
//! Sources wait only for what an epoch makes durable, or folding makes readable. That is what *awaits storage*: what has
//! changed since the last epoch, and in epochs that storage cannot give back yet. Epochs and folding bring it down to
//! nothing while sources wait, so waiting ends. Everything else that stays in memory holds no source back, however much
//! it is: epochs do not make it smaller.
//!
//! State may change by itself, by timers, faster than it is folded; or a store may never fold. If what awaits storage
//! does not fall below its least for [`PATIENCE`], in spite of new epochs, sources go on until it does.
//!
//! # One account
//! All state of a shard is in one account, of [`Tuning::state_memory_bytes_max`](crate::Tuning). Some of it never leaves
//! memory: timers, lists of operators, and the runs that overlapping windows share. All other state shares the rest of
//! the account, each part in proportion to its size. If there is no rest, it keeps only what awaits storage. The gauge
//! `stateBytesOverLimit` says what the state of a shard takes beyond its limits, and the log tells of it once.
//!
//! The account is looked at once in a step, so a step's records come on top.

mod gate;

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Shared};

use self::gate::Gate;
use crate::counters::{Counter, Gauge, MetricKind, Registry};
use crate::tuning::Tuning;

/// How long sources wait, at the least, while what awaits storage does not become less.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many epochs sources wait for, at the least, while what awaits storage does not become less.
const PATIENCE_EPOCHS: u32 = 16;
/// Where dropping was in vain it is tried again after state has grown by this part of the pending bytes.
const GROWN_PART: usize = 16;

/// What the states of a shard take, in bytes, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Takes {
    /// In memory, of what can leave it once storage has it.
    pub(crate) bytes: usize,
    /// Of that, what has changed since the last epoch.
    pub(crate) changed: usize,
    /// And what changed in epochs that storage cannot give back yet: at most, since one entry may be in several of them.
    pub(crate) unreadable: usize,
    /// In memory, of what never leaves it.
    pub(crate) fixed: usize,
}

impl Takes {
    /// This many bytes that never leave memory.
    pub(crate) fn fixed(bytes: usize) -> Self {
        Self { fixed: bytes, ..Self::default() }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            changed: self.changed + other.changed,
            unreadable: self.unreadable + other.unreadable,
            fixed: self.fixed + other.fixed,
        }
    }

    /// What storage cannot give back yet.
    fn awaits_storage(self) -> usize {
        (self.changed + self.unreadable).min(self.bytes)
    }
}

/// What a shard needs, with what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// An epoch, soon.
    Epoch,
    /// That nothing more comes, until something can be dropped.
    Room,
    /// That nothing more comes until the next epoch.
    Barrier,
}

/// What state may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    memory_bytes: usize,
    pending_bytes: usize,
}

impl Limits {
    /// By how much state that can leave memory is more than the rest leaves it.
    fn crowded_by(self, takes: Takes) -> usize {
        let left = self.memory_bytes.saturating_sub(takes.fixed);
        takes.bytes.saturating_sub(left.saturating_add(self.pending_bytes))
    }

    /// By how much all state together is over its limits.
    fn over_by(self, takes: Takes) -> usize {
        let all = takes.bytes.saturating_add(takes.fixed);
        all.saturating_sub(self.memory_bytes.saturating_add(self.pending_bytes))
    }

    fn need(self, takes: Takes) -> Need {
        let in_vain = takes.awaits_storage() <= self.pending_bytes;
        if takes.changed > self.pending_bytes {
            Need::Barrier
        } else if self.crowded_by(takes) > 0 && (!in_vain || seeded(Defect::FlowWaitsInVain)) {
            Need::Room
        } else if takes.changed > self.pending_bytes / 2 {
            Need::Epoch
        } else {
            Need::Nothing
        }
    }
}

/// Waiting for room.
struct Waiting {
    /// When what awaits storage was the least for the first time, and the number of epochs since then.
    since: Duration,
    epochs: u32,
    least: usize,
}

/// State was too large still after all had been dropped that could be.
struct Stuck {
    readable: Epoch,
    bytes: usize,
}

/// See the module: one shard's part. Pure but for the count that shards share.
pub(crate) struct Pressure {
    limits: Limits,
    gate: Arc<Gate>,
    /// This shard is one of those that are full; the steady time of the last look.
    full: Option<Duration>,
    waiting: Option<Waiting>,
    stuck: Option<Stuck>,
    /// By how many bytes state is over its limits.
    over: Gauge,
    /// Milliseconds for which this shard was full, and nanoseconds that are not counted yet.
    time_ms: Counter,
    rest: Duration,
}

impl Pressure {
    /// For a shard of a job that has stored state. `shared` and `wakers` are those of the job.
    pub(crate) fn new(
        tuning: Tuning,
        shared: &Shared,
        wakers: &Arc<[Waker]>,
        metrics: &mut Registry,
    ) -> Self {
        let time_ms = Counter::default();
        let (name, operator) = ("accumulateStateBackPressuredTimeMs", (u32::MAX, "State".into()));
        metrics.register(name, MetricKind::Counter, operator, None, Rc::clone(&time_ms.0));
        let over = Gauge::default();
        let (name, operator) = ("stateBytesOverLimit", (u32::MAX, "State".into()));
        metrics.register(name, MetricKind::Gauge, operator, None, Rc::clone(&over.0));
        let Tuning { state_memory_bytes_max, state_pending_bytes_max, .. } = tuning;
        let gate = || Ok::<_, std::convert::Infallible>(Gate::new(Arc::clone(wakers)));
        let Ok(gate) = shared.get_or_try_init(u32::MAX, gate);
        Self {
            limits: Limits {
                memory_bytes: state_memory_bytes_max,
                pending_bytes: state_pending_bytes_max,
            },
            gate,
            full: None,
            waiting: None,
            stuck: None,
            over,
            time_ms,
            rest: Duration::ZERO,
        }
    }

    /// What the shard needs.
    pub(crate) fn need(&self, takes: Takes) -> Need {
        self.limits.need(takes)
    }

    /// An epoch has been stored.
    pub(crate) fn committed(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.epochs += 1;
        }
    }

    /// Whether state is too large, and dropping some of it may succeed. After a search that found too little,
    /// one more is worth it when something has become readable, or when state has grown.
    pub(crate) fn is_to_shrink(&self, takes: Takes, readable: Epoch) -> bool {
        let grown = self.limits.pending_bytes / GROWN_PART;
        self.limits.crowded_by(takes) > 0
            && self.stuck.as_ref().is_none_or(|stuck| {
                stuck.readable != readable || takes.bytes > stuck.bytes.saturating_add(grown)
            })
    }

    /// State has left memory, `all` that could or a part of it; this is left.
    pub(crate) fn shrunk(&mut self, takes: Takes, readable: Epoch, all: bool) {
        let (bytes, is_stuck) = (takes.bytes, all && self.limits.crowded_by(takes) > 0);
        self.stuck = is_stuck.then_some(Stuck { readable, bytes });
    }

    /// A step begins, with this much state: whether sources are to wait.
    pub(crate) fn sources_wait(&mut self, takes: Takes, steady: Duration) -> bool {
        self.over.set(i64::try_from(self.limits.over_by(takes)).unwrap_or(i64::MAX));
        let need = self.need(takes);
        let full = match need {
            Need::Nothing | Need::Epoch => false,
            Need::Barrier => true,
            Need::Room => self.is_worth_waiting(takes.awaits_storage(), steady),
        };
        if need != Need::Room {
            self.waiting = None;
        }
        self.set_full(full, steady);
        self.gate.is_shut()
    }

    fn is_worth_waiting(&mut self, awaits_storage: usize, steady: Duration) -> bool {
        let begin = || Waiting { since: steady, epochs: 0, least: awaits_storage };
        let waiting = self.waiting.get_or_insert_with(begin);
        if awaits_storage < waiting.least {
            *waiting = begin();
        }
        waiting.epochs < PATIENCE_EPOCHS || steady.saturating_sub(waiting.since) < PATIENCE
    }

    /// This shard is full or not; `steady` is the time.
    pub(crate) fn set_full(&mut self, full: bool, steady: Duration) {
        if let Some(last) = self.full {
            self.rest += steady.saturating_sub(last);
            self.time_ms.add(self.rest.as_millis() as usize);
            self.rest = Duration::from_nanos(u64::from(self.rest.subsec_nanos() % 1_000_000));
        }
        let was_full = std::mem::replace(&mut self.full, full.then_some(steady)).is_some();
        if full && !was_full {
            self.gate.enter();
        } else if was_full && !full {
            self.gate.leave();
        }
    }

    /// Whether this shard is full.
    pub(crate) fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Whether state is over its limits, and nothing that storage does makes it smaller.
    pub(crate) fn is_over(&self) -> bool {
        self.over.0.get() > 0 && !self.is_full()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn two() -> (Pressure, Pressure, Arc<Woken>) {
        let woken = Arc::<Woken>::default();
        let wakers = vec![Waker::from(Arc::clone(&woken)); 2].into();
        let gate = Arc::new(Gate::new(wakers));
        let one = || Pressure {
            limits: Limits { memory_bytes: 1_000, pending_bytes: 100 },
            gate: Arc::clone(&gate),
            full: None,
            waiting: None,
            stuck: None,
            over: Gauge::default(),
            time_ms: Counter::default(),
            rest: Duration::ZERO,
        };
        (one(), one(), woken)
    }

    fn takes(bytes: usize, changed: usize, unreadable: usize, fixed: usize) -> Takes {
        Takes { bytes, changed, unreadable, fixed }
    }

    #[test]
    fn an_epoch_is_asked_for_before_anybody_has_to_wait() {
        let limits = Limits { memory_bytes: 1_000, pending_bytes: 100 };
        for (takes, need) in [
            (takes(0, 0, 0, 0), Need::Nothing),
            (takes(1_100, 50, 900, 0), Need::Nothing),
            (takes(1_100, 51, 900, 0), Need::Epoch),
            (takes(1_101, 51, 50, 0), Need::Room),
            (takes(1_000, 101, 0, 0), Need::Barrier),
            (takes(2_000, 101, 0, 0), Need::Barrier),
            (takes(500, 0, 500, 600), Need::Nothing),
            (takes(501, 0, 500, 600), Need::Room),
            (takes(100, 50, 90, 5_000), Need::Nothing),
            (takes(101, 50, 90, 5_000), Need::Room),
            (takes(0, 0, 0, 5_000), Need::Nothing),
        ] {
            assert_eq!(limits.need(takes), need, "{takes:?}");
        }
        let all = Limits { memory_bytes: usize::MAX, pending_bytes: 100 };
        assert_eq!(all.need(takes(usize::MAX, 0, 200, 0)), Need::Nothing);
    }

    /// Goal: nobody waits for what no epoch makes smaller.
    #[test]
    fn what_does_not_await_storage_keeps_no_source_waiting() {
        let (mut a, _, _) = two();
        for (bytes, changed, unreadable, fixed, waits) in [
            (900, 0, 101, 1_000, true),
            (900, 1, 100, 1_000, true),
            (900, 0, 100, 1_000, false),
            (900, 40, 60, 9_000, false),
            (9_000, 0, 0, 0, false),
            (9_000, 0, 0, 9_000, false),
            // More than all of it cannot await storage.
            (90, 40, 800, 9_000, false),
        ] {
            let takes = takes(bytes, changed, unreadable, fixed);
            assert_eq!(a.sources_wait(takes, S(1)), waits, "{takes:?}");
            assert_eq!(a.over.0.get() as usize, (bytes + fixed).saturating_sub(1_100));
            assert_eq!(a.is_over(), !waits && bytes + fixed > 1_100);
        }
    }

    #[test]
    fn dropping_is_tried_again_only_where_it_may_help() {
        let (mut a, _, _) = two();
        let (three, four) = (Epoch::new(3), Epoch::new(4));
        assert!(!a.is_to_shrink(takes(1_100, 0, 0, 0), three));
        assert!(a.is_to_shrink(takes(1_101, 0, 0, 0), three));
        a.shrunk(takes(1_000, 0, 0, 0), three, true);
        assert!(a.is_to_shrink(takes(1_200, 0, 0, 0), three), "it has helped");
        a.shrunk(takes(1_200, 0, 0, 0), three, false);
        assert!(a.is_to_shrink(takes(1_200, 0, 0, 0), three), "the search goes on");
        a.shrunk(takes(1_200, 0, 0, 0), three, true);
        assert!(!a.is_to_shrink(takes(1_206, 0, 0, 0), three));
        assert!(a.is_to_shrink(takes(1_207, 0, 0, 0), three), "it has grown");
        assert!(a.is_to_shrink(takes(1_200, 0, 0, 0), four), "more is readable");
    }

    #[test]
    fn all_wait_until_nobody_is_full_and_are_woken_then() {
        let (mut a, mut b, woken) = two();
        let changed = |changed| Takes { bytes: 500, changed, ..Takes::default() };
        assert!(!a.sources_wait(changed(60), S(0)));
        assert!(a.sources_wait(changed(101), S(1)));
        assert!(b.sources_wait(changed(0), S(1)), "a may be sent to by b");
        assert!(b.sources_wait(changed(101), S(2)));
        assert!(a.sources_wait(changed(0), S(3)), "b is full");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        assert!(!b.sources_wait(changed(0), S(5)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!a.sources_wait(changed(0), S(6)));
        assert_eq!((a.time_ms.0.get(), b.time_ms.0.get()), (2_000, 3_000));
    }

    #[test]
    fn nobody_waits_for_ever_for_what_is_never_stored() {
        let (mut a, _, _) = two();
        let wait =
            |a: &mut Pressure, unreadable, at| a.sources_wait(takes(2_000, 0, unreadable, 0), at);
        assert!(wait(&mut a, 500, S(0)));
        assert!(wait(&mut a, 600, S(1_000)), "no epoch was stored: the disk may be full");
        (0..PATIENCE_EPOCHS).for_each(|_| a.committed());
        assert!(!wait(&mut a, 500, S(1_001)));
        assert!(wait(&mut a, 499, S(1_002)), "something has become readable");
        (0..PATIENCE_EPOCHS).for_each(|_| a.committed());
        assert!(wait(&mut a, 700, S(1_061)));
        assert!(!wait(&mut a, 700, S(1_062)), "it changes as fast as it is stored");
        assert!(!wait(&mut a, 100, S(1_063)));
        assert!(wait(&mut a, 700, S(1_064)), "it was less in between");
    }

    #[test]
    fn the_time_that_sources_wait_counts_to_the_last_part_of_a_millisecond() {
        let (mut a, mut b, _) = two();
        for step in 0..=25 {
            a.set_full(true, S(7) + Duration::from_micros(step * 400));
        }
        assert_eq!(a.time_ms.0.get(), 10);
        a.set_full(false, S(7) + Duration::from_micros(10_999));
        assert_eq!(a.time_ms.0.get(), 10, "the time of one that was full a moment ago");
        b.set_full(true, S(1));
        b.set_full(false, S(1) + Duration::from_micros(1_700));
        b.set_full(true, S(9));
        b.set_full(false, S(9) + Duration::from_micros(1_300));
        assert_eq!(b.time_ms.0.get(), 3);
        assert!(!a.is_full() && !b.is_full());
    }

    #[test]
    fn an_account_is_the_sum_of_its_parts() {
        let sum = takes(1, 20, 300, 4_000).and(takes(5, 60, 700, 8_000));
        assert_eq!(sum, takes(6, 80, 1_000, 12_000));
        assert_eq!(Takes::fixed(7), takes(0, 0, 0, 7));
        assert_eq!(
            (takes(90, 40, 30, 5).awaits_storage(), takes(50, 40, 30, 5).awaits_storage()),
            (70, 50)
        );
    }
}
