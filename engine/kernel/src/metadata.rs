//! What a message has beside its payload, as fields of the record: in one way, whatever the format.
//!
//! [`WithMetadata`] stands around a decoder and offers it [bindings](Message::bindings), as a topic's named levels
//! are. So the decoder sees fields beside those of the payload, and parses their text as the record's type asks. A
//! field is not there where the message has no such thing: it is then missing, or `None` in an optional field.
//!
//! | name | field |
//! |---|---|
//! | `topic` | the topic, or the file's path |
//! | `partition` | the partition's id |
//! | `offset` | where the message stands in its partition, a number |
//! | `key` | the key, as text |
//! | `timestamp` | when it was sent or stored, in milliseconds since the epoch |
//! | `received` | when it arrived, in milliseconds since the epoch |
//! | `retained` | `true` or `false` |
//! | `headers.NAME` | the first header called `NAME`, as text |
//!
//! A key or a header that is to be a field and is not UTF-8 makes the message a dead letter.

use std::fmt::{self, Write};
use std::ops::Range;
use std::str::FromStr;

use crate::header::text_of;
use crate::{ConfigError, Decode, DecodeError, Message, Str};

/// A decoder is offered at most this many fields, those of the topic included.
pub const METADATA_FIELDS_MAX: usize = 32;

/// Something that a message has beside its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// The topic, or the file's path.
    Topic,
    /// The partition's id.
    Partition,
    /// Where the message stands in its partition.
    Offset,
    /// The key, as text.
    Key,
    /// When it was sent or stored.
    Timestamp,
    /// When it arrived.
    Received,
    /// Whether it is a stored snapshot.
    Retained,
    /// The first header of this name, as text.
    Header(Str),
}

impl FromStr for Metadata {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Ok(match text {
            "topic" => Self::Topic,
            "partition" => Self::Partition,
            "offset" => Self::Offset,
            "key" => Self::Key,
            "timestamp" => Self::Timestamp,
            "received" => Self::Received,
            "retained" => Self::Retained,
            _ => match text.strip_prefix("headers.").filter(|name| !name.is_empty()) {
                Some(name) => Self::Header(name.into()),
                None => {
                    let allowed = "topic, partition, offset, key, timestamp, received, retained, headers.NAME";
                    return Err(ConfigError::new("metadata", text, allowed));
                }
            },
        })
    }
}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Partition => "partition",
            Self::Offset => "offset",
            Self::Key => "key",
            Self::Timestamp => "timestamp",
            Self::Received => "received",
            Self::Retained => "retained",
            Self::Header(name) => return write!(f, "headers.{name}"),
        })
    }
}

impl Metadata {
    /// Appends its text to `out`; whether the message has it.
    fn write(&self, message: &Message<'_>, out: &mut String) -> Result<bool, DecodeError> {
        let text = match self {
            Self::Topic => Some(message.topic),
            Self::Partition => message.partition,
            Self::Offset => return Ok(write_number(message.offset, out)),
            Self::Key => {
                let key = message.key.map(|key| text_of(key, format_args!("the key")));
                key.transpose()?
            }
            Self::Timestamp => {
                return Ok(write_number(message.timestamp.map(|time| time.as_millis()), out));
            }
            Self::Received => return Ok(write_number(Some(message.received.as_millis()), out)),
            Self::Retained => Some(if message.retained { "true" } else { "false" }),
            Self::Header(name) => message.header(name).map(|header| header.text()).transpose()?,
        };
        out.push_str(text.unwrap_or_default());
        Ok(text.is_some())
    }
}

/// Writing to a string does not fail.
fn write_number(number: Option<impl fmt::Display>, out: &mut String) -> bool {
    number.is_some_and(|number| write!(out, "{number}").is_ok())
}

/// Offers parts of each message to a decoder as fields beside the payload's; see the [module](self).
///
/// ```
/// # use thalweg_kernel::{Decode, DecodeError, Header, Message, Metadata, Timestamp, WithMetadata};
/// # #[derive(Clone)] struct Fields;
/// # impl Decode for Fields {
/// #     type Item = Vec<(String, String)>;
/// #     fn decode(&mut self, m: &Message<'_>) -> Result<Self::Item, DecodeError> {
/// #         Ok(m.bindings.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect())
/// #     }
/// # }
/// # let json = Fields;
/// let mut decoder = WithMetadata::new(json)
///     .field("number", Metadata::Offset)
///     .field("trace", Metadata::Header("trace-id".into()));
/// let headers = [Header::new("trace-id", "7f")];
/// let message = Message {
///     headers: &headers,
///     offset: Some(17),
///     ..Message::new("readings", b"{}", Timestamp::default())
/// };
/// let fields = decoder.decode(&message)?;
/// assert_eq!(fields, [("number".into(), "17".into()), ("trace".into(), "7f".into())]);
/// # Ok::<(), DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct WithMetadata<D> {
    decoder: D,
    fields: Vec<(Str, Metadata)>,
    /// The text of all fields of a message, one behind the other.
    text: String,
    places: Vec<Option<Range<usize>>>,
}

