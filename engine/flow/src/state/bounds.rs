//! How much state an operator may keep on a shard, and what gives way.
//!
//! A record whose key is one more than may be, or would need more bytes, meets the [`Overflow`] policy. With
//! [`Overflow::DeadLetter`] the keys that have state go on: at the bound for bytes they may still add a quarter
//! of it, so that those who fill it with new keys do not stop the others at once. With
//! [`Overflow::EvictLeastRecentlyUsed`] others give way: each with all its state, and with its timers.

use super::keyed::{AllKeyed, Holds};
use super::{Overflow, STATE_BYTES_MAX, STATE_KEYS_MAX};

/// A record drops so many keys at most to make room.
pub(crate) const EVICTED_KEYS_MAX: usize = 16;

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) keys_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) overflow: Overflow,
}

impl Default for Bounds {
    fn default() -> Self {
        let (keys_max, bytes_max) = (STATE_KEYS_MAX, STATE_BYTES_MAX);
        Self { keys_max, bytes_max, overflow: Overflow::default() }
    }
}

impl Bounds {
    /// Which state something must be taken out of before there is room for a record, which is the one with too
    /// many keys or with the most bytes. A record of a key that has state adds bytes alone.
    #[inline]
    pub(crate) fn full<K>(&self, states: &AllKeyed<K>, is_known: bool) -> Option<usize> {
        let (mut bytes, mut most) = (0, (0, 0));
        for (number, state) in states.iter().enumerate() {
            let holds: Holds = state.borrow().holds();
            if holds.keys >= self.keys_max && !is_known {
                return Some(number);
            }
            bytes += holds.bytes;
            most = most.max((holds.bytes, number));
        }
        (bytes >= self.bytes_max).then_some(most.1)
    }

    /// Whether keys that have state must not add to it either.
    pub(crate) fn is_overfull<K>(&self, states: &AllKeyed<K>) -> bool {
        let bytes: usize = states.iter().map(|state| state.borrow().holds().bytes).sum();
        bytes >= self.bytes_max.saturating_add(self.bytes_max / 4)
    }
}
