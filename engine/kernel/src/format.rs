//! The seam between bytes and records: a connector delivers a [`Message`], a [`Decode`] makes a
//! record of it, an [`Encode`] makes bytes of a result.

use bytes::Bytes;

use crate::dead_letter::DEAD_LETTER_PAYLOAD_BYTES_MAX;
use crate::{Cause, DeadLetter, Origin, Str, Timestamp};

/// One message as a connector received it, borrowed for the time of decoding.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The MQTT topic, or the file's path.
    pub topic: &'a str,
    /// Named levels of the topic filter with their values: `sensors/{device}/temp` binds `device`.
    /// A decoder offers them as fields beside the payload's own; on a clash the topic's wins.
    pub bindings: &'a [(Str, &'a str)],
    /// The bytes to decode.
    pub payload: &'a [u8],
    /// When the message arrived, by this machine's clock.
    pub received: Timestamp,
    /// Where the payload begins in its file, in bytes; `None` for messages.
    pub offset: Option<u64>,
    /// MQTT: a stored snapshot sent on subscribing, not a live event.
    pub retained: bool,
    /// MQTT 5 user properties, in order.
    pub user_properties: &'a [(String, String)],
}

impl<'a> Message<'a> {
    /// A plain message without bindings or properties.
    pub const fn new(topic: &'a str, payload: &'a [u8], received: Timestamp) -> Self {
        Self {
            topic,
            bindings: &[],
            payload,
            received,
            offset: None,
            retained: false,
            user_properties: &[],
        }
    }
}

impl Origin for Message<'_> {
    fn dead_letter(&self, error: DecodeError) -> DeadLetter {
        let kept = self.payload.len().min(DEAD_LETTER_PAYLOAD_BYTES_MAX);
        DeadLetter {
            topic: self.topic.into(),
            cause: error.cause,
            reason: error.reason,
            position: error.position,
            partition: None,
            offset: self.offset,
            received: self.received,
            payload_bytes: self.payload.len() as u64,
            payload: Bytes::copy_from_slice(&self.payload[..kept]),
        }
    }
}

/// Why a message did not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {reason}")]
pub struct DecodeError {
    /// The cause as counted.
    pub cause: Cause,
    /// Which field, what was found, what was expected.
    pub reason: String,
    /// The offending byte's position in the payload.
    pub position: Option<u64>,
}

impl DecodeError {
    /// A refusal for `cause` with its reason, at a byte of the payload where there is one.
    pub fn new(cause: Cause, reason: impl Into<String>, position: Option<usize>) -> Self {
        Self { cause, reason: reason.into(), position: position.map(|byte| byte as u64) }
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
