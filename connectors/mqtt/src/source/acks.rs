//! What the connection of a source owes the broker: which messages are to be acknowledged, and when. The
//! three [modes](crate::Mode) differ here.
//!
//! Each message taken has a mark behind it (see [`Progress`]). What is owed is kept in receive order, with the
//! mark that must be reached before it goes. That is a message's own mark. For one that needs no keeping (a
//! repetition, a skipped one) it is the mark of all before it. So acknowledgements never overtake each other. With
//! the connection what is owed on it goes: the broker repeats it on the next.
//!
//! What a journal keeps of packet ids, and for how long, is said in module [`known`](super::known).

pub(crate) mod gather;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{JournalError, JournalWriter, Timestamp};

use crate::config::Qos;
use crate::fault::Fault;
use crate::link::Delivery;
use crate::source::acks::gather::{Gather, Go};
use crate::source::known::{KEPT_BYTES_MAX, kept_records};
use crate::source::progress::Progress;
use crate::source::record::{SESSION_BEGUN, released, write_head};

/// The most acknowledgements that can be owed: MQTT has no more packet ids. What a broker sends beyond that,
/// against the standard, waits.
pub(crate) const OWED_MAX: usize = 65_535;

/// When messages are acknowledged.
pub(crate) enum Keeping {
    /// At their hand-over: they are owed by their chunk, not here.
    HandOver,
    /// When a checkpoint has covered them.
    Checkpoint { taken: u64 },
    /// When they are durable in the journal.
    Journal(Box<Keeper>),
}

/// The open journal.
pub(crate) struct Keeper {
    writer: Box<dyn JournalWriter>,
    head: Vec<u8>,
    /// Below this no checkpoint needs a record.
    released: u64,
    /// It had no room, so what no checkpoint needs goes.
    is_full: bool,
    gather: Gather,
    /// What has gone to the disk ends here.
    gone: u64,
    /// The latest records, which say what may come again; none if ids are not kept.
    latest: Option<Latest>,
}

/// The last records of a journal, by number and by bytes.
struct Latest {
    records: u32,
    /// Of the open part.
    bytes: usize,
    /// Where parts of [`PART_BYTES`] begin.
    parts: VecDeque<u64>,
}

const PART_BYTES: usize = 1024 * 1024;

impl Latest {
    fn new(qos: Qos) -> Self {
        Self { records: kept_records(qos), bytes: 0, parts: VecDeque::new() }
    }

    #[inline]
    fn appended(&mut self, position: u64, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PART_BYTES {
            self.bytes = 0;
            self.parts.push_back(position);
            if self.parts.len() > KEPT_BYTES_MAX / PART_BYTES {
                self.parts.pop_front();
            }
        }
    }

    /// The first record of a journal that ends at `end`. As far as the bytes are known, which is from the last start on.
    fn first(&self, end: u64) -> u64 {
        let least = end.saturating_sub(self.records.into());
        let full = self.parts.len() == KEPT_BYTES_MAX / PART_BYTES;
        self.parts.front().filter(|_| full).map_or(least, |part| least.max(*part))
    }
}

impl Keeper {
    /// Writes to this journal, with the packet ids of this quality of service if they may come again after a crash.
    pub(crate) fn new(writer: Box<dyn JournalWriter>, keeps_ids: Option<Qos>) -> Self {
        Self {
            gone: writer.end(),
            writer,
            head: Vec::new(),
            released: 0,
            is_full: false,
            gather: Gather::default(),
            latest: keeps_ids.map(Latest::new),
        }
    }

    fn append(&mut self, delivery: &Delivery, received: Timestamp) -> Result<u64, JournalError> {
        let topic = String::from_utf8_lossy(&delivery.topic);
        let Delivery { qos, retained, user_properties, payload, .. } = delivery;
        let packet_id = if self.latest.is_some() { delivery.packet_id } else { 0 };
        write_head(&topic, *qos, *retained, packet_id, user_properties, &mut self.head)
            .ok_or_else(|| JournalError::TooLarge("a text of 4 GiB or more".to_owned()))?;
        let position = self.writer.append(received, &[&self.head, payload]);
        self.appended(position, self.head.len() + payload.len())
    }

