//! The outbox of an exactly-once sink: results that wait for their epoch, and those that are on their way
//! since it exists. Pure: no I/O.
//!
//! What is written belongs to the open epoch. At a barrier it becomes a *note* of that epoch. When the epoch
//! exists the note is published, message by message. When the broker has acknowledged all of them, the next epoch
//! deletes the note. A crash in between publishes notes again, whole. Each message then keeps its id, by which a
//! subscriber can tell.
//!
//! ```text
//! note    = u8:version (1) message*
//! message = u16:topic-length u32:payload-length topic payload      little-endian
//! id      = 16 hex digits for job and sink - epoch - instance - number of the note - number in the note
//! ```

use std::collections::VecDeque;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Pending, PendingId};

use crate::sink::batches::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, IdStem, Results};

/// The version of a note's format.
const VERSION: u8 = 1;
/// The bytes before a message's topic.
const LENGTHS: usize = 6;

/// The user property that carries a message's id (MQTT 5).
pub(crate) const ID_PROPERTY: &str = "thalweg-id";
/// The most bytes that an id and its property take in a packet.
pub(crate) const ID_BYTES_MAX: usize = 5 + ID_PROPERTY.len() + 16 + 4 + 20 + 5 + 10 + 10;

/// See the module.
pub(crate) struct Outbox {
    /// Of job and sink, as hex digits.
    who: String,
    pub(crate) open: Results,
    sealed: VecDeque<Note>,
    publishing: VecDeque<Note>,
    /// Notes that are on their way, and how many messages will have arrived when they have.
    leaving: VecDeque<(PendingId, u64, usize)>,
    arrived: Vec<PendingId>,
    /// The messages that have left.
    left: u64,
    /// The bytes of all notes that have not arrived.
    bytes: usize,
    bytes_max: usize,
}

struct Note {
    id: PendingId,
    bytes: Vec<u8>,
    /// The last run has left it.
    is_left: bool,
    /// Where the next message begins, and its number.
    at: usize,
    next: usize,
}

impl Note {
    fn new(id: PendingId, bytes: Vec<u8>, is_left: bool) -> Self {
        Self { id, bytes, is_left, at: 1, next: 0 }
    }
}

/// What a batch was filled with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) ids: IdStem,
    /// The last run has left them.
    pub(crate) is_left: bool,
    /// The epoch of a note that the last run has left, if these are its last messages.
    pub(crate) left: Option<Epoch>,
}

impl Outbox {
    /// The outbox of a sink, with what is to be published again.
    pub(crate) fn new(
        who: u64,
        bytes_max: usize,
        pending: impl Iterator<Item = (PendingId, Vec<u8>)>,
    ) -> Result<Self, String> {
        let mut outbox = Self {
            who: format!("{who:016x}"),
            open: Results::default(),
            sealed: VecDeque::new(),
            publishing: VecDeque::new(),
            leaving: VecDeque::new(),
            arrived: Vec::new(),
            left: 0,
            bytes: 0,
            bytes_max,
        };
        let mut pending: Vec<_> = pending.collect();
        // Those of several instances may have come here.
        pending.sort_by_key(|(id, _)| *id);
        for (id, bytes) in pending {
            check(&bytes).map_err(|why| format!("the note {id} {why}"))?;
            outbox.bytes += bytes.len();
            outbox.publishing.push_back(Note::new(id, bytes, true));
        }
        Ok(outbox)
    }

