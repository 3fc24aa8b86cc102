//! Where results go.
//!
//! A [`SinkSpec`] is part of a job's description; a [`Sink`] is its instance on one shard. It never
//! blocks: what takes time is done by the connector's own thread behind a bounded queue. When that
//! queue is full the sink is not [`ready`](Sink::ready), its shard stops feeding it, and the
//! pressure travels back to the sources.
//!
//! # Exactly once
//! A transactional sink lets results be seen only once their epoch exists. At a barrier it
//! [seals](Sink::seal) what was written since the last one, and notes in the epoch what it takes to commit
//! that, also after a crash: the results themselves, or the name of the file they are in. When all
//! that is durable it says so ([`Sink::sealed`]); the epoch is written; the sink [commits](Sink::commit).
//! After a restart it finds its notes of the last epoch in
//! [`Durability::pending`](crate::Durability::pending) and commits them again, so committing the
//! same twice must have the effect of once. What it wrote after that epoch it must undo.

use std::fmt;

use crate::{Changes, ConnectorError, DeadLetter, Epoch, OpenContext, StateId, Timestamp};

/// The description of a sink in a job.
pub trait SinkSpec<T> {
    /// The instance on a shard.
    type Writer: Sink<T> + 'static;

    /// Kind and address for the job graph: `file out.csv`. No secrets.
    fn describe(&self) -> String;

    /// Opens the sink on the shard of `cx`.
    ///
    /// # Errors
    /// If it cannot be opened; the job does not start.
    fn open(&self, cx: &OpenContext) -> Result<Self::Writer, ConnectorError>;
}

/// A sink's instance on one shard.
pub trait Sink<T> {
    /// Whether a batch of records may be written now. When not, the sink calls the waker of its
    /// [`OpenContext`] once it can take more.
    ///
    /// # Errors
    /// If the sink has failed for good; the job ends.
    fn ready(&mut self) -> Result<bool, ConnectorError>;

    /// Takes one record. Called only after [`Sink::ready`] said yes, possibly many times; and, whatever it
    /// said, for what stands before a barrier that is due, which is no more than the queues of the engine hold.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn write(&mut self, time: Timestamp, value: T) -> Result<(), ConnectorError>;

    /// Sends on what was written, without waiting. Called after each batch.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn flush(&mut self) -> Result<(), ConnectorError>;

    /// Finishes: called again and again after the last record until it returns true, which means
    /// that everything has arrived (written and synced, or acknowledged by the broker). While it
    /// returns false the waker is called when there is progress.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn close(&mut self) -> Result<bool, ConnectorError>;

    /// The next result that could not be passed on, if there is one: it becomes a dead letter of the job. What is
    /// refused in [`Sink::write`] is asked for before the next barrier, and so is part of its epoch. What a
    /// target refuses later becomes a letter while the sink's stream runs; a crash may lose that letter.
    fn refused(&mut self) -> Option<DeadLetter> {
        None
    }

    /// All that was written so far belongs to `epoch`. Notes in `pending` what it takes to commit it,
    /// and deletes the notes that need no committing any more. A sink that notes nothing passes
    /// results on at once: at least once.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn seal(&mut self, _epoch: Epoch, _pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Whether what was sealed for `epoch` would survive a crash now. While not, the checkpoint waits;
    /// the sink calls its waker when that has changed.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn sealed(&mut self, _epoch: Epoch) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    /// `epoch` exists: lets its results be seen, and those of all epochs before it. Does not wait.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn commit(&mut self, _epoch: Epoch) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// The number of a note that a sink left in an epoch. It is never used twice in a job, so it can also
/// serve as the deterministic id of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PendingId {
    /// The epoch it was left in.
    pub epoch: Epoch,
    /// The sink's instance: the shard it ran on then.
    pub instance: u16,
    /// Its place among those.
    pub number: u32,
}

impl PendingId {
    /// Appends it to a stored key, behind the group, which is the instance.
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.number().to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
    }

    /// From the parts of a stored key.
    pub fn read(instance: u16, rest: &[u8]) -> Option<Self> {
        let (epoch, number) = rest.split_first_chunk()?;
        Some(Self {
            epoch: Epoch::new(u64::from_be_bytes(*epoch)),
            instance,
            number: u32::from_be_bytes(number.try_into().ok()?),
        })
    }
}

impl fmt::Display for PendingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.instance, self.number)
    }
}

/// Where a sink leaves its notes at a barrier.
pub struct Pending<'a> {
    changes: &'a mut Changes,
    state: StateId,
    epoch: Epoch,
    instance: u16,
    count: u32,
}

impl<'a> Pending<'a> {
    /// Notes of `instance` for `epoch`, written to `changes` as entries of `state`.
    pub fn new(changes: &'a mut Changes, state: StateId, epoch: Epoch, instance: u16) -> Self {
        Self { changes, state, epoch, instance, count: 0 }
    }

    /// Leaves a note; its number. It is there after a restart until it is deleted.
    pub fn put(&mut self, note: &[u8]) -> PendingId {
        let id = PendingId { epoch: self.epoch, instance: self.instance, number: self.count };
        self.count += 1;
        let state = self.state;
        let key = |out: &mut Vec<u8>| {
            state.begin_key(id.instance, out);
            id.write(out);
        };
        self.changes.put_with(key, |mut out| {
            out.extend_from_slice(note);
            out
        });
        id
    }

    /// Deletes a note, of this or of an earlier run, and of any instance.
    pub fn delete(&mut self, id: PendingId) {
        let state = self.state;
        self.changes.delete_with(|out| {
            state.begin_key(id.instance, out);
            id.write(out);
        });
    }
}