    #[inline]
    fn appended(
        &mut self,
        position: Result<u64, JournalError>,
        bytes: usize,
    ) -> Result<u64, JournalError> {
        let position = match position {
            Ok(position) => position,
            Err(error @ JournalError::Full(_)) => {
                self.make_room();
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.gather.take();
        if let Some(latest) = &mut self.latest {
            latest.appended(position, bytes);
        }
        Ok(position + 1)
    }

    /// Appends what is no message; the mark behind it, or none where there is no room.
    fn note(&mut self, record: &[u8], now: Timestamp) -> Result<Option<u64>, Fault> {
        let position = self.writer.append(now, &[record]);
        match self.appended(position, record.len()) {
            Ok(mark) => Ok(Some(mark)),
            Err(JournalError::Full(_) | JournalError::Busy(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// No checkpoint needs a record below this. The latest are kept nevertheless.
    fn trim(&mut self, released: u64) {
        if released <= self.released {
            return;
        }
        self.released = released;
        if self.is_full {
            self.is_full = false;
            return self.writer.trim(released);
        }
        let first = self.latest.as_ref().map(|latest| latest.first(self.writer.end()));
        match first.map_or(released, |first| released.min(first)) {
            0 => {}
            position => self.writer.trim(position),
        }
    }

    /// New messages come before what may be of use after a crash.
    #[cold]
    fn make_room(&mut self) {
        match self.released {
            0 => {}
            released => self.writer.trim(released),
        }
        self.is_full = true;
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It may be handed to the shard, with this mark behind it.
    Yes(u64),
    /// Not now; why.
    NoRoom(String),
    /// It never can be; the mark, and why.
    Refused(u64, String),
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// PUBACK or PUBREC.
    Ack(Qos),
    /// PUBCOMP.
    Complete,
}

struct Owed {
    mark: u64,
    packet_id: u16,
    answer: Answer,
}

pub(crate) struct Ledger {
    keeping: Keeping,
    owed: VecDeque<Owed>,
    /// What is owed last may be acknowledged already.
    is_due: bool,
    progress: Arc<Progress>,
    shard: Waker,
}

impl Ledger {
    pub(crate) fn new(keeping: Keeping, progress: Arc<Progress>, shard: Waker) -> Self {
        Self { keeping, owed: VecDeque::new(), is_due: false, progress, shard }
    }

    /// From now on messages go into this journal.
    pub(crate) fn keep(&mut self, keeper: Keeper) {
        self.keeping = Keeping::Journal(Box::new(keeper));
    }

    /// Acknowledgements go with the chunks.
    pub(crate) fn is_by_hand_over(&self) -> bool {
        matches!(self.keeping, Keeping::HandOver)
    }

    /// Acknowledgements go with the checkpoints.
    pub(crate) fn is_by_checkpoint(&self) -> bool {
        matches!(self.keeping, Keeping::Checkpoint { .. })
    }

    pub(crate) fn is_journal(&self) -> bool {
        matches!(self.keeping, Keeping::Journal(_))
    }

    /// The journal, if packet ids go into it.
    fn keeper_of_ids(&mut self) -> Option<&mut Keeper> {
        match &mut self.keeping {
            Keeping::Journal(keeper) if keeper.latest.is_some() => Some(keeper),
            _ => None,
        }
    }

    /// The broker has released a packet id (QoS 2). True if that may be answered now; false if it will be, in its turn. None
    /// if there is no room to note it, and it is to be tried again.
    ///
    /// # Errors
    /// If the journal has failed for good.
    pub(crate) fn release(
        &mut self,
        packet_id: u16,
        now: Timestamp,
    ) -> Result<Option<bool>, Fault> {
        if self.is_crowded() {
            return Ok(None);
        }
        let Some(keeper) = self.keeper_of_ids() else { return Ok(Some(true)) };
        let Some(mark) = keeper.note(&released(packet_id), now)? else { return Ok(None) };
        if seeded(Defect::MqttCompletesEarly) {
            return Ok(Some(true));
        }
        self.owed.push_back(Owed { mark, packet_id, answer: Answer::Complete });
        Ok(Some(false))
    }

    /// A session begins: the mark that must be reached before anything of it comes, 0 if that does not matter. None if there is
    /// no room to note it, and it is to be tried again.
    ///
    /// # Errors
    /// If the journal has failed for good.
    pub(crate) fn begin_session(&mut self, now: Timestamp) -> Result<Option<u64>, Fault> {
        match self.keeper_of_ids() {
            None => Ok(Some(0)),
            Some(keeper) => keeper.note(&SESSION_BEGUN, now),
        }
    }

    /// The mark behind all that was taken.
    fn mark(&self) -> u64 {
        match &self.keeping {
            Keeping::HandOver => 0,
            Keeping::Checkpoint { taken } => *taken,
            Keeping::Journal(keeper) => keeper.writer.end(),
        }
    }

    /// Whether nothing can be owed any more.
    pub(crate) fn is_crowded(&self) -> bool {
        self.owed.len() >= OWED_MAX
    }

    /// Takes a message, which was received now.
    ///
    /// # Errors
    /// If the journal has failed for good.
    #[inline]
    pub(crate) fn take(
        &mut self,
        delivery: &Delivery,
        received: Timestamp,
    ) -> Result<Taken, Fault> {
        if delivery.is_cut {
            return Ok(self.take_cut(delivery));
        }
        match &mut self.keeping {
            Keeping::HandOver => Ok(Taken::Yes(0)),
            Keeping::Checkpoint { taken } => {
                *taken += 1;
                Ok(Taken::Yes(*taken))
            }
            Keeping::Journal(keeper) => match keeper.append(delivery, received) {
                Ok(mark) => Ok(Taken::Yes(mark)),
                Err(JournalError::Full(why) | JournalError::Busy(why)) => Ok(Taken::NoRoom(why)),
                Err(JournalError::TooLarge(why)) => Ok(Taken::Refused(keeper.writer.end(), why)),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Takes a message of which only the beginning is here. It is not for the journal, which would give it back as a whole.
    #[cold]
    fn take_cut(&mut self, delivery: &Delivery) -> Taken {
        if let Keeping::Checkpoint { taken } = &mut self.keeping {
            *taken += 1;
        }
        let bytes = delivery.payload.len() as u64 + delivery.left_out;
        Taken::Refused(
            self.mark(),
            format!("its payload has {bytes} bytes, and its packet is over packet_bytes_max"),
        )
    }

    /// Notes that a message is to be acknowledged once all that was taken so far may be.
    #[inline]
    pub(crate) fn owe(&mut self, packet_id: u16, qos: Qos) {
        if qos != Qos::AtMostOnce {
            let mark = self.mark();
            self.owed.push_back(Owed { mark, packet_id, answer: Answer::Ack(qos) });
            // One that was not taken: a repetition, one that is skipped or refused.
            self.is_due |= mark <= self.reached();
        }
    }

    /// Up to which mark messages may be acknowledged, as far as that is known without an error.
    pub(crate) fn reached(&self) -> u64 {
        match &self.keeping {
            Keeping::HandOver => 0,
            Keeping::Checkpoint { .. } => self.progress.released(),
            Keeping::Journal(keeper) => keeper.writer.durable().unwrap_or(0),
        }
    }

    /// Nothing more is coming at once: what was taken goes to the disk, now if the source `ends` or a checkpoint waits for it.
    /// When this is to be asked again.
    pub(crate) fn flush(&mut self, now: Instant, ends: bool) -> Option<Instant> {
        let Keeping::Journal(keeper) = &mut self.keeping else { return None };
        let hurry = ends || self.progress.is_wanted(keeper.gone);
        match keeper.gather.ask(now, hurry) {
            Go::Nothing => None,
            Go::At(at) => Some(at),
            Go::Now => {
                keeper.gone = keeper.writer.end();
                keeper.writer.flush();
                None
            }
        }
    }

    /// Whether something came to be owed, since this was asked last, that may be acknowledged already. Nobody will raise the
    /// signal for it.
    pub(crate) fn is_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }

    /// Closes the journal, if there is one, behind the last message; whether that is done. The signal is raised when it is.
    pub(crate) fn close(&mut self) -> bool {
        match &mut self.keeping {
            Keeping::Journal(keeper) => keeper.writer.close(),
            _ => true,
        }
    }

    /// Answers what may be answered by now, with `answer`; how many messages were acknowledged. Trims the journal, and tells the
    /// shard how far it is durable.
    ///
    /// # Errors
    /// If the journal has failed for good: nothing is acknowledged any more.
    pub(crate) fn settle(&mut self, mut answer: impl FnMut(u16, Answer)) -> Result<u64, Fault> {
        let reached = match &mut self.keeping {
            Keeping::HandOver => return Ok(0),
            Keeping::Checkpoint { .. } => self.progress.released(),
            Keeping::Journal(keeper) => {
                let durable = keeper.writer.durable()?;
                keeper.trim(self.progress.released());
                self.progress.durable(durable, &self.shard);
                if seeded(Defect::MqttAcksEarly) { keeper.writer.end() } else { durable }
            }
        };
        let mut count = 0;
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.mark <= reached) {
            answer(owed.packet_id, owed.answer);
            count += u64::from(owed.answer != Answer::Complete);
        }
        Ok(count)
    }

    /// The connection has gone: what is owed is not owed any more. How many that is.
    pub(crate) fn disconnected(&mut self) -> u64 {
        let stale = self.owed.len() as u64;
        if !seeded(Defect::MqttAcksOldConnection) {
            self.owed.clear();
        }
        stale
    }

    /// Whether nothing is owed, and nothing is on its way to the disk. To be asked after
    /// [`settle`](Self::settle).
    pub(crate) fn is_clear(&self) -> bool {
        self.owed.is_empty()
            && match &self.keeping {
                Keeping::Journal(keeper) => {
                    // A failure shows when it is settled.
                    keeper.writer.durable().is_ok_and(|durable| durable >= keeper.writer.end())
                }
                _ => true,
            }
    }
}

#[cfg(test)]
mod tests;
