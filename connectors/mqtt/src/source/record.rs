//! A received message as a record of the journal.
//!
//! The journal keeps the number, the time of receipt, the length and a checksum of each record, and its segments
//! carry the magic. What stands here is only a record's content, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of this format: 1 |
//! | 1 | bits 0 and 1: QoS; bit 2: retained; others 0 |
//! | 4 | the topic's length in bytes |
//! | 4 | the number of user properties |
//! | | the topic, UTF-8 |
//! | | each property: 4 bytes length of its name, 4 bytes length of its value, name, value; UTF-8 |
//! | | the payload: all that is left |
//!
//! A later version reads records of earlier ones: a journal outlives the program that wrote it.

use crate::config::Qos;

/// The version that is written.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 10;
const RETAINED: u8 = 1 << 2;

/// A message as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The topic it came on.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// The quality of service it came with.
    pub qos: Qos,
    /// Whether it was a stored snapshot, not a live event.
    pub retained: bool,
    properties: Properties<'a>,
}

impl<'a> Record<'a> {
    /// Reads the content of a journal's record.
    ///
    /// # Errors
    /// If it is of a later version, or no such record.
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordUnreadable> {
        let cut = || RecordUnreadable::new("it ends too early");
        let [version, flags, ref rest @ ..] = *bytes else { return Err(cut()) };
        if version != VERSION {
            return Err(RecordUnreadable::version(version));
        }
        let qos = match flags & 3 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            2 => Qos::ExactlyOnce,
            _ => return Err(RecordUnreadable::new("its QoS is 3")),
        };
        let mut rest = Rest(rest);
        let topic_bytes = rest.length().ok_or_else(cut)?;
        let count = rest.length().ok_or_else(cut)?;
        let topic = rest.text(topic_bytes)?;
        let properties = Properties { rest: Rest(rest.0), left: count };
        for _ in 0..count {
            rest.property()?;
        }
        let retained = flags & RETAINED != 0;
        Ok(Self { topic, payload: rest.0, qos, retained, properties })
    }

    /// Its MQTT 5 user properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.properties.clone()
    }
}

/// What was checked when the record was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Properties<'a> {
    rest: Rest<'a>,
    left: usize,
}

impl<'a> Iterator for Properties<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.rest.property().ok()
    }
}

/// Bytes not yet read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn length(&mut self) -> Option<usize> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*length) as usize)
    }

    fn text(&mut self, bytes: usize) -> Result<&'a str, RecordUnreadable> {
        let split = self.0.split_at_checked(bytes);
        let (text, rest) = split.ok_or_else(|| RecordUnreadable::new("it ends too early"))?;
        self.0 = rest;
        str::from_utf8(text).map_err(|_| RecordUnreadable::new("a text in it is not UTF-8"))
    }

    fn property(&mut self) -> Result<(&'a str, &'a str), RecordUnreadable> {
        let cut = || RecordUnreadable::new("it ends too early");
        let name_bytes = self.length().ok_or_else(cut)?;
        let value_bytes = self.length().ok_or_else(cut)?;
        Ok((self.text(name_bytes)?, self.text(value_bytes)?))
    }
}

/// A record of the journal that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an MQTT message that this version of Thalweg can read: {why}")]
pub struct RecordUnreadable {
    why: String,
}

impl RecordUnreadable {
    #[cold]
    fn new(why: &str) -> Self {
        Self { why: why.to_owned() }
    }

    #[cold]
    fn version(found: u8) -> Self {
        Self::new(&format!(
            "its format is {found}, and up to {VERSION} are known; use the version that wrote it, or a later one"
        ))
    }
}

/// Writes what stands before the payload to `out`, which is emptied first. `None` if a length does not
/// fit its field, which no packet of MQTT can bring about.
pub(crate) fn write_head(
    topic: &str,
    qos: Qos,
    retained: bool,
    properties: &[(String, String)],
    out: &mut Vec<u8>,
) -> Option<()> {
    let length = |bytes: usize| u32::try_from(bytes).ok().map(u32::to_le_bytes);
    out.clear();
    out.reserve(HEADER_BYTES + topic.len());
    out.push(VERSION);
    out.push(qos as u8 | if retained { RETAINED } else { 0 });
    out.extend_from_slice(&length(topic.len())?);
    out.extend_from_slice(&length(properties.len())?);
    out.extend_from_slice(topic.as_bytes());
    for (name, value) in properties {
        out.extend_from_slice(&length(name.len())?);
        out.extend_from_slice(&length(value.len())?);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = (String, Qos, bool, Vec<(String, String)>, Vec<u8>);

    fn samples() -> Vec<Owned> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            ("a".into(), Qos::AtMostOnce, false, vec![], vec![]),
            ("größe/1".into(), Qos::AtLeastOnce, true, vec![pair("seq", "7")], b"x".to_vec()),
            (
                "s/d1/temp".into(),
                Qos::ExactlyOnce,
                false,
                vec![pair("", ""), pair("a", ""), pair("a", "ü")],
                vec![0, 255, 10],
            ),
        ]
    }

    fn write((topic, qos, retained, properties, payload): &Owned) -> Vec<u8> {
        let mut bytes = vec![9; 3];
        write_head(topic, *qos, *retained, properties, &mut bytes).unwrap();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn owned(record: &Record<'_>) -> Owned {
        let properties = record.user_properties().map(|(n, v)| (n.to_owned(), v.to_owned()));
        let (topic, payload) = (record.topic.to_owned(), record.payload.to_vec());
        (topic, record.qos, record.retained, properties.collect(), payload)
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for sample in samples() {
            let bytes = write(&sample);
            assert_eq!(owned(&Record::read(&bytes).unwrap()), sample);
        }
    }

    /// Goal: later versions read what this one wrote.
    /// To write the file anew: `THALWEG_GOLDEN=write cargo test -p thalweg-mqtt --lib record`.
    #[test]
    fn the_format_is_that_of_the_golden_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/record-v1.hex");
        let lines: Vec<String> = samples()
            .iter()
            .map(|sample| write(sample).iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        if std::env::var("THALWEG_GOLDEN").is_ok_and(|what| what == "write") {
            std::fs::write(path, lines.join("\n") + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap();
        assert_eq!(golden.lines().collect::<Vec<_>>(), lines);
        for (line, sample) in golden.lines().zip(samples()) {
            let bytes: Vec<u8> = (0..line.len() / 2)
                .map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            assert_eq!(owned(&Record::read(&bytes).unwrap()), sample);
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused_and_never_a_panic() {
        for sample in samples() {
            let bytes = write(&sample);
            let head = bytes.len() - sample.4.len();
            for end in 0..head {
                assert!(Record::read(&bytes[..end]).is_err(), "{end}");
            }
            for at in 0..head {
                for bit in 0..8 {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1 << bit;
                    let _any = Record::read(&bytes).map(|record| record.user_properties().count());
                }
            }
        }
        let error = Record::read(&[2, 0]).unwrap_err().to_string();
        assert!(error.contains("its format is 2") && error.contains("later"), "{error}");
        let huge = [&[1, 0][..], &[255; 8]].concat();
        assert!(Record::read(&huge).is_err());
    }
}
