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

    /// For a person: `2026-11-30T21:50:12.345Z`; a plain number where the year has not four digits.
    pub fn iso(self) -> String {
        const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
        let (days, ms) = (self.0.div_euclid(DAY_MS), self.0.rem_euclid(DAY_MS));
        // Years from the 1st of March on, in eras of 400 years (Howard Hinnant's `civil_from_days`).
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + i64::from(month <= 2);
        if !(1_000..=9_999).contains(&year) {
            return self.to_string();
        }
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
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
        let iso = |ms: i64| Timestamp(ms).iso();
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(1_796_075_412_345), "2026-11-30T21:50:12.345Z");
        assert_eq!(
            (iso(4_107_542_400_000), iso(i64::MAX)),
            ("2100-03-01T00:00:00.000Z".into(), "max".into())
        );
        let shown = [Timestamp::MIN, Timestamp::MAX, Timestamp(-7)].map(|time| time.to_string());
        assert_eq!(shown, ["min", "max", "-7"]);
    }
}
