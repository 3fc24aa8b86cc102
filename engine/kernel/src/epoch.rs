//! [`Epoch`]: the number of a checkpoint.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a checkpoint, and of the stretch of every stream that ends with its barrier. They
/// grow by one from 1 on, also across restarts: a number is never used for two checkpoints.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// Before the first checkpoint.
    pub const NONE: Self = Self(0);

    /// The epoch of this number.
    #[inline]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_grow_by_one_from_one_on() {
        let first = Epoch::NONE.next();
        assert_eq!(
            (first.number(), first.next().next(), first.to_string()),
            (1, Epoch::new(3), "1".into())
        );
    }
}
