//! Open windows: each with its keys and accumulators.

use std::collections::VecDeque;

use thalweg_kernel::{Key, Timestamp};

use super::table::Table;
use super::tumbling::Tumbling;

/// Emptied panes that wait for reuse, this many at most, each with room for so many keys at most: a
/// burst of keys must not hold its memory for ever.
const SPARE_PANES_MAX: usize = 4;
const SPARE_PANE_KEYS_MAX: usize = 64 * 1_024;

/// One open window.
pub(super) struct Pane<K, A> {
    /// The first millisecond of the window.
    pub(super) start: Timestamp,
    /// The last one.
    pub(super) last: Timestamp,
    /// Its keys and their accumulators.
    pub(super) keys: Table<K, A>,
    /// The hashes of the keys that have changed since the last barrier.
    pub(super) dirty: Vec<u64>,
    /// Whether an epoch has any of its keys.
    pub(super) stored: bool,
}

impl<K: Key, A> Pane<K, A> {
    /// A pane that nothing falls into.
    fn nowhere() -> Self {
        Self {
            start: Timestamp::MAX,
            last: Timestamp::MIN,
            keys: Table::new(),
            dirty: Vec::new(),
            stored: false,
        }
    }

    #[inline(always)]
    pub(super) fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && time <= self.last
    }

    fn is_somewhere(&self) -> bool {
        self.start <= self.last
    }

    /// Whether `watermark` has reached its last millisecond.
    #[inline(always)]
    pub(super) fn is_passed_by(&self, watermark: Timestamp) -> bool {
        self.last <= watermark
    }

    fn unless_passed_by(&mut self, watermark: Timestamp) -> Opened<'_, K, A> {
        if self.is_passed_by(watermark) { Opened::Closed } else { Opened::Pane(self) }
    }
}

/// The bounds of the window that records are being added to, for one comparison.
#[derive(Clone, Copy)]
pub(super) struct AtHand {
    start_ms: i64,
    length_ms: u64,
}

impl AtHand {
    /// No window.
    pub(super) const NOWHERE: Self = Self { start_ms: 0, length_ms: 0 };

    #[inline(always)]
    pub(super) fn contains(self, time: Timestamp) -> bool {
        (time.as_millis().wrapping_sub(self.start_ms) as u64) < self.length_ms
    }
}

/// The open windows.
pub(super) struct Panes<K, A> {
    windows: Tumbling,
    windows_max: usize,
    /// The newest window, into which nearly all records fall: looked at first. Nowhere if none is open.
    newest: Pane<K, A>,
    /// The others, oldest first.
    older: VecDeque<Pane<K, A>>,
    spare: Vec<Table<K, A>>,
}

/// What came of opening a window.
pub(super) enum Opened<'a, K, A> {
    /// It is open now.
    Pane(&'a mut Pane<K, A>),
    /// The watermark has passed its last millisecond.
    Closed,
    /// As many as may be are open already.
    TooMany,
}

impl<K: Key, A> Panes<K, A> {
    pub(super) fn new(windows: Tumbling, windows_max: usize) -> Self {
        let (newest, older) = (Pane::nowhere(), VecDeque::new());
        Self { windows, windows_max, newest, older, spare: Vec::new() }
    }

    /// The newest open window, if `time` falls into it.
    #[inline(always)]
    pub(super) fn newest(&mut self, time: Timestamp) -> Option<&mut Pane<K, A>> {
        if self.newest.contains(time) { Some(&mut self.newest) } else { None }
    }

    /// The newest open window, or an empty one that nothing falls into.
    #[inline(always)]
    pub(super) fn newest_any(&mut self) -> &mut Pane<K, A> {
        &mut self.newest
    }

    /// The bounds of the newest open window, unless `watermark` has passed it.
    pub(super) fn newest_unless_passed_by(&self, watermark: Timestamp) -> AtHand {
        let (start, last) = (self.newest.start, self.newest.last);
        if !self.newest.is_somewhere() || self.newest.is_passed_by(watermark) {
            return AtHand::NOWHERE;
        }
        let length_ms = last.as_millis().wrapping_sub(start.as_millis()) as u64;
        AtHand { start_ms: start.as_millis(), length_ms: length_ms.saturating_add(1) }
    }

    /// The first watermark after `watermark` that passes a window.
    pub(super) fn next_passed(&self, watermark: Timestamp) -> Timestamp {
        self.windows.last_of(self.windows.start_of(watermark.plus_ms(1)))
    }

    /// The window that `time` falls into, which is opened if it is not yet, unless `watermark` has
    /// passed it.
    pub(super) fn find_or_open(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
    ) -> Opened<'_, K, A> {
        if self.newest.contains(time) {
            return self.newest.unless_passed_by(watermark);
        }
        let at = self.older.partition_point(|pane| pane.last < time);
        if self.older.get(at).is_some_and(|pane| pane.contains(time)) {
            return self.older[at].unless_passed_by(watermark);
        }
        self.open(at, time, watermark)
    }

    /// Opens the window of `time`, before the older window at `at`.
    #[cold]
    fn open(&mut self, at: usize, time: Timestamp, watermark: Timestamp) -> Opened<'_, K, A> {
        let start = self.windows.start_of(time);
        let mut pane = Pane::nowhere();
        (pane.start, pane.last) = (start, self.windows.last_of(start));
        if pane.is_passed_by(watermark) {
            return Opened::Closed;
        }
        let any = self.newest.is_somewhere();
        if self.older.len() + usize::from(any) >= self.windows_max {
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

    /// The window that begins at `start`, from an earlier run, whatever the limits; `None` if no window
    /// begins there.
    pub(super) fn restore(&mut self, start: Timestamp) -> Option<&mut Pane<K, A>> {
        if self.windows.start_of(start) != start {
            return None;
        }
        let windows_max = std::mem::replace(&mut self.windows_max, usize::MAX);
        let _opened = self.find_or_open(start, Timestamp::MIN);
        self.windows_max = windows_max;
        match self.find_or_open(start, Timestamp::MIN) {
            Opened::Pane(pane) => Some(pane),
            Opened::Closed | Opened::TooMany => None,
        }
    }

    /// All open windows.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pane<K, A>> {
        let newest = Some(&mut self.newest).filter(|pane| pane.is_somewhere());
        self.older.iter_mut().chain(newest)
    }

    /// Whether `watermark` has passed the oldest window.
    #[inline]
    pub(super) fn is_due(&self, watermark: Timestamp) -> bool {
        let oldest = self.older.front().unwrap_or(&self.newest);
        oldest.is_somewhere() && oldest.is_passed_by(watermark)
    }

    /// Takes the oldest window out.
    #[cold]
    pub(super) fn take_oldest(&mut self) -> Pane<K, A> {
        let newest = &mut self.newest;
        self.older.pop_front().unwrap_or_else(|| std::mem::replace(newest, Pane::nowhere()))
    }

    /// Gives an emptied pane back for reuse.
    pub(super) fn recycle(&mut self, pane: Pane<K, A>) {
        if self.spare.len() < SPARE_PANES_MAX && pane.keys.capacity() <= SPARE_PANE_KEYS_MAX {
            self.spare.push(pane.keys);
        }
    }
}