    /// The epochs of what is to be published, note by note.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = Epoch> {
        self.publishing.iter().map(|note| note.id.epoch)
    }

    /// Whether more may be written.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes + self.open.bytes.len() < self.bytes_max
    }

    /// A barrier: what is open becomes a note, and notes that have arrived are deleted.
    pub(crate) fn seal(&mut self, pending: &mut Pending<'_>) {
        if seeded(Defect::MqttForgetsUnacked) {
            self.arrive(u64::MAX);
        }
        self.arrived.drain(..).for_each(|id| pending.delete(id));
        if self.open.ends.is_empty() {
            return;
        }
        let mut bytes =
            Vec::with_capacity(self.open.bytes.len() + self.open.ends.len() * LENGTHS + 1);
        bytes.push(VERSION);
        let mut from = 0;
        for &(topic, payload) in &self.open.ends {
            bytes.extend_from_slice(&((topic - from) as u16).to_le_bytes());
            bytes.extend_from_slice(&((payload - topic) as u32).to_le_bytes());
            bytes.extend_from_slice(&self.open.bytes[from..payload]);
            from = payload;
        }
        self.open.clear();
        let id = pending.put(&bytes);
        self.bytes += bytes.len();
        self.sealed.push_back(Note::new(id, bytes, false));
    }

    /// `epoch` exists: its notes may be published.
    pub(crate) fn commit(&mut self, epoch: Epoch) {
        let early = seeded(Defect::MqttPublishesEarly);
        while let Some(note) = self.sealed.pop_front_if(|note| note.id.epoch <= epoch || early) {
            self.publishing.push_back(note);
        }
    }

    /// Fills `batch`, which is empty, with messages of the next note, if that is of an epoch up to `upto`.
    pub(crate) fn fill(&mut self, batch: &mut Results, upto: Epoch) -> Option<Filled> {
        let note = self.publishing.front_mut().filter(|note| note.id.epoch <= upto)?;
        let PendingId { epoch, instance, number } = note.id;
        let ids =
            IdStem { stem: format!("{}-{epoch}-{instance}-{number}", self.who), first: note.next };
        while batch.ends.len() < BATCH_MESSAGES_MAX
            && batch.bytes.len() < BATCH_BYTES_MAX
            && let Some((topic, payload)) = message(&note.bytes, note.at)
        {
            batch.bytes.extend_from_slice(&note.bytes[note.at + LENGTHS..payload]);
            let end = batch.bytes.len();
            batch.ends.push((end - (payload - topic), end));
            note.at = payload;
            note.next += 1;
        }
        self.left += batch.ends.len() as u64;
        let is_left = note.is_left;
        let mut left = None;
        if note.at == note.bytes.len()
            && let Some(note) = self.publishing.pop_front()
        {
            left = note.is_left.then_some(note.id.epoch);
            self.leaving.push_back((note.id, self.left, note.bytes.len()));
        }
        Some(Filled { ids, is_left, left })
    }

    /// `messages` more messages have arrived, in order.
    pub(crate) fn arrive(&mut self, messages: u64) {
        while let Some((id, _, bytes)) = self.leaving.pop_front_if(|(_, end, _)| *end <= messages) {
            self.bytes -= bytes;
            self.arrived.push(id);
        }
    }

    /// Whether notes have arrived that the next barrier deletes.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// The messages that were not handed to the connection yet.
    pub(crate) fn waiting(&self) -> usize {
        let of_note = |note: &Note| {
            let (mut at, mut count) = (note.at, 0);
            while let Some((_, payload)) = message(&note.bytes, at) {
                (at, count) = (payload, count + 1);
            }
            count
        };
        self.publishing.iter().chain(&self.sealed).map(of_note).sum()
    }

    /// Whether nothing is left to publish.
    pub(crate) fn is_done(&self) -> bool {
        self.sealed.is_empty() && self.publishing.is_empty() && self.leaving.is_empty()
    }
}

/// Where the topic and the payload end of the message at `at`.
fn message(note: &[u8], at: usize) -> Option<(usize, usize)> {
    let lengths = note.get(at..at + LENGTHS)?;
    let topic = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
    let payload = u32::from_le_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]) as usize;
    let topic = at + LENGTHS + topic;
    (topic + payload <= note.len()).then_some((topic, topic + payload))
}

