//! Which timers a key has: for operators that drop keys, whose timers go with them. Others do without.
//!
//! A key with very many timers costs time here, as equal hashes do in any table.

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

    /// Some timer of a key.
    pub(super) fn any(&self, hash: u64, key: &K) -> Option<Timestamp> {
        self.0.find(hash, |of| of.key == *key).map(|of| of.time)
    }
}
