//! The timers of one operator on a shard, in event time or in processing time: a set of (time, key)
//! pairs that gives them back in order of time.
//!
//! Two structures hold a timer. A hash table ([`Segments`]) says which pairs there are: it makes the
//! same pair one timer, and takes a deleted one out. An [`Agenda`] holds what the order needs, sixteen
//! bytes for each, the time and the hash of the key; a deleted timer's stay there until they are met or
//! until they are too many among their neighbours. So an insert, a delete and a firing each wait for
//! memory in the hash table only, whatever the times are.
//!
//! Times are only compared. There is no wheel that turns, none to jump ahead in, and no range of time that
//! costs more than another. No operation handles more than about two thousand timers at once.
//!
//! A timer of an eight-byte key takes about 60 bytes in all.
//!
//! # Storage
//! ```text
//! key   = u64:state u16:group u64:time key    big-endian, time with its sign bit flipped
//! value = (nothing)
//! ```
//! So the timers of a group are stored in order. A snapshot writes those that were inserted since the
//! last one and are still there, and deletes the stored ones that are not. What came and went in
//! between is not written.

mod agenda;
#[cfg(test)]
mod tests;

use thalweg_kernel::{Changes, Key, KeyGroups, StateId, Timestamp, ValueDamaged};

use super::table::{Hashed, Segments, table_hash};
use agenda::{Agenda, Item};

/// A block of timers that are to be deleted in the store.
const GONE_BLOCK: usize = 1_024;

/// So many timers that are about to fire are looked for together, so that the accesses overlap.
const WARMED: usize = 32;
/// With fewer timers there is nothing to wait for.
const WARMED_FROM: usize = 16 * 1_024;

/// Flipped, it makes times compare as bytes do.
const SIGN: u64 = 1 << 63;

/// See the module. Hashes are those of [`table_hash`].
pub struct Timers<K> {
    /// Those that are not in the store yet are marked.
    live: Segments<Timer<K>>,
    agenda: Agenda,
    /// So many of the next in the agenda are in the cache already.
    warmed: usize,
    /// Whether the next of the agenda is known to be live.
    next_is_live: bool,
    /// What the store has and is gone, in blocks, so that it never moves.
    gone: Vec<Vec<Timer<K>>>,
    timers_max: usize,
}

struct Timer<K> {
    time: Timestamp,
    key: K,
}

/// What has come of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is a new timer.
    Added,
    /// There was such a timer.
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

impl<K: Key> Timer<K> {
    /// Whether this is the timer, or one that is as good, that an item of the agenda stands for.
    #[inline(always)]
    fn is(&self, item: Item) -> bool {
        self.time == item.time() && table_hash(&self.key) == item.hash()
    }
}

impl<K: Key> Timers<K> {
    /// No timers, and never more than so many.
    pub fn new(timers_max: usize) -> Self {
        Self {
            live: Segments::new(),
            agenda: Agenda::new(),
            warmed: 0,
            next_is_live: false,
            gone: Vec::new(),
            timers_max,
        }
    }

    /// The number of timers.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of its buffers. This takes a walk over about a thousandth of the timers.
    pub fn memory_bytes(&self) -> usize {
        let gone: usize = self.gone.iter().map(|block| block.capacity()).sum();
        self.live.memory_bytes() + self.agenda.memory_bytes() + gone * size_of::<Timer<K>>()
    }

    /// The time of the earliest timer.
    #[inline]
    pub fn earliest(&mut self) -> Option<Timestamp> {
        loop {
            let item = self.agenda.next()?;
            let is_live = self.next_is_live || live_count(&self.live)(item) > 0;
            self.next_is_live = is_live;
            if is_live {
                return Some(item.time());
            }
            self.agenda.pop();
        }
    }

