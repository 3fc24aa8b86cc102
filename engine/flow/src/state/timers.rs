//! The timers of one operator on a shard, in event time or in processing time. They are a set of (time, key)
//! pairs, and leave it in order of time.
//!
//! Time is cut into [`Ranges`] of up to about 1,800 timers each, and each range has a hash table. A search among the
//! bounds of ranges, which stay in the cache, finds the range of a timer. The range's table says whether the pair is
//! there already. So an insert or a delete waits for memory once. The earliest range is the [`Front`]: what is to
//! fire next is put in order there, and its table is in the cache by then.
//!
//! Times are only compared. There is no wheel that turns, and all ranges of time cost alike. No operation handles more than
//! about two thousand timers at once.
//!
//! A timer of an eight-byte key takes 20 to 40 bytes in all.
//!
//! # Storage
//! ```text
//! key   = u64:state u16:group u64:time key    big-endian, time with its sign bit flipped
//! value = (nothing)
//! ```
//! So the timers of a group are stored in order. A snapshot writes those that were inserted since the
//! last one and are still there, and deletes the stored ones that are not. What came and went in
//! between is not written.

mod front;
mod item;
mod of_keys;
mod ranges;
#[cfg(test)]
mod tests;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Changes, Key, KeyGroups, StateId, Timestamp, ValueDamaged};

use super::table::Hashed;
use crate::table_hash::table_hash;
use front::Front;
use item::Item;
use of_keys::OfKeys;
use ranges::{Ordered, Ranges};

/// A block of timers that are to be deleted in the store.
const GONE_BLOCK: usize = 1_024;

/// Flipped, it makes times compare as bytes do.
const SIGN: u64 = 1 << 63;

/// See the module. Hashes are those of [`table_hash`].
pub struct Timers<K> {
    /// Those that are not in the store yet are marked.
    ranges: Ranges<Timer<K>>,
    front: Front,
    len: usize,
    /// What the store has and is gone, in blocks, so that it never moves.
    gone: Vec<Vec<Timer<K>>>,
    of_keys: Option<OfKeys<K>>,
    timers_max: usize,
}

struct Timer<K> {
    time: Timestamp,
    key: K,
}

/// Where a walk over all timers goes on. No timer is before the default one.
#[derive(Clone, Copy)]
pub struct Walk(Item);

impl Default for Walk {
    fn default() -> Self {
        Self(Item::MIN)
    }
}

/// What has come of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is a new timer.
    Added,
    /// The timer was there already.
    Present,
    /// There are as many timers as may be.
    Refused,
}

