//! Open slices of time, each with its keys and accumulators: whole windows where windows do not overlap.

use std::collections::VecDeque;

use thalweg_kernel::{Key, Timestamp};

use super::slicing::Slicing;
use super::table::Table;

/// At most this many emptied panes wait for reuse.
const SPARE_PANES_MAX: usize = 4;
/// An emptied pane with room for more keys than this is not reused: a burst of keys must not hold its memory for ever.
pub(super) const SPARE_PANE_KEYS_MAX: usize = 64 * 1_024;

/// One open slice.
pub(super) struct Pane<K, A> {
    /// The first millisecond of the slice.
    pub(super) start: Timestamp,
    /// The last one.
    pub(super) last: Timestamp,
    /// The last millisecond of the first window that contains it.
    due: Timestamp,
    /// The last millisecond of the last window that may take records of it.
    pub(super) closes: Timestamp,
    /// Whether what windows share has it already: see `running.rs`.
    pub(super) is_merged: bool,
    /// Its keys and their accumulators.
    pub(super) keys: Table<K, A>,
    /// The hashes of the keys that have changed since the last barrier.
    pub(super) dirty: Vec<u64>,
    /// Whether an epoch has any of its keys.
    pub(super) stored: bool,
    /// How many of its keys are in the store alone: see `cold.rs`.
    pub(super) cold: usize,
}

impl<K: Key, A> Pane<K, A> {
    /// A pane that nothing falls into.
    fn nowhere() -> Self {
        Self {
            start: Timestamp::MAX,
            last: Timestamp::MIN,
            due: Timestamp::MIN,
            closes: Timestamp::MIN,
            is_merged: false,
            keys: Table::new(),
            dirty: Vec::new(),
            stored: false,
            cold: 0,
        }
    }

    #[inline(always)]
    pub(super) fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && time <= self.last
    }

    /// The bytes of its buffers.
    pub(super) fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes() + self.dirty.capacity() * size_of::<u64>()
    }

    fn is_somewhere(&self) -> bool {
        self.start <= self.last
    }

    /// Whether a window that contains it has come to its end at `watermark`.
    #[inline(always)]
    pub(super) fn is_due_at(&self, watermark: Timestamp) -> bool {
        self.due <= watermark
    }

    /// The pane, unless a record of it is late that comes after `watermark`.
    fn unless_late(&mut self, watermark: Timestamp, in_time: InTime) -> Opened<'_, K, A> {
        let late_at = match in_time {
            InTime::ForOne => self.closes,
            InTime::ForAll => self.due,
        };
        if late_at <= watermark { Opened::Closed } else { Opened::Pane(self) }
    }
}

/// For how many of the windows that contain it a record must be in time.
#[derive(Clone, Copy)]
pub(super) enum InTime {
    /// It is late if it misses all of them.
    ForOne,
    /// It is late if it misses any.
    ForAll,
}

/// The bounds of the slice that records are being added to, for one comparison.
#[derive(Clone, Copy)]
pub(super) struct AtHand {
    start_ms: i64,
    length_ms: u64,
}

impl AtHand {
    /// No slice.
    pub(super) const NOWHERE: Self = Self { start_ms: 0, length_ms: 0 };

    #[inline(always)]
    pub(super) fn contains(self, time: Timestamp) -> bool {
        (time.as_millis().wrapping_sub(self.start_ms) as u64) < self.length_ms
    }
}

/// The open slices.
pub(super) struct Panes<K, A> {
    slicing: Slicing,
    panes_max: usize,
    /// The newest slice, into which nearly all records fall: looked at first. Nowhere if none is open.
    newest: Pane<K, A>,
    /// The others, oldest first.
    older: VecDeque<Pane<K, A>>,
    spare: Vec<Table<K, A>>,
}

/// What came of opening a slice.
pub(super) enum Opened<'a, K, A> {
    /// It is open now.
    Pane(&'a mut Pane<K, A>),
    /// A record of it is late.
    Closed,
    /// As many as may be are open already.
    TooMany,
}

impl<K: Key, A> Panes<K, A> {
    pub(super) fn new(slicing: Slicing, panes_max: usize) -> Self {
        let (newest, older) = (Pane::nowhere(), VecDeque::new());
        Self { slicing, panes_max, newest, older, spare: Vec::new() }
    }

    /// The newest open slice, if `time` falls into it.
    #[inline(always)]
    pub(super) fn newest(&mut self, time: Timestamp) -> Option<&mut Pane<K, A>> {
        if self.newest.contains(time) { Some(&mut self.newest) } else { None }
    }

    /// The newest open slice, or an empty one that nothing falls into.
    #[inline(always)]
    pub(super) fn newest_any(&mut self) -> &mut Pane<K, A> {
        &mut self.newest
    }

    /// The bounds of the newest open slice, unless it is due at `watermark`.
    pub(super) fn newest_unless_due_at(&self, watermark: Timestamp) -> AtHand {
        let (start, last) = (self.newest.start, self.newest.last);
        if !self.newest.is_somewhere() || self.newest.is_due_at(watermark) {
            return AtHand::NOWHERE;
        }
        let length_ms = last.as_millis().wrapping_sub(start.as_millis()) as u64;
        AtHand { start_ms: start.as_millis(), length_ms: length_ms.saturating_add(1) }
    }

