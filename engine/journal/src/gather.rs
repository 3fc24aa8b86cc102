//! The open group: what was appended since the last group went, and whether more can be taken.
//!
//! Whether a record may be taken is decided when it comes, not when it is written: what was taken has its place
//! within the cap. So [`Plan`] runs ahead of the disk. It knows the room behind the groups that were handed out,
//! and what all segments will take.

use thalweg_kernel::{JournalError, Timestamp};

use crate::config::JournalConfig;
use crate::format::{GROUP_RECORDS_MAX, HEADER_BYTES, encode_record, record_size};

/// A segment's size is a multiple of this, in bytes: a page.
const PAGE_BYTES: u64 = 4096;

/// Where a group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind what the active segment holds.
    Active,
    /// Into a new segment of this length in bytes.
    Roll(u64),
    /// Into the active segment, which is empty and must first grow to this length in bytes.
    Grow(u64),
}

/// What the segments hold and may hold, after all groups that were handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bytes left in the active segment.
    pub(crate) room: u64,
    /// The active segment's size, if there is one without a record.
    pub(crate) empty: Option<u64>,
    /// Bytes of all segments.
    pub(crate) total: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) cap_bytes: u64,
}

impl Plan {
    /// Where a group of `bytes` would go, and what all segments would then take.
    fn place(&self, bytes: u64) -> (Place, u64) {
        if bytes <= self.room {
            return (Place::Active, self.total);
        }
        let size = self.segment_bytes.max((HEADER_BYTES + bytes).next_multiple_of(PAGE_BYTES));
        match self.empty {
            Some(now) => (Place::Grow(size), self.total - now + size),
            None => (Place::Roll(size), self.total + size),
        }
    }

    #[inline]
    fn fits(&self, bytes: u64) -> bool {
        bytes <= self.room || self.place(bytes).1 <= self.cap_bytes
    }

    fn take(&mut self, bytes: u64) -> Place {
        let (place, total) = self.place(bytes);
        self.room = match place {
            Place::Active => self.room - bytes,
            Place::Roll(size) | Place::Grow(size) => size - HEADER_BYTES - bytes,
        };
        self.empty = None;
        self.total = total;
        place
    }

    /// Whether one more segment may be prepared ahead without passing the cap.
    pub(crate) fn may_prepare(&self) -> bool {
        self.total + self.segment_bytes <= self.cap_bytes
    }
}

/// Records that are written and synced together.
#[derive(Debug)]
pub(crate) struct Group {
    /// The records as they are written.
    pub(crate) bytes: Vec<u8>,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) place: Place,
}

