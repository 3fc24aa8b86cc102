//! How work is called: a flag that says so, and whoever ends the sleep of the thread that does the work.
//!
//! Whoever calls raises the flag and then looks whether anyone sleeps. Whoever goes to sleep says so and then looks at the
//! flag. Both use sequentially consistent operations, so one of them always sees the other. Work that is awake is called by one
//! exchange on a flag.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use crate::sync::AtomicBool;

/// Calls for work to go on.
pub(crate) struct Call {
    due: Arc<AtomicBool>,
    /// Ends the sleep of the thread that does the work.
    to: Waker,
    /// That thread sleeps; or it is a shard's, which knows by itself whether it does.
    asleep: AtomicBool,
}

impl Call {
    /// For work on a shard, which this waker wakes.
    pub(crate) fn of_shard(due: Arc<AtomicBool>, shard: Waker) -> Self {
        Self { due, to: shard, asleep: AtomicBool::new(true) }
    }

    /// For work on a thread of its own, whose sleep this waker ends.
    pub(crate) fn of_thread(due: Arc<AtomicBool>, to: Waker) -> Self {
        Self { due, to, asleep: AtomicBool::new(false) }
    }

    /// Whether the work was called since this was asked last.
    pub(crate) fn take(&self) -> bool {
        self.due.swap(false, Ordering::SeqCst)
    }

    /// Lets the thread of the work `sleep` once, unless the work was called.
    pub(crate) fn sleep(&self, sleep: impl FnOnce()) {
        self.asleep.store(true, Ordering::SeqCst);
        if !self.due.load(Ordering::SeqCst) {
            sleep();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.due.swap(true, Ordering::SeqCst) && self.asleep.load(Ordering::SeqCst) {
            self.to.wake_by_ref();
        }
    }
}
