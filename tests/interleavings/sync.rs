//! What the engine's waits stand on, over the atomics of loom: see the parent.

use std::sync::atomic::AtomicBool as Knob;
use std::task::Waker;

use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Release, SeqCst};

/// Sequential consistency is acquire and release, and fences are nothing. Set between models, so loom need not know of it.
static WEAK: Knob = Knob::new(false);

/// From the next model on.
pub(crate) fn set_weak(weak: bool) {
    WEAK.store(weak, SeqCst);
}

fn is_weak() -> bool {
    WEAK.load(SeqCst)
}

/// See [`std::sync::atomic::fence`].
pub(crate) fn fence(order: Ordering) {
    if !is_weak() {
        loom::sync::atomic::fence(order);
    }
}

fn exchanging(order: Ordering) -> Ordering {
    if order == SeqCst { AcqRel } else { order }
}

macro_rules! atomic {
    ($name:ident, $of:ty, $read:ident, $nothing:expr) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code, reason = "each atomic has the methods of all")]
        impl $name {
            pub(crate) fn new(value: $of) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $of {
                match order {
                    SeqCst if is_weak() => self.0.load(Acquire),
                    SeqCst => self.0.$read($nothing, Acquire),
                    order => self.0.load(order),
                }
            }

            pub(crate) fn store(&self, value: $of, order: Ordering) {
                match order {
                    SeqCst if is_weak() => self.0.store(value, Release),
                    SeqCst => drop(self.0.swap(value, Release)),
                    order => self.0.store(value, order),
                }
            }

            pub(crate) fn swap(&self, value: $of, order: Ordering) -> $of {
                self.0.swap(value, exchanging(order))
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $of,
                new: $of,
                order: Ordering,
                failure: Ordering,
            ) -> Result<$of, $of> {
                let failure = if failure == SeqCst { Acquire } else { failure };
                self.0.compare_exchange(current, new, exchanging(order), failure)
            }
        }
    };
}

atomic!(AtomicBool, bool, fetch_or, false);
atomic!(AtomicI64, i64, fetch_add, 0);
atomic!(AtomicU64, u64, fetch_add, 0);
atomic!(AtomicUsize, usize, fetch_add, 0);

impl AtomicU64 {
    pub(crate) fn fetch_min(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_min(value, exchanging(order))
    }

    pub(crate) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_max(value, exchanging(order))
    }
}

impl AtomicUsize {
    pub(crate) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        self.0.fetch_add(value, exchanging(order))
    }

    pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        self.0.fetch_sub(value, exchanging(order))
    }
}

/// The place of one waker, as `atomic_waker` has it.
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        self.0.register_by_ref(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.take_waker()
    }
}
