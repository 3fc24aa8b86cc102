//! The hot part of a keyed state on a shard: what is in memory, and what of it the store does not know yet.
//!
//! An entry is marked when it changes. A [snapshot](KeyedTable::snapshot) at a barrier writes the
//! marked entries and takes their marks away, so a barrier costs what has changed. The table grows in small
//! steps ([`segments`]), and what it does unasked is bounded for each call.
//!
//! # Removed keys
//! A removed key that the store may have is written as a delete at the next snapshot. It is remembered
//! for longer than that: until the store can read the epoch of the snapshot ([`removed`]). Until then
//! the store would still answer with the old value.
//!
//! # Cold keys
//! [`evict_clean`](KeyedTable::evict_clean) drops entries that the store has. From then on a key that is
//! not here may be in the store. Its look-up ends with [`Found::Cold`]; the caller reads the store and
//! [loads](KeyedTable::load) what it finds. In a table that never dropped an entry, a miss is final.
//!
//! # Time to live
//! In a table whose entries [expire](Lives) each entry has a last millisecond, which is [`NEVER`] if it lives for ever.
//! After its last millisecond nobody sees the entry: a look-up that meets it takes it out, and
//! [`expire`](KeyedTable::expire) finds expired entries that nobody looks for. A cold entry that has expired is taken out
//! when it is loaded and met.

mod removed;
mod segment;
mod segments;
#[cfg(test)]
mod tests;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Changes, Epoch, Key, KeyGroups, StateId, Timestamp};

use crate::table_hash::table_hash;
use removed::Removed;
pub(in crate::state) use segment::{Hashed, Segment};
pub(in crate::state) use segments::Segments;
pub(in crate::state) use segments::{Looked, Place, Verdict};

/// The last millisecond of what does not expire.
pub const NEVER: Timestamp = Timestamp::MAX;

/// A call looks at this many buckets at most in search of entries to drop.
const EVICT_BUCKETS_MAX: usize = 1_024;
/// The search for the least recently used key ends after this many entries.
pub(in crate::state) const LEAST_USED_ENTRIES_MAX: usize = 64;

/// Marks of an entry, below the epoch of its last change.
const DIRTY: u64 = 1;
const USED: u64 = 2;
const STORED: u64 = 4;
const EPOCH_SHIFT: u32 = 3;

/// See the module. Hashes are those of [`table_hash`].
pub struct KeyedTable<K, V, L = Timestamp> {
    entries: Segments<Entry<K, V, L>>,
    removed: Removed<K>,
    /// The epoch that is under way.
    epoch: Epoch,
    /// Whether an entry was ever dropped that the store has.
    evicted: bool,
    /// Where the search for what to drop goes on; and for what has expired.
    hand: Place,
    sweep: Place,
    barren: Barren,
    weigh: fn(&K, &V) -> usize,
    weight: usize,
}

/// The first and the last field are the first and the last bytes.
#[repr(C)]
struct Entry<K, V, L> {
    key: K,
    held: Held<V, L>,
    /// Three marks, and above them the epoch of the last change. The marks say whether the entry has changed since the
    /// last snapshot, was used since the hand came by, and may be in the store.
    marks: u64,
}

/// A value and how long it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<V, L = Timestamp> {
    /// The value.
    pub value: V,
    /// The last millisecond at which it is there.
    pub lives_until: L,
}

/// How an entry keeps its last millisecond: as it is, or, as `()`, not at all, where none expires.
pub trait Lives: Copy {
    /// The last millisecond, to be kept.
    fn until(last: Timestamp) -> Self;

    /// The last millisecond.
    fn last(self) -> Timestamp;
}

impl Lives for Timestamp {
    #[inline(always)]
    fn until(last: Timestamp) -> Self {
        last
    }

    #[inline(always)]
    fn last(self) -> Timestamp {
        self
    }
}

impl Lives for () {
    #[inline(always)]
    fn until(_: Timestamp) -> Self {}

    #[inline(always)]
    fn last(self) -> Timestamp {
        NEVER
    }
}

impl<K, V, L: Lives> Entry<K, V, L> {
    #[inline(always)]
    fn lives_at(&self, now: Timestamp) -> bool {
        self.held.lives_until.last() >= now
    }
}

/// What a look-up has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// It is here.
    Here(T),
    /// There is none, neither here nor in the store.
    Absent,
    /// It is not here, but the store may have it.
    Cold,
}

/// A search that found nothing to drop, and need not be repeated before there can be something.
#[derive(Default)]
struct Barren {
    /// Buckets since something was dropped.
    buckets: usize,
    readable: Epoch,
}

impl<K: Key, V, L: Lives> Hashed for Entry<K, V, L> {
    #[inline(always)]
    fn hash(&self) -> u64 {
        table_hash(&self.key)
    }

