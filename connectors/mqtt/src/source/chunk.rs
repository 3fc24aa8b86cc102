//! What the connection of a source hands to its shard: up to [`CHUNK_MESSAGES_MAX`] messages in two flat buffers.
//! A chunk travels in a circle and keeps its buffers, so nothing is allocated per message. Copying out of the read
//! buffer lets that be reused too.

use std::ops::Range;

use thalweg_kernel::{Header, Message, Timestamp};

use crate::config::Qos;
use crate::link::Delivery;
use crate::source::record::Record;

/// The most messages of a chunk.
pub const CHUNK_MESSAGES_MAX: usize = 512;
/// A chunk with this many bytes is full; its last message may take it over by one packet.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The chunks of one connection. All messages that were received and not yet handed over are in them, so they
/// bound a source's memory. At worst it is `CHUNKS_MAX * (CHUNK_BYTES_MAX + packet_bytes_max)` bytes.
pub const CHUNKS_MAX: usize = 8;

struct Entry {
    topic: Range<usize>,
    payload: Range<usize>,
    properties: Range<usize>,
    received: Timestamp,
    /// The mark behind it: see [`Progress`](crate::source::progress::Progress).
    behind: u64,
    retained: bool,
}

/// Messages on their way to the shard, and the acknowledgements that their hand-over is worth.
#[derive(Default)]
pub(crate) struct Chunk {
    topics: String,
    payloads: Vec<u8>,
    properties: Vec<Header>,
    entries: Vec<Entry>,
    /// In receive order. A message may be acknowledged and not be an entry: one that was skipped.
    acks: Vec<(u16, Qos)>,
    /// Messages that are dead letters: their indices, why, and how much of their payloads was left out.
    refusals: Vec<(usize, String, u64)>,
    /// The time of receipt of live messages.
    pub(crate) received: Timestamp,
    /// The connection that delivered it all.
    pub(crate) generation: u64,
    /// Filled in by the shard: messages that no filter of the source matched.
    pub(crate) unmatched: u64,
}

impl Chunk {
    /// Starts anew with its buffers.
    pub(crate) fn reset(&mut self, generation: u64, received: Timestamp) {
        self.topics.clear();
        self.payloads.clear();
        // One huge message must not be paid for in memory for ever.
        self.payloads.shrink_to(2 * CHUNK_BYTES_MAX);
        self.properties.clear();
        self.entries.clear();
        self.acks.clear();
        self.refusals.clear();
        self.received = received;
        self.generation = generation;
        self.unmatched = 0;
    }

    /// A message that was received now.
    pub(crate) fn push(&mut self, delivery: Delivery, behind: u64) {
        let properties_from = self.properties.len();
        let owned = |(name, value): (String, String)| Header::new(name, value);
        self.properties.extend(delivery.user_properties.into_iter().map(owned));
        let (retained, received) = (delivery.retained, self.received);
        let topic = String::from_utf8_lossy(&delivery.topic);
        self.push_parts(&topic, &delivery.payload, properties_from, received, behind, retained);
    }

    /// A message that was received earlier.
    pub(crate) fn push_record(&mut self, record: &Record<'_>, received: Timestamp, behind: u64) {
        let properties_from = self.properties.len();
        let owned = |(name, value): (&str, &str)| Header::new(name, value.to_owned());
        self.properties.extend(record.user_properties().map(owned));
        let (topic, payload, retained) = (record.topic, record.payload, record.retained);
        self.push_parts(topic, payload, properties_from, received, behind, retained);
    }

    /// A message that is to become a dead letter.
    #[cold]
    pub(crate) fn push_refused(&mut self, delivery: Delivery, behind: u64, why: String) {
        self.refusals.push((self.entries.len(), why, delivery.left_out));
        self.push(delivery, behind);
    }

    fn push_parts(
        &mut self,
        topic: &str,
        payload: &[u8],
        properties_from: usize,
        received: Timestamp,
        behind: u64,
        retained: bool,
    ) {
        let topic_from = self.topics.len();
        self.topics.push_str(topic);
        let payload_from = self.payloads.len();
        self.payloads.extend_from_slice(payload);
        self.entries.push(Entry {
            topic: topic_from..self.topics.len(),
            payload: payload_from..self.payloads.len(),
            properties: properties_from..self.properties.len(),
            received,
            behind,
            retained,
        });
    }

    /// Remembers that a message is to be acknowledged once this chunk is handed over.
    pub(crate) fn push_ack(&mut self, packet_id: u16, qos: Qos) {
        if qos != Qos::AtMostOnce {
            self.acks.push((packet_id, qos));
        }
    }

    pub(crate) fn acks(&self) -> &[(u16, Qos)] {
        &self.acks
    }

