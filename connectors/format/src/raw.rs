//! The message as it came, for jobs that look at topics and bytes themselves.

use bytes::Bytes;
use thalweg_kernel::{Decode, DecodeError, Header, Message, Str, Timestamp};

use crate::payload::{PAYLOAD_BYTES_MAX, within};

/// A message with everything that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// Where it came from: the topic, or the file's path.
    pub topic: Str,
    /// Named levels of the topic filter with their values.
    pub bindings: Vec<(Str, Str)>,
    /// What its sender keyed it by.
    pub key: Option<Bytes>,
    /// What its sender put beside the payload, in order.
    pub headers: Vec<Header>,
    /// The bytes, unchecked.
    pub payload: Bytes,
    /// When it arrived.
    pub received: Timestamp,
    /// When it was sent or stored, as the message itself says.
    pub timestamp: Option<Timestamp>,
    /// The partition of its source, by its id.
    pub partition: Option<Str>,
    /// Where it stands in its partition.
    pub offset: Option<u64>,
    /// It is a stored snapshot that was sent on subscribing, and not a live event.
    pub retained: bool,
}

/// Decodes nothing: hands on a copy of the message. It allocates per message.
#[derive(Clone, Debug)]
pub struct Raw {
    payload_bytes_max: usize,
}

impl Raw {
    /// A decoder that takes up to [`PAYLOAD_BYTES_MAX`] bytes.
    pub const fn new() -> Self {
        Self { payload_bytes_max: PAYLOAD_BYTES_MAX }
    }

    /// Refuses payloads of more than `bytes` bytes, as
    /// [`TooLarge`](thalweg_kernel::Cause::TooLarge).
    #[must_use]
    pub const fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self::new()
    }
}

impl Decode for Raw {
    type Item = RawMessage;

    fn decode(&mut self, message: &Message<'_>) -> Result<RawMessage, DecodeError> {
        within(message.payload, self.payload_bytes_max)?;
        let own = |(name, value): &(Str, &str)| (name.clone(), Str::from(*value));
        Ok(RawMessage {
            topic: message.topic.into(),
            bindings: message.bindings.iter().map(own).collect(),
            key: message.key.map(Bytes::copy_from_slice),
            headers: message.headers.to_vec(),
            payload: Bytes::copy_from_slice(message.payload),
            received: message.received,
            timestamp: message.timestamp,
            partition: message.partition.map(Str::from),
            offset: message.offset,
            retained: message.retained,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_kernel::Cause;

    #[test]
    fn keeps_everything_that_came_with_the_message() {
        let bindings = [("device".into(), "boiler")];
        let headers = [Header::new("seq", "7")];
        let mut message = Message::new("plant/boiler", b"\x00\xff", 17.into());
        message.bindings = &bindings;
        message.headers = &headers;
        message.key = Some(b"k");
        message.timestamp = Some(16.into());
        message.partition = Some("3");
        message.offset = Some(5);
        message.retained = true;
        let raw = Raw::new().decode(&message).unwrap();
        let expected = RawMessage {
            topic: "plant/boiler".into(),
            bindings: vec![("device".into(), "boiler".into())],
            key: Some(Bytes::from_static(b"k")),
            headers: headers.to_vec(),
            payload: Bytes::from_static(b"\x00\xff"),
            received: 17.into(),
            timestamp: Some(16.into()),
            partition: Some("3".into()),
            offset: Some(5),
            retained: true,
        };
        assert_eq!(raw, expected);
    }

    #[test]
    fn refuses_what_is_over_its_bound() {
        let message = Message::new("t", b"123", Timestamp::default());
        assert!(Raw::new().payload_bytes_max(3).decode(&message).is_ok());
        let refused = Raw::new().payload_bytes_max(2).decode(&message).unwrap_err();
        assert_eq!(refused.cause, Cause::TooLarge);
        assert_eq!(refused.reason, "the payload has 3 bytes; 2 are allowed");
    }
}
