//! A received message as a record of the journal.
//!
//! The journal keeps the number, the time of receipt, the length and a checksum of each record, and its segments
//! carry the magic. What stands here is only a record's content, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of this format: 1 or 2 |
//! | 1 | bits 0 and 1: QoS; bit 2: retained; bits 6 and 7: what it is, in version 2; others 0 |
//! | 2 | the packet id, in version 2 |
//! | 4 | the topic's length in bytes |
//! | 4 | the number of user properties |
//! | | the topic, UTF-8 |
//! | | each property: 4 bytes length of its name, 4 bytes length of its value, name, value; UTF-8 |
//! | | the payload: all that is left |
//!
//! What it is: 0 for a message. Others end behind the packet id. 1 says that the broker has released this id (PUBREL), 2 that
//! a new session begins, with id 0: see [`known`](super::known).
//!
//! A message whose packet id is of no use after a crash is written in version 1, which has no place for it. That is one of
//! QoS 0, and one of a session that ends with its connection.
//!
//! A later version reads records of earlier ones: a journal outlives the program that wrote it.

use crate::config::Qos;

/// The version without packet ids.
const PLAIN: u8 = 1;
/// The latest version.
const VERSION: u8 = 2;
const HEADER_BYTES: usize = 12;
const RETAINED: u8 = 1 << 2;
/// What a record of version 2 is.
const KIND_SHIFT: u32 = 6;
const RELEASED: u8 = 1 << KIND_SHIFT;
const BEGUN: u8 = 2 << KIND_SHIFT;

/// What a record of the journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A message came.
    Message(Record<'a>),
    /// The broker will not send the message of this packet id again.
    Released(u16),
    /// The broker has begun a new session: packet ids before it mean nothing.
    Begun,
}

impl<'a> Content<'a> {
    /// Reads the content of a journal's record.
    ///
    /// # Errors
    /// If it is of a later version, or no such record.
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordUnreadable> {
        let cut = || RecordUnreadable::new("it ends too early");
        let [version, flags, ref rest @ ..] = *bytes else { return Err(cut()) };
        let (packet_id, rest) = match (version, rest) {
            (PLAIN, rest) => (0, rest),
            (VERSION, [low, high, rest @ ..]) => (u16::from_le_bytes([*low, *high]), rest),
            (VERSION, _) => return Err(cut()),
            _ => return Err(RecordUnreadable::version(version)),
        };
        match flags >> KIND_SHIFT {
            _ if version == PLAIN => {}
            0 => {}
            1 => return Ok(Self::Released(packet_id)),
            2 => return Ok(Self::Begun),
            _ => return Err(RecordUnreadable::new("it is of a kind that is not known")),
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
        Ok(Self::Message(Record { topic, payload: rest.0, qos, retained, packet_id, properties }))
    }
}

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
    /// The packet id it came with; 0 if that is of no use.
    pub packet_id: u16,
    properties: Properties<'a>,
}

impl<'a> Record<'a> {
    /// Reads a journal's record that is a message.
    ///
    /// # Errors
    /// If it is of a later version, or no message.
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordUnreadable> {
        match Content::read(bytes)? {
            Content::Message(record) => Ok(record),
            _ => Err(RecordUnreadable::new("it is a note of the receiver, and no message")),
        }
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
    packet_id: u16,
    properties: &[(String, String)],
    out: &mut Vec<u8>,
) -> Option<()> {
    let length = |bytes: usize| u32::try_from(bytes).ok().map(u32::to_le_bytes);
    out.clear();
    out.reserve(HEADER_BYTES + topic.len());
    out.push(if packet_id == 0 { PLAIN } else { VERSION });
    out.push(qos as u8 | if retained { RETAINED } else { 0 });
    if packet_id != 0 {
        out.extend_from_slice(&packet_id.to_le_bytes());
    }
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

/// The record that says that this packet id is released.
pub(crate) const fn released(packet_id: u16) -> [u8; 4] {
    let [low, high] = packet_id.to_le_bytes();
    [VERSION, RELEASED, low, high]
}

/// The record that says that a session begins.
pub(crate) const SESSION_BEGUN: [u8; 4] = [VERSION, BEGUN, 0, 0];

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

    fn write((topic, qos, retained, properties, payload): &Owned, packet_id: u16) -> Vec<u8> {
        let mut bytes = vec![9; 3];
        write_head(topic, *qos, *retained, packet_id, properties, &mut bytes).unwrap();
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
            for packet_id in [0, 1, 258, 65_535] {
                let bytes = write(&sample, packet_id);
                let record = Record::read(&bytes).unwrap();
                assert_eq!((owned(&record), record.packet_id), (sample.clone(), packet_id));
            }
        }
    }

    #[test]
    fn what_becomes_of_packet_ids_is_no_message() {
        for id in [1, 258, 65_535] {
            assert_eq!(Content::read(&released(id)), Ok(Content::Released(id)));
            assert!(Record::read(&released(id)).unwrap_err().to_string().contains("a note"));
        }
        assert_eq!(Content::read(&SESSION_BEGUN), Ok(Content::Begun));
        let unknown = Content::read(&[VERSION, 3 << KIND_SHIFT, 0, 0]).unwrap_err();
        assert!(unknown.to_string().contains("a kind that is not known"), "{unknown}");
    }

    /// Goal: later versions read what this one wrote, and this one what earlier ones did.
    /// To write the files anew: `THALWEG_GOLDEN=write cargo test -p thalweg-mqtt --lib record`.
    #[test]
    fn the_formats_are_those_of_the_golden_files() {
        for (version, packet_id) in [(PLAIN, 0), (VERSION, 258)] {
            let path = format!("{}/tests/golden/record-v{version}.hex", env!("CARGO_MANIFEST_DIR"));
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut lines: Vec<String> =
                samples().iter().map(|sample| hex(&write(sample, packet_id))).collect();
            if version == VERSION {
                lines.extend([hex(&released(packet_id)), hex(&SESSION_BEGUN)]);
            }
            if std::env::var("THALWEG_GOLDEN").is_ok_and(|what| what == "write") {
                std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            }
            let golden = std::fs::read_to_string(path).unwrap();
            assert_eq!(golden.lines().collect::<Vec<_>>(), lines);
            for (line, sample) in golden.lines().zip(samples()) {
                let bytes: Vec<u8> = (0..line.len() / 2)
                    .map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap())
                    .collect();
                let record = Record::read(&bytes).unwrap();
                assert_eq!((owned(&record), record.packet_id), (sample, packet_id));
            }
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused_and_never_a_panic() {
        for (sample, packet_id) in samples().into_iter().flat_map(|s| [(s.clone(), 0), (s, 7)]) {
            let bytes = write(&sample, packet_id);
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
        let error = Record::read(&[3, 0]).unwrap_err().to_string();
        assert!(error.contains("its format is 3") && error.contains("later"), "{error}");
        for head in [&[1, 0][..], &[2, 0, 1, 0]] {
            assert!(Record::read(&[head, &[255; 8]].concat()).is_err());
        }
    }
}
