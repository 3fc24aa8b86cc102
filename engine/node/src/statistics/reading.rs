//! A reading, decoded by field names or paths that come from the configuration.
//!
//! A flat object with a text, a number and milliseconds has a decoder of its own, which makes no detour. What it refuses, and
//! all other shapes, are a [`Shape`](thalweg_format::Shape)'s. So the flat decoder decides how fast a message is read, and
//! never what it says.
//!
//! Where readings are numbered by their publisher, the number is one more field, or a user property of the
//! message. One without it is a dead letter: whether it is a repetition cannot be told.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use thalweg_format::shape::{Extractor, TimeUnit, TimeWatch, only};
use thalweg_format::{JsonSeed, Shape};
use thalweg_kernel::{Cause, ConfigError, Decode, DecodeError, DecodeFields, Field, Message, Str};

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
    flat: JsonSeed<ReadingFields>,
    /// The flat decoder may read messages.
    is_flat: bool,
    /// The number of messages that are not shown to the flat decoder, since it has refused one that is right.
    rest: u32,
    extractor: Extractor,
    watch: TimeWatch,
    /// The field of the time, as warnings name it.
    time: Str,
    /// The user property that holds the number, where it is not in the payload.
    property: Option<Str>,
}

/// A device that the flat decoder cannot read sends more such messages.
const REST_MESSAGES: u32 = 64;

impl Readings {
    /// As the configuration says.
    ///
    /// # Errors
    /// Names the key of `[fields]` that will not do.
    pub(crate) fn new(
        fields: &Fields,
        deduplicate: Option<&Deduplicate>,
        payload_bytes_max: usize,
    ) -> Result<Self, ConfigError> {
        let number = deduplicate.and_then(|deduplicate| deduplicate.field.as_deref());
        let shape: Shape = fields.shape(number)?;
        if let Some(deduplicate) = deduplicate
            && shape.takes_apart()
            && !shape.tells_readings_apart("number")
            && !shape.tells_readings_apart("key")
        {
            return Err(deduplicate.is_of_messages());
        }
        let names = fields.flat_names(number).map(|(names, number)| {
            ReadingFields::new(names.each_ref().map(String::as_str), number.as_deref())
        });
        let watch = TimeWatch::new();
        let extractor = Extractor::new(shape).payload_bytes_max(payload_bytes_max);
        let flat = JsonSeed::new(
            names.unwrap_or_else(|| ReadingFields::new(["key", "value", "ts"], None)),
        );
        let property = deduplicate.and_then(|deduplicate| deduplicate.property.as_deref());
        Ok(Self {
            flat: flat.payload_bytes_max(payload_bytes_max),
            is_flat: names.is_some(),
            rest: 0,
            extractor: extractor.watch(watch.clone()),
            watch,
            time: names.map_or("ts", |names| names.time).into(),
            property: property.map(Str::from),
        })
    }

    /// The reading of a flat object, if the message is one.
    #[inline]
    fn flat(&mut self, message: &Message<'_>) -> Option<Reading> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        let reading = if self.is_flat { self.flat.decode(message).ok()? } else { return None };
        self.watch.see(&self.time, reading.time, message.received, TimeUnit::Milliseconds);
        Some(reading)
    }

    /// The readings of any message.
    #[inline(never)]
    fn shaped(
        &mut self,
        message: &Message<'_>,
        mut each: impl FnMut(Result<Reading, DecodeError>),
    ) {
        let (mut found, property) = (false, &self.property);
        self.extractor.extract(message, |fields| {
            let reading = fields.and_then(of_fields);
            let reading =
                reading.and_then(|reading| numbered(reading, message, property.as_deref()));
            found |= reading.is_ok();
            each(reading);
        });
        if self.is_flat && found {
            self.rest = REST_MESSAGES;
        }
    }
}