/// Whether a note of an earlier run can be read.
fn check(note: &[u8]) -> Result<(), String> {
    match note.first() {
        Some(&VERSION) if note.len() > 1 => {}
        Some(&VERSION) => return Err("has no messages".into()),
        Some(other) => {
            return Err(format!("has version {other}, which only a later program knows"));
        }
        None => return Err("is empty".into()),
    }
    let mut at = 1;
    while at < note.len() {
        let Some((topic, payload)) = message(note, at) else {
            return Err(format!("is damaged at byte {at}"));
        };
        if std::str::from_utf8(&note[at + LENGTHS..topic]).is_err() {
            return Err(format!("has a topic at byte {at} that is no text"));
        }
        at = payload;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::{Change, Changes, StateId};

    use super::*;

    fn write(outbox: &mut Outbox, topic: &str, payload: &str) {
        outbox.open.bytes.extend_from_slice(topic.as_bytes());
        let end = outbox.open.bytes.len();
        outbox.open.bytes.extend_from_slice(payload.as_bytes());
        outbox.open.ends.push((end, outbox.open.bytes.len()));
    }

    /// Seals, and returns the notes that were put and the number deleted.
    fn seal(outbox: &mut Outbox, epoch: u64) -> (Vec<(PendingId, Vec<u8>)>, usize) {
        let mut changes = Changes::new();
        let mut pending = Pending::new(&mut changes, StateId::of("a", "b"), Epoch::new(epoch), 3);
        outbox.seal(&mut pending);
        let (mut put, mut deleted) = (Vec::new(), 0);
        for change in Changes::read(changes.as_bytes()) {
            match change.unwrap() {
                Change::Put { key, value } => {
                    let (instance, rest) = StateId::split_key(key).unwrap();
                    put.push((PendingId::read(instance, rest).unwrap(), value.to_vec()));
                }
                _ => deleted += 1,
            }
        }
        (put, deleted)
    }

    fn published(outbox: &mut Outbox) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut batch = Results::default();
        let newest = Epoch::new(u64::MAX);
        while let Some(Filled { ids, .. }) = outbox.fill(&mut batch, newest) {
            let IdStem { stem, first } = ids;
            let mut from = 0;
            for (n, &(_, payload)) in batch.ends.iter().enumerate() {
                let text = String::from_utf8(batch.bytes[from..payload].to_vec()).unwrap();
                all.push((format!("{stem}-{}", first + n), text));
                from = payload;
            }
            batch.clear();
        }
        all
    }

    #[test]
    fn results_leave_after_their_epoch_and_again_with_the_same_ids() {
        let mut outbox = Outbox::new(7, 1_000, std::iter::empty()).unwrap();
        write(&mut outbox, "t/1", "one");
        write(&mut outbox, "t/2", "");
        let (notes, _) = seal(&mut outbox, 5);
        write(&mut outbox, "t/3", "three");
        assert_eq!(published(&mut outbox), [], "the epoch does not exist yet");
        assert_eq!(outbox.waiting(), 2, "what is open is not promised");
        let (later, _) = seal(&mut outbox, 6);
        outbox.commit(Epoch::new(5));
        let first = published(&mut outbox);
        let id = |n| format!("0000000000000007-5-3-0-{n}");
        assert_eq!(first, [(id(0), "t/1one".into()), (id(1), "t/2".into())]);
        // A crash: the notes of both epochs are there.
        let pending = notes.into_iter().chain(later);
        let mut again = Outbox::new(7, 1_000, pending).unwrap();
        let repeated = published(&mut again);
        assert_eq!((&repeated[..2], repeated[2].1.as_str()), (&first[..], "t/3three"));
        again.arrive(1);
        assert_eq!(seal(&mut again, 7).1, 0, "half a note has not arrived");
        again.arrive(3);
        assert!(again.is_done() && again.has_arrived());
        assert_eq!(seal(&mut again, 8).1, 2);
        assert!(again.bytes == 0 && !again.has_arrived());
    }

    #[test]
    fn a_note_of_many_messages_leaves_in_loads_and_the_bound_counts_it() {
        let mut outbox = Outbox::new(1, 20_000, std::iter::empty()).unwrap();
        for n in 0..1_300 {
            write(&mut outbox, "topic", &format!("payload {n}"));
        }
        seal(&mut outbox, 1);
        outbox.commit(Epoch::new(9));
        assert!(!outbox.has_room());
        let all = published(&mut outbox);
        assert!(all.iter().enumerate().all(|(n, (id, text))| {
            id.ends_with(&format!("-0-{n}")) && *text == format!("topicpayload {n}")
        }));
        assert_eq!(all.len(), 1_300);
        outbox.arrive(1_300);
        assert!(outbox.has_room());
    }

    #[test]
    fn notes_that_were_left_wait_for_older_ones_of_other_shards() {
        let id = |epoch, instance| PendingId { epoch: Epoch::new(epoch), instance, number: 0 };
        let note = |text: &str| {
            let mut outbox = Outbox::new(1, 1_000, std::iter::empty()).unwrap();
            write(&mut outbox, "t", text);
            seal(&mut outbox, 1).0.remove(0).1
        };
        // In the order of the store: that of instances.
        let pending = [(id(6, 0), note("six")), (id(5, 2), note("five"))];
        let mut outbox = Outbox::new(1, 1_000, pending.into_iter()).unwrap();
        assert_eq!(outbox.epochs().collect::<Vec<_>>(), [5, 6].map(Epoch::new));
        let mut batch = Results::default();
        assert_eq!(outbox.fill(&mut batch, Epoch::new(4)), None);
        let filled = outbox.fill(&mut batch, Epoch::new(5)).unwrap();
        assert_eq!((filled.left, &batch.bytes[..]), (Some(Epoch::new(5)), &b"tfive"[..]));
        batch.clear();
        assert_eq!(outbox.fill(&mut batch, Epoch::new(5)), None);
        // What this run adds is not counted among what was left.
        write(&mut outbox, "t", "seven");
        seal(&mut outbox, 7);
        outbox.commit(Epoch::new(7));
        let newest = Epoch::new(u64::MAX);
        assert_eq!(outbox.fill(&mut batch, newest).unwrap().left, Some(Epoch::new(6)));
        batch.clear();
        assert_eq!(outbox.fill(&mut batch, newest).unwrap().left, None);
    }

    #[test]
    fn damaged_notes_are_refused() {
        let mut outbox = Outbox::new(1, 100, std::iter::empty()).unwrap();
        write(&mut outbox, "topic", "payload");
        let (notes, _) = seal(&mut outbox, 1);
        let (id, note) = &notes[0];
        let refuse = |bytes: Vec<u8>| Outbox::new(1, 100, std::iter::once((*id, bytes))).err();
        assert_eq!(refuse(note.clone()), None);
        for cut in 0..note.len() {
            assert!(refuse(note[..cut].to_vec()).is_some(), "cut at {cut}");
        }
        assert!(refuse([&[9], &note[1..]].concat()).unwrap().contains("version 9"));
    }
}
