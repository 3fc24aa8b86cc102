//! Opening a source's journal, and finding the record to begin at, through the kernel's seam alone.

use std::sync::Arc;
use std::task::Waker;

use thalweg_kernel::{
    JournalError, JournalReader, JournalRecord, JournalWriter, Journals, Tasks, Timestamp,
};

use crate::config::Qos;
use crate::fault::Fault;
use crate::source::chunk::Chunk;
use crate::source::known::{Known, Sighting, fingerprint, kept_records};
use crate::source::mode::Start;
use crate::source::record::Content;

/// Which journal, and where to begin in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) journals: Arc<dyn Journals>,
    pub(crate) name: String,
    /// Where a checkpoint says to go on.
    pub(crate) position: Option<u64>,
    /// Otherwise.
    pub(crate) start: Start,
    /// Those of the shard, if it does the work. They own that work, so a place is kept no longer than it takes to open.
    pub(crate) tasks: Option<Tasks>,
}

impl Place {
    /// Opens the journal for writing. The inner error is that somebody else still has it open: an
    /// earlier attempt of this job that is on its way out, perhaps.
    pub(crate) fn open(
        &self,
        waker: Waker,
    ) -> Result<Result<Box<dyn JournalWriter>, String>, Fault> {
        let (begin, tasks) = (self.position.unwrap_or(0), self.tasks.as_ref());
        match self.journals.open_at(&self.name, waker, begin, tasks) {
            Ok(writer) => Ok(Ok(writer)),
            // The seam has no kind of its own for it.
            Err(JournalError::Failed(what)) if what.contains("is open already") => Ok(Err(what)),
            Err(error) => Err(error.into()),
        }
    }

    /// The records to be read again, of a journal that ends at `end`.
    pub(crate) fn replay(&self, end: u64) -> Result<Replay, Fault> {
        let since = match (self.position, self.start) {
            (None, Start::Time(time)) => Some(time),
            _ => None,
        };
        let reader = match (self.position, self.start) {
            (Some(from), _) | (None, Start::Position(from)) => self.journals.read(&self.name, from),
            (None, Start::Resume | Start::Time(_)) => self.oldest(end),
        };
        Ok(Replay { reader: reader?, since, name: self.name.clone() })
    }

    /// Reads from the oldest record that is still kept.
    fn oldest(&self, end: u64) -> Result<Box<dyn JournalReader>, JournalError> {
        let (reader, trimmed) = self.oldest_since(0, end)?;
        // Only checkpoints trim it.
        if trimmed && self.start == Start::Resume {
            tracing::warn!(
                "the journal {} goes on from checkpoints that are not there any more: what is read again is what it \
                 still keeps. Was the state beside it removed?",
                self.name
            );
        }
        Ok(reader)
    }

    /// What the last records say of packet ids that the broker may use again. Damage among those that no checkpoint needs is no
    /// reason not to start.
    pub(crate) fn known(&self, end: u64, qos: Qos) -> Result<Known, Fault> {
        let latest = end.saturating_sub(kept_records(qos).into());
        // A message of QoS 2 is known until its release, however many came behind it.
        let least = match self.position {
            Some(position) if qos == Qos::ExactlyOnce => latest.min(position),
            _ => latest,
        };
        let found = self.oldest_since(least, end).map_err(Fault::from);
        match (found.and_then(|(reader, _)| self.fold(reader)), self.position) {
            (Err(fault), Some(position)) if position > least => {
                // A journal that begins there has nothing before.
                if position < end {
                    tracing::warn!(
                        "what the broker repeats of before the last checkpoint is not recognised: {}",
                        fault.what
                    );
                }
                self.fold(self.journals.read(&self.name, position)?)
            }
            (found, _) => found,
        }
    }

    fn fold(&self, mut reader: Box<dyn JournalReader>) -> Result<Known, Fault> {
        let mut known = Known::default();
        while let Some(record) = reader.next()? {
            match content(&self.name, record)? {
                Content::Message(message) if message.packet_id != 0 => known.note(Sighting {
                    packet_id: message.packet_id,
                    qos: message.qos,
                    fingerprint: fingerprint(message.topic.as_bytes(), message.payload),
                    connection: 0,
                }),
                Content::Message(_) => {}
                Content::Released(packet_id) => known.release(packet_id),
                Content::Begun => known.begin(),
            }
        }
        Ok(known)
    }

