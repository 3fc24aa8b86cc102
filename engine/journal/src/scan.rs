//! Where a journal ends after a crash, and whether what lies behind its end is a torn write or damage.
//!
//! # What is known
//! 1. A segment was zeros, durably, before the first record was written into it.
//! 2. A group is written only after the group before it has been synced. So at any crash **at most one
//!    group is not durable: the last**. Everything before it was promised and must be there.
//! 3. A segment is begun only after the last group of the one before was synced. So only the last segment
//!    can end in a torn group; all others are complete.
//! 4. What was not synced is, sector by sector (512 bytes), the old content or the new. Behind the last
//!    durable group the old content is zeros (1).
//!
//! # What follows
//! Records are read from the segment's beginning until one is bad. Behind that place,
//! - only zeros: the journal ends there;
//! - a valid record whose group began *after* the bad record's number: by (2) the bad one was durable, so it is
//!   **damaged**. A valid record of its own group says nothing: its sectors arrived, others did not;
//! - no sector is missing: each sector that the bad record touches, from the place on, holds something
//!   other than zeros. By (4) it was written whole, so it is **damaged**. This finds a flipped bit even
//!   in the very last group, which was perhaps acknowledged and has no later group to testify for it;
//! - otherwise a sector of it never arrived: the tail is **torn**. Nothing in it was ever reported as durable.
//!   Zeros are written over it and synced before anything else is written, so that (1) and (4) hold again. A crash
//!   meanwhile leaves a torn tail again.
//!
//! Two things in the last group cannot be told from a torn tail. One is a flipped bit in a record that has a whole
//! sector of zeros as its content. The other is damage that turns a sector into zeros. Both are cut, with their
//! bytes reported.
//!
//! # After a failed sync
//! The page cache may show bytes that never reached the disk, and a later sync would succeed without
//! writing them. So recovery writes the last group again before it calls it durable.

use crate::format::{
    Bad, HEADER_BYTES, Header, RECORD_HEADER_BYTES, SECTOR_BYTES, claimed_index, claimed_position,
    decode_record, intact_head,
};

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The offset behind the last valid record.
    pub(crate) offset: usize,
    /// The position behind it.
    pub(crate) position: u64,
    /// The offset of the group that it is part of; [`Self::offset`] where there is no record.
    pub(crate) group: usize,
    /// What lies behind it.
    pub(crate) tail: Tail,
}

/// What lies behind the last valid record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeros.
    Clean,
    /// A group that was not written whole, and the number of bytes up to its last one that is not zero.
    Torn(usize),
    /// Records that were durable and cannot be read, for this reason.
    Damaged(Damage),
}

/// Why a bad record is no torn write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// This record, of a later group, follows.
    Followed(u64),
    /// It was written whole, and this is wrong with it.
    Whole(&'static str),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Followed(position) => {
                write!(f, "record {position} follows, which was written after it was durable")
            }
            Self::Whole(why) => write!(f, "it was written whole, but {why}"),
        }
    }
}

/// Reads a whole segment (`bytes`: as many as its header says).
pub(crate) fn scan(bytes: &[u8], header: &Header) -> Scanned {
    let mut offset = HEADER_BYTES as usize;
    let mut position = header.first;
    let mut group = offset;
    let bad = loop {
        match decode_record(&bytes[offset..], header.tag, position) {
            Ok(found) => {
                if found.index == 0 {
                    group = offset;
                }
                offset += found.size;
                position += 1;
            }
            Err(bad) => break bad,
        }
    };
    let tail = judge(bytes, offset, position, header.tag, bad);
    Scanned { offset, position, group, tail }
}

/// What a bad record at `offset`, where `position` was expected, means.
fn judge(bytes: &[u8], offset: usize, position: u64, tag: u64, bad: Bad) -> Tail {
    let Some(last) = bytes[offset..].iter().rposition(|&byte| byte != 0) else {
        return Tail::Clean;
    };
    let end = offset + last + 1;
    if let Some(later) = later_group(bytes, offset, end, position, tag) {
        return Tail::Damaged(Damage::Followed(later));
    }
    let head_end = offset + RECORD_HEADER_BYTES;
    if head_end > bytes.len() {
        // So close to its end no record was ever begun.
        return Tail::Damaged(Damage::Whole("no record fits there"));
    }
    if missing_sector(bytes, offset, offset, head_end) {
        return Tail::Torn(last + 1);
    }
    // The header was written whole, so its check holds, and with it the length.
    let end_of_record = intact_head(&bytes[offset..], tag, position).map(|size| offset + size);
    match (end_of_record, bad) {
        (Some(end), _) if end > bytes.len() => {
            Tail::Damaged(Damage::Whole("it would reach behind the segment's end"))
        }
        (Some(end), _) if missing_sector(bytes, offset, head_end, end) => Tail::Torn(last + 1),
        (_, Bad::Wrong(why)) => Tail::Damaged(Damage::Whole(why)),
        (_, Bad::Zeros | Bad::Short(_)) => Tail::Damaged(Damage::Whole("it is none")),
    }
}

