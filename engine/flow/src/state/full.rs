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

    /// Whether keys that have state must not add to it either.
    pub(crate) fn is_overfull<K>(&self, states: &AllKeyed<K>) -> bool {
        let bytes: usize = states.iter().map(|state| state.borrow().holds().bytes).sum();
        bytes >= self.bytes_max.saturating_add(self.bytes_max / 4)
    }
}
