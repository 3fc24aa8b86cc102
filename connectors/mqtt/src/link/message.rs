//! A PUBLISH that comes in. Pure.
//!
//! The codec does not read it, since a text in it that is not UTF-8 must not end the connection. The broker would send that
//! message again on the next one, for ever, and all that stands behind it would wait. Such a text is read as well as can be.

use bytes::{Buf, BytesMut};

use super::{Delivery, Incoming, Trouble};
use crate::config::{Qos, Version};

/// Takes the PUBLISH out that stands first in `from`, if it is all there.
#[inline]
pub(super) fn read(
    from: &mut BytesMut,
    version: Version,
    bytes_max: u32,
) -> Result<Option<Incoming>, Trouble> {
    let Some((length, body_bytes)) = variable(&from[1..]) else {
        return if from.len() < 5 { Ok(None) } else { Err(broken("a PUBLISH without a length")) };
    };
    if body_bytes > bytes_max as usize {
        return Ok(Some(Incoming::TooLarge));
    }
    let end = 1 + length + body_bytes;
    if from.len() < end {
        from.reserve(end - from.len());
        return Ok(None);
    }
    let flags = from[0];
    let mut body = from.split_to(end).freeze();
    body.advance(1 + length);
    let head = Head::read(flags, &body, version).ok_or_else(|| broken("a PUBLISH cut short"))??;
    if head.payload > body.len() {
        return Err(broken("properties cut short"));
    }
    let (mut user_properties, mut subscriptions) = (Vec::new(), Vec::new());
    if !head.properties.is_empty() {
        (user_properties, subscriptions) = properties(&body[head.properties.clone()])?;
    }
    let topic = body.slice(2..head.topic_end);
    body.advance(head.payload);
    Ok(Some(Incoming::Delivery(Delivery {
        topic,
        payload: body,
        qos: head.qos,
        packet_id: head.packet_id,
        dup: flags & 8 != 0,
        retained: flags & 1 != 0,
        subscriptions,
        is_copy: false,
        user_properties,
        is_cut: false,
        left_out: 0,
    })))
}

/// What stands before the payload.
pub(super) struct Head {
    pub(super) topic_end: usize,
    pub(super) qos: Qos,
    pub(super) packet_id: u16,
    pub(super) properties: std::ops::Range<usize>,
    /// Where the payload begins, which may be behind what there is.
    pub(super) payload: usize,
}

impl Head {
    /// Reads it from the beginning of a body, which may end in the properties; `None` if it ends before them.
    #[inline]
    pub(super) fn read(flags: u8, body: &[u8], version: Version) -> Option<Result<Self, Trouble>> {
        let number = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        let topic_end = 2 + usize::from(number(0)?);
        body.get(topic_end.checked_sub(1)?)?;
        let (mut at, mut packet_id) = (topic_end, 0);
        let qos = match (flags >> 1) & 3 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            2 => Qos::ExactlyOnce,
            _ => return Some(Err(broken("a PUBLISH with QoS 3"))),
        };
        if qos != Qos::AtMostOnce {
            packet_id = number(at)?;
            at += 2;
            if packet_id == 0 {
                return Some(Err(broken("a PUBLISH with packet id 0")));
            }
        }
        let mut properties = at..at;
        if version == Version::V5 {
            let (length, bytes) = variable(body.get(at..)?)?;
            properties = at + length..at + length + bytes;
        }
        let payload = properties.end;
        Some(Ok(Self { topic_end, qos, packet_id, properties, payload }))
    }
}