impl Group {
    /// The position behind its last record.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The open group.
#[derive(Debug)]
pub(crate) struct Gather {
    bytes: Vec<u8>,
    first: u64,
    count: u32,
    tag: u64,
    plan: Plan,
    /// Why there is no room for the next segment, if that is known. What is taken has its place on the disk, too: a checkpoint may need
    /// what was taken, and room comes by checkpoints.
    no_room: Option<JournalError>,
    group_bytes_max: usize,
    record_bytes_max: usize,
}

impl Gather {
    pub(crate) fn new(first: u64, tag: u64, plan: Plan, config: &JournalConfig) -> Self {
        Self {
            bytes: Vec::new(),
            first,
            count: 0,
            tag,
            plan,
            no_room: None,
            group_bytes_max: config.group_bytes_max,
            record_bytes_max: config.record_bytes_max,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a group of the usual records would not grow much more.
    pub(crate) fn is_ripe(&self) -> bool {
        self.bytes.len() >= self.group_bytes_max / 2 || self.count >= GROUP_RECORDS_MAX / 2
    }

    /// Whether the open group goes behind what the active segment holds.
    pub(crate) fn fits_active(&self) -> bool {
        self.bytes.len() as u64 <= self.plan.room
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes a record; its number.
    ///
    /// # Errors
    /// `Full` or `Busy` if it has to wait, `TooLarge` if it is; it was not taken then.
    #[inline]
    pub(crate) fn append(
        &mut self,
        received: Timestamp,
        content: &[&[u8]],
    ) -> Result<u64, JournalError> {
        let content_bytes = content.iter().map(|part| part.len()).sum();
        if content_bytes > self.record_bytes_max {
            return Err(too_large(content_bytes, self.record_bytes_max));
        }
        let bytes = self.bytes.len() + record_size(content_bytes);
        // One record may be larger than a group, and is one then.
        let crowded = bytes > self.group_bytes_max || self.count == GROUP_RECORDS_MAX;
        if crowded && self.count > 0 {
            return Err(busy(self.group_bytes_max));
        }
        if !self.plan.fits(bytes as u64) {
            return Err(at_cap(&self.plan));
        }
        if let Some(why) = &self.no_room
            && bytes as u64 > self.plan.room
        {
            return Err(why.clone());
        }
        let position = self.end();
        encode_record(
            &mut self.bytes,
            self.tag,
            position,
            self.count as u16,
            received,
            content,
            content_bytes,
        );
        self.count += 1;
        Ok(position)
    }

    /// Hands out the open group and opens another, in `buffer`.
    pub(crate) fn take(&mut self, mut buffer: Vec<u8>) -> Option<Group> {
        if self.count == 0 {
            return None;
        }
        buffer.clear();
        // One huge record must not keep its memory for ever.
        buffer.shrink_to(self.group_bytes_max);
        let bytes = std::mem::replace(&mut self.bytes, buffer);
        let place = self.plan.take(bytes.len() as u64);
        let group = Group { bytes, first: self.first, count: self.count, place };
        self.first = group.end();
        self.count = 0;
        Some(group)
    }

    /// The next segment finds no room on the disk; or there is some again.
    pub(crate) fn set_no_room(&mut self, why: Option<JournalError>) {
        self.no_room = why;
    }

    /// Whether the next segment finds no room.
    pub(crate) fn has_no_room(&self) -> bool {
        self.no_room.is_some()
    }

    /// Segments of this length in bytes are gone.
    pub(crate) fn freed(&mut self, bytes: u64) {
        self.plan.total -= bytes;
    }
}

#[cold]
fn too_large(bytes: usize, most: usize) -> JournalError {
    JournalError::TooLarge(format!(
        "a record of {bytes} bytes is larger than the journal takes (journal.record_bytes_max = {most}); \
         it was not taken, and others still are. Raise the limit, or refuse such input at the source"
    ))
}

#[cold]
fn busy(group_bytes_max: usize) -> JournalError {
    JournalError::Busy(format!(
        "a group of {group_bytes_max} bytes (journal.group_bytes_max) or {GROUP_RECORDS_MAX} records waits \
         for the disk; it goes on by itself"
    ))
}

#[cold]
fn at_cap(plan: &Plan) -> JournalError {
    JournalError::Full(format!(
        "its segments take {} bytes and may take {}. It goes on when a checkpoint lets old segments go: see \
         whether checkpoints complete, or raise the cap (state.journal_bytes_max; in a program \
         JournalConfig::cap_bytes)",
        plan.total, plan.cap_bytes
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(5);

    fn gather(room: u64, total: u64, cap_bytes: u64) -> Gather {
        let plan = Plan { room, empty: None, total, segment_bytes: 4096, cap_bytes };
        let config = JournalConfig {
            group_bytes_max: 512,
            record_bytes_max: 10_000,
            ..JournalConfig::default()
        };
        Gather::new(7, 1, plan, &config)
    }

    #[test]
    fn groups_fill_the_segment_and_then_roll() {
        let mut gather = gather(100, 4096, 1 << 20);
        let mut place = |content: usize| {
            gather.append(NOW, &[&vec![1; content]]).unwrap();
            let fits = gather.fits_active();
            let group = gather.take(Vec::new()).unwrap();
            assert_eq!(fits, group.place == Place::Active);
            (group.place, group.bytes.len())
        };
        assert_eq!(place(16), (Place::Active, 40));
        assert_eq!(place(32), (Place::Active, 56));
        assert_eq!(place(0), (Place::Roll(4096), 24));
        assert_eq!(place(9_000), (Place::Roll(12_288), 9024));
    }

    #[test]
    fn a_full_group_waits_and_one_large_record_is_a_group() {
        let mut gather = gather(4000, 4096, 1 << 20);
        assert_eq!(gather.append(NOW, &[&[1; 400]]), Ok(7));
        assert!(matches!(gather.append(NOW, &[&[1; 100]]), Err(JournalError::Busy(_))));
        assert_eq!(gather.append(NOW, &[]), Ok(8));
        let group = gather.take(Vec::new()).unwrap();
        assert_eq!((group.first, group.count), (7, 2));
        assert_eq!(gather.append(NOW, &[&[1; 2000], &[2; 8000]]), Ok(9));
        assert!(matches!(gather.append(NOW, &[&[1; 10_001]]), Err(JournalError::TooLarge(_))));
    }

    #[test]
    fn at_the_cap_nothing_is_taken_until_segments_go() {
        let mut gather = gather(30, 8192, 8192);
        assert_eq!(gather.append(NOW, &[]), Ok(7));
        let refused = gather.append(NOW, &[]).unwrap_err();
        assert!(refused.to_string().contains("state.journal_bytes_max"), "{refused}");
        assert_eq!(gather.end(), 8);
        gather.freed(4096);
        assert_eq!(gather.append(NOW, &[]), Ok(8));
    }

    #[test]
    fn where_the_next_segment_finds_no_room_only_the_active_one_takes() {
        let mut gather = gather(60, 4096, 1 << 20);
        let why = JournalError::Full("no room".into());
        gather.set_no_room(Some(why.clone()));
        assert_eq!(gather.append(NOW, &[&[1; 8]]), Ok(7));
        assert_eq!(gather.append(NOW, &[&[1; 8]]), Err(why));
        assert!(gather.has_no_room() && gather.end() == 8);
        gather.set_no_room(None);
        assert_eq!(gather.append(NOW, &[&[1; 8]]), Ok(8));
    }

    #[test]
    fn an_empty_segment_that_is_too_small_grows() {
        let mut plan = Plan {
            room: 4096 - HEADER_BYTES,
            empty: Some(4096),
            total: 4096,
            segment_bytes: 4096,
            cap_bytes: 8192,
        };
        assert!(plan.fits(7000) && !plan.fits(8000));
        assert_eq!(plan.take(7000), Place::Grow(8192));
        assert_eq!((plan.total, plan.room), (8192, 8192 - HEADER_BYTES - 7000));
    }

    #[test]
    fn a_group_is_ripe_at_half_of_its_bytes_or_of_its_records() {
        let mut gather = gather(4000, 4096, 1 << 20);
        gather.append(NOW, &[&[1; 224]]).unwrap();
        assert!(!gather.is_ripe(), "248 bytes of 512");
        gather.append(NOW, &[]).unwrap();
        assert!(gather.is_ripe());
        let plan = Plan {
            room: 1 << 30,
            empty: None,
            total: 0,
            segment_bytes: 1 << 30,
            cap_bytes: 1 << 30,
        };
        let config = JournalConfig { group_bytes_max: 1 << 30, ..JournalConfig::default() };
        let mut gather = Gather::new(0, 1, plan, &config);
        for count in 1..=GROUP_RECORDS_MAX {
            gather.append(NOW, &[]).unwrap();
            assert_eq!(gather.is_ripe(), count >= 32_768, "{count}");
        }
        assert!(
            matches!(gather.append(NOW, &[]), Err(JournalError::Busy(_))),
            "an index can tell no more"
        );
    }

    #[test]
    fn a_segment_is_prepared_ahead_only_within_the_cap() {
        let plan =
            |total| Plan { room: 0, empty: None, total, segment_bytes: 4096, cap_bytes: 8192 };
        assert!(plan(4096).may_prepare() && !plan(4097).may_prepare());
    }
}
