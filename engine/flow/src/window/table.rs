//! A table of keys and what belongs to them.
//!
//! Few keys, as most jobs have, lie in a list beside an index (`few.rs`).
//!
//! Many keys lie in a `hashbrown` table with the entries in it. Very many keys lie in small tables (`parts.rs`), since
//! one table would not fit into the cache, or would take too long to grow.
//!
//! Two tables of our own were measured against `hashbrown` with a million keys. Probing slot by slot is no better. One
//! search in four goes on to the next slot, and throws away what the processor had begun of the next searches. A
//! list beside an index takes a third longer, for the second access.

use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;
use thalweg_kernel::Key;

use super::few::{FEW_KEYS_MAX, Few};
use super::parts::{Cursor, Parts, walk_table};
use crate::pipeline::Budget;
use crate::table_hash::table_hash;
use crate::tuning::CACHE_BYTES;

/// One hash table has at most this many keys, and fewer where they are too large for the cache.
pub(super) const MANY_KEYS_MAX: usize = 14_336;

/// See the module. Hashes are those of [`table_hash`].
pub(super) struct Table<K, V> {
    few: Few<K, V>,
    /// In use once there were too many for the list.
    many: HashTable<(K, V)>,
    /// In use once there were too many for one table.
    very_many: Parts<K, V>,
}

impl<K: Key, V> Table<K, V> {
    const MANY_KEYS_MAX: usize = {
        let in_cache = CACHE_BYTES / (size_of::<(K, V)>() + 1);
        if in_cache < MANY_KEYS_MAX { in_cache } else { MANY_KEYS_MAX }
    };

    /// An empty one, without buffers.
    pub(super) fn new() -> Self {
        Self { few: Few::new(), many: HashTable::new(), very_many: Parts::new() }
    }

