//! A queue between two pipelines of one shard: one open batch, which the reader swaps for an empty
//! one. Nothing needs flushing, so operators may push side outputs into it as they run.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Batch, Collector, Mark, Timestamp};

/// A pipeline is not stepped while a queue behind it holds this many records or marks. One step may
/// overshoot it by what that step yields: at the most the rows of all windows that a watermark fires.
const LOCAL_RECORDS_MAX: usize = 4_096;

/// The writing end. Clones write into the same queue.
pub(crate) struct LocalEdge<T>(Rc<RefCell<Batch<T>>>);

impl<T> Clone for LocalEdge<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> LocalEdge<T> {
    pub(crate) fn new() -> (Self, LocalInbox<T>) {
        let queue = Rc::default();
        (Self(Rc::clone(&queue)), LocalInbox(queue))
    }

    pub(crate) fn has_room(&self) -> bool {
        let open = self.0.borrow();
        open.len().max(open.marks().len()) < LOCAL_RECORDS_MAX
    }

    #[inline]
    pub(crate) fn push(&self, time: Timestamp, value: T) {
        self.0.borrow_mut().record(time, value);
    }

    #[inline]
    pub(crate) fn push_mark(&self, mark: Mark) {
        self.0.borrow_mut().mark(mark);
    }
}

/// The reading end.
pub(crate) struct LocalInbox<T>(Rc<RefCell<Batch<T>>>);

impl<T> LocalInbox<T> {
    /// Swaps what is there for the empty `batch`; false if there is nothing.
    pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {
        let mut open = self.0.borrow_mut();
        if open.is_empty() {
            return false;
        }
        std::mem::swap(&mut *open, batch);
        true
    }
}
