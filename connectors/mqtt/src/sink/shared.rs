//! What a sink's shards and its connection tell each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use thalweg_kernel::Epoch;

use crate::io_signal::IoSignal;
use crate::sink::backlog::Backlog;

/// What the shards and the connection tell each other.
pub(crate) struct Common {
    pub(crate) signal: IoSignal,
    backlog: Backlog,
    failed: AtomicBool,
    failure: Mutex<String>,
    /// Writers that have seen all their results arrive.
    closed: AtomicUsize,
    writers: usize,
    /// The job is to end.
    stopping: AtomicBool,
    /// A shard has no more results to write.
    closing: AtomicBool,
    /// The connection has been ended in good order.
    finished: AtomicBool,
    /// The shards, for news that concerns them all.
    wakers: Mutex<Vec<Waker>>,
}

impl Common {
    /// For this many shards.
    pub(crate) fn new(writers: usize) -> Self {
        Self {
            signal: IoSignal::default(),
            backlog: Backlog::new(writers),
            failed: AtomicBool::new(false),
            failure: Mutex::new(String::new()),
            closed: AtomicUsize::new(0),
            writers,
            stopping: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            wakers: Mutex::default(),
        }
    }

    /// A shard has opened, with what the last run has left of these epochs; it is woken for news that concerns
    /// all.
    pub(crate) fn join(&self, waker: &Waker, left: impl Iterator<Item = Epoch>) {
        self.wakers().push(waker.clone());
        if self.backlog.open(left) {
            self.wake_all();
        }
    }

    /// Up to which epoch results may be published.
    pub(crate) fn upto(&self) -> Epoch {
        self.backlog.upto()
    }

    /// Results that the last run has left are on their way.
    pub(crate) fn sent(&self, epoch: Epoch) {
        if self.backlog.sent(epoch) {
            self.wake_all();
        }
    }

    /// Why the connection has failed, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        Some(self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) fn fail(&self, what: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.failed.store(true, Ordering::Release);
        self.wake_all();
    }

    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.wake_all();
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.wakers().iter().for_each(Waker::wake_by_ref);
    }

    /// All results of one more shard have arrived.
    pub(crate) fn close_one(&self) {
        self.closed.fetch_add(1, Ordering::AcqRel);
        self.signal.raise();
    }

    /// The job is to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.signal.raise();
    }

    /// A shard has no more results to write.
    pub(crate) fn close_begins(&self) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            self.signal.raise();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The connection has been ended in good order.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub(crate) fn all_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) == self.writers
    }
}
