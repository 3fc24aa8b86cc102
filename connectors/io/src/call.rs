//! How work is called: a flag that says so, and whoever ends the sleep of the thread that does the work.
//!
//! Whoever calls raises the flag and then looks whether the work rests. Work that goes to rest says so and then looks at the
//! flag. Both use sequentially consistent operations, so one of them always sees the other. Work that goes on is called by one
//! exchange on a flag, also by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use crate::sync::AtomicBool;

/// Calls for work to go on.
pub(crate) struct Call {
    due: Arc<AtomicBool>,
    /// Ends the sleep of the thread that does the work. A shard knows by itself whether it sleeps.
    to: Waker,
    /// Nobody goes on with the work until it is called.
    rests: AtomicBool,
}

impl Call {
    /// For work that rests. Its thread is woken by this waker.
    pub(crate) fn new(due: Arc<AtomicBool>, to: Waker) -> Self {
        Self { due, to, rests: AtomicBool::new(true) }
    }

    /// The work goes on, and looks for calls until it [rests](Self::rest).
    pub(crate) fn begin(&self) {
        self.rests.store(false, Ordering::SeqCst);
    }

    /// Whether the work was called since this was asked last.
    pub(crate) fn take(&self) -> bool {
        self.due.swap(false, Ordering::SeqCst)
    }

    /// The work has nothing to do: whether it rests from now on. Otherwise it was called meanwhile, and goes on.
    pub(crate) fn rest(&self) -> bool {
        self.rests.store(true, Ordering::SeqCst);
        let called = self.due.load(Ordering::SeqCst);
        if called {
            self.begin();
        }
        !called
    }

    /// The work has something to do and leaves it for its next turn.
    pub(crate) fn put_off(&self) {
        self.rests.store(true, Ordering::SeqCst);
        self.due.store(true, Ordering::SeqCst);
        self.to.wake_by_ref();
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.due.swap(true, Ordering::SeqCst) && self.rests.load(Ordering::SeqCst) {
            self.to.wake_by_ref();
        }
    }
}
