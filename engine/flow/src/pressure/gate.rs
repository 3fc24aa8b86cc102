//! How many shards of a job are full, and whom to wake when none is any more.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::task::Waker;

use crate::sync::AtomicUsize;

/// See the module.
pub(crate) struct Gate {
    full: AtomicUsize,
    wakers: Arc<[Waker]>,
}

impl Gate {
    /// Nobody is full; `wakers` are those of all shards.
    pub(crate) fn new(wakers: Arc<[Waker]>) -> Self {
        Self { full: AtomicUsize::new(0), wakers }
    }

    /// A shard is full.
    pub(crate) fn enter(&self) {
        self.full.fetch_add(1, AcqRel);
    }

    /// A shard is full no more. The last one wakes all.
    pub(crate) fn leave(&self) {
        if self.full.fetch_sub(1, AcqRel) == 1 {
            self.wakers.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether sources are to wait: some shard is full.
    pub(crate) fn is_shut(&self) -> bool {
        self.full.load(Acquire) > 0
    }
}
