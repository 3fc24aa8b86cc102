//! The bytes of a segment: its header, its records. Numbers are little-endian.
//!
//! ```text
//! segment = header record* zeros            as long as its header says, or longer
//!
//! header  = 512 bytes: one sector, so it is written whole or not at all
//!    0  8  magic "THALWEGJ"
//!    8  2  version: 1
//!   10  6  zero
//!   16  8  the journal's name, hashed (FNV-1a, 64 bits)
//!   24  8  the number of the first record; also the file's name, in 20 decimal digits: N.segment
//!   32  8  tag: chosen at random when the journal was made, the same in all its segments
//!   40  8  bytes of the segment, header included
//!   48     zero
//!  508  4  CRC32C of the bytes before
//!
//! record  = a multiple of 8 bytes
//!    0  4  checksum: CRC32C of tag (8), number (8), the header's bytes 4 to 13, two zeros, its bytes
//!          16 to 23, the content and its padding; 0xFFFF_FFFF where that is 0, so that no record begins
//!          like zeros
//!    4  4  length of its content
//!    8  4  low 32 bits of its number, exclusive-or the low 32 bits of the tag
//!   12  2  index: how many records precede it in its group
//!   14  2  the header's own check: the low 16 bits of the same CRC before content and padding
//!   16  8  when it was received, milliseconds since 1970, signed
//!   24     its content, then zeros up to a multiple of 8
//! ```
//! *Why the tag.* A content may look like a record, by accident or by malice. It cannot look like a
//! record of *this* journal: that takes the tag, which never leaves the file.
//!
//! *Why the index.* Number minus index is where the record's group began. Recovery needs to know
//! whether two records were written together (`scan`).
//!
//! *Why the header has a check of its own.* Where the content is incomplete, recovery must know how far it would
//! have reached. So it must know whether the length can be trusted.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{JournalRecord, Timestamp};

/// A segment's header, in bytes. Records follow it.
pub const HEADER_BYTES: u64 = 512;
/// What a record takes beside its content, in bytes; its sum is rounded up to a multiple of 8.
pub const RECORD_HEADER_BYTES: usize = 24;
/// What a device writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// The most records of a group: what an index can tell apart.
pub const GROUP_RECORDS_MAX: u32 = 1 << 16;
/// The ending of a segment's file name.
pub(crate) const SEGMENT_SUFFIX: &str = ".segment";

const MAGIC: &[u8; 8] = b"THALWEGJ";
const VERSION: u16 = 1;
const HEADER_CRC_AT: usize = 508;
const ALIGN_BYTES: usize = 8;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name_hash: u64,
    /// The number of the first record.
    pub(crate) first: u64,
    pub(crate) tag: u64,
    /// Bytes of the segment, this header included.
    pub(crate) size: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        for (at, value) in [(16, self.name_hash), (24, self.first), (32, self.tag), (40, self.size)]
        {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..HEADER_CRC_AT]);
        bytes[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(bytes) = bytes.get(..HEADER_BYTES as usize) else {
            return Err("it is shorter than a header");
        };
        if &bytes[..8] != MAGIC {
            return Err("it does not begin as a segment does");
        }
        if crc32c::crc32c(&bytes[..HEADER_CRC_AT]) != u32_at(bytes, HEADER_CRC_AT) {
            return Err("its header's checksum is wrong");
        }
        if u16_at(bytes, 8) != VERSION {
            return Err("its format is of another version than this program knows");
        }
        let [name_hash, first, tag, size] = [16, 24, 32, 40].map(|at| u64_at(bytes, at));
        Ok(Self { name_hash, first, tag, size })
    }
}

/// The name of the file whose first record has this number.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}{SEGMENT_SUFFIX}")
}

/// The number of the first record of a file of this name, if it is a segment's.
pub(crate) fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// FNV-1a: short, fixed for ever, and good enough to tell a misplaced file.
pub(crate) fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What a record with a content of this length takes in a segment.
#[inline]
pub(crate) const fn record_size(content_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + content_bytes).next_multiple_of(ALIGN_BYTES)
}

