//! Whether an operator's state has come to its [`Bounds`], and which of its states gives way.

use super::bounds::Bounds;
use super::keyed::{AllKeyed, Holds};

impl Bounds {
    /// Which state must lose a key before a record has room. It is one with too many keys, or else the one with the
    /// most bytes. A record of a known key, as `is_known` says, adds bytes alone.
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

    /// How many calls of the function [find room](Self::full) for certain. Each call uses one key, and may add that key to
    /// every state. Zero if a call may add more than a key to some state.
    pub(crate) fn fitting<K>(&self, states: &AllKeyed<K>) -> usize {
        let (mut keys, mut bytes, mut key_bytes) = (self.keys_max, self.bytes_max, 0);
        for state in states {
            let state = state.borrow();
            let Some(each) = state.key_bytes() else { return 0 };
            key_bytes += each;
            let holds = state.holds();
            keys = keys.min(self.keys_max.saturating_sub(holds.keys));
            bytes = bytes.saturating_sub(holds.bytes);
        }
        // The last of them must find a byte that is free.
        keys.min(bytes.div_ceil(key_bytes.max(1)))
    }

    /// Whether keys that have state must not add to it either.
    pub(crate) fn is_overfull<K>(&self, states: &AllKeyed<K>) -> bool {
        let bytes: usize = states.iter().map(|state| state.borrow().holds().bytes).sum();
        bytes >= self.bytes_max.saturating_add(self.bytes_max / 4)
    }
}
