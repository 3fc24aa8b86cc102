//! The timers of each key in order of their times. Operators need them that drop keys, whose timers go with them, and
//! operators whose keys have clocks of their own. Other operators do without.
//!
//! A key has one entry in a hash table. The entry holds one or two timers in place, and more of them in an ordered set. So
//! the earliest timer of a key is found in a look-up, however many timers the key has. An insert or a removal costs the
//! logarithm of their number. A set stays until one timer is left, so that a key which goes back and forth between two
//! timers and three allocates nothing.

use std::collections::BTreeSet;

use thalweg_kernel::{Key, Timestamp};

use super::super::table::{Hashed, Looked, Segments};
use crate::table_hash::table_hash;

/// The bytes of a set with its first node, about.
const SET_BYTES: usize = 128;
/// The bytes that a timer takes in a set, about: nodes are full by two thirds.
const IN_SET_BYTES: usize = 16;

/// See the module.
pub(super) struct OfKeys<K> {
    keys: Segments<OfKey<K>>,
    sets: usize,
    /// How many timers lie in sets.
    in_sets: usize,
}

struct OfKey<K> {
    key: K,
    times: Times,
}

/// The times of a key's timers.
enum Times {
    One(Timestamp),
    /// The earlier one first.
    Two(Timestamp, Timestamp),
    /// Never empty.
    #[expect(
        clippy::box_collection,
        reason = "rare, so that it should not take the place of two times"
    )]
    More(Box<BTreeSet<Timestamp>>),
}

impl Times {
    fn earliest(&self) -> Option<Timestamp> {
        match self {
            Self::One(time) | Self::Two(time, _) => Some(*time),
            Self::More(times) => times.first().copied(),
        }
    }
}

impl<K: Key> Hashed for OfKey<K> {
    #[inline(always)]
    fn hash(&self) -> u64 {
        table_hash(&self.key)
    }
}

impl<K: Key> OfKeys<K> {
    pub(super) fn new() -> Self {
        Self { keys: Segments::new(), sets: 0, in_sets: 0 }
    }

    /// The bytes of its buffers. This takes a walk over the parts of the table.
    pub(super) fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes() + self.sets_bytes()
    }

    /// About the bytes that its timers take, at hand at any time.
    pub(super) fn takes_bytes(&self) -> usize {
        // A bucket of a table is empty in three of eight cases, on average.
        self.keys.len() * size_of::<OfKey<K>>() * 8 / 5 + self.sets_bytes()
    }

    fn sets_bytes(&self) -> usize {
        self.sets * SET_BYTES + self.in_sets * IN_SET_BYTES
    }

    fn of(&mut self, hash: u64, key: &K) -> Option<&mut Times> {
        let is = |of: &OfKey<K>| of.key == *key;
        match self.keys.look(hash, is, |_| true, |_| false, |_| false) {
            Looked::Here(of) => Some(&mut of.times),
            Looked::Dead(_) | Looked::Absent => None,
        }
    }

    /// Adds a timer that is not here.
    pub(super) fn insert(&mut self, time: Timestamp, hash: u64, key: &K) {
        let Some(times) = self.of(hash, key) else {
            self.keys.insert(OfKey { key: key.clone(), times: Times::One(time) }, false);
            return;
        };
        let (sets, in_sets) = match times {
            Times::One(other) => {
                *times = Times::Two(time.min(*other), time.max(*other));
                (0, 0)
            }
            Times::Two(first, second) => {
                *times = Times::More(Box::new(BTreeSet::from([*first, *second, time])));
                (1, 3)
            }
            Times::More(all) => (0, usize::from(all.insert(time))),
        };
        self.sets += sets;
        self.in_sets += in_sets;
    }

    /// Takes a timer out.
    pub(super) fn remove(&mut self, time: Timestamp, hash: u64, key: &K) {
        let Some(times) = self.of(hash, key) else { return };
        match times {
            Times::One(_) => _ = self.keys.remove(hash, |of| of.key == *key),
            Times::Two(first, second) => {
                *times = Times::One(if time == *first { *second } else { *first });
            }
            Times::More(all) => {
                let removed = usize::from(all.remove(&time));
                let last = all.first().copied().filter(|_| all.len() == 1);
                if let Some(last) = last {
                    *times = Times::One(last);
                    self.sets -= 1;
                }
                self.in_sets -= removed + usize::from(last.is_some());
            }
        }
    }

    /// The earliest timer of a key.
    pub(super) fn earliest(&self, hash: u64, key: &K) -> Option<Timestamp> {
        self.keys.find(hash, |of| of.key == *key)?.times.earliest()
    }
}
