//! How shards call an I/O thread: flags and a waker. The thread looks at its queues whenever the
//! bell rings, so no queue needs a waiting receiver of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use atomic_waker::AtomicWaker;

#[derive(Default)]
pub(crate) struct Bell {
    waker: AtomicWaker,
    rung: AtomicBool,
    /// An orderly end was asked for.
    stop: AtomicBool,
    /// Nobody waits for us any more: end at once and leave what is not acknowledged to the broker.
    abandoned: AtomicBool,
}

impl Bell {
    /// Call after putting something into a queue.
    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the bell rang since the last time, so that queues and flags are worth a look. From
    /// now on a ring wakes `waker`.
    pub(crate) fn answer(&self, waker: &Waker) -> bool {
        // First the waker, then the flag: a ring in between is seen by one of the two.
        self.waker.register(waker);
        self.rung.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}
