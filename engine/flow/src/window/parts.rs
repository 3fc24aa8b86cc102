//! Very many keys, in small hash tables.
//!
//! One large table grows in one go, and asks the system for all the memory of its next size at once. With a million keys
//! that took 49 ms of the processor's time, and giving the memory back took 7 ms. So the keys lie in *parts*, whose
//! number grows by *linear hashing*. Whenever there are more than [`KEYS_PER_PART`] keys for each part, the next part in
//! turn is split in two. No operation moves more than about two thousand keys.
//!
//! Keyed state lies in tables of this kind, too (`state/table/segments.rs`). A table of keyed state also knows which
//! entries are marked, and shrinks with removals. Windows need neither: they add until they fire, and then take out all.

use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;
use thalweg_kernel::Key;

use crate::pipeline::Budget;
use crate::table_hash::table_hash;

/// A part is split when there are this many keys for each. Parts that wait for their turn have up to twice as many,
/// which fit into 2,048 buckets.
const KEYS_PER_PART: usize = 800;
/// A table with more parts than this gives back the buffer of each part that is emptied, and a smaller one keeps it. A
/// part has room for 1,792 keys. So a table that keeps its buffers is within `SPARE_PANE_KEYS_MAX` (`pane.rs`), and no
/// large table is freed in one go.
const KEPT_PARTS_MAX: usize = 36;
/// Buckets are chosen by the bits of a hash below these, parts by these.
const PART_BITS: u32 = 11;
/// A walk looks at this many buckets for one unit of work.
const BUCKETS_PER_UNIT: usize = 16;

/// See the module. Hashes are those of [`table_hash`].
pub(super) struct Parts<K, V> {
    /// None before the first key.
    parts: Vec<HashTable<(K, V)>>,
    /// `2n - 1` for the largest power of two `n` that is not over the number of parts.
    wide: usize,
    len: usize,
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    part: usize,
    pub(super) bucket: usize,
}

impl Cursor {
    /// Behind everything.
    pub(super) const END: Self = Self { part: usize::MAX, bucket: usize::MAX };

    /// Whether the walk has not begun.
    pub(super) fn is_at_begin(self) -> bool {
        (self.part, self.bucket) == (0, 0)
    }
}

impl<K: Key, V> Parts<K, V> {
    /// None, without buffers.
    pub(super) fn new() -> Self {
        Self { parts: Vec::new(), wide: 1, len: 0 }
    }

    /// The keys of a table that has grown large.
    pub(super) fn of(table: HashTable<(K, V)>) -> Self {
        let count = (table.len() / KEYS_PER_PART).max(1);
        let room = 2 * table.len() / count;
        let parts = (0..count).map(|_| HashTable::with_capacity(room)).collect();
        let mut parts = Self { parts, wide: 2 * (1 << count.ilog2()) - 1, len: 0 };
        table.into_iter().for_each(|entry| parts.insert(hash_of(&entry), entry));
        parts
    }

    /// The number of keys.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are buffers.
    pub(super) fn is_in_use(&self) -> bool {
        !self.parts.is_empty()
    }

    /// How many keys its buffers have room for.
    pub(super) fn capacity(&self) -> usize {
        self.parts.iter().map(HashTable::capacity).sum()
    }

    /// The bytes of its buffers.
    pub(super) fn memory_bytes(&self) -> usize {
        self.parts.capacity() * size_of::<HashTable<(K, V)>>()
            + self.parts.iter().map(HashTable::allocation_size).sum::<usize>()
    }

    #[inline(always)]
    fn part_of(&self, hash: u64) -> usize {
        let at = (hash >> PART_BITS) as usize & self.wide;
        if at < self.parts.len() { at } else { at & (self.wide >> 1) }
    }

    /// The entry of a key.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, key: &K) -> Option<&(K, V)> {
        self.parts.get(self.part_of(hash))?.find(hash, |entry| entry.0 == *key)
    }

    /// The entry of a key, to change.
    #[inline(always)]
    pub(super) fn find_mut(&mut self, hash: u64, key: &K) -> Option<&mut (K, V)> {
        let at = self.part_of(hash);
        self.parts.get_mut(at)?.find_mut(hash, |entry| entry.0 == *key)
    }

    /// All entries whose keys have this hash, and perhaps some of similar hashes.
    pub(super) fn iter_hash(&self, hash: u64) -> impl Iterator<Item = &(K, V)> {
        self.parts.get(self.part_of(hash)).into_iter().flat_map(move |part| part.iter_hash(hash))
    }

    /// All entries, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.parts.iter().flat_map(HashTable::iter)
    }

    /// Adds a key that is not here.
    #[inline]
    pub(super) fn insert(&mut self, hash: u64, entry: (K, V)) {
        if self.len >= self.parts.len() * KEYS_PER_PART {
            self.split();
        }
        self.len += 1;
        let at = self.part_of(hash);
        self.parts[at].insert_unique(hash, entry, hash_of);
    }

    /// Adds a part, filled from the one whose turn it is.
    #[cold]
    fn split(&mut self) {
        let new = self.parts.len();
        if new == 0 {
            return self.parts.push(HashTable::new());
        }
        if new > self.wide {
            self.wide = self.wide * 2 + 1;
        }
        let (wide, at) = (self.wide, new & (self.wide >> 1));
        let both = std::mem::take(&mut self.parts[at]);
        // Both get the size to which they would grow before it is their turn again.
        let mut halves = [(); 2].map(|()| HashTable::with_capacity(both.capacity()));
        for entry in both {
            let hash = hash_of(&entry);
            let is_high = (hash >> PART_BITS) as usize & wide == new;
            halves[usize::from(is_high)].insert_unique(hash, entry, hash_of);
        }
        let [low, high] = halves;
        self.parts[at] = low;
        self.parts.push(high);
    }

    /// Gives back buffers that are mostly empty.
    pub(super) fn shrink(&mut self) {
        if self.len == 0 {
            *self = Self::new();
        }
        for part in self.parts.iter_mut().filter(|part| part.len() < part.capacity() / 2) {
            part.shrink_to(part.len(), hash_of);
        }
    }

    /// Takes all keys out, and keeps the buffers.
    pub(super) fn drain(&mut self, mut each: impl FnMut((K, V))) {
        self.len = 0;
        self.parts.iter_mut().for_each(|part| part.drain().for_each(&mut each));
    }

    /// Shows `each` the entries from `cursor` on, to take out or leave, as far as `budget` allows. Returns whether there
    /// are no more. No key may come until all were seen. A walk does a little whatever the budget, so that it comes to
    /// its end.
    pub(super) fn walk(
        &mut self,
        cursor: &mut Cursor,
        budget: &mut Budget,
        mut each: impl FnMut(OccupiedEntry<'_, (K, V)>, &mut Budget),
    ) -> bool {
        let frees = self.parts.len() > KEPT_PARTS_MAX;
        while let Some(part) = self.parts.get_mut(cursor.part) {
            let before = part.len();
            let all = walk_table(part, &mut cursor.bucket, budget, &mut each);
            self.len -= before - part.len();
            if !all {
                return false;
            }
            *cursor = Cursor { part: cursor.part + 1, bucket: 0 };
            if frees && part.len() * 8 < part.num_buckets() {
                part.shrink_to(part.len(), hash_of);
            }
            budget.spend(1);
            if budget.is_spent() {
                return false;
            }
        }
        if frees && self.len == 0 {
            *self = Self::new();
        }
        true
    }
}

