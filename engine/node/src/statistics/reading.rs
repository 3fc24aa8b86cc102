//! A reading, decoded by field names that come from the configuration.
//!
//! Where readings are numbered by their publisher, the number is one more field, or a user property of the
//! message. One without it is a dead letter: whether it is a repetition cannot be told.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use thalweg_format::JsonSeed;
use thalweg_kernel::{Cause, Decode, DecodeError, DecodeFields, Field, Message, Str};

use crate::settings::{Deduplicate, Fields};

/// What the job reads of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) key: Str,
    pub(crate) value: f64,
    /// Milliseconds since the epoch.
    pub(crate) time: i64,
    /// Its publisher's; 0 where readings are not numbered.
    pub(crate) number: u64,
}

/// Makes readings of messages, and of fields that are values already.
#[derive(Clone)]
pub(crate) struct Readings {
    json: JsonSeed<ReadingFields>,
    /// The user property that holds the number, where it is not in the payload.
    property: Option<Str>,
}

impl Readings {
    /// As the configuration says.
    pub(crate) fn new(
        fields: &Fields,
        deduplicate: Option<&Deduplicate>,
        payload_bytes_max: usize,
    ) -> Self {
        let field = deduplicate.and_then(|deduplicate| deduplicate.field.as_deref());
        let json = JsonSeed::new(ReadingFields::new(fields, field));
        let property = deduplicate.and_then(|deduplicate| deduplicate.property.as_deref());
        let property = property.map(Str::from);
        Self { json: json.payload_bytes_max(payload_bytes_max), property }
    }
}

/// The number in a message's user property.
fn number(message: &Message<'_>, name: &str) -> Result<u64, DecodeError> {
    let Some(property) = message.header(name) else {
        let why = format!("the message has no user property {name:?}");
        return Err(DecodeError::new(Cause::MissingField, why, None));
    };
    let number = property.text()?;
    number.parse().map_err(|_| {
        let why = format!("the user property {name:?} is {number:?}, not a whole number");
        DecodeError::new(Cause::WrongType, why, None)
    })
}

impl Decode for Readings {
    type Item = Reading;

    #[inline]
    fn decode(&mut self, message: &Message<'_>) -> Result<Reading, DecodeError> {
        let mut reading = self.json.decode(message)?;
        if let Some(name) = &self.property {
            reading.number = number(message, name)?;
        }
        Ok(reading)
    }
}

/// A source of fields has no user properties; the settings see to that.
impl DecodeFields for Readings {
    #[inline]
    fn decode_fields(&mut self, fields: &[(Str, Field<'_>)]) -> Result<Reading, DecodeError> {
        self.json.decode_fields(fields)
    }
}

/// The names of a reading's fields. They live as long as the process: there is one set for a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadingFields {
    key: &'static str,
    value: &'static str,
    time: &'static str,
    number: Option<&'static str>,
}

impl ReadingFields {
    pub(crate) fn new(names: &Fields, number: Option<&str>) -> Self {
        let keep = |name: &str| &*Box::leak(Box::<str>::from(name));
        let Fields { key, value, time } = names;
        Self { key: keep(key), value: keep(value), time: keep(time), number: number.map(keep) }
    }
}

impl<'de> DeserializeSeed<'de> for ReadingFields {
    type Value = Reading;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Reading, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReadingFields {
    type Value = Reading;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}, {} and {}", self.key, self.value, self.time)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Reading, A::Error> {
        let (mut key, mut value, mut time, mut number) = (None, None, None, None);
        while let Some(name) = map.next_key::<Str>()? {
            let known = if name == self.key {
                key.replace(map.next_value()?).map(|_| self.key)
            } else if name == self.value {
                value.replace(map.next_value()?).map(|_| self.value)
            } else if name == self.time {
                time.replace(map.next_value()?).map(|_| self.time)
            } else if let Some(field) = self.number.filter(|field| name == *field) {
                number.replace(map.next_value()?).map(|_| field)
            } else {
                map.next_value::<IgnoredAny>()?;
                None
            };
            if let Some(twice) = known {
                return Err(A::Error::duplicate_field(twice));
            }
        }
        Ok(Reading {
            key: key.ok_or_else(|| A::Error::missing_field(self.key))?,
            value: value.ok_or_else(|| A::Error::missing_field(self.value))?,
            time: time.ok_or_else(|| A::Error::missing_field(self.time))?,
            number: match self.number {
                Some(field) => number.ok_or_else(|| A::Error::missing_field(field))?,
                None => 0,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::Timestamp;

    use super::*;

    fn decode_as(number: Option<&str>, payload: &str) -> Result<Reading, Cause> {
        let names = Fields { key: "id".into(), value: "t".into(), time: "at".into() };
        let bindings = [(Str::from("id"), "d7")];
        let message = Message {
            bindings: &bindings,
            ..Message::new("sensors/d7", payload.as_bytes(), Timestamp::default())
        };
        let mut json = JsonSeed::new(ReadingFields::new(&names, number));
        json.decode(&message).map_err(|error| error.cause)
    }

    fn decode(payload: &str) -> Result<Reading, Cause> {
        decode_as(None, payload)
    }

    #[test]
    fn a_number_is_needed_where_readings_are_numbered() {
        let numbered = |payload| decode_as(Some("n"), payload).map(|reading| reading.number);
        assert_eq!(numbered(r#"{"at": 12, "t": 21.5, "n": 18446744073709551615}"#), Ok(u64::MAX));
        assert_eq!(numbered(r#"{"at": 12, "t": 21.5}"#), Err(Cause::MissingField));
        assert_eq!(numbered(r#"{"at": 12, "t": 21.5, "n": -1}"#), Err(Cause::WrongType));
        assert_eq!(decode(r#"{"at": 12, "t": 21.5, "n": "x"}"#).map(|r| r.number), Ok(0));
    }

    #[test]
    fn takes_the_named_fields_and_the_topic_s() {
        let reading = Reading { key: "d7".into(), value: 21.5, time: 12, number: 0 };
        assert_eq!(decode(r#"{"x": [1], "at": 12, "t": 21.5, "id": "other"}"#), Ok(reading));
    }

    #[test]
    fn refusals_keep_their_cause() {
        assert_eq!(decode(r#"{"at": 12}"#), Err(Cause::MissingField));
        assert_eq!(decode(r#"{"at": 12, "t": "hot"}"#), Err(Cause::WrongType));
        assert_eq!(decode(r#"{"at": 12, "t": 1, "t": 2}"#), Err(Cause::Malformed));
        assert_eq!(decode(r#"{"at": 12, "t": NaN}"#), Err(Cause::NotANumber));
    }
}