    /// Reads from the oldest record that is still kept, at `least` or behind it, and whether that one is. The seam does not
    /// tell which is the oldest, but only what has been trimmed: a few tries, each again half as far.
    fn oldest_since(
        &self,
        least: u64,
        end: u64,
    ) -> Result<(Box<dyn JournalReader>, bool), JournalError> {
        let (mut trimmed, mut kept) = match self.journals.read(&self.name, least) {
            Err(JournalError::Position(_)) => (least, end),
            other => return Ok((other?, false)),
        };
        while kept - trimmed > 1 {
            let middle = trimmed + (kept - trimmed) / 2;
            match self.journals.read(&self.name, middle) {
                Ok(_) => kept = middle,
                Err(JournalError::Position(_)) => trimmed = middle,
                Err(error) => return Err(error),
            }
        }
        Ok((self.journals.read(&self.name, kept)?, true))
    }
}

/// What a record of the journal `name` says.
fn content<'a>(name: &str, record: JournalRecord<'a>) -> Result<Content<'a>, Fault> {
    Content::read(record.bytes).map_err(|error| {
        Fault::lasting(format!("record {} of the journal {name}: {error}", record.position))
    })
}

/// Reads records again.
pub(crate) struct Replay {
    reader: Box<dyn JournalReader>,
    /// Records before the first one of this time are passed over.
    since: Option<Timestamp>,
    name: String,
}

