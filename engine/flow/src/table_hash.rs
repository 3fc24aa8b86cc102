//! The hash of a key for tables in memory: the key's cheaper one where it has one, else its fixed one.

use thalweg_kernel::Key;

/// The hash of a key for tables in memory.
#[inline(always)]
pub fn table_hash<K: Key>(key: &K) -> u64 {
    match K::TABLE_HASH {
        Some(hash) => hash(key),
        None => key.key_hash(),
    }
}

/// The hash for tables, where the key's fixed hash is at hand.
#[inline(always)]
pub(crate) fn table_hash_from<K: Key>(key: &K, fixed: u64) -> u64 {
    match K::TABLE_HASH {
        Some(hash) => hash(key),
        None => fixed,
    }
}