/// The hash of a timer, from the hash of its key.
#[inline(always)]
fn timer_hash(time: Timestamp, hash: u64) -> u64 {
    let time = (time.as_millis() as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let product =
        u128::from(hash ^ time.rotate_left(32) ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

impl<K: Key> Hashed for Timer<K> {
    #[inline(always)]
    fn hash(&self) -> u64 {
        timer_hash(self.time, table_hash(&self.key))
    }
}

impl<K: Key> Ordered for Timer<K> {
    #[inline(always)]
    fn item(&self) -> Item {
        Item::new(self.time, table_hash(&self.key))
    }
}

impl<K: Key> Timers<K> {
    /// No timers, and never more than `timers_max`.
    pub fn new(timers_max: usize) -> Self {
        let (ranges, front) = (Ranges::new(), Front::default());
        Self { ranges, front, len: 0, gone: Vec::new(), of_keys: None, timers_max }
    }

    /// Lets timers be found by their keys, to [delete](Self::delete_key) all timers of a key, or to find the
    /// [earliest](Self::earliest_of). That takes as much memory again.
    #[must_use]
    pub fn known_by_key(mut self) -> Self {
        self.of_keys = Some(OfKeys::new());
        self
    }

    /// The number of timers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of its buffers. This takes a walk over about a thousandth of the timers.
    pub fn memory_bytes(&self) -> usize {
        let gone: usize = self.gone.iter().map(|block| block.capacity()).sum();
        let of_keys = self.of_keys.as_ref().map_or(0, OfKeys::memory_bytes);
        self.ranges.memory_bytes()
            + self.front.memory_bytes()
            + of_keys
            + gone * size_of::<Timer<K>>()
    }

    /// About the bytes that its timers take, at hand at any time: [`memory_bytes`](Self::memory_bytes) without the room
    /// for more.
    pub fn takes_bytes(&self) -> usize {
        // A bucket of a table is empty in three of eight cases, on average.
        let each = size_of::<Timer<K>>() * 8 / 5;
        let of_keys = self.of_keys.as_ref().map_or(0, OfKeys::takes_bytes);
        let gone = self.gone.len() * GONE_BLOCK;
        self.len * each + of_keys + gone * size_of::<Timer<K>>()
    }

    /// The time of the earliest timer.
    #[inline]
    pub fn earliest(&mut self) -> Option<Timestamp> {
        loop {
            let item = self.next()?;
            let hash = timer_hash(item.time(), item.hash());
            let table = self.ranges.table(self.ranges.front());
            if table.find(hash, |timer| timer.item() == item).is_some() {
                return Some(item.time());
            }
            self.front.pop();
        }
    }

    /// Whether this timer is there.
    pub fn contains(&self, time: Timestamp, hash: u64, key: &K) -> bool {
        let at = self.ranges.range_of(Item::new(time, hash));
        let is = |timer: &Timer<K>| timer.time == time && timer.key == *key;
        self.ranges.table(at).find(timer_hash(time, hash), is).is_some()
    }

    /// Adds a timer. Its time may be any: what is in the past is due at once.
    #[inline]
    pub fn insert(&mut self, time: Timestamp, hash: u64, key: K) -> Inserted {
        if self.len >= self.timers_max {
            let is_here = self.contains(time, hash, &key);
            return if is_here { Inserted::Present } else { Inserted::Refused };
        }
        if self.add(time, hash, key, true) { Inserted::Added } else { Inserted::Present }
    }

    /// Adds a timer, if it is not there, and returns whether it was not.
    #[inline]
    fn add(&mut self, time: Timestamp, hash: u64, key: K, marked: bool) -> bool {
        let (item, of_key, hash) = (Item::new(time, hash), hash, timer_hash(time, hash));
        let at = self.ranges.range_of(item);
        let is = |timer: &Timer<K>| timer.time == time && timer.key == key;
        if self.ranges.table(at).find(hash, is).is_some() {
            return false;
        }
        if let Some(of_keys) = &mut self.of_keys {
            of_keys.insert(time, of_key, &key);
        }
        let is_front = at == self.ranges.front();
        let split = self.ranges.insert(
            at,
            hash,
            Timer { time, key },
            marked && !seeded(Defect::FlowForgetsTimer),
        );
        if is_front {
            if split {
                self.front.forget();
            }
            self.front.insert(item, self.ranges.table(self.ranges.front()).len());
        }
        self.len += 1;
        true
    }

    /// Deletes a timer, and returns whether there was one.
    #[inline]
    pub fn delete(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        let at = self.ranges.range_of(Item::new(time, hash));
        let is = |timer: &Timer<K>| timer.time == time && timer.key == *key;
        let table = self.ranges.table_mut(at);
        let Some((timer, marked)) = table.remove(timer_hash(time, hash), is) else {
            return false;
        };
        self.ranges.shrink(at);
        self.removed(timer, marked);
        true
    }

    /// Deletes all timers of a key. Timers must be [known by their keys](Self::known_by_key).
    pub fn delete_key(&mut self, hash: u64, key: &K) {
        while let Some(time) = self.earliest_of(hash, key) {
            if !self.delete(time, hash, key) {
                return;
            }
        }
    }

    /// The earliest timer of a key. Timers must be [known by their keys](Self::known_by_key).
    pub fn earliest_of(&self, hash: u64, key: &K) -> Option<Timestamp> {
        debug_assert!(self.of_keys.is_some(), "timers are not known by their keys");
        self.of_keys.as_ref()?.earliest(hash, key)
    }

    /// Gives `each` the keys of a piece of the timers, once for each timer. Where the next piece begins, if there is one:
    /// times behind it, whatever is inserted and removed between two calls.
    pub fn keys_from(&self, from: Walk, each: impl FnMut(&K)) -> Option<Walk> {
        let at = self.ranges.range_of(from.0);
        self.ranges.table(at).iter().map(|timer| &timer.key).for_each(each);
        self.ranges.bound_behind(at).map(Walk)
    }

    /// Takes out the earliest timer, if its time is not after `until`. Those of equal times come in an
    /// order that depends on nothing but their keys.
    #[inline]
    pub fn pop_due(&mut self, until: Timestamp) -> Option<(Timestamp, K)> {
        loop {
            let item = self.next().filter(|item| item.time() <= until)?;
            self.front.pop();
            let hash = timer_hash(item.time(), item.hash());
            let table = self.ranges.table_mut(self.ranges.front());
            if let Some((timer, marked)) = table.remove(hash, |timer| timer.item() == item) {
                let fired = (timer.time, timer.key.clone());
                self.removed(timer, marked);
                return Some(fired);
            }
        }
    }

    /// What is next in the order, dead or live; none if no timer is left.
    #[inline]
    fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.front.next() {
                return Some(item);
            }
            if self.len == 0 {
                return None;
            }
            self.look_further();
        }
    }

    /// Puts the earliest range in order that is not empty.
    #[cold]
    fn look_further(&mut self) {
        while self.ranges.table(self.ranges.front()).len() == 0 && self.ranges.pop_front() {}
        self.front.gather(self.ranges.table(self.ranges.front()).iter().map(Timer::item));
    }

    /// Keeps account of a timer that was taken out.
    #[inline]
    fn removed(&mut self, timer: Timer<K>, marked: bool) {
        self.len -= 1;
        if let Some(of_keys) = &mut self.of_keys {
            of_keys.remove(timer.time, table_hash(&timer.key), &timer.key);
        }
        if !marked && !seeded(Defect::FlowTimerComesBack) {
            self.note_gone(timer);
        }
    }

    /// Takes out all timers, one after the other.
    pub fn clear(&mut self) {
        while self.pop_due(Timestamp::MAX).is_some() {}
    }

    /// Notes that the store has a timer that is gone.
    #[inline]
    fn note_gone(&mut self, timer: Timer<K>) {
        match self.gone.last_mut() {
            Some(block) if block.len() < GONE_BLOCK => block.push(timer),
            _ => self.note_gone_in_new_block(timer),
        }
    }

    #[cold]
    fn note_gone_in_new_block(&mut self, timer: Timer<K>) {
        let mut block = Vec::with_capacity(GONE_BLOCK);
        block.push(timer);
        self.gone.push(block);
    }

    /// Writes what has changed since the last snapshot, deletes before puts.
    ///
    /// The changes must reach the store, or the timers must be built anew from there: what was written
    /// counts as stored from now on.
    pub fn snapshot(&mut self, id: StateId, groups: KeyGroups, out: &mut Changes) {
        let write = |timer: &Timer<K>, out: &mut Vec<u8>| {
            id.begin_key(groups.group_of(timer.key.key_hash()), out);
            let time = timer.time.as_millis() as u64 ^ SIGN;
            out.extend_from_slice(&time.to_be_bytes());
            timer.key.write_key(out);
        };
        for timer in self.gone.iter().flatten() {
            out.delete_with(|out| write(timer, out));
        }
        // The next epoch uses one block again.
        self.gone.truncate(1);
        self.gone.iter_mut().for_each(Vec::clear);
        self.ranges.take_marked(|timer| out.put_with(|out| write(timer, out), |out| out));
    }

    /// Adds a stored timer: `rest` is the part of its key behind state and group, as
    /// [`StateId::split_key`] gives it. One that was stored is never refused.
    ///
    /// # Errors
    /// If these are not the bytes of a timer with a key of this type.
    pub fn restore(&mut self, rest: &[u8]) -> Result<(), ValueDamaged> {
        let damaged = ValueDamaged::key::<(Timestamp, K)>;
        let (time, mut rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let time = Timestamp::from_millis((u64::from_be_bytes(*time) ^ SIGN) as i64);
        let key = K::read_key(&mut rest).filter(|_| rest.is_empty()).ok_or_else(damaged)?;
        let hash = table_hash(&key);
        self.add(time, hash, key, false);
        Ok(())
    }
}
