//! Entries of windows that are in the store alone.
//!
//! Windows take part in the one account of a shard's state. Over its limit, entries leave memory that the store can give
//! back: it can read the epoch in which they changed last. The oldest slices go first, since few records come for them
//! any more, and their entries are read in one go when they fire. A pane knows how many of its entries are cold.
//!
//! - A record whose key is not in a pane with cold entries asks the store for it.
//! - A window that fires reads the entries of its panes that are not in memory, in order of their keys, in pieces.
//!
//! A pane's entries are never removed one by one. So an entry that the store has is in memory too, or it is cold and as
//! it was stored.

use thalweg_kernel::{Durable, Epoch, Key, StateWriter};

use super::aggregate::Aggregate;
use super::pane::Pane;
use super::parts::Cursor;
use super::phase::Phase;
use super::state::WindowState;
use super::storage::{Stamped, Storage};
use crate::pipeline::Budget;
use crate::pressure::Takes;

/// One call looks at about this many entries in search of some to drop.
const EVICTED_UNITS_MAX: usize = 256 * 1_024;
/// Accumulators are weighed in samples of this many.
const WEIGHED_ENTRIES: usize = 16;

impl<K: Key, V: Durable> Pane<K, Stamped<V>> {
    /// Drops entries that the store can give back, as far as `budget` allows.
    fn evict(&mut self, readable: Epoch, open: u32, budget: &mut Budget) {
        let before = self.keys.len();
        let mut cursor = Cursor::default();
        self.keys.walk(&mut cursor, budget, |_, kept, _| {
            kept.stamp == open || !Storage::is_readable(kept.stamp, readable)
        });
        self.cold += before - self.keys.len();
        if self.keys.len() < before {
            self.keys.shrink();
            self.dirty.shrink_to(self.dirty.len());
        }
    }
}

impl<K: Key, T, A: Aggregate<T>> WindowState<K, T, A> {
    /// The bytes that keys and accumulators hold outside of the tables, for each entry, about.
    fn outside_bytes(&self) -> usize {
        self.storage.entry_bytes.saturating_sub(size_of::<K>() + size_of::<A::Accumulator>())
    }

    pub(super) fn memory_bytes_now(&self) -> usize {
        let outside = self.outside_bytes();
        let panes = self.panes.iter();
        panes.map(|pane| pane.memory_bytes() + outside * pane.keys.len()).sum()
    }

    pub(super) fn takes_now(&mut self) -> Takes {
        if !self.storage.is_on() {
            return Takes::default();
        }
        if self.storage.entry_bytes == 0 {
            self.weigh();
        }
        let each = size_of::<(K, Stamped<A::Accumulator>)>() + self.outside_bytes();
        let (mut entries, mut changed) = (0, 0);
        for pane in self.panes.iter() {
            entries += pane.keys.len();
            changed += pane.dirty.len();
        }
        // Runs are not stored, so storage cannot give them back.
        let fixed = self.running.memory_bytes(self.outside_bytes());
        Takes { bytes: entries * each, changed: changed * each, fixed, ..Takes::default() }
    }

    /// Weighs some accumulators before any snapshot does.
    #[cold]
    fn weigh(&mut self) {
        let (mut writer, mut block, mut weighed) = (StateWriter::default(), Vec::new(), 0);
        for (key, kept) in self.panes.newest_any().keys.iter().take(WEIGHED_ENTRIES) {
            key.write_key(&mut block);
            // What cannot be written fails the next snapshot.
            let Ok(with_it) = writer.write(std::mem::take(&mut block), &kept.accumulator) else {
                return;
            };
            (block, weighed) = (with_it, weighed + 1);
        }
        self.storage.entry_bytes = block.len().checked_div(weighed).unwrap_or(0);
    }

    /// Drops from memory what the store can give back, the oldest slices first, until about `bytes` are left. Returns
    /// whether one more search would be of no use.
    pub(super) fn evict(&mut self, readable: Epoch, bytes: usize) -> bool {
        // A firing stands in the middle of a table.
        if !self.storage.is_on() || !matches!(self.phase, Phase::Idle) {
            return !self.storage.is_on();
        }
        self.add_deferred();
        let (open, mut budget) = (self.storage.stamp, Budget::of(EVICTED_UNITS_MAX));
        let (outside, mut used) = (self.outside_bytes(), self.memory_bytes_now());
        let used_before = used;
        for pane in self.panes.iter_mut() {
            if used <= bytes || budget.is_spent() {
                break;
            }
            let takes = |pane: &Pane<_, _>| pane.memory_bytes() + outside * pane.keys.len();
            let before = takes(pane);
            pane.evict(readable, open, &mut budget);
            used -= before.saturating_sub(takes(pane)).min(used);
        }
        // The next search begins with the oldest slice as well: it gets further only where this one has dropped some.
        used <= bytes || !budget.is_spent() || used == used_before
    }

    /// Lets entries leave memory again where a restart has read more of them than memory may hold.
    pub(super) fn evict_restored(&mut self, readable: Epoch, read: usize, read_bytes: usize) {
        self.storage.entry_bytes = read_bytes / read.max(1);
        self.evict(readable, self.storage.checkpoints.memory_bytes_max());
    }
}