    #[inline(always)]
    fn touch(&self) -> u64 {
        self.hash() ^ self.marks
    }
}

impl<K: Key, V, L: Lives> Default for KeyedTable<K, V, L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V, L: Lives> KeyedTable<K, V, L> {
    /// An empty one, in the first epoch.
    pub fn new() -> Self {
        Self::weighed_by(|_, _| 0)
    }

    /// An empty one that keeps account of the bytes that keys and values hold outside of it, as `weigh`
    /// estimates them. It is called when an entry comes or goes; [`grow_by`](Self::grow_by) is for
    /// values that change.
    pub fn weighed_by(weigh: fn(&K, &V) -> usize) -> Self {
        Self {
            entries: Segments::new(),
            removed: Removed::new(),
            epoch: Epoch::NONE.next(),
            evicted: false,
            hand: Place::default(),
            sweep: Place::default(),
            barren: Barren::default(),
            weigh,
            weight: 0,
        }
    }

    /// The number of keys in memory, with those that have expired and were not met yet.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many of them have changed since the last snapshot.
    pub fn changed(&self) -> usize {
        self.entries.marked()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has ever dropped an entry that the store has, so that a look-up may end with
    /// [`Found::Cold`].
    #[inline(always)]
    pub fn has_evicted(&self) -> bool {
        self.evicted
    }

    /// An estimate of the table's memory, in bytes: its own buffers, and what `weigh` has found. It takes a walk
    /// over the segments, of which there is about one for a thousand entries.
    pub fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes() + self.removed.memory_bytes() + self.weight
    }

