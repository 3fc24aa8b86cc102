//! The payload as text.

use thalweg_kernel::{Decode, DecodeError, Message};

use crate::payload::{PAYLOAD_BYTES_MAX, checked};

/// Decodes a payload into the [`String`] it is: UTF-8, whatever it says.
#[derive(Clone, Debug)]
pub struct Text {
    payload_bytes_max: usize,
}

impl Text {
    /// A decoder that takes up to [`PAYLOAD_BYTES_MAX`] bytes.
    pub const fn new() -> Self {
        Self { payload_bytes_max: PAYLOAD_BYTES_MAX }
    }

    /// Refuses payloads of more than `bytes` bytes, as [`TooLarge`](thalweg_kernel::Cause::TooLarge).
    #[must_use]
    pub const fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl Decode for Text {
    type Item = String;

    fn decode(&mut self, message: &Message<'_>) -> Result<String, DecodeError> {
        checked(message.payload, self.payload_bytes_max).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_kernel::{Cause, Timestamp};

    fn decode(payload: &[u8]) -> Result<String, DecodeError> {
        Text::new().payload_bytes_max(8).decode(&Message::new("t", payload, Timestamp::default()))
    }

    #[test]
    fn takes_utf8_up_to_its_bound() {
        assert_eq!(decode("21.5 °C".as_bytes()).unwrap(), "21.5 °C");
        assert_eq!(decode(b"").unwrap(), "");
        assert_eq!(decode(b"123456789").unwrap_err().cause, Cause::TooLarge);
    }

    #[test]
    fn names_the_first_byte_that_is_not_utf8() {
        let refused = decode(b"ab\xb0C").unwrap_err();
        assert_eq!((refused.cause, refused.position), (Cause::InvalidUtf8, Some(2)));
        assert_eq!(refused.reason, "byte 0xb0 is not UTF-8 here");
        // A character cut off at the end.
        assert_eq!(decode(b"abc\xc2").unwrap_err().position, Some(3));
    }
}
