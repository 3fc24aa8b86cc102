//! [`RowPort`]: what the thread has done for one instance of a sink for rows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Waker;

use thalweg_kernel::{Epoch, RefusedResults};

use crate::common::Port;

/// What the thread has done for one instance in this run.
pub struct RowPort {
    pub(crate) instance: u16,
    /// What was recovered is applied.
    pub(crate) recovered: AtomicBool,
    /// All of this epoch is applied, and of those before it.
    pub(crate) upto: AtomicU64,
    /// Rows that were applied, and the bytes of their notes.
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Rows that the table has refused.
    pub(crate) refused: RefusedResults,
    pub(crate) waker: Waker,
}

impl RowPort {
    /// The epoch up to which the instance is applied.
    pub(crate) fn upto(&self) -> Epoch {
        Epoch::new(self.upto.load(SeqCst))
    }
}

impl Port for RowPort {
    fn waker(&self) -> &Waker {
        &self.waker
    }
}
