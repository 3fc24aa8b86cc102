//! Which messages a broker may send again, and how they are told from news: the receiver's state of MQTT.
//!
//! A broker that keeps our session sends again what it has no acknowledgement of, under the packet id of the first time.
//! So a message is remembered by its packet id, with a fingerprint of its topic and payload, as long as it can come again.
//! This is the fold of three things that happen, live and when the journal is read again:
//!
//! | what happens | then |
//! |---|---|
//! | a message is taken ([`note`](Known::note)) | its id is known; what was known of that id is not |
//! | PUBREL ([`release`](Known::release)) | the broker will not send the message of this id again: the id is free |
//! | a session begins ([`begin`](Known::begin)) | no id means anything any more |
//! | the broker has our PUBACK for certain ([`proven`](Known::proven)) | it will not send the message of this id again: the id is free |
//!
//! A broker reads in order. So one that answers a ping has read each PUBACK that we wrote before that ping. That happens live
//! alone, and no record tells of it.
//!
//! # Which message comes again
//! | quality | it is a repetition if |
//! |---|---|
//! | QoS 2 | its id is known and was not released, and topic and payload are those of the first time; of a run before, the broker says so, too (DUP) |
//! | QoS 1 | moreover the broker says so (DUP), and it is one of the last [`KNOWN_MAX`] messages |
//!
//! A repetition counts once, and is acknowledged on the connection on which it came. If the first came on this connection, too, its
//! acknowledgement is on its way. Then the repetition has none: a second could hit the next message of this id.
//!
//! # Across a crash
//! The journal holds these three in the order in which they happened, as records of their own ([`record`](super::record)).
//! Four rules make a start find what the broker knows, whatever was the last group that survived:
//!
//! 1. PUBACK and PUBREC go out when the message is durable. So what the broker does not send again is in the journal.
//! 2. PUBCOMP goes out when the release is durable. A broker gives an id to another message only after PUBCOMP. So an id that
//!    the journal has as known at QoS 2 is still that of this message, and any message under it is a repetition.
//! 3. In a new session we take nothing until its beginning is durable. So no message of it can meet ids of the session before. (We
//!    subscribe then, or after a second: what comes meanwhile waits at the broker, or here without an acknowledgement.)
//! 4. The journal keeps the last [`kept_records`], or [`KEPT_BYTES_MAX`], also when no checkpoint needs them. Only a
//!    journal that is full gives them up. At QoS 2 a start reads all that a checkpoint keeps, too.
//!
//! | a crash | the journal says | the broker | so |
//! |---|---|---|---|
//! | before the message is durable | nothing of it | sends it again | it is news |
//! | between that and PUBREC | the id is known | sends it again | it is a repetition |
//! | between PUBREC and a durable release | the id is known | sends PUBREL | the id is released |
//! | between that and PUBCOMP | the id is free | sends PUBREL | it is released once more |
//! | behind PUBCOMP | the id is free | gives the id to another | that is news |
//!
//! # What remains
//! At QoS 1 nobody knows whether the PUBACKs since the last answered ping have arrived. If they have, the broker may give an id to an
//! equal message, which is lost with the connection. That message is taken for a repetition. So it takes equal topics and payloads,
//! hence readings without their time. It also takes a broker that uses an id again soon. HiveMQ gives the lowest id that is
//! free, which at low rates is 1 for each message. Mosquitto uses an id again after 65,535 messages. After a crash the ids
//! of the journal are known although the broker may have had their PUBACKs for long.
//! A broker that sets no DUP, or gives other ids, repeats without being recognised. A crash between the
//! CONNACK of a new session and the moment of rule 3 leaves the old ids. Then, too, only an equal message is mistaken, which
//! the broker marks as one that it repeats.
//!
//! At QoS 2 a message is unknown after a crash if its record is none of those that rule 4 keeps. Its release is outstanding then, while
//! that many records came behind it.

use thalweg_kernel::defects::{Defect, seeded};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::config::Qos;

