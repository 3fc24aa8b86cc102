//! Open windows: their keys and accumulators.

use std::collections::VecDeque;

use hashbrown::HashTable;
use thalweg_kernel::Timestamp;

use super::tumbling::Tumbling;

/// Emptied panes that wait for reuse, this many at most, each with room for so many keys at most: a
/// burst of keys must not hold its memory for ever.
const SPARE_PANES_MAX: usize = 4;
const SPARE_PANE_KEYS_MAX: usize = 64 * 1_024;

struct Entry<K, A> {
    hash: u64,
    key: K,
    accumulator: A,
}

/// One open window: its keys densely in the order they came, with a hash index beside them.
pub(super) struct Pane<K, A> {
    /// The first millisecond of the window.
    pub(super) start: Timestamp,
    /// The first millisecond after it.
    pub(super) end: Timestamp,
    entries: Vec<Entry<K, A>>,
    index: HashTable<u32>,
}

impl<K: Eq, A> Pane<K, A> {
    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && time < self.end
    }

    /// The accumulator of a key that is here.
    #[inline]
    pub(super) fn get(&mut self, hash: u64, key: &K) -> Option<&mut A> {
        let entries = &self.entries;
        let found = *self.index.find(hash, |&at| {
            let entry = &entries[at as usize];
            entry.hash == hash && entry.key == *key
        })?;
        Some(&mut self.entries[found as usize].accumulator)
    }

    /// Adds a key that is not here.
    pub(super) fn insert(&mut self, hash: u64, key: K, accumulator: A) {
        let at = self.entries.len() as u32;
        self.entries.push(Entry { hash, key, accumulator });
        let entries = &self.entries;
        self.index.insert_unique(hash, at, |&at| entries[at as usize].hash);
    }

    /// Takes all keys out, with their hashes, in the order they came, and keeps the buffers.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, K, A)> {
        self.index.clear();
        self.entries.drain(..).map(|entry| (entry.hash, entry.key, entry.accumulator))
    }
}

/// The open windows, oldest first.
pub(super) struct Panes<K, A> {
    windows: Tumbling,
    windows_max: usize,
    open: VecDeque<Pane<K, A>>,
    spare: Vec<Pane<K, A>>,
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

impl<K: Eq, A> Panes<K, A> {
    pub(super) fn new(windows: Tumbling, windows_max: usize) -> Self {
        Self { windows, windows_max, open: VecDeque::new(), spare: Vec::new() }
    }

    /// The open window that `time` falls into. Nearly always it is the newest.
    #[inline]
    pub(super) fn find(&mut self, time: Timestamp) -> Option<&mut Pane<K, A>> {
        let newest = self.open.len().wrapping_sub(1);
        if self.open.get(newest).is_some_and(|pane| pane.contains(time)) {
            return self.open.get_mut(newest);
        }
        let at = self.open.partition_point(|pane| pane.end <= time);
        self.open.get_mut(at).filter(|pane| pane.contains(time))
    }

    /// Opens the window that `time` falls into, which is not open.
    #[cold]
    pub(super) fn open(&mut self, time: Timestamp, watermark: Timestamp) -> Opened<'_, K, A> {
        let start = self.windows.start_of(time);
        let end = self.windows.end_of(start);
        if end.minus_ms(1) <= watermark {
            return Opened::Closed;
        }
        if self.open.len() >= self.windows_max {
            return Opened::TooMany;
        }
        let (entries, index) = (Vec::new(), HashTable::new());
        let mut pane = self.spare.pop().unwrap_or(Pane { start, end, entries, index });
        (pane.start, pane.end) = (start, end);
        let at = self.open.partition_point(|pane| pane.start < start);
        self.open.insert(at, pane);
        Opened::Pane(&mut self.open[at])
    }

    /// Takes the oldest window out if `watermark` has passed its last millisecond.
    #[inline]
    pub(super) fn close_due(&mut self, watermark: Timestamp) -> Option<Pane<K, A>> {
        let oldest = self.open.front()?;
        if oldest.end.minus_ms(1) <= watermark { self.open.pop_front() } else { None }
    }

    /// Gives an emptied pane back for reuse.
    pub(super) fn recycle(&mut self, pane: Pane<K, A>) {
        if self.spare.len() < SPARE_PANES_MAX && pane.entries.capacity() <= SPARE_PANE_KEYS_MAX {
            self.spare.push(pane);
        }
    }
}
