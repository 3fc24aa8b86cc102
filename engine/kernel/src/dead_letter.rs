//! Dead letters: input that could not become a record, and results that could not leave. Each is counted by cause
//! and kept with its topic, reason and position; the stream goes on.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::cause::{Cause, DecodeError};
use crate::header::Header;
use crate::{Str, Timestamp, base64};

/// A dead letter keeps at most this much of its payload.
pub const DEAD_LETTER_PAYLOAD_BYTES_MAX: usize = 4 * 1024;

/// Can tell of an input that was refused after decoding.
pub trait Origin {
    /// The dead letter for this input.
    fn dead_letter(&self, error: DecodeError) -> DeadLetter;
}

/// A message that could not become a record.
///
/// Written as JSON it has these fields under their names, those that are there. `payload` is text; where the bytes are
/// not UTF-8 it is lossy, and `payload_base64` has them as they are. `properties` are pairs of a name and a value.
/// `record` is a pair of two numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where it came from: the MQTT topic, or the file's path. Of a result: the sink.
    pub topic: Str,
    /// Why it was refused, as counted.
    pub cause: Cause,
    /// The same for a person: which field, what was found, what was expected.
    pub reason: String,
    /// The byte of the payload at which it was refused, where there is one.
    pub position: Option<u64>,
    /// The partition of the source, by its id; `None` for what an operator refused.
    pub partition: Option<Str>,
    /// Where it stands in its partition: the byte at which the payload begins in its file, or a log's number of the
    /// message.
    pub offset: Option<u64>,
    /// The number of its line in its file, from 1.
    pub line: Option<u64>,
    /// Of a message that holds several records: which of them this one is, from 1, and how many there are.
    /// `payload` is the whole message, so sending the letter again sends the other
    /// records again, too. `None` where the message holds nothing else.
    pub record: Option<(u32, u32)>,
    /// When it arrived.
    pub received: Timestamp,
    /// The quality of service with which it came, of MQTT.
    pub qos: Option<u8>,
    /// It was a stored snapshot.
    pub retained: bool,
    /// What its sender put beside the payload, in order: user properties of MQTT.
    pub properties: Vec<Header>,
    /// The length of the whole payload.
    pub payload_bytes: u64,
    /// The payload, up to [`DEAD_LETTER_PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = String::from_utf8_lossy(&self.payload);
        let is_text = matches!(text, Cow::Borrowed(_));
        let mut out = serializer.serialize_struct("DeadLetter", 15)?;
        out.serialize_field("topic", &self.topic)?;
        out.serialize_field("cause", &self.cause)?;
        out.serialize_field("reason", &self.reason)?;
        out.serialize_field("position", &self.position)?;
        out.serialize_field("partition", &self.partition)?;
        out.serialize_field("offset", &self.offset)?;
        if let Some(line) = self.line {
            out.serialize_field("line", &line)?;
        }
        if let Some(record) = self.record {
            out.serialize_field("record", &record)?;
        }
        out.serialize_field("received", &self.received)?;
        if let Some(qos) = self.qos {
            out.serialize_field("qos", &qos)?;
        }
        if self.retained {
            out.serialize_field("retained", &true)?;
        }
        if !self.properties.is_empty() {
            let pair = |header: &Header| {
                (header.name.clone(), String::from_utf8_lossy(&header.value).into_owned())
            };
            out.serialize_field(
                "properties",
                &self.properties.iter().map(pair).collect::<Vec<_>>(),
            )?;
        }
        out.serialize_field("payload_bytes", &self.payload_bytes)?;
        out.serialize_field("payload", &text)?;
        if !is_text {
            out.serialize_field("payload_base64", &base64::encode(&self.payload))?;
        }
        out.end()
    }
}

/// How much of a payload is kept: of text no half of a letter.
fn kept(payload: &[u8]) -> &[u8] {
    if payload.len() <= DEAD_LETTER_PAYLOAD_BYTES_MAX {
        return payload;
    }
    let kept = &payload[..DEAD_LETTER_PAYLOAD_BYTES_MAX];
    match str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() => &kept[..error.valid_up_to()],
        _ => kept,
    }
}

