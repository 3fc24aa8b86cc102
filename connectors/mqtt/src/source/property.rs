//! [`WithProperty`]: hands a user property of the message to the job, beside what the decoder makes of it.

use thalweg_kernel::{Decode, DecodeError, Message, Str};

/// Yields the value of a named MQTT 5 user property with each record of `D`; `None` where the message has
/// none of this name. The first counts where there are several. A source that reads so speaks MQTT 5 alone, unless its
/// configuration names a version: 3.1.1 has no properties.
///
/// Only a publisher's own sequence number tells a repetition from two equal readings. This is how the number
/// reaches de-duplication if it is not in the payload.
///
/// ```
/// # use thalweg_kernel::{Decode, DecodeError, Header, Message, Timestamp};
/// # use thalweg_mqtt::WithProperty;
/// # #[derive(Clone)] struct Text;
/// # impl Decode for Text {
/// #     type Item = String;
/// #     fn decode(&mut self, m: &Message<'_>) -> Result<String, DecodeError> { Ok(m.topic.into()) }
/// # }
/// let properties = [Header::new("seq", "7")];
/// let message = Message {
///     headers: &properties,
///     ..Message::new("s/d1", b"21.5", Timestamp::from_millis(0))
/// };
/// let (seq, _reading) = WithProperty::new("seq", Text).decode(&message)?;
/// assert_eq!(seq.as_deref(), Some("7"));
/// # Ok::<(), DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct WithProperty<D> {
    name: Str,
    decoder: D,
}

impl<D> WithProperty<D> {
    /// The property `name` beside the records of `decoder`.
    pub fn new(name: impl Into<Str>, decoder: D) -> Self {
        Self { name: name.into(), decoder }
    }
}

impl<D: Decode> Decode for WithProperty<D> {
    type Item = (Option<Str>, D::Item);

    fn needs_headers(&self) -> bool {
        true
    }

    #[inline]
    fn decode(&mut self, message: &Message<'_>) -> Result<Self::Item, DecodeError> {
        // No allocation up to 24 bytes.
        let value = message.header(&self.name).map(|property| property.text().map(Str::from));
        let value = value.transpose()?;
        Ok((value, self.decoder.decode(message)?))
    }
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::{Cause, Header, Timestamp};

    use super::*;

    struct Payload;

    impl Decode for Payload {
        type Item = Vec<u8>;

        fn decode(&mut self, message: &Message<'_>) -> Result<Vec<u8>, DecodeError> {
            if message.payload.is_empty() {
                return Err(DecodeError::new(Cause::Malformed, "empty", None));
            }
            Ok(message.payload.to_vec())
        }
    }

    #[test]
    fn the_first_of_its_name_is_given_and_refusals_pass() {
        let properties = [("a", "1"), ("seq", "2"), ("seq", "3")];
        let properties = properties.map(|(name, value)| Header::new(name, value));
        let message = |payload| Message {
            headers: &properties,
            ..Message::new("t", payload, Timestamp::default())
        };
        let decode =
            |name: &str, payload| WithProperty::new(name, Payload).decode(&message(payload));
        assert_eq!(decode("seq", b"x"), Ok((Some("2".into()), b"x".to_vec())));
        assert_eq!(decode("sequence", b"x"), Ok((None, b"x".to_vec())));
        assert_eq!(decode("seq", b"").unwrap_err().cause, Cause::Malformed);
    }
}
