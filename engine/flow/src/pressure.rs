//! Back pressure of state: when sources wait, because what has changed has not reached storage.
//!
//! Keyed state drops from memory what storage can give back. What it cannot give back yet has changed since the last
//! epoch, or is stored and not folded, and stays. Its bound is [`Tuning::state_pending_bytes_max`](crate::Tuning):
//!
//! | on a shard | |
//! |---|---|
//! | half of it has changed since the last epoch | the shard asks for an epoch at once |
//! | more than all of it has | sources wait for that epoch |
//! | state takes more than all of it and its memory, and can drop nothing | sources wait for epochs and folding |
//!
//! The sources of all shards wait, since any of them may send to the one that is full. What they have emitted flows on,
//! barriers pass, timers fire: so a full shard becomes empty by epochs alone, and asks for one after the other.
//!
//! It is looked at once in a step, so a step's records come on top. Timers and lists of operators do not count:
//! they are never dropped, so waiting would not help. If nothing becomes readable in spite of new
//! epochs for [`PATIENCE`], waiting does not help either, and sources go on until something does.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use thalweg_kernel::{Epoch, Shared};

use crate::counters::{Counter, MetricKind, Registry};
use crate::tuning::Tuning;

/// How long sources wait while epochs are stored and none becomes readable,
const PATIENCE: Duration = Duration::from_secs(60);
/// and for how many epochs at least.
const PATIENCE_EPOCHS: u32 = 16;

/// What the keyed states of a shard take, in bytes, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Takes {
    /// In memory.
    pub(crate) bytes: usize,
    /// Of that, what has changed since the last epoch.
    pub(crate) changed: usize,
}

/// What a shard needs that holds so much.
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
    fn need(self, takes: Takes) -> Need {
        if takes.changed > self.pending_bytes {
            Need::Barrier
        } else if takes.bytes > self.memory_bytes.saturating_add(self.pending_bytes) {
            Need::Room
        } else if takes.changed > self.pending_bytes / 2 {
            Need::Epoch
        } else {
            Need::Nothing
        }
    }
}

/// How many shards of a job are full, and whom to wake when none is any more.
struct Gate {
    full: AtomicUsize,
    wakers: Arc<[Waker]>,
}

/// Waiting for room that does not come.
struct Waiting {
    since: Duration,
    readable: Epoch,
    epochs: u32,
}

/// See the module: one shard's part. Pure but for the count that shards share.
pub(crate) struct Pressure {
    limits: Limits,
    gate: Arc<Gate>,
    /// This shard is one of those that are full; the steady time of the last look.
    full: Option<Duration>,
    waiting: Option<Waiting>,
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
        let Tuning { state_memory_bytes_max, state_pending_bytes_max, .. } = tuning;
        let gate = || {
            let (full, wakers) = (AtomicUsize::new(0), Arc::clone(wakers));
            Ok::<_, std::convert::Infallible>(Gate { full, wakers })
        };
        let Ok(gate) = shared.get_or_try_init(u32::MAX, gate);
        Self {
            limits: Limits {
                memory_bytes: state_memory_bytes_max,
                pending_bytes: state_pending_bytes_max,
            },
            gate,
            full: None,
            waiting: None,
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

    /// A step begins, with so much state and this `readable`: whether sources are to wait.
    pub(crate) fn sources_wait(&mut self, need: Need, readable: Epoch, steady: Duration) -> bool {
        let full = match need {
            Need::Nothing | Need::Epoch => false,
            Need::Barrier => true,
            Need::Room => self.is_worth_waiting(readable, steady),
        };
        if need != Need::Room {
            self.waiting = None;
        }
        self.set_full(full, steady);
        self.gate.full.load(Ordering::Acquire) > 0
    }

    fn is_worth_waiting(&mut self, readable: Epoch, steady: Duration) -> bool {
        let begin = || Waiting { since: steady, readable, epochs: 0 };
        let waiting = self.waiting.get_or_insert_with(begin);
        if waiting.readable != readable {
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
            self.gate.full.fetch_add(1, Ordering::AcqRel);
        } else if was_full && !full && self.gate.full.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.gate.wakers.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether this shard is full.
    pub(crate) fn is_full(&self) -> bool {
        self.full.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
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
        let gate = Arc::new(Gate { full: AtomicUsize::new(0), wakers });
        let one = || Pressure {
            limits: Limits { memory_bytes: 1_000, pending_bytes: 100 },
            gate: Arc::clone(&gate),
            full: None,
            waiting: None,
            time_ms: Counter::default(),
            rest: Duration::ZERO,
        };
        (one(), one(), woken)
    }

    #[test]
    fn an_epoch_is_asked_for_before_anybody_has_to_wait() {
        let limits = Limits { memory_bytes: 1_000, pending_bytes: 100 };
        for (bytes, changed, need) in [
            (0, 0, Need::Nothing),
            (1_100, 50, Need::Nothing),
            (1_100, 51, Need::Epoch),
            (1_101, 51, Need::Room),
            (1_000, 101, Need::Barrier),
            (2_000, 101, Need::Barrier),
        ] {
            assert_eq!(limits.need(Takes { bytes, changed }), need, "{bytes} {changed}");
        }
        let all = Limits { memory_bytes: usize::MAX, pending_bytes: 100 };
        assert_eq!(all.need(Takes { bytes: usize::MAX, changed: 0 }), Need::Nothing);
    }

    #[test]
    fn all_wait_until_nobody_is_full_and_are_woken_then() {
        let (mut a, mut b, woken) = two();
        assert!(!a.sources_wait(Need::Epoch, Epoch::NONE, S(0)));
        assert!(a.sources_wait(Need::Barrier, Epoch::NONE, S(1)));
        assert!(b.sources_wait(Need::Nothing, Epoch::NONE, S(1)), "a may be sent to by b");
        assert!(b.sources_wait(Need::Barrier, Epoch::NONE, S(2)));
        assert!(a.sources_wait(Need::Nothing, Epoch::NONE, S(3)), "b is full");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        assert!(!b.sources_wait(Need::Nothing, Epoch::NONE, S(5)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!a.sources_wait(Need::Nothing, Epoch::NONE, S(6)));
        assert_eq!((a.time_ms.0.get(), b.time_ms.0.get()), (2_000, 3_000));
    }

    #[test]
    fn nobody_waits_for_ever_for_what_never_becomes_readable() {
        let (mut a, _, _) = two();
        let wait =
            |a: &mut Pressure, readable, at| a.sources_wait(Need::Room, Epoch::new(readable), at);
        assert!(wait(&mut a, 3, S(0)));
        assert!(wait(&mut a, 3, S(1_000)), "no epoch was stored: the disk may be full");
        (0..PATIENCE_EPOCHS).for_each(|_| a.committed());
        assert!(!wait(&mut a, 3, S(1_001)));
        assert!(wait(&mut a, 4, S(1_002)), "something has become readable");
        (0..PATIENCE_EPOCHS).for_each(|_| a.committed());
        assert!(wait(&mut a, 4, S(1_061)));
        assert!(!wait(&mut a, 4, S(1_062)));
    }
}