/// Appends a record to `out`. The content's length fits 32 bits: the caller has checked its bound.
#[inline]
pub(crate) fn encode_record(
    out: &mut Vec<u8>,
    tag: u64,
    position: u64,
    index: u16,
    received: Timestamp,
    content: &[&[u8]],
    content_bytes: usize,
) {
    let start = out.len();
    let mut head = [0; RECORD_HEADER_BYTES];
    head[4..8].copy_from_slice(&(content_bytes as u32).to_le_bytes());
    head[8..12].copy_from_slice(&masked(tag, position).to_le_bytes());
    head[12..14].copy_from_slice(&index.to_le_bytes());
    head[16..].copy_from_slice(&received.as_millis().to_le_bytes());
    let crc = head_crc(&head, tag, position);
    head[14..16].copy_from_slice(&(crc as u16).to_le_bytes());
    out.reserve(record_size(content_bytes));
    out.extend_from_slice(&head);
    for part in content {
        out.extend_from_slice(part);
    }
    out.resize(start + record_size(content_bytes), 0);
    let crc = record_crc(crc, &out[start + RECORD_HEADER_BYTES..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A record as it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) record: JournalRecord<'a>,
    pub(crate) index: u16,
    /// Bytes it takes.
    pub(crate) size: usize,
}

/// Why there is no valid record where one was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// There are only zeros where its header would be: it was never written, or not its beginning.
    Zeros,
    /// It would be this long, and the bytes given are fewer.
    Short(usize),
    /// It is no record with that number.
    Wrong(&'static str),
}

/// The record with number `position` at the beginning of `bytes`.
#[inline]
pub(crate) fn decode_record(bytes: &[u8], tag: u64, position: u64) -> Result<Found<'_>, Bad> {
    let Some(head) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err(Bad::Short(RECORD_HEADER_BYTES));
    };
    if head == &[0; RECORD_HEADER_BYTES] {
        return Err(Bad::Zeros);
    }
    if u32_at(head, 8) != masked(tag, position) {
        return Err(Bad::Wrong("it has another number"));
    }
    let crc = head_crc(head, tag, position);
    if u16_at(head, 14) != crc as u16 {
        return Err(Bad::Wrong("its header's check is wrong"));
    }
    let content_bytes = u32_at(head, 4) as usize;
    let size = record_size(content_bytes);
    let Some(whole) = bytes.get(..size) else { return Err(Bad::Short(size)) };
    let right = u32_at(head, 0) == record_crc(crc, &whole[RECORD_HEADER_BYTES..]);
    if !right && !seeded(Defect::JournalNoCrc) {
        return Err(Bad::Wrong("its checksum is wrong"));
    }
    let received = Timestamp::from_millis(u64_at(head, 16) as i64);
    let content = &whole[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + content_bytes];
    let record = JournalRecord { position, received, bytes: content };
    Ok(Found { record, index: u16_at(head, 12), size })
}

/// The bytes that the record with number `position` would take from here on, if its header is intact.
pub(crate) fn intact_head(bytes: &[u8], tag: u64, position: u64) -> Option<usize> {
    let head = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let intact = u32_at(head, 8) == masked(tag, position)
        && u16_at(head, 14) == head_crc(head, tag, position) as u16;
    intact.then(|| record_size(u32_at(head, 4) as usize))
}

/// The number that a record here claims, if it is less than 2^32 above `at_least`: not yet believed.
#[inline]
pub(crate) fn claimed_position(head: &[u8], tag: u64, at_least: u64) -> u64 {
    let low = u32_at(head, 8) ^ tag as u32;
    at_least + u64::from(low.wrapping_sub(at_least as u32))
}

/// The index that a record here claims: not yet believed.
pub(crate) fn claimed_index(head: &[u8]) -> u16 {
    u16_at(head, 12)
}

/// What checksum and check have in common: the header, but for themselves, bound to its place.
#[inline]
fn head_crc(head: &[u8; RECORD_HEADER_BYTES], tag: u64, position: u64) -> u32 {
    let mut bound = [0; 36];
    bound[..8].copy_from_slice(&tag.to_le_bytes());
    bound[8..16].copy_from_slice(&position.to_le_bytes());
    bound[16..26].copy_from_slice(&head[4..14]);
    bound[28..].copy_from_slice(&head[16..]);
    crc32c::crc32c(&bound)
}

#[inline]
fn record_crc(head_crc: u32, rest: &[u8]) -> u32 {
    match crc32c::crc32c_append(head_crc, rest) {
        0 => u32::MAX,
        crc => crc,
    }
}

fn masked(tag: u64, position: u64) -> u32 {
    position as u32 ^ tag as u32
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_is_seen() {
        let header = Header { name_hash: name_hash("a"), first: 7, tag: 9, size: 4096 };
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Header::decode(&bytes[..511]).is_err());
    }

    #[test]
    fn records_come_back_and_any_flipped_bit_is_seen() {
        let position = u64::from(u32::MAX) + 5;
        for content in [&b""[..], b"12345678", b"123456789"] {
            let (head, tail) = content.split_at(content.len() / 2);
            let mut bytes = Vec::new();
            let received = Timestamp::from_millis(-3);
            encode_record(&mut bytes, 77, position, 2, received, &[head, tail], content.len());
            let found = decode_record(&bytes, 77, position).unwrap();
            assert_eq!(found.record, JournalRecord { position, received, bytes: content });
            assert_eq!((found.index, found.size), (2, bytes.len()));
            assert_eq!(claimed_position(&bytes, 77, position - 9), position);
            assert!(decode_record(&bytes, 78, position).is_err(), "another journal's");
            assert!(decode_record(&bytes, 77, position + (1 << 32)).is_err(), "4 G records away");
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_record(&bytes, 77, position).is_err(), "bit {bit}");
                let head = (32..RECORD_HEADER_BYTES * 8).contains(&bit);
                assert_eq!(intact_head(&bytes, 77, position).is_none(), head, "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn segments_have_names_that_sort_by_number() {
        assert_eq!(segment_name(7), "00000000000000000007.segment");
        assert_eq!(segment_first(&segment_name(u64::MAX)), Some(u64::MAX));
        for other in
            ["spare", "7.segment", "+0000000000000000007.segment", "99999999999999999999.segment"]
        {
            assert_eq!(segment_first(other), None, "{other}");
        }
        assert!(segment_name(9) < segment_name(10));
    }
}
