//! Which timers a key has: for operators that drop keys, whose timers go with them, and for those whose keys have clocks of
//! their own. Others do without.
//!
//! A key with very many timers costs time here, as equal hashes do in any table.

use std::cell::Cell;

use thalweg_kernel::{Key, Timestamp};

use super::super::table::{Hashed, Segments};
use crate::table_hash::table_hash;

/// See the module.
pub(super) struct OfKeys<K>(Segments<OfKey<K>>);

struct OfKey<K> {
    key: K,
    time: Timestamp,
}

impl<K: Key> Hashed for OfKey<K> {
    #[inline(always)]
    fn hash(&self) -> u64 {
        table_hash(&self.key)
    }
}

impl<K: Key> OfKeys<K> {
    pub(super) fn new() -> Self {
        Self(Segments::new())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }

    pub(super) fn insert(&mut self, time: Timestamp, key: K) {
        self.0.insert(OfKey { key, time }, false);
    }

    pub(super) fn remove(&mut self, time: Timestamp, hash: u64, key: &K) {
        self.0.remove(hash, |of| of.time == time && of.key == *key);
    }

    /// The earliest timer of a key. This looks at all that the key has.
    pub(super) fn earliest(&self, hash: u64, key: &K) -> Option<Timestamp> {
        let earliest = Cell::new(None);
        self.0.find(hash, |of| {
            if of.key == *key && earliest.get().is_none_or(|earliest| of.time < earliest) {
                earliest.set(Some(of.time));
            }
            false
        });
        earliest.get()
    }

    /// The keys that have timers, once for each timer.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|of| &of.key)
    }

    /// Some timer of a key.
    pub(super) fn any(&self, hash: u64, key: &K) -> Option<Timestamp> {
        self.0.find(hash, |of| of.key == *key).map(|of| of.time)
    }
}
