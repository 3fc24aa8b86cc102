//! How shards call the work of a connection: flags and a waker. The work looks at its queues whenever the
//! signal is raised, so no queue needs a waiting receiver of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use crate::sync::{AtomicBool, AtomicWaker};

#[derive(Default)]
pub(crate) struct IoSignal {
    waker: AtomicWaker,
    raised: AtomicBool,
    /// The work waits for a queue that is not worth ringing for otherwise.
    wanting: AtomicBool,
    /// An orderly end was asked for.
    stop: AtomicBool,
    /// Nobody waits for us any more: end at once and leave what is not acknowledged to the broker.
    abandoned: AtomicBool,
    /// We are subscribed, and what was stored has been read: what is published comes.
    listens: AtomicBool,
    /// The shard has gone, having read all: no checkpoint will release any more.
    left: AtomicBool,
}

/// The journal raises the signal, too: when records have become durable, and when there is room again.
impl Wake for IoSignal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}

impl IoSignal {
    /// Call after putting something into a queue.
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.raise();
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.raise();
    }

    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.raise();
    }

    /// Whether the signal was raised since the last time, so that queues and flags are worth a look. From
    /// now on raising it wakes `waker`.
    pub(crate) fn take(&self, waker: &Waker) -> bool {
        // First the waker, then the flag: a signal in between is seen by one of the two.
        self.waker.register(waker);
        self.raised.swap(false, Ordering::AcqRel)
    }

    /// The work says whether it waits for whatever is put into its queue. Having said so, it must look
    /// into the queue once more; whoever puts something in asks [`wanted`](Self::wanted) after that.
    pub(crate) fn want(&self, wanting: bool) {
        self.wanting.store(wanting, Ordering::SeqCst);
    }

    /// Whether the work waits for what was put into its queue just now.
    pub(crate) fn wanted(&self) -> bool {
        self.wanting.load(Ordering::SeqCst)
    }

    /// The work says whether what is published comes in now.
    pub(crate) fn listen(&self, listens: bool) {
        self.listens.store(listens, Ordering::Release);
    }

    pub(crate) fn listens(&self) -> bool {
        self.listens.load(Ordering::Acquire)
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(crate) fn left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }
}
