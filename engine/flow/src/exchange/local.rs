//! A queue between two pipelines of one shard: one open batch, which the reader swaps for an empty
//! one. Nothing needs flushing, so operators may push side outputs into it as they run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use thalweg_kernel::{Batch, Collector, Mark, Timestamp};

/// A pipeline is not stepped while a queue behind it holds this many records or marks. (One step
/// may overshoot it by what that step yields.)
const LOCAL_RECORDS_MAX: usize = 4_096;

struct Queue<T> {
    open: RefCell<Batch<T>>,
    reader_gone: Cell<bool>,
}

/// The writing end. Clones write into the same queue.
pub(crate) struct LocalEdge<T>(Rc<Queue<T>>);

impl<T> Clone for LocalEdge<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> LocalEdge<T> {
    pub(crate) fn new() -> (Self, LocalInbox<T>) {
        let queue = Rc::new(Queue { open: RefCell::default(), reader_gone: Cell::new(false) });
        (Self(Rc::clone(&queue)), LocalInbox(queue))
    }

    pub(crate) fn has_room(&self) -> bool {
        let open = self.0.open.borrow();
        open.len().max(open.marks().len()) < LOCAL_RECORDS_MAX
    }

    #[inline]
    pub(crate) fn push(&self, time: Timestamp, value: T) {
        // A stream that the job never ended in a sink has no reader.
        if !self.0.reader_gone.get() {
            self.0.open.borrow_mut().record(time, value);
        }
    }

    #[inline]
    pub(crate) fn push_mark(&self, mark: Mark) {
        if !self.0.reader_gone.get() {
            self.0.open.borrow_mut().mark(mark);
        }
    }
}

/// The reading end.
pub(crate) struct LocalInbox<T>(Rc<Queue<T>>);

impl<T> LocalInbox<T> {
    /// Swaps what is there for the empty `batch`; false if there is nothing.
    pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {
        let mut open = self.0.open.borrow_mut();
        if open.is_empty() {
            return false;
        }
        std::mem::swap(&mut *open, batch);
        true
    }
}

impl<T> Drop for LocalInbox<T> {
    fn drop(&mut self) {
        self.0.reader_gone.set(true);
        self.0.open.borrow_mut().clear();
    }
}
