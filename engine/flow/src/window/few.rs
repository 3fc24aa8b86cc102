//! Few keys and what belongs to them: a list beside an index with at least sixteen slots a key.
//!
//! The slot of a key's hash names nearly every key. That costs two loads and a comparison, and no branch that the processor
//! could guess wrong.

use thalweg_kernel::Key;

use crate::table_hash::table_hash;

/// Few keys are at most this many, since a slot is a byte, and one byte names no key.
pub(super) const FEW_KEYS_MAX: usize = NONE as usize;
/// What a slot says that names no key.
const NONE: u8 = u8::MAX;
/// Each key has at least this many slots. (With half as many, the Yahoo benchmark takes one instruction an event more, for
/// keys that find their own slot taken.)
const SLOTS_PER_KEY: usize = 16;
/// The first index has this many slots.
const SLOTS_MIN: usize = 16;

/// See the module. Hashes are those of [`table_hash`].
pub(super) struct Few<K, V> {
    list: Vec<(K, V)>,
    /// Places in the list, or [`NONE`]. As many as a power of two, or none.
    slots: Vec<u8>,
    /// The bits of a hash that say its slot.
    mask: usize,
}

impl<K: Key, V> Few<K, V> {
    /// None, without buffers.
    pub(super) const fn new() -> Self {
        Self { list: Vec::new(), slots: Vec::new(), mask: 0 }
    }

    /// The number of keys.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many keys its buffers have room for.
    pub(super) fn capacity(&self) -> usize {
        self.list.capacity()
    }

    /// The bytes of its buffers.
    pub(super) fn memory_bytes(&self) -> usize {
        self.list.capacity() * size_of::<(K, V)>() + self.slots.capacity()
    }

    /// Gives back a list that is mostly empty.
    pub(super) fn shrink(&mut self) {
        if self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len());
        }
    }

    /// The value of a key that the slot of its hash names.
    #[inline(always)]
    pub(super) fn get(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let place = self.place(hash, key)?;
        Some(&mut self.list[place].1)
    }

    /// The place of a key that the slot of its hash names.
    #[inline(always)]
    pub(super) fn place(&self, hash: u64, key: &K) -> Option<usize> {
        let place = usize::from(*self.slots.get(hash as usize & self.mask)?);
        (self.list.get(place)?.0 == *key).then_some(place)
    }

    /// The value of a key at its place.
    #[inline(always)]
    pub(super) fn at(&mut self, place: usize) -> &mut V {
        &mut self.list[place].1
    }

    /// The value of a key, whichever slot names it.
    pub(super) fn find(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let mut at = hash as usize & self.mask;
        while let Some((known, _)) = self.named_by(at) {
            if known == key {
                let place = usize::from(self.slots[at]);
                return Some(&mut self.list[place].1);
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// Gives `each` all entries whose keys have this hash, and perhaps some of similar hashes.
    pub(super) fn with_hash(&self, hash: u64, mut each: impl FnMut(&K, &V)) {
        let mut at = hash as usize & self.mask;
        while let Some((key, value)) = self.named_by(at) {
            each(key, value);
            at = (at + 1) & self.mask;
        }
    }

    fn named_by(&self, slot: usize) -> Option<&(K, V)> {
        self.list.get(usize::from(*self.slots.get(slot)?))
    }

    /// All entries, as they came.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, (K, V)> {
        self.list.iter()
    }

    /// Adds a key that is not here. There must be room: see [`FEW_KEYS_MAX`].
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V) {
        self.list.push((key, value));
        if self.list.len() * SLOTS_PER_KEY > self.slots.len() {
            return self.grow();
        }
        self.name(hash, self.list.len() - 1);
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        self.slots.clear();
        self.slots.resize(slots, NONE);
        self.mask = slots - 1;
        self.name_all();
    }

    fn name_all(&mut self) {
        for place in 0..self.list.len() {
            self.name(table_hash(&self.list[place].0), place);
        }
    }

    fn name(&mut self, hash: u64, place: usize) {
        let mut at = hash as usize & self.mask;
        while self.slots[at] != NONE {
            at = (at + 1) & self.mask;
        }
        self.slots[at] = place as u8;
    }

    /// Takes all entries out, as they came, and keeps the buffers.
    pub(super) fn drain(&mut self) -> std::vec::Drain<'_, (K, V)> {
        self.slots.fill(NONE);
        self.list.drain(..)
    }

    /// Shows `each` all entries, and takes out those that it does not want to stay.
    pub(super) fn retain(&mut self, mut each: impl FnMut(&K, &mut V) -> bool) {
        let before = self.list.len();
        self.list.retain_mut(|(key, value)| each(key, value));
        if self.list.len() < before {
            self.slots.fill(NONE);
            self.name_all();
        }
    }
}
