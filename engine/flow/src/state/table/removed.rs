//! Keys that were removed, as long as the store still shows them.
//!
//! Each key is written as a delete at the next snapshot, and kept until that snapshot's epoch can be read
//! in the store. Keys are given up a few at a time: at each barrier, and whenever another key comes.

use std::collections::VecDeque;

use thalweg_kernel::{Epoch, Key};

use super::{Hashed, Segments};
use crate::table_hash::table_hash;

/// At most this many keys are given up at a barrier.
const FORGOTTEN_AT_BARRIER_MAX: usize = 1_024;
/// At most this many keys are given up when another one comes: more than one, so that the queue becomes shorter.
const FORGOTTEN_MAX: usize = 2;
/// The queue is a list of blocks with room for this many removals, so that it never moves.
const BLOCK: usize = 1_024;

/// See the module.
pub(super) struct Removed<K> {
    keys: Segments<Gone<K>>,
    /// The epoch and the hash of each key, in order of removal. A key that is back again stays here: its turn then finds
    /// no such key in `keys`.
    queue: Queue,
    /// How many keys at the end of the queue were removed since the last snapshot.
    pending: usize,
    readable: Epoch,
}

struct Gone<K> {
    key: K,
    epoch: Epoch,
    /// Not written yet.
    pending: bool,
}

impl<K: Key> Hashed for Gone<K> {
    #[inline]
    fn hash(&self) -> u64 {
        table_hash(&self.key)
    }
}

impl<K: Key> Removed<K> {
    pub(super) fn new() -> Self {
        let (keys, queue) = (Segments::new(), Queue::default());
        Self { keys, queue, pending: 0, readable: Epoch::NONE }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes() + self.queue.blocks.len() * BLOCK * size_of::<(Epoch, u64)>()
    }

    /// Whether the key is among them.
    #[inline]
    pub(super) fn contains(&self, hash: u64, key: &K) -> bool {
        self.keys.len() > 0 && self.keys.find(hash, |gone| gone.key == *key).is_some()
    }

    /// Adds a key that is not among them.
    pub(super) fn insert(&mut self, key: K, epoch: Epoch) {
        self.queue.push((epoch, table_hash(&key)));
        self.pending += 1;
        self.keys.insert(Gone { key, epoch, pending: true }, false);
        self.forget(FORGOTTEN_MAX);
    }

    /// Takes a key out that is back again, and returns whether it was there.
    #[inline]
    pub(super) fn take(&mut self, hash: u64, key: &K) -> bool {
        self.keys.len() > 0 && self.keys.remove(hash, |gone| gone.key == *key).is_some()
    }

    /// Gives the keys that were not written yet to `write`.
    pub(super) fn take_pending(&mut self, mut write: impl FnMut(&K)) {
        let from = self.queue.len() - self.pending;
        for at in from..self.queue.len() {
            let (epoch, hash) = self.queue.get(at);
            // Of several with this hash each is as good: all of them stand in the queue.
            let is = |gone: &Gone<K>| {
                gone.pending && gone.epoch == epoch && table_hash(&gone.key) == hash
            };
            if let super::Looked::Here(gone) =
                self.keys.look(hash, is, |_| true, |_| false, |_| false)
            {
                gone.pending = false;
                write(&gone.key);
            }
        }
        self.pending = 0;
    }

    /// The store can read all epochs up to this one.
    pub(super) fn readable(&mut self, readable: Epoch) {
        self.readable = readable;
        self.forget(FORGOTTEN_AT_BARRIER_MAX);
    }

    fn forget(&mut self, at_most: usize) {
        for _ in 0..at_most.min(self.queue.len() - self.pending) {
            let (epoch, hash) = self.queue.get(0);
            if epoch > self.readable {
                break;
            }
            self.queue.pop();
            let is = |gone: &Gone<K>| {
                !gone.pending && gone.epoch == epoch && table_hash(&gone.key) == hash
            };
            self.keys.remove(hash, is);
        }
    }
}

/// A queue that never moves what is in it.
#[derive(Default)]
struct Queue {
    blocks: VecDeque<Vec<(Epoch, u64)>>,
    /// How many of the first block are gone.
    gone: usize,
}

impl Queue {
    fn len(&self) -> usize {
        let last = self.blocks.back().map_or(0, Vec::len);
        (self.blocks.len().saturating_sub(1) * BLOCK + last) - self.gone
    }

    fn get(&self, at: usize) -> (Epoch, u64) {
        let at = at + self.gone;
        self.blocks[at / BLOCK][at % BLOCK]
    }

    fn push(&mut self, item: (Epoch, u64)) {
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK => block.push(item),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(item);
                self.blocks.push_back(block);
            }
        }
    }

    fn pop(&mut self) {
        self.gone += 1;
        if self.gone == self.blocks.front().map_or(0, Vec::len) {
            self.blocks.pop_front();
            self.gone = 0;
        }
    }
}