    /// The number of keys.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.few.len() + self.many.len() + self.very_many.len()
    }

    /// The bytes of its buffers.
    pub(super) fn memory_bytes(&self) -> usize {
        self.few.memory_bytes() + self.many.allocation_size() + self.very_many.memory_bytes()
    }

    /// Gives back buffers that are mostly empty.
    pub(super) fn shrink(&mut self) {
        self.few.shrink();
        if self.many.len() < self.many.capacity() / 2 {
            self.many.shrink_to(self.many.len(), |entry| table_hash(&entry.0));
        }
        self.very_many.shrink();
    }

    /// How many keys its buffers have room for.
    pub(super) fn capacity(&self) -> usize {
        self.few.capacity() + self.many.capacity() + self.very_many.capacity()
    }

    /// Whether a look-up is likely to wait for memory.
    #[inline(always)]
    pub(super) fn is_large(&self) -> bool {
        self.very_many.is_in_use()
    }

    /// Whether they are more than few.
    #[inline]
    pub(super) fn has_many(&self) -> bool {
        self.many.capacity() > 0 || self.is_large()
    }

    /// Whether the key is here.
    pub(super) fn has(&self, hash: u64, key: &K) -> bool {
        let mut found = false;
        self.with_hash(hash, |known, _| found |= known == key);
        found
    }

    /// Whether the key is here, of a large table.
    #[inline(always)]
    pub(super) fn contains(&self, hash: u64, key: &K) -> bool {
        self.very_many.find(hash, key).is_some()
    }

    /// The value of a key that is here.
    #[inline(always)]
    pub(super) fn get(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        match self.few.place(hash, key) {
            Some(place) => Some(self.few.at(place)),
            None => self.get_elsewhere(hash, key),
        }
    }

    /// The keys, unless they are [more than few](Self::has_many): then these are none.
    #[inline(always)]
    pub(super) fn few_mut(&mut self) -> &mut Few<K, V> {
        &mut self.few
    }

    /// The value of a key that the slot of its hash does not name. (Inlined, its first instructions are
    /// executed for every key.)
    #[inline(never)]
    fn get_elsewhere(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        if !self.many.is_empty() {
            return self.many.find_mut(hash, |entry| entry.0 == *key).map(|entry| &mut entry.1);
        }
        if self.few.is_empty() {
            return self.very_many.find_mut(hash, key).map(|entry| &mut entry.1);
        }
        self.few.find(hash, key)
    }

    /// The value of a key that is here, of a large table.
    #[inline(always)]
    pub(super) fn get_of_large(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        self.very_many.find_mut(hash, key).map(|entry| &mut entry.1)
    }

    /// Gives `each` all entries whose keys have this hash, and perhaps some of similar hashes.
    pub(super) fn with_hash(&self, hash: u64, mut each: impl FnMut(&K, &V)) {
        self.few.with_hash(hash, &mut each);
        self.many.iter_hash(hash).for_each(|(key, value)| each(key, value));
        self.very_many.iter_hash(hash).for_each(|(key, value)| each(key, value));
    }

    /// All entries, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.few.iter().chain(self.many.iter()).chain(self.very_many.iter())
    }

    /// Adds a key that is not here.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V) {
        if self.many.is_empty() {
            if self.few.len() < FEW_KEYS_MAX && !self.has_many() {
                return self.few.insert(hash, key, value);
            }
            if !self.few.is_empty() {
                self.move_to_many();
            }
            if self.is_large() {
                return self.very_many.insert(hash, (key, value));
            }
        } else if self.many.len() >= Self::MANY_KEYS_MAX {
            self.very_many = Parts::of(std::mem::take(&mut self.many));
            return self.very_many.insert(hash, (key, value));
        }
        self.many.insert_unique(hash, (key, value), |entry| table_hash(&entry.0));
    }

    #[cold]
    fn move_to_many(&mut self) {
        self.many.reserve(2 * FEW_KEYS_MAX, |entry| table_hash(&entry.0));
        let mut few = std::mem::replace(&mut self.few, Few::new());
        for entry in few.drain() {
            self.many.insert_unique(table_hash(&entry.0), entry, |entry| table_hash(&entry.0));
        }
    }

    /// Gives all keys to `each`, and keeps the buffers. A few keys come in the order they went in, many in one that depends
    /// on their hashes and on what the table held before.
    pub(super) fn drain(&mut self, mut each: impl FnMut(K, V)) {
        self.few.drain().for_each(|(key, value)| each(key, value));
        self.many.drain().for_each(|(key, value)| each(key, value));
        self.very_many.drain(|(key, value)| each(key, value));
    }

    /// Takes keys out as [`drain`](Self::drain) does, as far as `budget` allows, and returns whether there are no more.
    /// Buffers of many keys are given back. No key may come until all are out.
    pub(super) fn drain_some(
        &mut self,
        cursor: &mut Cursor,
        budget: &mut Budget,
        mut each: impl FnMut(K, V),
    ) -> bool {
        budget.spend(self.few.len());
        self.few.drain().for_each(|(key, value)| each(key, value));
        // One by one, entries cost more. Where a walk has begun, it goes on.
        if cursor.is_at_begin() && budget.allows(self.many.len()) {
            budget.spend(self.many.len());
            self.many.drain().for_each(|(key, value)| each(key, value));
        }
        self.walk_entries(cursor, budget, |entry, _| {
            let ((key, value), _) = entry.remove();
            each(key, value);
        })
    }

    /// Shows `each` the entries from `cursor` on, as far as `budget` allows, and returns whether there are no more. An
    /// entry that `each` does not want to stay is taken out. No key may come until all were seen.
    pub(super) fn walk(
        &mut self,
        cursor: &mut Cursor,
        budget: &mut Budget,
        mut each: impl FnMut(&K, &mut V, &mut Budget) -> bool,
    ) -> bool {
        if cursor.is_at_begin() && !self.few.is_empty() {
            self.few.retain(|key, value| {
                budget.spend(1);
                each(key, value, budget)
            });
        }
        let all = self.walk_entries(cursor, budget, |mut entry, budget| {
            let (key, value) = entry.get_mut();
            if !each(key, value, budget) {
                entry.remove();
            }
        });
        if all {
            // Asked again, it shows none twice.
            *cursor = Cursor::END;
        }
        all
    }

    /// Walks over all but the few.
    fn walk_entries(
        &mut self,
        cursor: &mut Cursor,
        budget: &mut Budget,
        each: impl FnMut(OccupiedEntry<'_, (K, V)>, &mut Budget),
    ) -> bool {
        if self.is_large() {
            return self.very_many.walk(cursor, budget, each);
        }
        walk_table(&mut self.many, &mut cursor.bucket, budget, each)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::Weak;

    #[test]
    fn it_equals_a_map_whatever_the_hash_and_the_number_of_keys() {
        for mask in [0, 1, 0xff, u64::MAX] {
            let mut table = Table::new();
            // Used again it keeps what it has grown to.
            for keys in [1, 2, 3, 100, 254, 255, 256, 257, 701, 2, 701] {
                let mut map = HashMap::new();
                for n in 0..3_000_u64 {
                    let key = Weak(n * n % keys, mask);
                    match table.get(table_hash(&key), &key) {
                        Some(value) => *value += n,
                        None => table.insert(table_hash(&key), key, n),
                    }
                    *map.entry(key).or_insert(0) += n;
                }
                assert_eq!(table.len(), map.len());
                let absent = Weak(9_999, mask);
                assert!(table.get(table_hash(&absent), &absent).is_none());
                table.drain(|key, value| assert_eq!(Some(value), map.remove(&key)));
                assert!(map.is_empty());
                assert_eq!(table.len(), 0);
                assert!(table.get(0, &Weak(0, mask)).is_none(), "drained");
            }
        }
    }
}
