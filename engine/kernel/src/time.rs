//! Event time: milliseconds since the Unix epoch, signed.

use std::fmt;
use std::time::Duration;

use rkyv::{Archive, Deserialize as FromArchive, Serialize as ToArchive};
use serde::{Deserialize, Serialize};

/// A point in event or processing time, in milliseconds since the Unix epoch.
///
/// Arithmetic saturates: a hostile timestamp may be wrong, but never panics or wraps around.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    Archive,
    ToArchive,
    FromArchive,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before all time: the watermark of a stream that has seen nothing.
    pub const MIN: Self = Self(i64::MIN);
    /// After all time: the watermark of a stream that has ended.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the Unix epoch.
    #[inline]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    #[inline]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time plus `ms` milliseconds (minus, where `ms` is negative).
    #[inline]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// This time minus `ms` milliseconds.
    #[inline]
    pub const fn minus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to this time; negative if `earlier` is later.
    #[inline]
    pub const fn ms_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<i64> for Timestamp {
    #[inline]
    fn from(ms: i64) -> Self {
        Self(ms)
    }
}

impl From<i32> for Timestamp {
    #[inline]
    fn from(ms: i32) -> Self {
        Self(i64::from(ms))
    }
}

impl From<u64> for Timestamp {
    /// Values past `i64::MAX` become [`Timestamp::MAX`].
    #[inline]
    fn from(ms: u64) -> Self {
        Self(i64::try_from(ms).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("min"),
            Self::MAX => f.write_str("max"),
            Self(ms) => write!(f, "{ms}"),
        }
    }
}

/// `duration` in whole milliseconds, saturating.
#[inline]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Timestamp::MAX.plus_ms(1), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.minus_ms(1), Timestamp::MIN);
        assert_eq!(Timestamp::MAX.ms_since(Timestamp::MIN), i64::MAX);
        assert_eq!(Timestamp::from(u64::MAX), Timestamp::MAX);
    }

    #[test]
    fn times_are_milliseconds_both_ways() {
        let time = Timestamp::from_millis(1_000);
        assert_eq!(
            (time.as_millis(), time.plus_ms(5), time.minus_ms(5)),
            (1_000, 1_005.into(), 995.into())
        );
        assert_eq!((time.ms_since(400.into()), time.ms_since(1_400.into())), (600, -400));
        assert_eq!((Timestamp::from(7_i64), Timestamp::from(7_u64)), (Timestamp(7), Timestamp(7)));
        assert_eq!(millis(Duration::from_micros(2_999)), 2);
        assert_eq!(millis(Duration::MAX), i64::MAX);
        let shown = [Timestamp::MIN, Timestamp::MAX, Timestamp(-7)].map(|time| time.to_string());
        assert_eq!(shown, ["min", "max", "-7"]);
    }
}