/// Whether one of the sectors that hold `from..to` is zeros: as far as it lies behind `start`, since
/// what lies before is older.
fn missing_sector(bytes: &[u8], start: usize, from: usize, to: usize) -> bool {
    if from == to {
        return false;
    }
    let first = from / SECTOR_BYTES;
    let last = (to - 1) / SECTOR_BYTES;
    (first..=last).any(|sector| {
        let from = (sector * SECTOR_BYTES).max(start);
        let to = ((sector + 1) * SECTOR_BYTES).min(bytes.len());
        bytes[from..to].iter().all(|&byte| byte == 0)
    })
}

/// The number of a valid record behind `offset` whose group began after `position`.
fn later_group(bytes: &[u8], offset: usize, end: usize, position: u64, tag: u64) -> Option<u64> {
    let mut at = offset + 8;
    while at < end {
        let head = bytes.get(at..at + RECORD_HEADER_BYTES)?;
        let claimed = claimed_position(head, tag, position);
        // No more records than that fit in between; the mask makes a false claim rare.
        let most = position + ((at - offset) / RECORD_HEADER_BYTES) as u64;
        if claimed > position
            && claimed <= most
            && claimed - u64::from(claimed_index(head)).min(claimed) > position
            && decode_record(&bytes[at..], tag, claimed).is_ok()
        {
            return Some(claimed);
        }
        at += 8;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::encode_record;
    use thalweg_kernel::Timestamp;

    const HEADER: Header =
        Header { name_hash: 1, first: 10, tag: 0x1234_5678_9abc_def0, size: 4096 };

    /// A segment with these groups of contents; the offsets of its records, and of its end.
    fn segment(groups: &[&[&[u8]]]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = HEADER.encode().to_vec();
        let mut offsets = vec![];
        let mut position = HEADER.first;
        for group in groups {
            for (index, content) in group.iter().enumerate() {
                offsets.push(bytes.len());
                let time = Timestamp::from_millis(1);
                let index = index as u16;
                encode_record(
                    &mut bytes,
                    HEADER.tag,
                    position,
                    index,
                    time,
                    &[content],
                    content.len(),
                );
                position += 1;
            }
        }
        offsets.push(bytes.len());
        bytes.resize(HEADER.size as usize, 0);
        (bytes, offsets)
    }

    #[test]
    fn a_whole_segment_ends_where_its_zeros_begin() {
        let (bytes, offsets) = segment(&[&[b"a"], &[b"b", b"c"]]);
        let scanned = scan(&bytes, &HEADER);
        let expected =
            Scanned { offset: offsets[3], position: 13, group: offsets[1], tail: Tail::Clean };
        assert_eq!(scanned, expected);
        let (bytes, offsets) = segment(&[]);
        let expected =
            Scanned { offset: offsets[0], position: 10, group: offsets[0], tail: Tail::Clean };
        assert_eq!(scan(&bytes, &HEADER), expected);
    }

    #[test]
    fn a_bad_record_before_a_later_group_is_damage_and_before_its_own_is_not() {
        let long = [7; 1200];
        let (mut bytes, offsets) = segment(&[&[&long, &long, b"x"], &[b"y"]]);
        // The second sector of record 11 is gone; 12 is of its group, 13 of the next.
        let sector = offsets[1].next_multiple_of(512);
        bytes[sector..sector + 512].fill(0);
        assert_eq!(scan(&bytes, &HEADER).tail, Tail::Damaged(Damage::Followed(13)));
        bytes[offsets[3]..].fill(0);
        let scanned = scan(&bytes, &HEADER);
        assert_eq!(scanned.position, 11);
        assert!(matches!(scanned.tail, Tail::Torn(_)), "{scanned:?}");
    }

    #[test]
    fn a_flipped_bit_in_the_last_group_is_damage_where_no_sector_is_missing() {
        let (mut bytes, offsets) = segment(&[&[b"a"], &[b"b"]]);
        bytes[offsets[1] + 24] ^= 1;
        let scanned = scan(&bytes, &HEADER);
        assert_eq!(scanned.tail, Tail::Damaged(Damage::Whole("its checksum is wrong")));
        bytes[offsets[1]..].fill(0);
        assert_eq!(scan(&bytes, &HEADER).tail, Tail::Clean);
    }

    #[test]
    fn a_content_that_looks_like_a_record_of_another_journal_means_nothing() {
        let mut forged = Vec::new();
        encode_record(&mut forged, 0, 12, 0, Timestamp::from_millis(1), &[b"forged"], 6);
        let mut content = vec![9; 496];
        content.extend_from_slice(&forged);
        let (mut bytes, offsets) = segment(&[&[&content]]);
        bytes[offsets[0]..1024].fill(0);
        assert!(matches!(scan(&bytes, &HEADER).tail, Tail::Torn(_)));
    }

    #[test]
    fn something_where_nothing_was_ever_begun_is_reported() {
        let (mut bytes, offsets) = segment(&[&[&[1; 3536]]]);
        assert_eq!(offsets[1], 4072);
        assert_eq!(scan(&bytes, &HEADER).tail, Tail::Clean);
        let (short, _) = segment(&[&[&[1; 3544]]]);
        assert_eq!(scan(&short, &HEADER).tail, Tail::Clean, "16 bytes are left");
        bytes[4095] = 1;
        assert!(matches!(scan(&bytes, &HEADER).tail, Tail::Damaged(_)));
    }
}
