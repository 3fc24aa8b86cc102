//! Where records come from.
//!
//! A [`SourceSpec`] is part of a job's description: each shard has its own copy, and opens the partitions that are
//! [its to read](crate::partition). A [`Source`] is one open partition, polled by its shard, and never blocks.
//! Input that must be waited for is read by a [task](crate::tasks) of the shard or by the connector's own thread. Either hands
//! it over through a bounded queue and wakes the shard.

use std::ops::Range;
use std::time::Duration;

use crate::cause::DecodeError;
use crate::dead_letter::{DeadLetter, Origin};
use crate::options::units::show_about;
use crate::partition::{Discover, KnownPartition, PartitionId, Partitions};
use crate::{Cause, ConnectorError, Epoch, OpenContext, Timestamp};

/// What a poll left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// There is more: poll again soon. Also where nothing is left, and the position has moved without a record or a dead
    /// letter. So the engine knows that the next epoch holds another position.
    Ready,
    /// Nothing until the waker is called, or for this long.
    Waiting(Option<Duration>),
    /// The last record has been emitted. The source is not polled again.
    Ended,
}

/// Where a source puts what it reads.
pub trait Emit<T> {
    /// Emits one record. `received` is its time where the job names no event time of its own;
    /// `origin` describes the record should its event time be refused.
    fn record(&mut self, value: T, received: Timestamp, origin: &impl Origin);

    /// Emits input that could not become a record.
    fn dead_letter(&mut self, letter: DeadLetter);

    /// Emits the dead letter of `origin`, which is built only if it is kept.
    #[cold]
    fn refused(&mut self, error: DecodeError, origin: &impl Origin) {
        self.dead_letter(origin.dead_letter(error));
    }

    /// What is emitted from here to [`end_message`](Self::end_message) comes of one message. So a dead letter can say
    /// [which record](DeadLetter::record) of its message it is. A source whose messages hold one record each need not say so.
    #[inline]
    fn begin_message(&mut self) {}

    /// See [`begin_message`](Self::begin_message).
    #[inline]
    fn end_message(&mut self) {}
}

/// The origin of records that no outside input stands behind, such as those of a collection.
#[derive(Clone, Copy, Debug)]
pub struct Generated;

impl Origin for Generated {
    fn dead_letter(&self, error: DecodeError) -> DeadLetter {
        DeadLetter {
            topic: "generated".into(),
            cause: error.cause,
            reason: error.reason,
            position: error.position,
            partition: None,
            offset: None,
            line: None,
            record: None,
            received: Timestamp::default(),
            qos: None,
            retained: false,
            properties: Vec::new(),
            payload_bytes: 0,
            payload: bytes::Bytes::new(),
        }
    }
}

/// One open partition of a source.
pub trait Source {
    /// The record.
    type Item;

    /// Emits up to `records_max` records or dead letters that are ready, and says what is left. A message that holds
    /// several is emitted whole, even beyond that: positions lie between messages. `now` is this machine's clock, which may jump either way. Must not block.
    ///
    /// # Errors
    /// Ends the job: only for what neither waiting nor a dead letter can mend.
    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Self::Item>,
    ) -> Result<SourceStatus, ConnectorError>;

    /// Whether it would hear of something new now. One that waits for its broker, or has still to read what it has
    /// stored, does not: its silence says nothing of the world. When that changes it calls its waker. Asked when it has nothing.
    fn listens(&self) -> bool {
        true
    }

    /// This machine's clock was wrong, and has been set: what was received at these times by that clock was received `by_ms` later.
    /// Called before the first poll, for a source that [stamps](crate::Message::received) what it receives before it is polled.
    fn clock_was_set(&mut self, _at: Range<Timestamp>, _by_ms: i64) {}

    /// Asks for an orderly end: take no new input, emit what was already received, then report
    /// [`SourceStatus::Ended`]. Not called after that.
    fn stop(&mut self);

    /// A barrier follows what has been emitted so far: writes the position from which a later start
    /// goes on, to be found in [`Durability::position`](crate::Durability::position). A source that
    /// writes nothing begins anew after a restart. (In a job without checkpoints a discovered partition that has
    /// ended is asked with [`Epoch::NONE`], in case it is found again.)
    fn snapshot(&mut self, _epoch: Epoch, _position: &mut Vec<u8>) {}

    /// Whether what lies before the position of `epoch` can be read again after a crash. While not, the
    /// checkpoint waits; the source calls its waker when that has changed.
    ///
    /// # Errors
    /// If it never will be; the job ends.
    fn durable(&mut self, _epoch: Epoch) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    /// `epoch` exists, and no position of an epoch before `oldest` will be asked for again.
    fn committed(&mut self, _epoch: Epoch, _oldest: Epoch) {}
}

