//! A queue between two pipelines of one shard: one open batch, which the reader swaps for an empty
//! one. Nothing needs flushing, so operators may push side outputs into it as they run. A barrier closes
//! the batch, so that the reader can stop behind it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, Mark, Timestamp};

use super::kept::due_behind;

/// A pipeline is not stepped while a queue behind it holds this many records or marks. One step may
/// overshoot it by what that step yields: a batch in, or the work of a step ([`Tuning::step_work_max`](crate::Tuning)).
const LOCAL_RECORDS_MAX: usize = 4_096;

/// The writing end. Clones write into the same queue.
pub(crate) struct LocalEdge<T>(Rc<RefCell<Queue<T>>>);

struct Queue<T> {
    /// Batches that a barrier has closed.
    closed: VecDeque<Batch<T>>,
    open: Batch<T>,
    /// The last watermark that was written.
    watermark: Timestamp,
    /// What the reader has published.
    due: Timestamp,
}

impl<T> Queue<T> {
    fn has_room(&self) -> bool {
        let batches = self.closed.iter().chain([&self.open]);
        batches.map(|batch| batch.len().max(batch.marks().len())).sum::<usize>() < LOCAL_RECORDS_MAX
    }
}

impl<T> Clone for LocalEdge<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> LocalEdge<T> {
    pub(crate) fn new() -> (Self, LocalInbox<T>) {
        let (watermark, due) = (Timestamp::MIN, Timestamp::MIN);
        let queue = Queue { closed: VecDeque::new(), open: Batch::default(), watermark, due };
        let queue = Rc::new(RefCell::new(queue));
        (Self(Rc::clone(&queue)), LocalInbox(queue))
    }

    pub(crate) fn has_room(&self) -> bool {
        self.0.borrow().has_room()
    }

    /// The due time of what reads the queue, for who writes to it: see [`kept`](super::kept).
    pub(crate) fn due_at(&self) -> Timestamp {
        let queue = self.0.borrow();
        due_behind(queue.due, queue.watermark)
    }

    #[inline]
    pub(crate) fn push(&self, time: Timestamp, value: T) {
        self.0.borrow_mut().open.record(time, value);
    }

    #[inline]
    pub(crate) fn push_mark(&self, mark: Mark) {
        let queue = &mut *self.0.borrow_mut();
        queue.open.mark(mark);
        if let Mark::Watermark(watermark) = mark {
            queue.watermark = watermark;
        }
        if matches!(mark, Mark::Barrier(_)) && !seeded(Defect::FlowBatchStaysOpen) {
            queue.closed.push_back(std::mem::take(&mut queue.open));
        }
    }
}

/// The reading end.
pub(crate) struct LocalInbox<T>(Rc<RefCell<Queue<T>>>);

impl<T> LocalInbox<T> {
    /// Whether the writer is not stepped until something is taken.
    pub(crate) fn is_full(&self) -> bool {
        !self.0.borrow().has_room()
    }

    /// Publishes the due time of what stands behind the queue. Whether that is news for its writer.
    pub(crate) fn publish(&self, due: Timestamp) -> bool {
        std::mem::replace(&mut self.0.borrow_mut().due, due) != due
    }

    /// Swaps what is there for the empty `batch`; false if there is nothing.
    pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {
        let queue = &mut *self.0.borrow_mut();
        if let Some(closed) = queue.closed.pop_front() {
            *batch = closed;
            return true;
        }
        if queue.open.is_empty() {
            return false;
        }
        std::mem::swap(&mut queue.open, batch);
        true
    }
}
