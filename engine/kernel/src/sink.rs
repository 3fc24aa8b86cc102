//! Where results go.
//!
//! A [`SinkSpec`] is part of a job's description; a [`Sink`] is its instance on one shard. It never
//! blocks: what takes time is done by a [task](crate::tasks) of the shard, or by the connector's own thread, behind a bounded queue. When that
//! queue is full the sink is not [`ready`](Sink::ready), its shard stops feeding it, and the
//! pressure travels back to the sources.
//!
//! # Exactly once
//! A transactional sink lets results be seen only once their epoch exists. At a barrier it
//! [seals](Sink::seal) what was written since the last one. It notes in the epoch what it takes to commit
//! that, also after a crash. That is the results themselves, or the name of the file they are in. When all
//! that is durable it says so ([`Sink::sealed`]); the epoch is written; the sink [commits](Sink::commit).
//! After a restart it finds its notes of the last epoch in
//! [`Durability::pending`](crate::Durability::pending) and commits them again. So committing a note twice
//! must have the effect of once. What it wrote after that epoch it must undo.

use crate::{ConnectorError, DeadLetter, Epoch, OpenContext, Pending, Timestamp};

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

    /// Whether room may depend on an epoch. Asked while the sink is not ready and a barrier is due.
    ///
    /// - Yes, if the sink holds results until their epoch exists. Then all that stands before the barrier comes although the
    ///   sink is not ready, since the epoch needs it: what the queues of the engine hold, and what a watermark has made due.
    /// - No, if the sink passes results on as it can. Then they wait for room, and the barrier waits behind them.
    ///
    /// A sink that does not say is taken to hold results.
    fn awaits_epoch(&self) -> bool {
        true
    }

    /// Takes one record. Called after [`Sink::ready`] said yes, possibly many times; or while the sink
    /// [awaits an epoch](Sink::awaits_epoch).
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn write(&mut self, time: Timestamp, value: T) -> Result<(), ConnectorError>;

    /// Sends on what was written, without waiting. Called after each batch.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn flush(&mut self) -> Result<(), ConnectorError>;

    /// The job is to end: what is under way still comes. A sink whose target may be away for ever bounds from now on how
    /// long it waits. It fails when that time is over, and says what it has not delivered. Called at most once.
    fn stop(&mut self) {}

    /// Finishes. Called again and again after the last record until it returns true: everything has
    /// arrived (written and synced, or acknowledged by the broker). While it returns false the
    /// waker is called when there is progress.
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

    /// Whether [`seal`](Sink::seal) would note something although nothing was written since the last barrier. So it is when
    /// a note has been committed, and needs no committing any more. One more epoch begins for that. The sink calls its
    /// waker when there is news. What is not told so is noted at the next barrier, whenever that comes. Asked often: it is
    /// to be cheap.
    fn has_news(&self) -> bool {
        false
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

    /// Whether all that was committed can be seen where it went. A job that is suspended ends when its sinks have settled, or
    /// some seconds later. What is not seen by then, the next start commits again. While a sink has not settled, it calls its
    /// waker when there is progress.
    ///
    /// # Errors
    /// As for [`Sink::ready`].
    fn settled(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink that knows nothing of epochs is ready for each of them, and refuses nothing.
    #[test]
    fn what_a_sink_leaves_out_holds_no_epoch_up() {
        struct Bare;
        impl Sink<()> for Bare {
            fn ready(&mut self) -> Result<bool, ConnectorError> {
                Ok(true)
            }
            fn write(&mut self, _: Timestamp, (): ()) -> Result<(), ConnectorError> {
                Ok(())
            }
            fn flush(&mut self) -> Result<(), ConnectorError> {
                Ok(())
            }
            fn close(&mut self) -> Result<bool, ConnectorError> {
                Ok(true)
            }
        }
        assert!(Bare.sealed(Epoch::new(1)).unwrap() && Bare.settled().unwrap());
        assert_eq!(Bare.refused(), None);
        assert!(!Bare.has_news());
    }
}