impl DeadLetter {
    /// A result that `sink` (kind and address) cannot pass on, as text or as it would have left.
    pub fn of_result(
        sink: &str,
        reason: impl Into<String>,
        refused: Timestamp,
        result: &[u8],
    ) -> Self {
        Self::of_payload(
            sink,
            DecodeError::new(Cause::ResultRefused, reason, None),
            refused,
            result,
        )
    }

    /// A payload that was refused, cut to what a letter keeps. Its partition and offset are for the caller to add.
    pub(crate) fn of_payload(
        topic: &str,
        error: DecodeError,
        received: Timestamp,
        payload: &[u8],
    ) -> Self {
        Self {
            topic: topic.into(),
            cause: error.cause,
            reason: error.reason,
            position: error.position,
            partition: None,
            offset: None,
            line: None,
            record: None,
            received,
            qos: None,
            retained: false,
            properties: Vec::new(),
            payload_bytes: payload.len() as u64,
            payload: Bytes::copy_from_slice(kept(payload)),
        }
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.topic)?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        if let Some((record, of)) = self.record {
            write!(f, " record {record} of {of}")?;
        }
        write!(f, ": {}: {}", self.cause, self.reason)?;
        if let Some(position) = self.position {
            write!(f, " at byte {position}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_keeps_the_beginning_of_a_long_payload_and_its_length() {
        assert_eq!(DEAD_LETTER_PAYLOAD_BYTES_MAX, 4_096);
        let payload = [b'x'; DEAD_LETTER_PAYLOAD_BYTES_MAX + 1];
        let letter = DeadLetter::of_result("sqlite a.db", "no such table", 9.into(), &payload);
        assert_eq!((letter.payload_bytes, letter.payload.len()), (4_097, 4_096));
        assert_eq!(letter.to_string(), "sqlite a.db: result_refused: no such table");
        let error = DecodeError::new(Cause::TooDeep, "nested", Some(7));
        let letter = DeadLetter::of_payload("topic", error, 9.into(), b"a\xff");
        assert_eq!(letter.to_string(), "topic: too_deep: nested at byte 7");
        let json = serde_json::to_value(&letter).unwrap();
        assert_eq!(
            (json["payload"].as_str(), json["cause"].as_str()),
            (Some("a\u{fffd}"), Some("too_deep"))
        );
        let long = "ä".repeat(DEAD_LETTER_PAYLOAD_BYTES_MAX);
        let letter = DeadLetter::of_result("s", "long", 9.into(), &long.as_bytes()[..4_099]);
        assert_eq!((letter.payload.len(), letter.payload_bytes), (4_096, 4_099));
        let letter = DeadLetter::of_result("s", "long", 9.into(), format!("x{long}").as_bytes());
        assert_eq!(letter.payload.len(), 4_095, "a letter is not cut in two");
    }

    /// Goal: what a message has is there to be sent again, byte by byte.
    #[test]
    fn a_letter_in_json_has_all_that_its_message_had() {
        let error = DecodeError::new(Cause::InvalidUtf8, "no text", None);
        let mut letter = DeadLetter::of_payload("topic", error, 9.into(), b"a\xff");
        let json = serde_json::to_value(&letter).unwrap();
        assert_eq!(json["payload_base64"], "Yf8=");
        for absent in ["line", "record", "qos", "retained", "properties"] {
            assert!(json.get(absent).is_none(), "{json}");
        }
        (letter.line, letter.qos, letter.retained) = (Some(7), Some(2), true);
        letter.properties = vec![Header::new("a", "1"), Header::new("a", "2")];
        letter.payload = Bytes::from_static(b"text");
        let json = serde_json::to_value(&letter).unwrap();
        assert_eq!(
            (&json["line"], &json["qos"], &json["retained"]),
            (&7.into(), &2.into(), &true.into())
        );
        assert_eq!(json["properties"].to_string(), r#"[["a","1"],["a","2"]]"#);
        assert_eq!((&json["payload"], json.get("payload_base64")), (&"text".into(), None));
        assert_eq!(letter.to_string(), "topic line 7: invalid_utf8: no text");
        letter.record = Some((2, 10));
        let json = serde_json::to_value(&letter).unwrap();
        assert_eq!(json["record"].to_string(), "[2,10]");
        assert_eq!(letter.to_string(), "topic line 7 record 2 of 10: invalid_utf8: no text");
    }

    /// Metrics, logs and files of letters call a cause by one name.
    #[test]
    fn each_cause_has_one_name() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
    }
}