    /// What `weigh` has found, in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.weight
    }

    /// The bytes of its entries alone, without what `weigh` has found: at hand at any time.
    pub fn entries_bytes(&self) -> usize {
        self.len() * self.entry_bytes()
    }

    /// The bytes of one entry alone.
    pub fn entry_bytes(&self) -> usize {
        size_of::<Entry<K, V, L>>()
    }

    /// Looks at the entries of keys with these hashes, one after the other, to have them in the cache. The accesses to
    /// memory overlap, as they would not with work in between.
    pub fn look_ahead(&self, hashes: &[u64]) {
        std::hint::black_box(self.entries.touch(hashes));
    }

    /// A value that is in the table has grown by this many bytes, or has shrunk.
    #[inline]
    pub fn grow_by(&mut self, bytes: isize) {
        self.weight = self.weight.saturating_add_signed(bytes);
    }

    /// The value of a key, to read.
    #[inline(always)]
    pub fn get(&mut self, hash: u64, key: &K, now: Timestamp) -> Found<&Held<V, L>> {
        let touch = |entry: &mut Entry<K, V, L>| {
            entry.marks |= USED;
            false
        };
        match self.look(hash, key, now, USED, touch) {
            Found::Here(held) => Found::Here(held),
            Found::Absent => Found::Absent,
            Found::Cold => Found::Cold,
        }
    }

    /// The value of a key, to change: it will be part of the next snapshot.
    #[inline(always)]
    pub fn get_mut(&mut self, hash: u64, key: &K, now: Timestamp) -> Found<&mut Held<V, L>> {
        let changed = self.epoch.number() << EPOCH_SHIFT | DIRTY | USED;
        let touch = |entry: &mut Entry<K, V, L>| {
            let forgotten = seeded(Defect::FlowForgetsDirtyMark) && entry.marks & STORED != 0;
            let to_mark = entry.marks & DIRTY == 0 && !forgotten;
            entry.marks = changed | entry.marks & STORED;
            to_mark
        };
        self.look(hash, key, now, DIRTY | USED, touch)
    }

    /// The value of a key. `touch` is shown its entry, unless the entry has all the marks `to_be` already.
    #[inline(always)]
    fn look(
        &mut self,
        hash: u64,
        key: &K,
        now: Timestamp,
        to_be: u64,
        touch: impl FnOnce(&mut Entry<K, V, L>) -> bool,
    ) -> Found<&mut Held<V, L>> {
        let looked = self.entries.look(
            hash,
            |entry| entry.key == *key,
            // One branch.
            |entry| (entry.marks & to_be == to_be) & entry.lives_at(now),
            |entry| !entry.lives_at(now),
            touch,
        );
        match looked {
            Looked::Here(entry) => Found::Here(&mut entry.held),
            Looked::Dead(entry) => {
                let Self { removed, weight, weigh, epoch, .. } = self;
                forget(removed, weight, *weigh, *epoch, entry);
                Found::Absent
            }
            Looked::Absent if self.evicted && !self.removed.contains(hash, key) => Found::Cold,
            Looked::Absent => Found::Absent,
        }
    }

    /// Adds a key that is not here, neither in the store; or one that is [`Cold`](Found::Cold) and whose
    /// stored value does not matter.
    #[inline]
    pub fn insert(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        lives_until: Timestamp,
    ) -> &mut Held<V, L> {
        debug_assert!(self.entries.find(hash, |entry| entry.key == key).is_none(), "it is here");
        let stored = self.removed.take(hash, &key) || self.evicted;
        let stored = if stored { STORED } else { 0 };
        let marks = self.epoch.number() << EPOCH_SHIFT | DIRTY | USED | stored;
        self.weight += (self.weigh)(&key, &value);
        let held = Held { value, lives_until: L::until(lives_until) };
        &mut self.entries.insert(Entry { key, marks, held }, true).held
    }

    /// Sets the value of a key, whatever it was.
    #[inline]
    pub fn put(&mut self, hash: u64, key: K, value: V, lives_until: Timestamp) {
        let weigh = self.weigh;
        // What has expired is overwritten, too.
        if let Found::Here(held) = self.get_mut(hash, &key, Timestamp::MIN) {
            let (before, after) = (weigh(&key, &held.value), weigh(&key, &value));
            *held = Held { value, lives_until: L::until(lives_until) };
            self.weight = (self.weight + after).saturating_sub(before);
        } else {
            self.insert(hash, key, value, lives_until);
        }
    }

    /// Adds a key that is not here as the store has it: when the job begins, or when it was cold.
    #[inline]
    pub fn load(&mut self, hash: u64, key: K, value: V, lives_until: Timestamp) -> &mut Held<V, L> {
        debug_assert!(self.entries.find(hash, |entry| entry.key == key).is_none(), "it is here");
        self.weight += (self.weigh)(&key, &value);
        self.barren.buckets = 0;
        let held = Held { value, lives_until: L::until(lives_until) };
        &mut self.entries.insert(Entry { key, marks: STORED | USED, held }, false).held
    }

    /// Takes a key out. A key that was cold is deleted from the store nevertheless.
    #[inline]
    pub fn remove(&mut self, hash: u64, key: &K, now: Timestamp) -> Found<V> {
        let Some((entry, _)) = self.entries.remove(hash, |entry| entry.key == *key) else {
            if self.evicted && !self.removed.contains(hash, key) {
                self.removed.insert(key.clone(), self.epoch);
                return Found::Cold;
            }
            return Found::Absent;
        };
        let expired = !entry.lives_at(now);
        let Self { removed, weight, weigh, epoch, .. } = self;
        let value = forget(removed, weight, *weigh, *epoch, entry);
        if expired { Found::Absent } else { Found::Here(value) }
    }

    /// Whether a key that the store has is there alone.
    pub fn is_cold(&self, hash: u64, key: &K) -> bool {
        self.entries.find(hash, |entry| entry.key == *key).is_none()
            && !self.removed.contains(hash, key)
    }

    /// Deletes a key that has expired in the store, if it is in the store alone. Returns whether it was.
    pub fn expire_cold(&mut self, hash: u64, key: &K) -> bool {
        let is_cold = self.is_cold(hash, key);
        if is_cold {
            self.removed.insert(key.clone(), self.epoch);
        }
        is_cold
    }

    /// All keys in memory that have not expired, in no particular order.
    pub fn iter(&self, now: Timestamp) -> impl Iterator<Item = (&K, &Held<V, L>)> {
        let alive = self.entries.iter().filter(move |entry| entry.lives_at(now));
        alive.map(|entry| (&entry.key, &entry.held))
    }

    /// Frees entries that have expired, and returns how many. It looks at this many buckets at most, and goes on where
    /// the last call ended.
    pub fn expire(&mut self, now: Timestamp, buckets: usize) -> usize {
        let Self { entries, removed, weight, weigh, epoch, sweep, .. } = self;
        let before = entries.len();
        let judge = |entry: &mut Entry<K, V, L>| match entry.lives_at(now) {
            true => Verdict::Keep,
            false => Verdict::Take,
        };
        entries.walk(sweep, buckets, judge, |entry| {
            forget(removed, weight, *weigh, *epoch, entry);
        });
        before - self.entries.len()
    }

    /// Drops entries that the store can give back, until `keep` are left, and returns how many it has dropped. The store
    /// can give back what changed last in an epoch up to `readable`. Entries go first that were not used since the
    /// search came by last. A call does a bounded piece of the search: call again while more are here.
    pub fn evict_clean(&mut self, readable: Epoch, keep: usize) -> usize {
        let blind = seeded(Defect::FlowEvictsUnreadable);
        let readable = if blind { Epoch::new(u64::MAX) } else { readable };
        let before = self.entries.len();
        if before <= keep {
            return 0;
        }
        if self.barren.readable != readable {
            self.barren = Barren { buckets: 0, readable };
        } else if self.is_barren(readable) {
            return 0;
        }
        let Self { entries, weight, weigh, hand, .. } = self;
        let mut left = before;
        let judge = |entry: &mut Entry<K, V, L>| {
            if left <= keep {
                Verdict::Stop
            } else if entry.marks & DIRTY != 0 || entry.marks >> EPOCH_SHIFT > readable.number() {
                Verdict::Keep
            } else if entry.marks & USED != 0 {
                entry.marks &= !USED;
                Verdict::Keep
            } else {
                left -= 1;
                Verdict::Take
            }
        };
        entries.walk(hand, EVICT_BUCKETS_MAX, judge, |entry| {
            *weight = weight.saturating_sub(weigh(&entry.key, &entry.held.value));
        });
        let evicted = before - self.entries.len();
        self.evicted |= evicted > 0;
        self.barren.buckets = if evicted > 0 { 0 } else { self.barren.buckets + EVICT_BUCKETS_MAX };
        evicted
    }

    /// Whether all were searched in vain for what can be read in the store.
    pub(in crate::state) fn is_barren(&self, readable: Epoch) -> bool {
        // Twice: the first search takes the marks of use away.
        self.barren.readable == readable
            && self.barren.buckets > EVICT_BUCKETS_MAX
            && self.barren.buckets > 2 * self.entries.buckets()
    }

    /// A key that was not used for long, to make room where nothing may be dropped; `None` of an empty
    /// table. It is the first key that was not used since the search came by last. If the search has met none,
    /// it is the key of those it has met that changed the longest ago.
    pub fn least_recently_used(&mut self) -> Option<K> {
        let Self { entries, hand, .. } = self;
        if entries.len() == 0 {
            return None;
        }
        let (mut oldest, mut seen) = (None::<(u64, K)>, 0);
        while seen < LEAST_USED_ENTRIES_MAX {
            let mut unused = false;
            let judge = |entry: &mut Entry<K, V, L>| {
                seen += 1;
                unused = entry.marks & USED == 0;
                entry.marks &= !USED;
                let changed = entry.marks >> EPOCH_SHIFT;
                if unused || oldest.as_ref().is_none_or(|(epoch, _)| changed < *epoch) {
                    oldest = Some((changed, entry.key.clone()));
                }
                match unused || seen >= LEAST_USED_ENTRIES_MAX {
                    true => Verdict::Stop,
                    false => Verdict::Keep,
                }
            };
            entries.walk(hand, EVICT_BUCKETS_MAX, judge, drop);
            if unused {
                break;
            }
        }
        oldest.map(|(_, key)| key)
    }

    /// Writes what has changed since the last snapshot, deletes before puts. `write` appends a value to
    /// the block and returns the block. Returns how many entries were put, and how many bytes they take.
    ///
    /// The changes must reach the store, or the table must be built anew from there: what was written is
    /// clean from now on.
    pub fn snapshot(
        &mut self,
        id: StateId,
        groups: KeyGroups,
        out: &mut Changes,
        mut write: impl FnMut(&Held<V, L>, Vec<u8>) -> Vec<u8>,
    ) -> (usize, usize) {
        let begin = |key: &K, out: &mut Vec<u8>| {
            id.begin_key(groups.group_of(key.key_hash()), out);
            key.write_key(out);
        };
        self.removed.take_pending(|key| out.delete_with(|out| begin(key, out)));
        let (deleted, deletes_end) = (out.len(), out.as_bytes().len());
        self.entries.take_marked(|entry| {
            entry.marks = entry.marks & !DIRTY | STORED;
            out.put_with(|out| begin(&entry.key, out), |out| write(&entry.held, out));
        });
        (out.len() - deleted, out.as_bytes().len() - deletes_end)
    }

    /// Begins the next epoch, after a snapshot. The store can read all epochs up to `readable`. (Of a
    /// table that never drops entries, it may be said of the epoch that has just ended: removed
    /// keys are forgotten then.)
    pub fn begin_epoch(&mut self, epoch: Epoch, readable: Epoch) {
        debug_assert!(self.epoch <= epoch, "epochs grow");
        self.epoch = epoch;
        self.removed.readable(readable);
    }
}

/// Keeps account of an entry that was taken out, and returns its value.
#[inline]
fn forget<K: Key, V, L>(
    removed: &mut Removed<K>,
    weight: &mut usize,
    weigh: fn(&K, &V) -> usize,
    epoch: Epoch,
    entry: Entry<K, V, L>,
) -> V {
    *weight = weight.saturating_sub(weigh(&entry.key, &entry.held.value));
    if entry.marks & STORED != 0 && !seeded(Defect::FlowForgetsRemovedKey) {
        removed.insert(entry.key, epoch);
    }
    entry.held.value
}
