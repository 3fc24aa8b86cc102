//! A reading, decoded by field names that come from the configuration.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use thalweg_kernel::Str;

use crate::settings::Fields;

/// What the job reads of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) key: Str,
    pub(crate) value: f64,
    /// Milliseconds since the epoch.
    pub(crate) time: i64,
}

/// The names of a reading's fields. They live as long as the process: there is one set for a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadingFields {
    key: &'static str,
    value: &'static str,
    time: &'static str,
}

impl ReadingFields {
    pub(crate) fn new(names: &Fields) -> Self {
        let keep = |name: &str| &*Box::leak(Box::<str>::from(name));
        Self { key: keep(&names.key), value: keep(&names.value), time: keep(&names.time) }
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
        let (mut key, mut value, mut time) = (None, None, None);
        while let Some(name) = map.next_key::<Str>()? {
            let known = if name == self.key {
                key.replace(map.next_value()?).map(|_| self.key)
            } else if name == self.value {
                value.replace(map.next_value()?).map(|_| self.value)
            } else if name == self.time {
                time.replace(map.next_value()?).map(|_| self.time)
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
        })
    }
}

#[cfg(test)]
mod tests {
    use thalweg_format::JsonSeed;
    use thalweg_kernel::{Cause, Decode, Message, Timestamp};

    use super::*;

    fn decode(payload: &str) -> Result<Reading, Cause> {
        let names = Fields { key: "id".into(), value: "t".into(), time: "at".into() };
        let bindings = [(Str::from("id"), "d7")];
        let message = Message {
            bindings: &bindings,
            ..Message::new("sensors/d7", payload.as_bytes(), Timestamp::default())
        };
        JsonSeed::new(ReadingFields::new(&names)).decode(&message).map_err(|error| error.cause)
    }

    #[test]
    fn takes_the_named_fields_and_the_topic_s() {
        let reading = Reading { key: "d7".into(), value: 21.5, time: 12 };
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
