//! Entries of windows that are in the store alone.
//!
//! Windows take part in the one account of a shard's state: over its limit, entries leave memory that the store can give back,
//! because they changed last in an epoch that can be read there. The oldest slices go first: little comes to them any
//! more, and what is left of them is read in one go when they fire. A pane knows how many of its entries are cold.
//!
//! - A record whose key is not in a pane with cold entries asks the store for it.
//! - A window that fires reads the entries of its panes that are not in memory, in order of their keys, in pieces.
//!
//! A pane's entries are never removed one by one, so what the store has of a pane is in memory, or cold and as it was stored.

use std::ops::Range;

use thalweg_kernel::{
    Durable, Epoch, Key, StateError, StateId, StateWriter, Timestamp, ValueDamaged,
};

use super::aggregate::Aggregate;
use super::firing::Phase;
use super::kept::{Kept, Kepts, ordered, read_key, write_key};
use super::pane::Pane;
use super::parts::Cursor;
use super::state::WindowState;
use crate::pipeline::Budget;
use crate::pressure::Takes;

/// A scan reads at most this many stored entries before it looks at the budget.
const SCANNED_ENTRIES: usize = 256;
/// One call looks at about this many entries in search of some to drop.
const EVICTED_UNITS_MAX: usize = 256 * 1_024;
/// Accumulators are weighed in samples of this many.
const WEIGHED_ENTRIES: usize = 16;

/// How far a walk over the stored entries of a pane has come.
#[derive(Default)]
pub(super) struct Walk {
    /// Groups that are done.
    groups: usize,
    /// The stored key to go on with; empty at the beginning of a group.
    next: Vec<u8>,
}

/// The stored keys of a slice in one group.
fn stored_range(id: StateId, group: u16, start: Timestamp) -> Range<Vec<u8>> {
    let at = |start: u64| {
        let mut key = Vec::with_capacity(StateId::PREFIX_BYTES + 8);
        id.begin_key(group, &mut key);
        key.extend_from_slice(&start.to_be_bytes());
        key
    };
    let start = ordered(start);
    // The last millisecond of time has none behind it.
    let end = start.checked_add(1).map_or_else(|| id.range(group..group).1, at);
    at(start)..end
}

impl Kepts {
    /// Deletes what the store has of a pane, group by group.
    pub(super) fn delete_ranges(&mut self, start: Timestamp) {
        for group in self.own.clone() {
            let Range { start: from, end: to } = stored_range(self.id, group, start);
            self.deletes.delete_range(&from, &to);
        }
    }

    /// The stored value of a key in the slice that begins at `start`.
    #[cold]
    pub(super) fn read<K: Key, V: Durable>(&self, start: Timestamp, key: &K) -> Option<V> {
        let reader = self.reader.as_ref()?;
        let (group, mut stored, mut found) =
            (self.groups.group_of(key.key_hash()), Vec::new(), None);
        write_key(self.id, group, start, key, &mut stored);
        let read = reader.get(&stored, &mut |value| {
            found = Some(V::read(value)?);
            Ok(())
        });
        if let Err(error) = read {
            self.checkpoints.fail(error);
        }
        found
    }

    /// Brings a key into memory that may be in the store alone.
    #[cold]
    pub(super) fn warm<K: Key, V: Durable>(&self, pane: &mut Pane<K, Kept<V>>, hash: u64, key: &K) {
        if pane.keys.has(hash, key) {
            return;
        }
        if let Some(accumulator) = self.read(pane.start, key) {
            // As the store has it.
            let stamp = self.checkpoints.readable().number() as u32;
            pane.keys.insert(hash, key.clone(), Kept { accumulator, stamp });
            pane.cold -= 1;
        }
    }