    /// Whether its coming back is news: there is something to acknowledge, or to count.
    pub(crate) fn is_news(&self) -> bool {
        !self.acks.is_empty() || self.unmatched > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.acks.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len().max(self.acks.len()) >= CHUNK_MESSAGES_MAX
            || self.payloads.len() + self.topics.len() >= CHUNK_BYTES_MAX
    }

    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The message at `index`, without bindings.
    pub(crate) fn message(&self, index: usize) -> Option<Message<'_>> {
        let entry = self.entries.get(index)?;
        Some(Message {
            retained: entry.retained,
            headers: &self.properties[entry.properties.clone()],
            ..Message::new(
                &self.topics[entry.topic.clone()],
                &self.payloads[entry.payload.clone()],
                entry.received,
            )
        })
    }

    /// Why the message at `index` is a dead letter, if it is one, and the bytes of its payload that are not here.
    #[inline]
    pub(crate) fn refusal(&self, index: usize) -> Option<(&str, u64)> {
        let mut refusals = self.refusals.iter();
        refusals.find(|(at, ..)| *at == index).map(|(_, why, left_out)| (why.as_str(), *left_out))
    }

    /// The mark behind the first `count` messages, if that is any.
    pub(crate) fn behind(&self, count: usize) -> Option<u64> {
        Some(self.entries.get(count.checked_sub(1)?)?.behind)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn delivery(topic: &'static str, payload: &'static str, packet_id: u16) -> Delivery {
        Delivery {
            topic: Bytes::from_static(topic.as_bytes()),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce,
            packet_id,
            dup: false,
            subscriptions: Vec::new(),
            is_copy: false,
            retained: packet_id == 2,
            is_cut: packet_id == 2,
            left_out: u64::from(packet_id == 2) * 7,
            user_properties: vec![("id".into(), packet_id.to_string())],
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in_also_after_a_reset() {
        let mut chunk = Chunk::default();
        for round in 0..3 {
            let received = Timestamp::from_millis(round);
            chunk.reset(round as u64, received);
            assert!(chunk.is_empty() && chunk.message(0).is_none());
            chunk.push(delivery("a/1", "x", 1), 8);
            chunk.push_ack(1, Qos::AtLeastOnce);
            chunk.push_refused(delivery("b", "", 2), 9, "no".into());
            chunk.push_ack(2, Qos::AtMostOnce);
            assert_eq!((chunk.len(), chunk.acks()), (2, &[(1, Qos::AtLeastOnce)][..]));
            let first = chunk.message(0).expect("first");
            assert_eq!((first.topic, first.payload, first.retained), ("a/1", &b"x"[..], false));
            assert_eq!((first.received, first.headers[0].text().unwrap()), (received, "1"));
            let second = chunk.message(1).expect("second");
            assert_eq!((second.topic, second.payload, second.retained), ("b", &b""[..], true));
            assert!(chunk.message(2).is_none());
            assert_eq!(
                (chunk.behind(0), chunk.behind(1), chunk.behind(2)),
                (None, Some(8), Some(9))
            );
            assert_eq!((chunk.refusal(0), chunk.refusal(1)), (None, Some(("no", 7))));
        }
    }

    #[test]
    fn records_keep_their_time_and_their_properties() {
        let mut head = Vec::new();
        let properties = [("seq".to_owned(), "7".to_owned())];
        crate::source::record::write_head("a/1", Qos::AtLeastOnce, true, 0, &properties, &mut head)
            .unwrap();
        let bytes = [&head[..], b"x"].concat();
        let mut chunk = Chunk::default();
        chunk.reset(0, Timestamp::from_millis(99));
        let received = Timestamp::from_millis(5);
        chunk.push_record(&Record::read(&bytes).unwrap(), received, 42);
        let message = chunk.message(0).unwrap();
        let headers = [Header::new("seq", "7")];
        assert_eq!((message.topic, message.payload, message.retained), ("a/1", &b"x"[..], true));
        assert_eq!((message.received, message.headers), (received, &headers[..]));
        assert_eq!(chunk.behind(1), Some(42));
    }

    #[test]
    fn a_chunk_is_full_by_messages_acks_or_bytes() {
        let mut chunk = Chunk::default();
        for id in 0..CHUNK_MESSAGES_MAX {
            assert!(!chunk.is_full());
            chunk.push_ack(id as u16, Qos::AtLeastOnce);
        }
        assert!(chunk.is_full());
        chunk.reset(0, Timestamp::default());
        assert!(!chunk.is_full());
        chunk.payloads.resize(CHUNK_BYTES_MAX, 0);
        assert!(chunk.is_full());
    }
}