impl<D> WithMetadata<D> {
    /// Offers nothing more to `decoder` yet.
    pub fn new(decoder: D) -> Self {
        Self { decoder, fields: Vec::new(), text: String::new(), places: Vec::new() }
    }

    /// Offers one more field called `name`. Names of up to 24 bytes cost no allocation. Fields beyond
    /// [`METADATA_FIELDS_MAX`] make each message a dead letter.
    #[must_use]
    pub fn field(mut self, name: impl Into<Str>, metadata: Metadata) -> Self {
        self.fields.push((name.into(), metadata));
        self
    }
}

impl<D: Decode> Decode for WithMetadata<D> {
    type Item = D::Item;

    fn needs_headers(&self) -> bool {
        self.decoder.needs_headers()
    }

    fn decode(&mut self, message: &Message<'_>) -> Result<D::Item, DecodeError> {
        let Self { decoder, fields, text, places } = self;
        text.clear();
        places.clear();
        for (_, metadata) in fields.iter() {
            let from = text.len();
            let has = metadata.write(message, text)?;
            places.push(has.then_some(from..text.len()));
        }
        // On the stack: a vector would be allocated for each message.
        let mut bindings: [(Str, &str); METADATA_FIELDS_MAX] =
            [const { (Str::const_new(""), "") }; METADATA_FIELDS_MAX];
        let mut offered = 0;
        let beside = fields
            .iter()
            .zip(places.iter())
            .filter_map(|((name, _), place)| Some((name.clone(), text.get(place.clone()?)?)));
        for binding in message.bindings.iter().cloned().chain(beside) {
            let Some(place) = bindings.get_mut(offered) else {
                let reason =
                    format!("more than {METADATA_FIELDS_MAX} fields come from beside the payload");
                return Err(DecodeError::new(crate::Cause::TooLarge, reason, None));
            };
            *place = binding;
            offered += 1;
        }
        decoder.decode(&Message { bindings: &bindings[..offered], ..*message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cause, Header, Timestamp};

    #[derive(Clone)]
    struct Fields;

    impl Decode for Fields {
        type Item = String;

        fn decode(&mut self, message: &Message<'_>) -> Result<String, DecodeError> {
            let fields = message.bindings.iter().map(|(name, value)| format!("{name}={value}"));
            Ok(fields.collect::<Vec<_>>().join(" "))
        }
    }

    const NAMES: [&str; 8] =
        ["topic", "partition", "offset", "key", "timestamp", "received", "retained", "headers.a"];

    #[test]
    fn every_part_of_a_message_is_a_field_where_it_is_there() {
        let mut decoder = WithMetadata::new(Fields);
        for name in NAMES {
            let metadata: Metadata = name.parse().unwrap();
            assert_eq!(metadata.to_string(), name);
            decoder = decoder.field(name, metadata);
        }
        assert!("headers.".parse::<Metadata>().is_err() && "Key".parse::<Metadata>().is_err());
        let bindings = [("device".into(), "d7")];
        let headers = [Header::new("b", "2"), Header::new("a", "1"), Header::new("a", "3")];
        let mut message = Message {
            bindings: &bindings,
            key: Some(b"k"),
            headers: &headers,
            timestamp: Some((-5).into()),
            partition: Some("3"),
            offset: Some(u64::MAX),
            retained: true,
            ..Message::new("t", b"", Timestamp::from(9_i64))
        };
        let all = "device=d7 topic=t partition=3 offset=18446744073709551615 key=k timestamp=-5 \
                   received=9 retained=true headers.a=1";
        assert_eq!(decoder.decode(&message).unwrap(), all);
        let plain = Message::new("t", b"", Timestamp::from(9_i64));
        assert_eq!(decoder.decode(&plain).unwrap(), "topic=t received=9 retained=false");
        message.key = Some(b"k\xff");
        let refused = decoder.decode(&message).unwrap_err();
        assert_eq!(
            (refused.cause, refused.reason.as_str()),
            (Cause::InvalidUtf8, "the key is not UTF-8 at its byte 1")
        );
    }

    #[test]
    fn more_fields_than_may_be_are_refused() {
        let mut decoder = WithMetadata::new(Fields);
        for n in 0..=METADATA_FIELDS_MAX {
            decoder = decoder.field(format!("f{n}"), Metadata::Topic);
        }
        let refused = decoder.decode(&Message::new("t", b"", Timestamp::default())).unwrap_err();
        assert_eq!(refused.cause, Cause::TooLarge);
    }
}