/// The user properties among these, and the identifiers of subscriptions.
#[allow(clippy::type_complexity)]
fn properties(mut rest: &[u8]) -> Result<(Vec<(String, String)>, Vec<usize>), Trouble> {
    let (mut found, mut subscriptions) = (Vec::new(), Vec::new());
    let cut = || broken("properties cut short");
    while rest.has_remaining() {
        let kind = rest.get_u8();
        let bytes = match kind {
            0x01 => 1,
            0x02 => 4,
            0x03 | 0x08 | 0x09 => 2 + usize::from(peek(rest).ok_or_else(cut)?),
            0x0b => {
                let (bytes, identifier) = variable(rest).ok_or_else(cut)?;
                subscriptions.push(identifier);
                bytes
            }
            0x23 => 2,
            0x26 => {
                let mut text = || -> Option<String> {
                    let bytes = usize::from(peek(rest)?);
                    let text = rest.get(2..2 + bytes)?;
                    let text = String::from_utf8_lossy(text).into_owned();
                    rest.advance(2 + bytes);
                    Some(text)
                };
                found.push(text().zip(text()).ok_or_else(cut)?);
                0
            }
            _ => return Err(broken(&format!("a PUBLISH with property {kind}"))),
        };
        if rest.remaining() < bytes {
            return Err(cut());
        }
        rest.advance(bytes);
    }
    Ok((found, subscriptions))
}

fn peek(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

#[cold]
fn broken(what: &str) -> Trouble {
    Trouble::weather("protocol", format!("the broker has sent {what}"))
}

/// A number of one to four bytes, and how many these are.
#[inline]
pub(super) fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return Some((at + 1, value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8], version: Version) -> Result<Option<Delivery>, Trouble> {
        let mut from = BytesMut::from(bytes);
        match read(&mut from, version, 1_000)? {
            Some(Incoming::Delivery(delivery)) => {
                assert!(from.is_empty());
                Ok(Some(delivery))
            }
            Some(_) => panic!("too large"),
            None => Ok(None),
        }
    }

    #[test]
    fn messages_are_read_and_never_before_they_are_all_there() {
        let old = b"\x3b\x08\x00\x03a/b\x01\x02x".as_slice();
        let new = b"\x34\x1c\x00\x01a\x01\x02\x14\x01\x01\x02\x00\x00\x00\x09\x0b\x80\x01\x26\x00\x02id\x00\x03\xffyzpq";
        for (bytes, version) in [(old, Version::V311), (new, Version::V5)] {
            for end in 1..bytes.len() {
                assert!(read_all(&bytes[..end], version).unwrap().is_none(), "{end}");
            }
            let met = read_all(bytes, version).unwrap().unwrap();
            assert_eq!((met.packet_id, met.left_out), (258, 0));
            match version {
                Version::V311 => {
                    assert_eq!((&*met.topic, &*met.payload), (&b"a/b"[..], &b"x"[..]));
                    assert!(met.retained && met.qos == Qos::AtLeastOnce);
                }
                Version::V5 => {
                    assert_eq!((&*met.topic, &*met.payload), (&b"a"[..], &b"pq"[..]));
                    assert!(!met.retained && met.qos == Qos::ExactlyOnce);
                    let properties = [("id".to_owned(), "\u{fffd}yz".to_owned())];
                    assert_eq!(met.user_properties, properties, "as well as can be");
                }
            }
        }
        let empty = read_all(b"\x30\x02\x00\x00", Version::V311).unwrap().unwrap();
        assert!(empty.topic.is_empty() && empty.payload.is_empty());
    }

    #[test]
    fn what_is_none_ends_the_connection_and_is_never_a_panic() {
        for (bytes, version) in [
            (&b"\x36\x05\x00\x01a\x00\x01"[..], Version::V311),
            (b"\x32\x05\x00\x01a\x00\x00", Version::V311),
            (b"\x30\x03\x00\x02a", Version::V311),
            (b"\x30\x01\x00", Version::V311),
            (b"\x30\x03\x00\x01a", Version::V5),
            (b"\x30\x05\x00\x01a\x01\x7f", Version::V5),
            (b"\x30\x06\x00\x01a\x02\x02\x00", Version::V5),
            (b"\x30\x06\x00\x01a\x09\x26\x00", Version::V5),
            (b"\x30\xff\xff\xff\xff", Version::V311),
        ] {
            assert!(read_all(bytes, version).is_err(), "{bytes:?}");
        }
        let mut from = BytesMut::from(&b"\x30\xe9\x07"[..]);
        let met = read(&mut from, Version::V5, 1_000);
        assert!(matches!(met, Ok(Some(Incoming::TooLarge))) && from.len() == 3, "untouched");
    }
}