/// The description of a source in a job.
pub trait SourceSpec: 'static {
    /// The record.
    type Item: 'static;
    /// An open partition.
    type Partition: Source<Item = Self::Item> + 'static;

    /// Kind and address for the job graph: `mqtt://broker:1883 sensors/+/temp`. No secrets.
    fn describe(&self) -> String;

    /// Its partitions; one, if it does not say. Order is kept within a partition.
    fn partitions(&self) -> Partitions {
        Partitions::numbered(1)
    }

    /// Opens one partition on the shard of `cx`. One that was discovered is opened while the shard runs: that must
    /// not block.
    ///
    /// # Errors
    /// If it cannot be opened; the job does not start, or ends.
    fn open(
        &self,
        partition: &PartitionId,
        cx: &OpenContext,
    ) -> Result<Self::Partition, ConnectorError>;

    /// Begins to look for the partitions of the shard of `cx`, where they are
    /// [discovered](Partitions::Discovered). `known` are those that the job resumes.
    ///
    /// # Errors
    /// If it cannot; the job does not start.
    fn discover(
        &self,
        _known: &[KnownPartition],
        _cx: &OpenContext,
    ) -> Result<Box<dyn Discover>, ConnectorError> {
        Err(ConnectorError::new(self.describe(), "its partitions cannot be discovered"))
    }
}

/// The refusal of an event time too far ahead of the clock.
pub fn clock_ahead(event: Timestamp, now: Timestamp, guard_ms: i64) -> DecodeError {
    let shown = |ms: i64| show_about(Duration::from_millis(ms.unsigned_abs()));
    let (ahead, allowed) = (shown(event.ms_since(now)), shown(guard_ms));
    let (event, now) = (event.iso(), now.iso());
    let reason = format!(
        "its time {event} is {ahead} ahead of this machine's clock, which says {now}; the clock guard allows {allowed}"
    );
    DecodeError::new(Cause::ClockAhead, reason, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clock_guard_refuses_says_by_how_much() {
        let refused = clock_ahead(1_000.into(), 400.into(), 500);
        let letter = Generated.dead_letter(refused);
        assert_eq!(
            letter.to_string(),
            "generated: clock_ahead: its time 1970-01-01T00:00:01.000Z is 600ms ahead of this machine's clock, which says \
             1970-01-01T00:00:00.400Z; the clock guard allows 500ms"
        );
        assert_eq!((letter.payload_bytes, letter.offset, letter.partition), (0, None, None));
    }

    /// A source that says nothing of epochs is at each of them.
    #[test]
    fn what_a_source_leaves_out_holds_no_epoch_up() {
        struct Bare;
        impl Source for Bare {
            type Item = ();
            fn poll(
                &mut self,
                _: Timestamp,
                _: usize,
                _: &mut impl Emit<()>,
            ) -> Result<SourceStatus, ConnectorError> {
                Ok(SourceStatus::Ended)
            }
            fn stop(&mut self) {}
        }
        assert!(Bare.durable(Epoch::new(1)).unwrap());
    }
}