    /// Gives `each` the stored entries of a slice that are wanted, as far as `budget` allows; whether those were all.
    pub(super) fn scan<K: Key, V: Durable>(
        &self,
        start: Timestamp,
        walk: &mut Walk,
        budget: &mut Budget,
        wanted: impl Fn(&K) -> bool,
        mut each: impl FnMut(K, V),
    ) -> bool {
        let Some(reader) = &self.reader else { return true };
        while let Some(group) = self.own.clone().nth(walk.groups) {
            let Range { start: from, end: to } = stored_range(self.id, group, start);
            let from = if walk.next.is_empty() { from } else { std::mem::take(&mut walk.next) };
            let mut seen = 0;
            let scanned = reader.scan(&from, &to, &mut |stored, value| {
                if seen == SCANNED_ENTRIES {
                    walk.next = stored.to_vec();
                    // Nothing has failed: this ends the scan.
                    return Err(StateError::Other(String::new()));
                }
                seen += 1;
                let rest = StateId::split_key(stored).map(|(_, rest)| rest);
                let read = rest.and_then(read_key::<K>);
                let (_, key) = read.ok_or_else(ValueDamaged::key::<K>)?;
                if wanted(&key) {
                    each(key, V::read(value)?);
                }
                Ok(())
            });
            budget.spend(1 + seen);
            if walk.next.is_empty() {
                if let Err(error) = scanned {
                    self.checkpoints.fail(error);
                    return true;
                }
                walk.groups += 1;
            }
            // A little is done whatever the budget, so that it goes on in any case.
            if budget.is_spent() {
                return false;
            }
        }
        true
    }

    /// Whether the store can give back what changed last with this stamp.
    fn is_readable(stamp: u32, readable: Epoch) -> bool {
        // Stamps are the low bits of epochs.
        (readable.number() as u32).wrapping_sub(stamp) <= u32::MAX / 2
    }
}

impl<K: Key, V: Durable> Pane<K, Kept<V>> {
    /// Drops entries that the store can give back, as far as `budget` allows.
    fn evict(&mut self, readable: Epoch, open: u32, budget: &mut Budget) {
        let before = self.keys.len();
        let mut cursor = Cursor::default();
        self.keys.walk(&mut cursor, budget, |_, kept, _| {
            kept.stamp == open || !Kepts::is_readable(kept.stamp, readable)
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
        self.kept.entry_bytes.saturating_sub(size_of::<K>() + size_of::<A::Accumulator>())
    }

    pub(super) fn memory_bytes_now(&self) -> usize {
        let outside = self.outside_bytes();
        let panes = self.panes.iter();
        let panes: usize = panes.map(|pane| pane.memory_bytes() + outside * pane.keys.len()).sum();
        panes + self.running.memory_bytes(outside)
    }

    pub(super) fn takes_now(&mut self) -> Takes {
        if !self.kept.is_on() {
            return Takes::default();
        }
        if self.kept.entry_bytes == 0 {
            self.weigh();
        }
        let each = size_of::<(K, Kept<A::Accumulator>)>() + self.outside_bytes();
        let (mut entries, mut changed) = (0, 0);
        for pane in self.panes.iter() {
            entries += pane.keys.len();
            changed += pane.dirty.len();
        }
        let running = self.running.memory_bytes(self.outside_bytes());
        Takes { bytes: entries * each + running, changed: changed * each }
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
        self.kept.entry_bytes = block.len().checked_div(weighed).unwrap_or(0);
    }

    /// Drops from memory what the store can give back, the oldest slices first, until about this much is left.
    pub(super) fn evict(&mut self, readable: Epoch, bytes: usize) {
        // A firing stands in the middle of a table.
        if !self.kept.is_on() || !matches!(self.phase, Phase::Idle) {
            return;
        }
        self.add_deferred();
        let (open, mut budget) = (self.kept.stamp, Budget::of(EVICTED_UNITS_MAX));
        let (outside, mut used) = (self.outside_bytes(), self.memory_bytes_now());
        for pane in self.panes.iter_mut() {
            if used <= bytes || budget.is_spent() {
                return;
            }
            let takes = |pane: &Pane<_, _>| pane.memory_bytes() + outside * pane.keys.len();
            let before = takes(pane);
            pane.evict(readable, open, &mut budget);
            used -= before.saturating_sub(takes(pane)).min(used);
        }
    }

    /// After entries of an earlier run were read: whether there are so many that some must leave memory again.
    pub(super) fn evict_restored(&mut self, readable: Epoch, read: usize, read_bytes: usize) {
        self.kept.entry_bytes = read_bytes / read.max(1);
        self.evict(readable, self.kept.checkpoints.memory_bytes_max());
    }
}