/// Shows `each` the entries of a table from a bucket on, as far as `budget` allows. Returns whether there are no more.
pub(super) fn walk_table<T>(
    table: &mut HashTable<T>,
    bucket: &mut usize,
    budget: &mut Budget,
    mut each: impl FnMut(OccupiedEntry<'_, T>, &mut Budget),
) -> bool {
    while *bucket < table.num_buckets() && !table.is_empty() {
        budget.spend(1);
        for at in *bucket..*bucket + BUCKETS_PER_UNIT {
            if let Ok(entry) = table.get_bucket_entry(at) {
                budget.spend(1);
                each(entry, budget);
            }
        }
        *bucket += BUCKETS_PER_UNIT;
        if budget.is_spent() {
            return false;
        }
    }
    if table.is_empty() {
        // Taking entries out one by one leaves marks behind.
        drop(table.drain());
    }
    true
}

#[inline(always)]
fn hash_of<K: Key, V>(entry: &(K, V)) -> u64 {
    table_hash(&entry.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::window::pane::SPARE_PANE_KEYS_MAX;

    /// Goal: whatever grows, walks and leaves in between, the parts hold what a plain map holds.
    /// Method: walks in pieces take out some of the keys, then all; the buffers are reused or given back.
    #[test]
    fn they_equal_a_map_however_they_grow_and_are_walked() {
        for keys in [10_u64, 801, 20_000, 70_000] {
            let (mut parts, mut map) = (Parts::new(), BTreeMap::new());
            for round in 0..2 {
                if round == 1 {
                    // As a table that has grown large.
                    let mut table = HashTable::new();
                    parts.drain(|entry| _ = table.insert_unique(hash_of(&entry), entry, hash_of));
                    parts = Parts::of(table);
                }
                for key in 0..keys {
                    map.entry(key).or_insert_with(|| {
                        parts.insert(table_hash(&key), (key, key * 3 + round));
                        key * 3 + round
                    });
                }
                let find = |parts: &Parts<u64, u64>, key: u64| {
                    parts.find(table_hash(&key), &key).map(|entry| entry.1)
                };
                assert_eq!((parts.len(), parts.iter().count()), (map.len(), map.len()));
                let (mut cursor, mut seen) = (Cursor::default(), 0);
                loop {
                    let mut budget = Budget::of(100);
                    let all = parts.walk(&mut cursor, &mut budget, |entry, _| {
                        seen += 1;
                        if round == 1 || !entry.get().0.is_multiple_of(10) {
                            let ((key, value), _) = entry.remove();
                            assert_eq!(map.remove(&key), Some(value));
                        }
                    });
                    if all {
                        break;
                    }
                }
                assert_eq!((seen, parts.len()), (keys, map.len()));
                assert!((0..keys + 10).all(|key| find(&parts, key) == map.get(&key).copied()));
            }
            let kept = parts.capacity() > 0;
            assert_eq!(kept, keys < 36 * 800, "{keys}: only a large table gives its buffers back");
        }
    }

    /// Goal: a table that has emptied is small enough to be kept, or has given its buffers back part by part.
    #[test]
    fn what_has_emptied_is_kept_or_was_freed_in_pieces() {
        let mut kept_max = 0;
        for keys in (2_000..70_000_u64).step_by(800) {
            let mut parts = Parts::new();
            (0..keys).for_each(|key| parts.insert(table_hash(&key), (key, ())));
            let mut budget = Budget::of(usize::MAX);
            parts.walk(&mut Cursor::default(), &mut budget, |entry, _| _ = entry.remove());
            kept_max = kept_max.max(parts.capacity());
        }
        assert!((50_000..=SPARE_PANE_KEYS_MAX).contains(&kept_max), "{kept_max} keys");
    }

    #[test]
    fn no_part_is_large() {
        let mut parts = Parts::new();
        (0..100_000_u64).for_each(|key| parts.insert(table_hash(&key), (key, ())));
        let largest = parts.parts.iter().map(HashTable::num_buckets).max();
        assert_eq!(largest, Some(2_048));
    }
}
