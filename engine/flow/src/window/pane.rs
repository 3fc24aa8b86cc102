//! One open window: its keys and their accumulators.

use hashbrown::HashTable;
use thalweg_kernel::Timestamp;

struct Entry<K, A> {
    hash: u64,
    key: K,
    accumulator: A,
}

/// The keys of one window, densely in the order they came, with a hash index beside them.
pub(super) struct Pane<K, A> {
    pub(super) start: Timestamp,
    entries: Vec<Entry<K, A>>,
    index: HashTable<u32>,
}

impl<K: Eq, A> Pane<K, A> {
    pub(super) fn new(start: Timestamp) -> Self {
        Self { start, entries: Vec::new(), index: HashTable::new() }
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
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

    /// Takes all keys out in the order they came, and keeps the buffers.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (K, A)> {
        self.index.clear();
        self.entries.drain(..).map(|entry| (entry.key, entry.accumulator))
    }
}