impl Replay {
    /// Fills `chunk`; false once there is nothing left.
    pub(crate) fn fill(&mut self, chunk: &mut Chunk) -> Result<bool, Fault> {
        while !chunk.is_full() {
            let Some(record) = self.reader.next()? else {
                return Ok(false);
            };
            if self.since.is_some_and(|time| record.received < time) {
                continue;
            }
            // Clocks jump back: what follows belongs to it nevertheless.
            self.since = None;
            if let Content::Message(message) = content(&self.name, record)? {
                chunk.push_record(&message, record.received, record.position + 1);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::known::Met;
    use crate::source::record::write_head;

    /// A journal in memory that keeps the records from `oldest` to `end`, each received at its number.
    #[derive(Debug)]
    struct Kept {
        oldest: u64,
        end: u64,
    }

    struct Reading {
        next: u64,
        end: u64,
        bytes: Vec<u8>,
    }

    impl Journals for Kept {
        fn open(&self, _: &str, _: Waker) -> Result<Box<dyn JournalWriter>, JournalError> {
            Err(JournalError::Failed("journal x is open already: locked".into()))
        }

        fn read(&self, _: &str, from: u64) -> Result<Box<dyn JournalReader>, JournalError> {
            if !(self.oldest..=self.end).contains(&from) {
                return Err(JournalError::Position(format!("{from} is not kept")));
            }
            Ok(Box::new(Reading { next: from, end: self.end, bytes: Vec::new() }))
        }
    }

    impl JournalReader for Reading {
        fn next(&mut self) -> Result<Option<thalweg_kernel::JournalRecord<'_>>, JournalError> {
            if self.next == self.end {
                return Ok(None);
            }
            let position = self.next;
            self.next += 1;
            let packet_id = packet_id(position);
            let qos = Qos::ExactlyOnce;
            write_head("a", qos, false, packet_id, &[], &mut self.bytes).unwrap();
            self.bytes.extend_from_slice(position.to_string().as_bytes());
            let received = Timestamp::from(position);
            Ok(Some(thalweg_kernel::JournalRecord { position, received, bytes: &self.bytes }))
        }
    }

    fn read(oldest: u64, end: u64, position: Option<u64>, start: Start) -> Result<Vec<u64>, Fault> {
        let journals = Arc::new(Kept { oldest, end });
        let place = Place { journals, name: "x".into(), position, start, tasks: None };
        let mut replay = place.replay(end)?;
        let mut seen = Vec::new();
        loop {
            let mut chunk = Chunk::default();
            let more = replay.fill(&mut chunk)?;
            for at in 0..chunk.len() {
                let message = chunk.message(at).unwrap();
                let number: u64 = str::from_utf8(message.payload).unwrap().parse().unwrap();
                assert_eq!(message.received, Timestamp::from(number));
                assert_eq!(chunk.behind(at + 1), Some(number + 1));
                seen.push(number);
            }
            if !more {
                return Ok(seen);
            }
        }
    }

    #[test]
    fn it_begins_at_the_checkpoint_or_else_where_it_was_told() {
        let range = |from: u64, to: u64| Ok((from..to).collect::<Vec<_>>());
        assert_eq!(read(0, 9, Some(4), Start::Position(7)), range(4, 9));
        assert_eq!(read(0, 9, Some(9), Start::Resume), range(9, 9));
        assert_eq!(read(0, 9, None, Start::Resume), range(0, 9));
        assert_eq!(read(0, 9, None, Start::Position(7)), range(7, 9));
        assert_eq!(read(0, 9, None, Start::Time(Timestamp::from(5_u64))), range(5, 9));
        assert_eq!(read(0, 9, None, Start::Time(Timestamp::MAX)), range(9, 9));
        assert_eq!(read(0, 2_000, None, Start::Resume), range(0, 2_000));
    }

    #[test]
    fn the_oldest_record_is_found_wherever_it_is() {
        for (oldest, end) in [(1, 1), (1, 2), (1, 900), (450, 900), (899, 900), (900, 900)] {
            let expected: Vec<u64> = (oldest..end).collect();
            assert_eq!(read(oldest, end, None, Start::Resume), Ok(expected.clone()));
            assert_eq!(read(oldest, end, None, Start::Time(Timestamp::MIN)), Ok(expected));
        }
    }

    /// The first message has an id of its own; the others use all others in turn.
    fn packet_id(number: u64) -> u16 {
        if number == 0 { 1 } else { (number % 65_534) as u16 + 2 }
    }

    /// Goal: at QoS 2 a message that was not released is known as long as a checkpoint keeps its record.
    #[test]
    fn packet_ids_are_read_from_the_checkpoint_on_or_from_further_back() {
        let end = 200_000;
        let met = |number: u64, position, qos| {
            let journals = Arc::new(Kept { oldest: 0, end });
            let (start, tasks) = (Start::Resume, None);
            let place = Place { journals, name: "x".into(), position, start, tasks };
            let known = place.known(end, qos).unwrap_or_else(|fault| panic!("{fault:?}"));
            let seen = Sighting {
                packet_id: packet_id(number),
                qos: Qos::ExactlyOnce,
                fingerprint: fingerprint(b"a", number.to_string().as_bytes()),
                connection: 1,
            };
            known.meet(seen, true) == Met::Again
        };
        let two = Qos::ExactlyOnce;
        assert!(met(0, Some(0), two), "a checkpoint keeps it");
        assert!(!met(0, Some(1), two), "it is none of the last, either");
        assert!(met(end - 60_000, Some(end), two), "further back than the checkpoint");
        assert!(!met(end - 60_000, Some(end), Qos::AtLeastOnce), "QoS 1 needs fewer");
    }

    #[test]
    fn what_is_not_kept_any_more_is_an_error() {
        assert!(read(5, 9, Some(4), Start::Resume).is_err());
        assert!(read(5, 9, None, Start::Position(4)).is_err());
        assert!(read(5, 9, None, Start::Position(10)).is_err());
    }

    #[test]
    fn one_that_is_open_elsewhere_is_worth_another_try() {
        let journals = Arc::new(Kept { oldest: 0, end: 0 });
        let (position, start, tasks) = (None, Start::Resume, None);
        let place = Place { journals, name: "x".into(), position, start, tasks };
        assert!(place.open(Waker::noop().clone()).is_ok_and(|opened| opened.is_err()));
    }
}