    /// Adds a timer. Its time may be any: what is in the past is due at once.
    #[inline]
    pub fn insert(&mut self, time: Timestamp, hash: u64, key: K) -> Inserted {
        let is = |timer: &Timer<K>| timer.time == time && timer.key == key;
        if self.live.find(timer_hash(time, hash), is).is_some() {
            return Inserted::Present;
        }
        if self.live.len() >= self.timers_max {
            return Inserted::Refused;
        }
        self.add(time, hash, key, true);
        Inserted::Added
    }

    #[inline]
    fn add(&mut self, time: Timestamp, hash: u64, key: K, marked: bool) {
        // First the agenda, which may count what is live.
        self.next_is_live |= self.agenda.insert(Item::new(time, hash), live_count(&self.live));
        self.live.insert(Timer { time, key }, marked);
    }

    /// Deletes a timer; whether there was one.
    #[inline]
    pub fn delete(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        let is = |timer: &Timer<K>| timer.time == time && timer.key == *key;
        let Some((timer, marked)) = self.live.remove(timer_hash(time, hash), is) else {
            return false;
        };
        if !marked {
            self.note_gone(timer);
        }
        let was_next = self.agenda.delete(Item::new(time, hash), live_count(&self.live));
        self.next_is_live &= !was_next;
        true
    }

    /// Takes out the earliest timer, if its time is not after `until`. Those of equal times come in an
    /// order that depends on nothing but their keys.
    #[inline]
    pub fn pop_due(&mut self, until: Timestamp) -> Option<(Timestamp, K)> {
        while self.agenda.begins_by(until) {
            if self.warmed == 0 && self.live.len() >= WARMED_FROM {
                self.warm();
            }
            self.warmed = self.warmed.saturating_sub(1);
            self.next_is_live = false;
            let item = self.agenda.pop()?;
            let hash = timer_hash(item.time(), item.hash());
            if let Some((timer, marked)) = self.live.remove(hash, |timer| timer.is(item)) {
                self.agenda.fired();
                let fired = (timer.time, timer.key.clone());
                if !marked {
                    self.note_gone(timer);
                }
                return Some(fired);
            }
        }
        None
    }

    /// Looks for the next timers, to have them in the cache.
    #[inline(never)]
    fn warm(&mut self) {
        let mut live = 0;
        for &item in self.agenda.coming(WARMED) {
            let hash = timer_hash(item.time(), item.hash());
            live += usize::from(self.live.find(hash, |timer| timer.is(item)).is_some());
            self.warmed += 1;
        }
        // Whether they are live is asked again, and cheaply.
        std::hint::black_box(live);
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
        // One block is kept for the next epoch.
        self.gone.truncate(1);
        self.gone.iter_mut().for_each(Vec::clear);
        self.live.take_marked(|timer| out.put_with(|out| write(timer, out), |out| out));
    }

    /// Adds a stored timer: `rest` is the part of its key behind state and group, as
    /// [`StateId::split_key`] gives it. One that was stored is never refused.
    ///
    /// # Errors
    /// If these are not the bytes of a timer with such a key.
    pub fn restore(&mut self, rest: &[u8]) -> Result<(), ValueDamaged> {
        let damaged = ValueDamaged::key::<(Timestamp, K)>;
        let (time, mut rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let time = Timestamp::from_millis((u64::from_be_bytes(*time) ^ SIGN) as i64);
        let key = K::read_key(&mut rest).filter(|_| rest.is_empty()).ok_or_else(damaged)?;
        let hash = table_hash(&key);
        let is = |timer: &Timer<K>| timer.time == time && timer.key == key;
        if self.live.find(timer_hash(time, hash), is).is_none() {
            self.add(time, hash, key, false);
        }
        Ok(())
    }
}

/// Counts the live timers that an item of the agenda stands for.
#[inline(always)]
fn live_count<K: Key>(live: &Segments<Timer<K>>) -> impl Fn(Item) -> usize + '_ {
    |item| live.count(timer_hash(item.time(), item.hash()), |timer| timer.is(item))
}
