//! What the I/O thread of a source hands to its shard: up to [`CHUNK_MESSAGES_MAX`] messages in
//! two flat buffers. A chunk travels in a circle and keeps its buffers, so nothing is allocated
//! per message; copying out of rumqttc's read buffer lets that be reused too.

use std::ops::Range;

use thalweg_kernel::{Message, Timestamp};

use crate::config::Qos;
use crate::link::Delivery;

/// The most messages of a chunk.
pub const CHUNK_MESSAGES_MAX: usize = 512;
/// A chunk with this many bytes is full; its last message may take it over by one packet.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The chunks of one connection. All messages that were received and not yet handed over are in
/// them, so they bound a source's memory: at worst `CHUNKS_MAX * (CHUNK_BYTES_MAX +
/// packet_bytes_max)` bytes.
pub const CHUNKS_MAX: usize = 8;

struct Entry {
    topic: Range<usize>,
    payload: Range<usize>,
    properties: Range<usize>,
    retained: bool,
}

/// Messages on their way to the shard, and the acknowledgements that their hand-over is worth.
#[derive(Default)]
pub(crate) struct Chunk {
    topics: String,
    payloads: Vec<u8>,
    properties: Vec<(String, String)>,
    entries: Vec<Entry>,
    /// In receive order. A message may be acknowledged and not be an entry: one that was skipped.
    acks: Vec<(u16, Qos)>,
    received: Timestamp,
    /// The connection that delivered it all.
    pub(crate) generation: u64,
    /// Filled in by the shard: messages that no filter of the source matched.
    pub(crate) unmatched: u64,
}

impl Chunk {
    /// Starts anew with the same buffers.
    pub(crate) fn reset(&mut self, generation: u64, received: Timestamp) {
        self.topics.clear();
        self.payloads.clear();
        // One huge message must not be paid for in memory for ever.
        self.payloads.shrink_to(2 * CHUNK_BYTES_MAX);
        self.properties.clear();
        self.entries.clear();
        self.acks.clear();
        self.received = received;
        self.generation = generation;
        self.unmatched = 0;
    }

    pub(crate) fn push(&mut self, delivery: Delivery) {
        let topic_from = self.topics.len();
        self.topics.push_str(&String::from_utf8_lossy(&delivery.topic));
        let payload_from = self.payloads.len();
        self.payloads.extend_from_slice(&delivery.payload);
        let properties_from = self.properties.len();
        self.properties.extend(delivery.user_properties);
        self.entries.push(Entry {
            topic: topic_from..self.topics.len(),
            payload: payload_from..self.payloads.len(),
            properties: properties_from..self.properties.len(),
            retained: delivery.retained,
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
            user_properties: &self.properties[entry.properties.clone()],
            ..Message::new(
                &self.topics[entry.topic.clone()],
                &self.payloads[entry.payload.clone()],
                self.received,
            )
        })
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
            retained: packet_id == 2,
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
            chunk.push(delivery("a/1", "x", 1));
            chunk.push_ack(1, Qos::AtLeastOnce);
            chunk.push(delivery("b", "", 2));
            chunk.push_ack(2, Qos::AtMostOnce);
            assert_eq!((chunk.len(), chunk.acks()), (2, &[(1, Qos::AtLeastOnce)][..]));
            let first = chunk.message(0).expect("first");
            assert_eq!((first.topic, first.payload, first.retained), ("a/1", &b"x"[..], false));
            assert_eq!((first.received, first.user_properties[0].1.as_str()), (received, "1"));
            let second = chunk.message(1).expect("second");
            assert_eq!((second.topic, second.payload, second.retained), ("b", &b""[..], true));
            assert!(chunk.message(2).is_none());
        }
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
