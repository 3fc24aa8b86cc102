//! What becomes of open windows when the input of a job has ended.
//!
//! # Idea
//! A stream that ends tells those behind it that no record is expected any more. So windows fire and are forgotten. That
//! is wrong for a job whose input goes on one day, such as a file that grows. The next run would give a second row of the
//! window, and that row would know of the new records alone. [`AtEnd`] says what to do instead.
//!
//! # Design
//! A window that is to stay open is in an epoch before the end of the stream takes it away. A source whose partitions
//! have all ended falls idle, and holds its end back. It asks for an epoch, and *seals* itself with the barrier of that. When
//! the sources of all shards have sealed themselves, the newest of those barriers is that of the *last epoch with state*. A source
//! ends when it has passed that barrier. So everything that the end does comes behind it on every lane. In later
//! epochs, operators hand over nothing. Sinks and sources do, so the rows of the end are shown once.
//!
//! # Limits
//! The sources of a job begin before its first epoch does, and must not look for partitions
//! ([discovered](thalweg_kernel::Partitions::Discovered) ones end as they always did). A job without stored state
//! has nowhere to keep windows.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use thalweg_kernel::Epoch;

/// What becomes of open windows when all input of a job has ended. (The same goes for timers in event time.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtEnd {
    /// They give their rows and are forgotten. What a later run brings for such a window is late.
    #[default]
    Finish,
    /// They give the rows of what is there, and stay open in the job's stored state. A later run goes on with them, and gives
    /// rows that know more. For sinks in which a row takes the place of an earlier one with its key.
    GoOn,
    /// They give nothing, and stay open in the job's stored state. A later run goes on with them.
    Suspend,
}

/// How far the sources of a job have come with their end, on all shards.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    sources: AtomicUsize,
    sealed: AtomicUsize,
    /// The newest epoch with which one of them has sealed itself.
    last: AtomicU64,
}

impl Ending {
    /// One more source, on one shard.
    pub(crate) fn has_source(&self) {
        self.sources.fetch_add(1, SeqCst);
    }

    /// A source has passed the barrier of `epoch`, and had nothing more before it.
    pub(crate) fn seal(&self, epoch: Epoch) {
        self.last.fetch_max(epoch.number(), SeqCst);
        self.sealed.fetch_add(1, SeqCst);
    }

    /// The last epoch with state, once all sources have sealed themselves.
    pub(crate) fn last(&self) -> Option<Epoch> {
        let all = self.sealed.load(SeqCst) >= self.sources.load(SeqCst).max(1);
        all.then(|| Epoch::new(self.last.load(SeqCst)))
    }
}
