//! The message as it came, for jobs that look at topics and bytes themselves.

use bytes::Bytes;
use thalweg_kernel::{Decode, DecodeError, Message, Str, Timestamp};

use crate::{PAYLOAD_BYTES_MAX, text};

/// A message with everything that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// The MQTT topic, or the file's path.
    pub topic: Str,
    /// Named levels of the topic filter with their values.
    pub bindings: Vec<(Str, Str)>,
    /// The bytes, unchecked.
    pub payload: Bytes,
    /// When it arrived.
    pub received: Timestamp,
    /// MQTT: a stored snapshot sent on subscribing, not a live event.
    pub retained: bool,
    /// MQTT 5 user properties, in order.
    pub user_properties: Vec<(String, String)>,
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
        text::within(message.payload, self.payload_bytes_max)?;
        let own = |(name, value): &(Str, &str)| (name.clone(), Str::from(*value));
        Ok(RawMessage {
            topic: message.topic.into(),
            bindings: message.bindings.iter().map(own).collect(),
            payload: Bytes::copy_from_slice(message.payload),
            received: message.received,
            retained: message.retained,
            user_properties: message.user_properties.to_vec(),
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
        let user_properties = [("seq".to_owned(), "7".to_owned())];
        let mut message = Message::new("plant/boiler", b"\x00\xff", 17.into());
        message.bindings = &bindings;
        message.user_properties = &user_properties;
        message.retained = true;
        let raw = Raw::new().decode(&message).unwrap();
        let expected = RawMessage {
            topic: "plant/boiler".into(),
            bindings: vec![("device".into(), "boiler".into())],
            payload: Bytes::from_static(b"\x00\xff"),
            received: 17.into(),
            retained: true,
            user_properties: user_properties.to_vec(),
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
