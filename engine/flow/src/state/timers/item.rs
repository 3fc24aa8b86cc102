//! What the order of timers goes by.

use thalweg_kernel::Timestamp;

use super::SIGN;

/// A time and the hash of a key: the order is that of times first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Item(u128);

impl Item {
    /// The first of all.
    pub(super) const MIN: Self = Self(0);

    #[inline(always)]
    pub(super) fn new(time: Timestamp, hash: u64) -> Self {
        Self(u128::from(time.as_millis() as u64 ^ SIGN) << 64 | u128::from(hash))
    }

    #[inline(always)]
    pub(super) fn time(self) -> Timestamp {
        Timestamp::from_millis(((self.0 >> 64) as u64 ^ SIGN) as i64)
    }

    #[inline(always)]
    pub(super) fn hash(self) -> u64 {
        self.0 as u64
    }
}