/// The messages of QoS 1 that are remembered, and the records that a journal keeps for them. Less than there are packet ids, so that
/// none is taken for that of a round before. Mosquitto 2.0.11 has thousands in flight once it has resumed a session,
/// whatever the window.
pub(crate) const KNOWN_MAX: u32 = 32_768;
/// The records that a journal keeps for QoS 2: a message and its release, for each packet id.
const KEPT_RECORDS_QOS_2: u32 = 2 * 65_535;

/// The records that a journal keeps for packet ids.
pub(crate) const fn kept_records(qos: Qos) -> u32 {
    match qos {
        Qos::ExactlyOnce => KEPT_RECORDS_QOS_2,
        Qos::AtMostOnce | Qos::AtLeastOnce => KNOWN_MAX,
    }
}

/// The most bytes of records that the journal keeps for that.
pub(crate) const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

const PAGE: usize = 256;
/// With more unanswered pings than this nothing is concluded from an answer.
const PINGS_OPEN_MAX: u64 = 100;

/// What is known of a packet id.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    fingerprint: u32,
    /// Which message it was, counted.
    number: u32,
    /// The connection that its acknowledgement belongs to; 0: of a run before.
    connection: u16,
    state: State,
    /// Of one that we have acknowledged: the pings written on its connection before that, modulo 256.
    pings: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    /// Of QoS 1.
    Taken,
    /// Of QoS 1, and our acknowledgement is written.
    Acknowledged,
    /// Of QoS 2, and not released.
    Held,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    News,
    /// It was taken on an earlier connection.
    Again,
    /// It was taken on this connection, which owes or has sent its acknowledgement.
    AgainHere,
}

/// A message as it is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) packet_id: u16,
    pub(crate) qos: Qos,
    /// What [`fingerprint`] gives.
    pub(crate) fingerprint: u32,
    /// What [`connection`] gives.
    pub(crate) connection: u16,
}

/// A message's topic and payload in short. It is not stored.
#[inline]
pub(crate) fn fingerprint(topic: &[u8], payload: &[u8]) -> u32 {
    xxh3_64_with_seed(payload, xxh3_64(topic)) as u32
}

/// A connection's number in short: that of none of the last 65,535.
#[inline]
pub(crate) fn connection(generation: u64) -> u16 {
    (generation % u64::from(u16::MAX)) as u16 + 1
}

/// The packet ids that mean something. It takes 12 bytes for each id that was in use, 768 KiB at most.
#[derive(Default)]
pub(crate) struct Known {
    pages: Vec<Option<Box<[Slot; PAGE]>>>,
    /// Messages since the session began, as far as this is known.
    count: u32,
    is_used: bool,
}

