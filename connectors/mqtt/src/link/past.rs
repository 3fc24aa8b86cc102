//! [`Past`]: a message over the limit, which is read past. Pure.
//!
//! A broker of MQTT 5 could be told the limit, and would leave out what is over it: nobody would hear of that message. So it
//! is told of none, as one of 3.1.1. To end the connection would bring the message again with the next one, and all that stands before it. So its bytes are
//! taken in pieces as they come, and all but the first ones are thrown away. What is left is the message with the beginning
//! of its payload, to be acknowledged like any other.

use bytes::{Buf, Bytes, BytesMut};
use thalweg_kernel::dead_letter::DEAD_LETTER_PAYLOAD_BYTES_MAX;

use super::message::{Head, variable};
use super::{Delivery, Trouble};
use crate::config::Version;

/// What is kept of a packet: the longest topic, a few properties, and what a dead letter keeps of the payload.
const KEPT_BYTES_MAX: usize = 80 * 1024;

pub(super) struct Past {
    flags: u8,
    body_bytes: usize,
    /// To come.
    left: usize,
    kept: Vec<u8>,
}

impl Past {
    /// Of the packet that stands first in `from`; takes its first bytes out, up to its body.
    pub(super) fn begin(from: &mut BytesMut) -> Result<Self, Trouble> {
        let flags = from.first().copied().unwrap_or_default();
        if flags >> 4 != 3 {
            let what =
                format!("a packet of type {} is larger than any of that type can be", flags >> 4);
            return Err(Trouble::weather("protocol", what));
        }
        let (length, body_bytes) = variable(from.get(1..).unwrap_or_default())
            .ok_or_else(|| Trouble::weather("protocol", "a packet without a length"))?;
        from.advance(1 + length);
        Ok(Self { flags, body_bytes, left: body_bytes, kept: Vec::new() })
    }

    /// Takes what there is of it out of `from`; whether that was the last.
    pub(super) fn take(&mut self, from: &mut BytesMut) -> bool {
        let piece = from.len().min(self.left);
        let kept = piece.min(KEPT_BYTES_MAX - self.kept.len());
        self.kept.extend_from_slice(&from[..kept]);
        from.advance(piece);
        self.left -= piece;
        self.left == 0
    }

    /// The message, with the beginning of its payload.
    pub(super) fn delivery(self, version: Version) -> Result<Delivery, Trouble> {
        let cut = || Trouble::weather("protocol", "a PUBLISH that is too short within");
        let Head { topic_end, qos, packet_id, payload: at, .. } =
            Head::read(self.flags, &self.kept, version).ok_or_else(cut)??;
        let payload_bytes = self.body_bytes.checked_sub(at).ok_or_else(cut)?;
        let kept = self.kept.get(at..).unwrap_or_default();
        let payload =
            Bytes::copy_from_slice(&kept[..kept.len().min(DEAD_LETTER_PAYLOAD_BYTES_MAX)]);
        Ok(Delivery {
            topic: Bytes::copy_from_slice(&self.kept[2..topic_end]),
            qos,
            packet_id,
            dup: self.flags & 8 != 0,
            retained: self.flags & 1 != 0,
            subscriptions: Vec::new(),
            is_copy: false,
            user_properties: Vec::new(),
            is_cut: true,
            left_out: (payload_bytes - payload.len()) as u64,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Qos;

    fn packet(first: u8, body: &[u8]) -> BytesMut {
        let mut bytes = vec![first];
        let mut left = body.len();
        while left > 127 {
            bytes.push((left & 127) as u8 | 128);
            left >>= 7;
        }
        bytes.push(left as u8);
        bytes.extend_from_slice(body);
        BytesMut::from(&bytes[..])
    }

    /// What becomes of a packet that comes in pieces of this size, with something behind it.
    fn read(mut all: BytesMut, version: Version, piece: usize) -> Delivery {
        all.extend_from_slice(b"rest");
        let mut from = all.split_to(5.min(all.len()));
        let mut past = Past::begin(&mut from).unwrap_or_else(|trouble| panic!("{trouble:?}"));
        while !past.take(&mut from) {
            assert!(from.is_empty(), "a piece is taken whole");
            from = all.split_to(piece.min(all.len()));
        }
        from.unsplit(all);
        assert_eq!(&from[..], b"rest");
        past.delivery(version).unwrap_or_else(|trouble| panic!("{trouble:?}"))
    }

    #[test]
    fn the_beginning_is_kept_and_the_rest_is_counted() {
        let payload: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        for (version, properties) in [(Version::V311, &[][..]), (Version::V5, &[3, 0x23, 0, 9])] {
            for (first, id, qos) in [
                (0x30, &[][..], Qos::AtMostOnce),
                (0x33, &[1, 2], Qos::AtLeastOnce),
                (0x34, &[1, 2], Qos::ExactlyOnce),
            ] {
                let body = [&[0, 3], &b"a/b"[..], id, properties, &payload].concat();
                for piece in [1_000, 4_097, 1_000_000] {
                    let delivery = read(packet(first, &body), version, piece);
                    assert_eq!((&delivery.topic[..], delivery.qos), (&b"a/b"[..], qos));
                    assert_eq!(delivery.packet_id, if id.is_empty() { 0 } else { 258 });
                    assert_eq!(delivery.retained, first & 1 == 1);
                    assert_eq!(delivery.payload, payload[..DEAD_LETTER_PAYLOAD_BYTES_MAX]);
                    assert_eq!(delivery.left_out + delivery.payload.len() as u64, 200_000);
                }
            }
        }
        // A limit below what a dead letter keeps: nothing of the payload is left out, and its properties are.
        let delivery = read(packet(0x30, &[0, 1, b'a', 3, 0x23, 0, 9, b'x']), Version::V5, 9);
        assert_eq!(
            (&delivery.payload[..], delivery.left_out, delivery.is_cut),
            (&b"x"[..], 0, true)
        );
        // Properties that take all room leave none for the payload.
        let properties = [&[0x80, 0xb5, 0x18], &[0; 400_000][..]].concat();
        let delivery = read(
            packet(0x30, &[&[0, 1, b'a'], &properties[..], b"xy"].concat()),
            Version::V5,
            9_999,
        );
        assert_eq!((delivery.payload.len(), delivery.left_out), (0, 2));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(Past::begin(&mut packet(0x90, &[0; 300])).is_err());
        assert!(Past::begin(&mut BytesMut::from(&[0x30, 255, 255, 255, 255][..])).is_err());
        for body in [&[][..], &[0], &[0, 9, b'a'], &[0, 1, b'a', 0], &[0, 1, b'a', 0, 1]] {
            let mut from = packet(0x32, body);
            let mut past = Past::begin(&mut from).unwrap_or_else(|trouble| panic!("{trouble:?}"));
            assert!(past.take(&mut from) && past.delivery(Version::V5).is_err(), "{body:?}");
        }
    }
}