    /// The slice that `time` falls into, which is opened if it is not yet, unless a record of it is late that comes after
    /// `watermark`.
    pub(super) fn find_or_open(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
        in_time: InTime,
    ) -> Opened<'_, K, A> {
        if self.newest.contains(time) {
            return self.newest.unless_late(watermark, in_time);
        }
        let at = self.older.partition_point(|pane| pane.last < time);
        if self.older.get(at).is_some_and(|pane| pane.contains(time)) {
            return self.older[at].unless_late(watermark, in_time);
        }
        self.open(at, time, watermark, in_time)
    }

    /// Opens the slice of `time`, before the older one at `at`.
    #[cold]
    fn open(
        &mut self,
        at: usize,
        time: Timestamp,
        watermark: Timestamp,
        in_time: InTime,
    ) -> Opened<'_, K, A> {
        let (start, last) = (self.slicing.start_of(time), self.slicing.last_of(time));
        let mut pane = Pane::nowhere();
        (pane.start, pane.last) = (start, last);
        (pane.due, pane.closes) = (self.slicing.fires_from(last), self.slicing.closes(start));
        if matches!(pane.unless_late(watermark, in_time), Opened::Closed) {
            return Opened::Closed;
        }
        let any = self.newest.is_somewhere();
        if self.len() >= self.panes_max {
            return Opened::TooMany;
        }
        pane.keys = self.spare.pop().unwrap_or_else(Table::new);
        if any && start < self.newest.start {
            self.older.insert(at, pane);
            return Opened::Pane(&mut self.older[at]);
        }
        let before = std::mem::replace(&mut self.newest, pane);
        if any {
            self.older.push_back(before);
        }
        Opened::Pane(&mut self.newest)
    }

    /// The slice that begins at `start`, from an earlier run, whatever the limits; `None` if none
    /// begins there.
    pub(super) fn restore(&mut self, start: Timestamp) -> Option<&mut Pane<K, A>> {
        if self.slicing.start_of(start) != start {
            return None;
        }
        let panes_max = std::mem::replace(&mut self.panes_max, usize::MAX);
        let _opened = self.find_or_open(start, Timestamp::MIN, InTime::ForOne);
        self.panes_max = panes_max;
        match self.find_or_open(start, Timestamp::MIN, InTime::ForOne) {
            Opened::Pane(pane) => Some(pane),
            Opened::Closed | Opened::TooMany => None,
        }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.older.len() + usize::from(self.newest.is_somewhere())
    }

    /// All open slices, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pane<K, A>> {
        self.older.iter().chain(Some(&self.newest).filter(|pane| pane.is_somewhere()))
    }

    /// All open slices, the oldest first, to change.
    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Pane<K, A>> {
        let newest = Some(&mut self.newest).filter(|pane| pane.is_somewhere());
        self.older.iter_mut().chain(newest)
    }

    /// The open slices that lie in the window from `start` to `last`, the oldest first.
    pub(super) fn within(
        &mut self,
        start: Timestamp,
        last: Timestamp,
    ) -> impl DoubleEndedIterator<Item = &mut Pane<K, A>> {
        let from = self.older.partition_point(|pane| pane.start < start);
        let to = self.older.partition_point(|pane| pane.last <= last).max(from);
        let newest = Some(&mut self.newest);
        let newest =
            newest.filter(|pane| pane.is_somewhere() && start <= pane.start && pane.last <= last);
        self.older.range_mut(from..to).chain(newest)
    }

    /// The last millisecond of the first window that contains the oldest slice; `None` if none is open.
    #[inline]
    pub(super) fn oldest_due(&self) -> Option<Timestamp> {
        let oldest = self.older.front().unwrap_or(&self.newest);
        oldest.is_somewhere().then_some(oldest.due)
    }

    /// Whether no window contains any of them that ends after `last`.
    pub(super) fn all_close_by(&self, last: Timestamp) -> bool {
        // The newest one closes last.
        !self.newest.is_somewhere() || self.newest.closes <= last
    }

    /// Takes the oldest slice out, if no window that ends after `last` contains it.
    pub(super) fn take_closed_by(&mut self, last: Timestamp) -> Option<Pane<K, A>> {
        let oldest = self.older.front().unwrap_or(&self.newest);
        let is_closed = oldest.is_somewhere() && oldest.closes <= last;
        is_closed.then(|| self.take_oldest())
    }

    /// Takes the oldest slice out.
    #[cold]
    pub(super) fn take_oldest(&mut self) -> Pane<K, A> {
        let newest = &mut self.newest;
        self.older.pop_front().unwrap_or_else(|| std::mem::replace(newest, Pane::nowhere()))
    }

    /// Gives an emptied pane back for reuse.
    pub(super) fn recycle(&mut self, pane: Pane<K, A>) {
        let room = pane.keys.capacity();
        if self.spare.len() < SPARE_PANES_MAX && (1..=SPARE_PANE_KEYS_MAX).contains(&room) {
            self.spare.push(pane.keys);
        }
    }
}