impl Known {
    /// Whether nothing was noted since the session began.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_used
    }

    fn slot(&self, packet_id: u16) -> Option<&Slot> {
        let page = self.pages.get(usize::from(packet_id) / PAGE)?.as_ref()?;
        page.get(usize::from(packet_id) % PAGE)
    }

    fn slot_mut(&mut self, packet_id: u16) -> Option<&mut Slot> {
        let page = usize::from(packet_id) / PAGE;
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages.get_mut(page)?;
        let page = page.get_or_insert_with(|| Box::new([Slot::default(); PAGE]));
        page.get_mut(usize::from(packet_id) % PAGE)
    }

    /// Whether a message of QoS 1 or 2 was taken before; `dup` as the broker has it.
    #[inline]
    pub(crate) fn meet(&self, seen: Sighting, dup: bool) -> Met {
        let Some(slot) = self.slot(seen.packet_id) else { return Met::News };
        let equal = slot.fingerprint == seen.fingerprint || seeded(Defect::MqttTrustsIds);
        let again = match (seen.qos, slot.state) {
            (Qos::AtLeastOnce, State::Taken | State::Acknowledged) => {
                let recent = self.count.wrapping_sub(slot.number) <= KNOWN_MAX;
                (dup || seeded(Defect::MqttTrustsIds)) && recent && equal
            }
            // What a run before has left may be of a session that has gone.
            (Qos::ExactlyOnce, State::Held) => equal && (dup || slot.connection != 0),
            _ => false,
        };
        match again {
            false => Met::News,
            true if slot.connection == seen.connection => Met::AgainHere,
            true => Met::Again,
        }
    }

    /// A message was taken, or came again on another connection.
    #[inline]
    pub(crate) fn note(&mut self, seen: Sighting) {
        let state = match seen.qos {
            Qos::AtMostOnce => return,
            Qos::AtLeastOnce => State::Taken,
            Qos::ExactlyOnce => State::Held,
        };
        self.count = self.count.wrapping_add(1);
        self.is_used = true;
        let Sighting { fingerprint, connection, .. } = seen;
        let number = self.count;
        if let Some(slot) = self.slot_mut(seen.packet_id) {
            *slot = Slot { fingerprint, number, connection, state, pings: 0 };
        }
    }

    /// The acknowledgement of the last message of this id was written behind this number of `pings` of its connection.
    #[inline]
    pub(crate) fn acknowledged(&mut self, packet_id: u16, pings: u64) {
        if let Some(slot) = self.slot_mut(packet_id)
            && slot.state == State::Taken
        {
            (slot.state, slot.pings) = (State::Acknowledged, pings as u8);
        }
    }

    /// The broker has answered this number of the pings that were written on the connection: it has what was written before them.
    pub(crate) fn proven(&mut self, connection: u16, pings: u64, answered: u64) {
        // One that leaves that many pings unanswered proves nothing: their numbers are short.
        if pings.saturating_sub(answered) > PINGS_OPEN_MAX || seeded(Defect::MqttNeverForgets) {
            return;
        }
        for slot in self.pages.iter_mut().flatten().flat_map(|page| page.iter_mut()) {
            let is_proven = (answered as u8).wrapping_sub(slot.pings) as i8 > 0;
            if slot.state == State::Acknowledged && slot.connection == connection && is_proven {
                slot.state = State::Free;
            }
        }
    }

    /// The broker will not send the message of this id again.
    pub(crate) fn release(&mut self, packet_id: u16) {
        if let Some(slot) = self.slot_mut(packet_id)
            && slot.state == State::Held
        {
            slot.state = State::Free;
        }
    }

    /// A session begins.
    pub(crate) fn begin(&mut self) {
        if !seeded(Defect::MqttKeepsOldIds) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use thalweg_testing::Random;

    use super::*;

    fn sighting(packet_id: u16, qos: Qos, text: &str, connection: u16) -> Sighting {
        let fingerprint = fingerprint(b"a", text.as_bytes());
        Sighting { packet_id, qos, fingerprint, connection }
    }

    #[test]
    fn at_qos_1_a_repetition_is_what_the_broker_calls_one_and_equals_the_first() {
        let mut known = Known::default();
        let first = sighting(7, Qos::AtLeastOnce, "x", 1);
        assert_eq!(known.meet(first, true), Met::News);
        known.note(first);
        assert_eq!(
            (known.meet(first, true), known.meet(first, false)),
            (Met::AgainHere, Met::News)
        );
        let later = |id, text| sighting(id, Qos::AtLeastOnce, text, 2);
        assert_eq!(known.meet(later(7, "x"), true), Met::Again);
        assert_eq!(known.meet(later(7, "x"), false), Met::News, "another message of this id");
        assert_eq!(known.meet(later(7, "y"), true), Met::News, "one that was lost the first time");
        assert_eq!(known.meet(later(8, "x"), true), Met::News);
        assert_eq!(known.meet(sighting(7, Qos::ExactlyOnce, "x", 2), true), Met::News);
        known.note(later(7, "x"));
        assert_eq!(known.meet(later(7, "x"), true), Met::AgainHere, "acknowledged here by now");
        known.begin();
        assert!(known.is_empty() && known.meet(later(7, "x"), true) == Met::News);
    }

    #[test]
    fn at_qos_2_an_id_is_a_message_until_it_is_released() {
        let mut known = Known::default();
        let first = sighting(7, Qos::ExactlyOnce, "x", 1);
        known.note(first);
        let again = sighting(7, Qos::ExactlyOnce, "x", 2);
        assert_eq!((known.meet(again, true), known.meet(again, false)), (Met::Again, Met::Again));
        // A broker that was set back to an earlier state gives the id to another message.
        assert_eq!(known.meet(sighting(7, Qos::ExactlyOnce, "y", 2), false), Met::News);
        known.release(8);
        known.release(7);
        assert_eq!(known.meet(again, true), Met::News);
        known.release(7);
        known.note(sighting(7, Qos::ExactlyOnce, "x", 0));
        let met = (known.meet(again, true), known.meet(again, false));
        assert_eq!(
            met,
            (Met::Again, Met::News),
            "the session may be another than that of the journal"
        );
    }

    /// Goal: the next message of an id is news, equal and lost as it may be, once the broker has our acknowledgement for certain.
    #[test]
    fn what_the_broker_has_our_acknowledgement_of_is_forgotten() {
        for begun in [0, 200, 255, 256] {
            let mut known = Known::default();
            let first = sighting(1, Qos::AtLeastOnce, "x", 1);
            let later = sighting(1, Qos::AtLeastOnce, "x", 2);
            known.note(first);
            known.proven(1, begun + 1, begun + 1);
            assert_eq!(known.meet(later, true), Met::Again, "we have not acknowledged it");
            known.acknowledged(1, begun + 1);
            known.proven(1, begun + 2, begun + 1);
            assert_eq!(
                known.meet(later, true),
                Met::Again,
                "the ping went before the acknowledgement"
            );
            known.proven(2, begun + 2, begun + 2);
            assert_eq!(known.meet(later, true), Met::Again, "a ping of another connection");
            known.proven(1, begun + 200, begun + 2);
            assert_eq!(known.meet(later, true), Met::Again, "it is silent for too long");
            known.proven(1, begun + 3, begun + 2);
            assert_eq!(known.meet(later, true), Met::News);
            // What has come under this id meanwhile has an acknowledgement of its own.
            known.note(first);
            known.acknowledged(1, begun + 3);
            known.note(first);
            known.proven(1, begun + 4, begun + 4);
            assert_eq!(known.meet(later, true), Met::Again);
        }
        let mut known = Known::default();
        let held = sighting(1, Qos::ExactlyOnce, "x", 1);
        known.note(held);
        known.acknowledged(1, 0);
        known.proven(1, 1, 1);
        assert_eq!(known.meet(held, true), Met::AgainHere, "only a release frees it");
    }

    /// Goal: a message of the round of packet ids before, which may be equal, is not taken for one of this round.
    #[test]
    fn at_qos_1_what_is_long_ago_is_forgotten() {
        let mut known = Known::default();
        let first = sighting(1, Qos::AtLeastOnce, "x", 1);
        known.note(first);
        for n in 0..KNOWN_MAX {
            assert_eq!(known.meet(first, true), Met::AgainHere, "{n}");
            known.note(sighting(2 + n as u16, Qos::AtLeastOnce, "y", 1));
        }
        assert_eq!(known.meet(first, true), Met::AgainHere);
        known.note(sighting(65_535, Qos::AtLeastOnce, "y", 1));
        assert_eq!(known.meet(first, true), Met::News);
    }

    /// Method: any sequence of messages, releases and sessions, against a map.
    #[test]
    fn it_equals_a_map_of_what_was_taken_last() {
        let mut random = Random::new(11);
        let mut known = Known::default();
        let mut model: HashMap<u16, (Qos, u64)> = HashMap::new();
        for _ in 0..50_000 {
            let id = [1, 255, 256, 257, 65_535][random.below(5) as usize];
            let qos = [Qos::AtLeastOnce, Qos::ExactlyOnce][random.below(2) as usize];
            let text = random.below(2);
            let seen = sighting(id, qos, &text.to_string(), 2);
            match random.below(20) {
                0 => {
                    known.begin();
                    model.clear();
                }
                1..6 => {
                    known.release(id);
                    if model.get(&id).is_some_and(|(qos, _)| *qos == Qos::ExactlyOnce) {
                        model.remove(&id);
                    }
                }
                _ => {
                    let again = model.get(&id) == Some(&(qos, text));
                    let expected = if again { Met::AgainHere } else { Met::News };
                    assert_eq!(known.meet(seen, true), expected);
                    known.note(seen);
                    model.insert(id, (qos, text));
                }
            }
        }
    }
}
