//! What a source's shard and its connection agree on beside the chunks: how far the journal is durable, how
//! far checkpoints have come. A *mark* is a number behind a message: in the journal its position,
//! otherwise the count of messages taken.
//!
//! Neither wakes the other for every step: the shard says which mark it waits for, and is woken
//! when that is reached.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Waker;

use crate::fault::Fault;
use crate::sync::{AtomicBool, AtomicU64};

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

pub(crate) struct Progress {
    /// The journal is durable below this.
    durable: AtomicU64,
    /// The shard waits for the journal to be durable up to here.
    awaited: AtomicU64,
    /// A checkpoint needs the journal to be durable up to here.
    wanted: AtomicU64,
    /// Below this no message is needed any more: the journal may be trimmed, or the messages acknowledged.
    released: AtomicU64,
    /// The connection's work has ended: nothing becomes durable any more.
    closed: AtomicBool,
    failed: OnceLock<Fault>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            durable: AtomicU64::new(0),
            awaited: AtomicU64::new(NOBODY),
            wanted: AtomicU64::new(0),
            released: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            failed: OnceLock::new(),
        }
    }

    /// The shard: whether the journal is durable up to `mark`. If not, the shard is woken once it is.
    pub(crate) fn is_durable(&self, mark: u64) -> Result<bool, Fault> {
        if self.durable.load(SeqCst) >= mark {
            return Ok(true);
        }
        self.awaited.fetch_min(mark, SeqCst);
        // Whether it ended is asked before the second look, or its last progress would be missed.
        let closed = self.closed.load(SeqCst);
        if self.durable.load(SeqCst) >= mark {
            return Ok(true);
        }
        match (self.failed.get(), closed) {
            (Some(fault), _) => Err(fault.clone()),
            (None, true) => Err(format!(
                "the source has ended, and the journal is durable up to {} only, of {mark}; it takes nothing \
                 while its disk is full. What is missing was not acknowledged: the broker repeats it",
                self.durable.load(SeqCst)
            )
            .into()),
            (None, false) => Ok(false),
        }
    }

    /// The shard: it will wait for the journal to be durable up to `mark`. Whether the connection is to be told of that.
    pub(crate) fn want(&self, mark: u64) -> bool {
        self.wanted.fetch_max(mark, SeqCst) < mark && self.durable.load(SeqCst) < mark
    }

    /// The connection: whether the shard waits, or will wait, for more to be durable than what lies below `mark`.
    pub(crate) fn is_wanted(&self, mark: u64) -> bool {
        self.wanted.load(SeqCst) > mark
    }

    /// The connection: the journal is durable up to `mark`. Wakes the shard if it waits for that.
    pub(crate) fn durable(&self, mark: u64, shard: &Waker) {
        self.durable.store(mark, SeqCst);
        let mut awaited = self.awaited.load(SeqCst);
        while awaited <= mark {
            match self.awaited.compare_exchange(awaited, NOBODY, SeqCst, SeqCst) {
                Ok(_) => return shard.wake_by_ref(),
                Err(now) => awaited = now,
            }
        }
    }

    /// The shard: below `mark` nothing is needed any more.
    pub(crate) fn release(&self, mark: u64) {
        self.released.fetch_max(mark, SeqCst);
    }

    pub(crate) fn released(&self) -> u64 {
        self.released.load(SeqCst)
    }

    /// The connection's work ends; `failed` says why, if not in good order. It wakes the shard after that.
    pub(crate) fn close(&self, failed: Option<&Fault>) {
        if let Some(fault) = failed {
            let _first = self.failed.set(fault.clone());
        }
        self.closed.store(true, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn the_shard_is_woken_for_what_it_waits_for_and_once() {
        let (progress, count) = (Progress::new(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        progress.durable(10, &waker);
        assert_eq!(progress.is_durable(10), Ok(true));
        assert_eq!(count.0.load(SeqCst), 0, "nobody waited");
        assert_eq!(progress.is_durable(20), Ok(false));
        assert_eq!(progress.is_durable(30), Ok(false));
        progress.durable(19, &waker);
        assert_eq!(count.0.load(SeqCst), 0);
        progress.durable(25, &waker);
        progress.durable(26, &waker);
        assert_eq!(count.0.load(SeqCst), 1, "for the first; then it asks for the next");
        assert_eq!(progress.is_durable(30), Ok(false));
        progress.durable(30, &waker);
        assert_eq!(count.0.load(SeqCst), 2);
    }

    #[test]
    fn what_never_will_be_durable_is_an_error() {
        let progress = Progress::new();
        progress.durable(5, Waker::noop());
        progress.close(None);
        assert_eq!(progress.is_durable(5), Ok(true));
        assert!(progress.is_durable(6).is_err_and(|fault| fault.what.contains("up to 5 only")));
        progress.close(Some(&Fault::lasting("the disk is gone")));
        assert_eq!(progress.is_durable(6), Err(Fault::lasting("the disk is gone")));
    }
}