/// The reading of the fields of a shape, in the order of [`Fields::shape`](crate::settings::Fields::shape).
fn of_fields(fields: &[(Str, Field<'_>)]) -> Result<Reading, DecodeError> {
    let mut reading = Reading { key: Str::default(), value: 0.0, time: 0, number: 0 };
    for (name, field) in fields {
        match (name.as_str(), *field) {
            ("key", Field::Text(key)) => reading.key = key.into(),
            ("time", Field::Time(time)) => reading.time = time.as_millis(),
            ("number", Field::Unsigned(number)) => reading.number = number,
            ("value", Field::Float(value)) => reading.value = value,
            ("measurement", Field::Text(measurement)) => {
                reading.key.push('/');
                reading.key.push_str(measurement);
            }
            (name, field) => {
                let why = format!("field `{name}`: {field} is nothing that a reading has");
                return Err(DecodeError::new(Cause::WrongType, why, None));
            }
        }
    }
    Ok(reading)
}

/// The reading with the number of its message's user property, where that holds it.
#[inline]
fn numbered(
    mut reading: Reading,
    message: &Message<'_>,
    property: Option<&str>,
) -> Result<Reading, DecodeError> {
    if let Some(name) = property {
        reading.number = number(message, name)?;
    }
    Ok(reading)
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

    fn needs_headers(&self) -> bool {
        self.property.is_some()
    }

    fn decode(&mut self, message: &Message<'_>) -> Result<Reading, DecodeError> {
        only(|each| self.decode_each(message, each))
    }

    #[inline]
    fn decode_each(
        &mut self,
        message: &Message<'_>,
        mut each: impl FnMut(Result<Reading, DecodeError>),
    ) {
        match self.flat(message) {
            Some(reading) => each(numbered(reading, message, self.property.as_deref())),
            None => self.shaped(message, each),
        }
    }
}

/// A source of fields has no user properties; the settings see to that.
impl DecodeFields for Readings {
    #[inline]
    fn decode_fields(&mut self, fields: &[(Str, Field<'_>)]) -> Result<Reading, DecodeError> {
        self.flat.decode_fields(fields)
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
    pub(crate) fn new([key, value, time]: [&str; 3], number: Option<&str>) -> Self {
        let keep = |name: &str| &*Box::leak(Box::<str>::from(name));
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
        let bindings = [(Str::from("id"), "d7")];
        let message = Message {
            bindings: &bindings,
            ..Message::new("sensors/d7", payload.as_bytes(), Timestamp::default())
        };
        let mut json = JsonSeed::new(ReadingFields::new(["id", "t", "at"], number));
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

    fn readings(fields: &str, payload: &str) -> Vec<Result<Reading, DecodeError>> {
        let fields = crate::settings::fields_of(fields);
        let mut readings = Readings::new(&fields, None, 1 << 20).unwrap();
        let bindings = [(Str::from("device"), "d7")];
        let message = Message {
            bindings: &bindings,
            ..Message::new("t", payload.as_bytes(), Timestamp::from_millis(1_800_000_000_000))
        };
        let mut all = Vec::new();
        // The first message decides which decoder reads the second one.
        for _ in 0..2 {
            all.clear();
            readings.decode_each(&message, |reading| all.push(reading));
        }
        all
    }

    /// Goal: which decoder reads a message is never seen.
    /// Method: what the flat one takes as it is, and what it must leave to the other.
    #[test]
    fn a_flat_object_is_read_with_or_without_a_detour() {
        for payload in [
            r#"{"value":21.5,"ts":12}"#,
            r#"{"value":"21.5","ts":12}"#,
            r#"{"value":21.5,"ts":"12"}"#,
            r#"{"value":21.5,"ts":12.25}"#,
            "{\"value\":21.5,\"ts\":12}\0\n",
            r#"{"value":21.5,"ts":"1970-01-01T00:00:00.012Z","device":"other"}"#,
        ] {
            let reading = Reading { key: "d7".into(), value: 21.5, time: 12, number: 0 };
            assert_eq!(readings("", payload), [Ok(reading)], "{payload}");
        }
        let truth = readings("", r#"{"value":true,"ts":12}"#);
        assert_eq!(truth[0].as_ref().unwrap().value, 1.0);
        let refused = readings("", r#"{"value":21.5,"value":2,"ts":12}"#);
        assert_eq!(refused[0].as_ref().unwrap_err().cause, Cause::Malformed);
        let refused = readings("value = 'a.b'", r#"{"a":{"c":1},"ts":12}"#);
        let reason = &refused[0].as_ref().unwrap_err().reason;
        assert_eq!(reason, "field `a.b`: missing: `a` has `c`");
    }

    #[test]
    fn measurements_are_readings_under_keys_of_their_own() {
        let payload = r#"{"time":1700000000,"sn":{"temp":21.5,"hum":40}}"#;
        let fields = "values = ['sn.temp', 'humidity = sn.hum']\ntime = 'time'\ntime_unit = 's'";
        let reading = |key: &str, value| {
            Ok(Reading { key: key.into(), value, time: 1_700_000_000_000, number: 0 })
        };
        let expected = [reading("d7/temp", 21.5), reading("d7/humidity", 40.0)];
        assert_eq!(readings(fields, payload), expected);
        for fields in ["time = 'arrival'", "or_arrival = true"] {
            let arrived = readings(fields, r#"{"value":3}"#);
            assert_eq!(arrived[0].as_ref().unwrap().time, 1_800_000_000_000, "{fields}");
        }
        let sent = readings("or_arrival = true", r#"{"value":3,"ts":7}"#);
        assert_eq!(sent[0].as_ref().unwrap().time, 7);
    }

    #[test]
    fn a_message_of_several_readings_cannot_be_decoded_as_one() {
        let fields = crate::settings::fields_of("value = 'v[]'\ntime = 'arrival'");
        let mut readings = Readings::new(&fields, None, 1 << 20).unwrap();
        let bindings = [(Str::from("device"), "d7")];
        let message = |payload| Message {
            bindings: &bindings,
            ..Message::new("t", payload, Timestamp::from_millis(5))
        };
        assert_eq!(readings.decode(&message(br#"{"v":[3]}"#)).unwrap().value, 3.0);
        let refused = readings.decode(&message(br#"{"v":[3,4]}"#)).unwrap_err();
        assert!(refused.reason.contains("holds 2 readings"), "{refused}");
    }
}
