//! Where results go.
//!
//! A [`SinkSpec`] is part of a job's description; a [`Sink`] is its instance on one shard. It never
//! blocks: what takes time is done by the connector's own thread behind a bounded queue. When that
//! queue is full the sink is not [`ready`](Sink::ready), its shard stops feeding it, and the
//! pressure travels back to the sources.

use crate::{ConnectorError, OpenContext, Timestamp};

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

    /// Takes one record. Called only after [`Sink::ready`] said yes, possibly many times.
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
}
