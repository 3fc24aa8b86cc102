//! The seam between bytes and records: a connector delivers a [`Message`], a [`Decode`] makes a
//! record of it, an [`Encode`] makes bytes of a result.

use crate::cause::DecodeError;
use crate::dead_letter::{DeadLetter, Origin};
use crate::header::Header;
use crate::{Str, Timestamp};

/// One message as a connector received it, borrowed for the time of decoding. A connector fills in what its messages
/// have.
///
/// | | MQTT | a file | a log such as Kafka |
/// |---|---|---|---|
/// | `topic` | the topic | the path | the topic |
/// | `bindings` | named levels of the topic filter | | |
/// | `key` | | | the key |
/// | `headers` | user properties, of MQTT 5 | | the headers |
/// | `partition` | | the path | the number |
/// | `offset` | | the byte | the number in the partition |
/// | `timestamp` | | | the producer's, or the broker's |
/// | `retained` | a stored snapshot | | |
/// | `qos` | the quality of service | | |
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it came from: the topic, or the file's path.
    pub topic: &'a str,
    /// Named parts of the topic with their values: `sensors/{device}/temp` binds `device`.
    /// A decoder offers them as fields beside the payload's own; on a clash the binding wins.
    pub bindings: &'a [(Str, &'a str)],
    /// What its sender keyed it by.
    pub key: Option<&'a [u8]>,
    /// What its sender put beside the payload, in order.
    pub headers: &'a [Header],
    /// The bytes to decode.
    pub payload: &'a [u8],
    /// When the message arrived, by this machine's clock.
    pub received: Timestamp,
    /// When it was sent or stored, as the message itself says.
    pub timestamp: Option<Timestamp>,
    /// The partition of its source, by its id.
    pub partition: Option<&'a str>,
    /// Where it stands in its partition: the byte at which the payload begins in its file, or a log's number of it.
    pub offset: Option<u64>,
    /// It is a stored snapshot that was sent on subscribing, and not a live event.
    pub retained: bool,
    /// The quality of service with which it came, of MQTT.
    pub qos: Option<u8>,
}

impl<'a> Message<'a> {
    /// A message of which no more is known than this.
    pub const fn new(topic: &'a str, payload: &'a [u8], received: Timestamp) -> Self {
        Self {
            topic,
            bindings: &[],
            key: None,
            headers: &[],
            payload,
            received,
            timestamp: None,
            partition: None,
            offset: None,
            retained: false,
            qos: None,
        }
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a Header> {
        self.headers.iter().find(|header| header.name == name)
    }
}

impl Origin for Message<'_> {
    fn dead_letter(&self, error: DecodeError) -> DeadLetter {
        DeadLetter {
            partition: self.partition.map(Str::from),
            offset: self.offset,
            qos: self.qos,
            retained: self.retained,
            properties: self.headers.to_vec(),
            ..DeadLetter::of_payload(self.topic, error, self.received, self.payload)
        }
    }
}

/// Makes a record of a message. One instance serves one source partition, so it may keep buffers
/// and remember what earlier messages looked like.
pub trait Decode {
    /// The record.
    type Item;

    /// Decodes one message.
    ///
    /// # Errors
    /// A [`DecodeError`] makes the message a dead letter; the stream goes on.
    fn decode(&mut self, message: &Message<'_>) -> Result<Self::Item, DecodeError>;

    /// Decodes each record of a message, where a message may hold several or none. `each` is given them in their order,
    /// and what of the message is no record. A source passes on all of them before its position moves on.
    #[inline]
    fn decode_each(
        &mut self,
        message: &Message<'_>,
        mut each: impl FnMut(Result<Self::Item, DecodeError>),
    ) {
        each(self.decode(message));
    }

    /// Whether no record comes of a message without [headers](Message::headers). A source that can choose its protocol speaks
    /// one that has them.
    fn needs_headers(&self) -> bool {
        false
    }
}

/// Makes bytes of a record. One instance serves one sink on one shard.
pub trait Encode<T> {
    /// What comes before the first record of an output, if anything: a CSV header.
    ///
    /// # Errors
    /// See [`Encode::encode`].
    fn header(&mut self, _first: &T, _out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(())
    }

    /// Appends `value` to `out`, with no separator after it.
    ///
    /// # Errors
    /// If the value cannot be written in this format: a fault of the job, which ends with it.
    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

/// A value that its format cannot express.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the value as {format}: {reason}")]
pub struct EncodeError {
    /// The format's name.
    pub format: &'static str,
    /// What it cannot express.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::Cause;

    #[test]
    fn a_letter_says_where_its_message_stood() {
        let headers =
            [Header::new("a", "1"), Header::new("b", &b"\xff"[..]), Header::new("b", "3")];
        let message = Message {
            headers: &headers,
            partition: Some("3"),
            offset: Some(7),
            ..Message::new("topic", b"payload", 9.into())
        };
        let letter = message.dead_letter(DecodeError::new(Cause::Malformed, "why", Some(2)));
        assert_eq!(
            (letter.partition.as_deref(), letter.offset, letter.position),
            (Some("3"), Some(7), Some(2))
        );
        assert_eq!(
            (&*letter.topic, letter.received, &*letter.payload),
            ("topic", 9.into(), &b"payload"[..])
        );
        assert_eq!(message.header("a").unwrap().text(), Ok("1"));
        assert_eq!(message.header("c"), None);
        let refused = message.header("b").unwrap().text().unwrap_err();
        assert_eq!(refused.to_string(), "invalid_utf8: the header `b` is not UTF-8 at its byte 0");
    }
}
