//! A table of keys and what belongs to them.
//!
//! Few keys, as most jobs have, lie in an array with eight times as many slots: nearly all of them are in
//! the slot that their hash names, which costs a load and a comparison, and no branch that the
//! processor could guess wrong. Many keys lie in a `hashbrown` table with the entries in it. (Measured
//! with a million keys against two of our own: probing slot by slot is no better, since one search
//! in four goes on to the next slot, and each of those throws away what the processor had begun of
//! the next ones; a list of entries beside an index takes a third longer, for the second access.)

use hashbrown::HashTable;
use thalweg_kernel::Key;

/// A few keys are at most so many.
const FEW_KEYS_MAX: usize = 256;
/// Slots for each of them.
const SLOTS_PER_KEY: usize = 8;
/// The first array has so many.
const SLOTS_MIN: usize = 16;

/// A table of more bytes than this does not stay in a second-level cache.
const LARGE_BYTES: usize = 512 * 1_024;

/// See the module. Hashes are those of [`Key::table_hash`].
pub(super) struct Table<K, V> {
    /// As many as a power of two, or none.
    few: Vec<Option<(K, V)>>,
    few_len: usize,
    /// In use once there were too many for the array.
    many: HashTable<(K, V)>,
}

impl<K: Key, V> Table<K, V> {
    /// An empty one, without buffers.
    pub(super) fn new() -> Self {
        Self { few: Vec::new(), few_len: 0, many: HashTable::new() }
    }

    /// The number of keys.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.few_len + self.many.len()
    }

    /// How many keys its buffers have room for.
    pub(super) fn capacity(&self) -> usize {
        self.few.len() / SLOTS_PER_KEY + self.many.capacity()
    }

    /// Whether a look-up is likely to wait for memory.
    #[inline(always)]
    pub(super) fn is_large(&self) -> bool {
        self.many.len() > LARGE_BYTES / (size_of::<(K, V)>() + 1)
    }

    /// Whether the key is here, of a large table.
    #[inline(always)]
    pub(super) fn contains(&self, hash: u64, key: &K) -> bool {
        self.many.find(hash, |entry| entry.0 == *key).is_some()
    }

    /// The value of a key that is here.
    #[inline(always)]
    pub(super) fn get(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let at = hash as usize & self.few.len().wrapping_sub(1);
        if let Some(Some((here, _))) = self.few.get(at)
            && here == key
        {
            return self.few[at].as_mut().map(|(_, value)| value);
        }
        self.get_elsewhere(hash, key)
    }

    /// The value of a key that is not in the slot of its hash. (Inlined, its first instructions are
    /// executed for every key.)
    #[inline(never)]
    fn get_elsewhere(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        if self.few_len == 0 {
            return self.many.find_mut(hash, |entry| entry.0 == *key).map(|entry| &mut entry.1);
        }
        let mask = self.few.len() - 1;
        let mut at = hash as usize & mask;
        while let Some((here, _)) = &self.few[at] {
            if here == key {
                return self.few[at].as_mut().map(|(_, value)| value);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Adds a key that is not here.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V) {
        if self.few_len * SLOTS_PER_KEY >= self.few.len() && self.many.capacity() == 0 {
            self.grow();
        }
        if self.many.capacity() > 0 {
            self.many.insert_unique(hash, (key, value), |entry| entry.0.table_hash());
        } else {
            self.few_len += 1;
            place(&mut self.few, hash, (key, value));
        }
    }

    /// Makes room in the array, or gives it up.
    #[cold]
    fn grow(&mut self) {
        let before = std::mem::take(&mut self.few);
        if self.few_len >= FEW_KEYS_MAX {
            self.few_len = 0;
            self.many.reserve(2 * FEW_KEYS_MAX, |entry| entry.0.table_hash());
            for entry in before.into_iter().flatten() {
                let hash = entry.0.table_hash();
                self.many.insert_unique(hash, entry, |entry| entry.0.table_hash());
            }
            return;
        }
        self.few.resize_with((before.len() * 2).max(SLOTS_MIN), || None);
        for entry in before.into_iter().flatten() {
            place(&mut self.few, entry.0.table_hash(), entry);
        }
    }

    /// Takes all keys out, in an order that follows from their hashes, and keeps the buffers.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (K, V)> {
        let few = if self.few_len == 0 { &mut [] } else { &mut self.few[..] };
        self.few_len = 0;
        few.iter_mut().filter_map(Option::take).chain(self.many.drain())
    }
}

fn place<K, V>(slots: &mut [Option<(K, V)>], hash: u64, entry: (K, V)) {
    let mask = slots.len() - 1;
    let mut at = hash as usize & mask;
    while slots[at].is_some() {
        at = (at + 1) & mask;
    }
    slots[at] = Some(entry);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A key whose hash is as bad as wanted.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    struct Weak(u64, u64);

    impl Key for Weak {
        fn key_hash(&self) -> u64 {
            self.0.table_hash() & self.1
        }
    }

    #[test]
    fn it_equals_a_map_whatever_the_hash_and_the_number_of_keys() {
        for mask in [0, 1, 0xff, u64::MAX] {
            let mut table = Table::new();
            // Used again it keeps what it has grown to.
            for keys in [1, 2, 3, 100, 255, 256, 257, 701, 2, 701] {
                let mut map = HashMap::new();
                for n in 0..3_000_u64 {
                    let key = Weak(n * n % keys, mask);
                    match table.get(key.table_hash(), &key) {
                        Some(value) => *value += n,
                        None => table.insert(key.table_hash(), key, n),
                    }
                    *map.entry(key).or_insert(0) += n;
                }
                assert_eq!(table.len(), map.len());
                let absent = Weak(9_999, mask);
                assert!(table.get(absent.table_hash(), &absent).is_none());
                for (key, value) in table.drain() {
                    assert_eq!(Some(value), map.remove(&key));
                }
                assert!(map.is_empty());
                assert_eq!(table.len(), 0);
                assert!(table.get(0, &Weak(0, mask)).is_none(), "drained");
            }
        }
    }
}
