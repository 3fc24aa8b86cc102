//! The seam to the journal: the durable log through which a source that cannot be replayed becomes one
//! that can. A connector appends what it receives, acknowledges it once it is durable, and reads it
//! again after a restart.
//!
//! Records of one journal are numbered without gaps, also across restarts, from 0 on or from where it was
//! told to begin. A *position* is
//! the number of the next record.

use std::fmt;
use std::task::Waker;

use crate::{Tasks, Timestamp};

/// Opens the journals of a job. Cheap to share; the engine gives it to sources through
/// [`Durability`](crate::Durability).
pub trait Journals: Send + Sync + fmt::Debug {
    /// Opens the journal called `name` (an operator's stable name and a partition), or creates it.
    /// `durable` is woken when records have become durable, or when there is room again.
    ///
    /// # Errors
    /// If it cannot be opened, is damaged anywhere but at its torn end, or is open already.
    fn open(&self, name: &str, durable: Waker) -> Result<Box<dyn JournalWriter>, JournalError>;

    /// Opens a journal; one that is made by this begins at position `begin`. A source's checkpoint may come
    /// from another directory, with positions in a journal that is not here. Such a source goes on counting,
    /// and never takes one record for another. Without support for that it begins at 0.
    ///
    /// A writer that is used on a shard may have the shard's `tasks`: groups are then written without another thread,
    /// where the system can. The writer does not keep the tasks.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    fn open_at(
        &self,
        name: &str,
        durable: Waker,
        _begin: u64,
        _tasks: Option<&Tasks>,
    ) -> Result<Box<dyn JournalWriter>, JournalError> {
        self.open(name, durable)
    }

    /// Reads the records of a journal from position `from` on, up to those that are durable now.
    ///
    /// # Errors
    /// If the journal is damaged, or `from` has been trimmed.
    fn read(&self, name: &str, from: u64) -> Result<Box<dyn JournalReader>, JournalError>;
}

/// Appends to one journal. Dropping it makes durable what was appended, and [`close`](Self::close) tells when.
pub trait JournalWriter: Send {
    /// The position behind the last record.
    fn end(&self) -> u64;

    /// Takes a record to be written with the next group; its number. Never waits for the disk. A group goes when
    /// it is flushed, or large.
    ///
    /// # Errors
    /// [`JournalError::Full`] at the cap, [`JournalError::Busy`] while the disk is behind: the record was not taken; try again
    /// when woken, and do not acknowledge meanwhile. [`JournalError::TooLarge`]: this record never will be taken, others still
    /// are. Others are final.
    fn append(&mut self, received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError>;

    /// Lets the open group go now, as far as the disk keeps up: nothing more is coming soon.
    fn flush(&mut self);

    /// Records below this position are durable.
    ///
    /// # Errors
    /// A failed write or sync, which is final: the process must end and recover from what is durable.
    fn durable(&self) -> Result<u64, JournalError>;

    /// No record below `position` will be asked for again. Trimming is by whole segments.
    fn trim(&mut self, position: u64);

    /// Makes durable what was appended, and closes the journal. Whether that is done; until it is, the waker of the journal
    /// is called when there is news. Nothing is appended from now on.
    ///
    /// Dropping a writer closes it and waits for that. On a shard nobody waits: what is left goes on without the writer.
    fn close(&mut self) -> bool {
        true
    }
}

/// Reads a journal in order.
pub trait JournalReader: Send {
    /// The next record; `None` behind the last one.
    ///
    /// # Errors
    /// If it is damaged.
    fn next(&mut self) -> Result<Option<JournalRecord<'_>>, JournalError>;
}

/// One record of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalRecord<'a> {
    /// Its number.
    pub position: u64,
    /// When it was received.
    pub received: Timestamp,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// A journal cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// At its cap, or the disk is full: acknowledging stops until there is room.
    #[error("the journal is full: {0}")]
    Full(String),
    /// The disk is behind for the moment: the journal has room, and goes on by itself.
    #[error("the journal waits for its disk: {0}")]
    Busy(String),
    /// A record over the journal's limit: it was not taken, and others still are.
    #[error("{0}")]
    TooLarge(String),
    /// A position that has been trimmed, or that does not exist yet.
    #[error("{0}")]
    Position(String),
    /// Damaged where it must not be: says where, and what to do.
    #[error("{0}")]
    Damaged(String),
    /// Input or output failed; final.
    #[error("{0}")]
    Failed(String),
}
