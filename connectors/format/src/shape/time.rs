//! Times: numbers of a unit since 1970, and texts as ISO 8601 writes them.
//!
//! # Why the unit is not guessed
//! A number alone does not say what it counts. A device whose clock was never set counts from 1970, and another one from
//! its start. Then the size of the number leads to a time that looks right and is not. So a number has
//! the unit that the shape names, by default milliseconds, and [`TimeWatch`] says once where another one would fit.
//! [`TimeUnit::Auto`] goes by size, for a fleet of several units. It refuses what is before March 1973.
//!
//! A text that is no number is read as ISO 8601, whatever the unit is: `2024-02-24T22:20:38.5+01:00`. A blank may stand for
//! the `T`, and `Z` for the offset. One without either belongs to the zone that the shape names, by default UTC.
//!
//! Where clocks are put back, an hour comes twice; a time in it is taken for the earlier one. Where they are put forward, a
//! time in the hour that is left out is taken as if they had not been. (That is what RFC 5545 says.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;
use thalweg_kernel::{Cause, Timestamp};

use super::value::{Found, Refused, decimal, trimmed};

static ISO_8601: DateTimeParser = DateTimeParser::new();

/// What a number that is a time counts, since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    #[default]
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
    /// Whichever of them makes a time between 1973 and 5138.
    Auto,
}

thalweg_kernel::choices! {
    TimeUnit:
    "s" => TimeUnit::Seconds,
    "ms" => TimeUnit::Milliseconds,
    "us" => TimeUnit::Microseconds,
    "ns" => TimeUnit::Nanoseconds,
    "auto" => TimeUnit::Auto,
}

const UNITS: [TimeUnit; 4] =
    [TimeUnit::Seconds, TimeUnit::Milliseconds, TimeUnit::Microseconds, TimeUnit::Nanoseconds];

impl TimeUnit {
    const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Nanoseconds => "ns",
            Self::Auto => "auto",
        }
    }

    /// Microseconds and smaller ones: how many of them a millisecond has.
    const fn per_ms(self) -> i64 {
        match self {
            Self::Microseconds => 1_000,
            Self::Nanoseconds => 1_000_000,
            _ => 1,
        }
    }

    /// The unit of a number of this size.
    fn of(self, size: f64) -> Option<Self> {
        match (self, size) {
            (Self::Auto, 1e8..1e11) => Some(Self::Seconds),
            (Self::Auto, 1e11..1e14) => Some(Self::Milliseconds),
            (Self::Auto, 1e14..1e17) => Some(Self::Microseconds),
            (Self::Auto, 1e17..) => Some(Self::Nanoseconds),
            (Self::Auto, _) => None,
            _ => Some(self),
        }
    }

    /// Milliseconds, if they fit.
    #[inline]
    fn ms_of_integer(self, count: i64) -> Option<i64> {
        match self.of(count as f64)? {
            Self::Seconds => count.checked_mul(1_000),
            unit => Some(count.div_euclid(unit.per_ms())),
        }
    }

    fn ms_of_float(self, count: f64) -> Option<i64> {
        // What fits an `i64` with room to spare; beyond it nothing is a time.
        const MS_MAX: f64 = 9e18;
        let ms = match self.of(count)? {
            // A decimal such as 1736603810.49 is a hair beside what is written.
            Self::Seconds => (count * 1e3).round(),
            unit => (count / unit.per_ms() as f64).floor(),
        };
        (ms.abs() < MS_MAX).then_some(ms as i64)
    }
}

/// How times are read.
#[derive(Clone, Debug)]
pub(super) struct Times {
    pub(super) unit: TimeUnit,
    pub(super) zone: TimeZone,
}

impl Default for Times {
    fn default() -> Self {
        Self { unit: TimeUnit::default(), zone: TimeZone::UTC }
    }
}

/// The zone of a name or an offset.
///
/// # Errors
/// What would do.
pub(super) fn zone(name: &str) -> Result<TimeZone, String> {
    if matches!(name, "UTC" | "Z") {
        return Ok(TimeZone::UTC);
    }
    ISO_8601.parse_time_zone(name).map_err(|_| {
        "an offset such as \"+02:00\", or a name such as \"Europe/Berlin\" whose rules this machine has (package tzdata)"
            .into()
    })
}

impl Times {
    /// Milliseconds since 1970.
    #[inline]
    pub(super) fn ms(&self, found: Found<'_>) -> Result<i64, Refused> {
        let ms = match found {
            Found::Unsigned(count) => {
                i64::try_from(count).ok().and_then(|count| self.unit.ms_of_integer(count))
            }
            Found::Signed(count) => self.unit.ms_of_integer(count),
            Found::Float(count) => self.unit.ms_of_float(count),
            Found::Time(ms) => Some(ms),
            Found::Text(text) => return self.ms_of_text(text),
            _ => return Err(Refused::expected("a time", found)),
        };
        ms.ok_or_else(|| self.no_time(found))
    }

    fn ms_of_text(&self, text: &str) -> Result<i64, Refused> {
        let trimmed = trimmed(text);
        if let Ok(count) = trimmed.parse::<i64>() {
            let ms = self.unit.ms_of_integer(count);
            return ms.ok_or_else(|| self.no_time(Found::Text(text)));
        }
        if let Some(count) = decimal(trimmed) {
            let ms = self.unit.ms_of_float(count);
            return ms.ok_or_else(|| self.no_time(Found::Text(text)));
        }
        self.iso(trimmed).ok_or_else(|| self.no_time(Found::Text(text)))
    }

    fn iso(&self, text: &str) -> Option<i64> {
        let pieces = ISO_8601.parse_pieces(text).ok()?;
        // A day alone is no time.
        let local = pieces.date().to_datetime(pieces.time()?);
        let time = match pieces.to_numeric_offset() {
            Some(offset) => offset.to_timestamp(local),
            // A zone in brackets is the text's own.
            None => match pieces.to_time_zone().ok()? {
                Some(own) => own.to_ambiguous_timestamp(local).compatible(),
                None => self.zone.to_ambiguous_timestamp(local).compatible(),
            },
        };
        Some(time.ok()?.as_millisecond())
    }

    #[cold]
    fn no_time(&self, found: Found<'_>) -> Refused {
        let unit = match self.unit {
            TimeUnit::Auto => "in s, ms, us or ns after 1973".to_owned(),
            unit => format!("in {}", unit.name()),
        };
        let expected = format!("a time {unit}, or as ISO 8601 with date and time of day");
        Refused { cause: Cause::WrongType, ..Refused::expected(expected, found) }
    }
}

/// 1980-01-01. A job has no readings from before.
const EARLY_MS: i64 = 315_532_800_000;
/// 2000-01-01: what is taken for a right time lies after it.
const RIGHT_MS: i64 = 946_684_800_000;
/// A right time may be ahead of its arrival by this much.
const AHEAD_MS: i64 = 24 * 60 * 60 * 1_000;

/// Looks at event times and says once for all its copies what is wrong with their unit.
#[derive(Clone, Debug, Default)]
pub struct TimeWatch {
    told: Arc<AtomicBool>,
}

impl TimeWatch {
    /// One that has said nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at a time in milliseconds that was read as one of `unit` from the field `field`. Logs a warning if it is the
    /// first one that lies where no reading can be.
    #[inline]
    pub fn see(&self, field: &str, ms: i64, received: Timestamp, unit: TimeUnit) {
        if ms < EARLY_MS || ms > received.as_millis().saturating_add(AHEAD_MS) {
            self.look(field, ms, received, unit);
        }
    }

    #[cold]
    #[inline(never)]
    fn look(&self, field: &str, ms: i64, received: Timestamp, unit: TimeUnit) {
        if self.told.load(Ordering::Relaxed) {
            return;
        }
        if let Some(advice) = advice(field, ms, received, unit)
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{advice}");
        }
    }
}

/// What is to be said of such a time, if anything helps.
fn advice(field: &str, ms: i64, received: Timestamp, unit: TimeUnit) -> Option<String> {
    let shown = |ms: i64| {
        let time = jiff::Timestamp::from_millisecond(ms).ok();
        time.map_or_else(|| "a time beyond the year 9999".into(), |time| time.to_string())
    };
    let latest = received.as_millis().saturating_add(AHEAD_MS);
    let fits = |other: &TimeUnit| {
        let count = match unit {
            TimeUnit::Seconds => ms.div_euclid(1_000),
            unit => ms.checked_mul(unit.per_ms())?,
        };
        let ms = other.ms_of_integer(count)?;
        (*other != unit && (RIGHT_MS..=latest).contains(&ms)).then_some((other.name(), ms))
    };
    let found = if unit == TimeUnit::Auto { None } else { UNITS.iter().find_map(fits) };
    let taken = unit.name();
    match found {
        Some((name, right)) => Some(format!(
            "time field `{field}`: as {taken} the first time is {}; as {name} it is {}: set time_unit = \"{name}\"",
            shown(ms),
            shown(right)
        )),
        None if ms < EARLY_MS => Some(format!(
            "time field `{field}`: the time {} is too early for a reading, and no other unit makes it one of today: the \
             clock of the device may not be set (time = \"arrival\" takes the time of arrival)",
            shown(ms)
        )),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(unit: TimeUnit) -> Times {
        Times { unit, ..Times::default() }
    }

    #[test]
    fn numbers_count_the_unit_that_is_named() {
        use TimeUnit::{Auto, Microseconds, Milliseconds, Nanoseconds, Seconds};
        const MS: i64 = 1_700_000_000_123;
        for (unit, found, ms) in [
            (Milliseconds, Found::Unsigned(MS as u64), Some(MS)),
            (Milliseconds, Found::Float(MS as f64 + 0.75), Some(MS)),
            (Milliseconds, Found::Text("1700000000123"), Some(MS)),
            (Seconds, Found::Unsigned(1_700_000_000), Some(1_700_000_000_000)),
            (Seconds, Found::Float(1_700_000_000.123), Some(MS)),
            (Seconds, Found::Text("1.700000000123e9"), Some(MS)),
            (Seconds, Found::Text("1614247878.0"), Some(1_614_247_878_000)),
            (Seconds, Found::Signed(-1), Some(-1_000)),
            (Seconds, Found::Unsigned(u64::MAX), None),
            (Seconds, Found::Float(1e300), None),
            (Microseconds, Found::Unsigned(1_700_000_000_123_999), Some(MS)),
            (Nanoseconds, Found::Unsigned(1_700_000_000_123_999_999), Some(MS)),
            (Nanoseconds, Found::Signed(-1), Some(-1)),
            (Auto, Found::Unsigned(1_700_000_000), Some(1_700_000_000_000)),
            (Auto, Found::Float(1_700_000_000.123), Some(MS)),
            (Auto, Found::Unsigned(MS as u64), Some(MS)),
            (Auto, Found::Unsigned(1_700_000_000_123_000), Some(MS)),
            (Auto, Found::Unsigned(1_700_000_000_123_000_000), Some(MS)),
            (Auto, Found::Float(1.61), None),
            (Auto, Found::Signed(-1_700_000_000), None),
            (Milliseconds, Found::Bool(true), None),
            (Milliseconds, Found::Null, None),
        ] {
            assert_eq!(times(unit).ms(found).ok(), ms, "{unit:?} {found}");
        }
    }

    #[test]
    fn texts_are_iso_8601_whatever_the_unit_is() {
        let berlin = Times { unit: TimeUnit::Seconds, zone: zone("Europe/Berlin").unwrap() };
        for (text, utc, local) in [
            ("2024-02-24T22:20:38", 1_708_813_238_000, 1_708_809_638_000),
            ("2024-02-24 22:20:38.5", 1_708_813_238_500, 1_708_809_638_500),
            ("2024-02-24T22:20", 1_708_813_200_000, 1_708_809_600_000),
            ("2024-07-24T22:20:38", 1_721_859_638_000, 1_721_852_438_000),
            ("2024-07-24T22:20:38[Europe/Berlin]", 1_721_852_438_000, 1_721_852_438_000),
            ("2024-02-24T22:20:38Z", 1_708_813_238_000, 1_708_813_238_000),
            ("2024-02-24T22:20:38.123456789+02:00", 1_708_806_038_123, 1_708_806_038_123),
            ("2024-02-24T22:20:38+0200", 1_708_806_038_000, 1_708_806_038_000),
            // Twice: the earlier one. Not at all: as if the clock had not been put forward.
            ("2024-10-27T02:30:00", 1_729_996_200_000, 1_729_989_000_000),
            ("2024-03-31T02:30:00", 1_711_852_200_000, 1_711_848_600_000),
        ] {
            assert_eq!(Times::default().ms(Found::Text(text)), Ok(utc), "{text}");
            assert_eq!(berlin.ms(Found::Text(text)), Ok(local), "{text}");
        }
        let offset = Times { zone: zone("-03:30").unwrap(), ..Times::default() };
        assert_eq!(offset.ms(Found::Text("2024-02-24T18:50:38")), Ok(1_708_813_238_000));
        for text in [
            "2024-02-24",
            "now",
            "",
            "24.2.2024 22:20",
            "2024-02-30T00:00:00",
            "2024-07-24T22:20:38[Mars/Base]",
        ] {
            let refused = Times::default().ms(Found::Text(text)).unwrap_err();
            assert_eq!(refused.cause, Cause::WrongType);
            assert!(refused.what.contains("in ms, or as ISO 8601"), "{}", refused.what);
        }
        assert!(zone("Mars/Base").unwrap_err().contains("Europe/Berlin"));
    }

    #[test]
    fn the_unit_that_would_fit_is_named() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let advice = |ms, unit| advice("ts", ms, now, unit);
        assert_eq!(
            advice(1_700_000_000, TimeUnit::Milliseconds).unwrap(),
            "time field `ts`: as ms the first time is 1970-01-20T16:13:20Z; as s it is 2023-11-14T22:13:20Z: set \
             time_unit = \"s\""
        );
        for (ms, unit, fits) in [
            (1_700_000_000_000_000, TimeUnit::Seconds, "\"ms\""),
            (1_700_000_000_000_000, TimeUnit::Milliseconds, "\"us\""),
            (1_700_000_000_000_000_000, TimeUnit::Milliseconds, "\"ns\""),
            (1_700_000_000, TimeUnit::Microseconds, "\"ms\""),
            (1_700, TimeUnit::Nanoseconds, "\"s\""),
        ] {
            let said = advice(ms, unit).unwrap();
            assert!(said.ends_with(&format!("set time_unit = {fits}")), "{unit:?} {said}");
        }
        let unset = advice(1_610, TimeUnit::Milliseconds).unwrap();
        assert!(unset.contains("1970-01-01T00:00:01.61Z is too early"), "{unset}");
        assert!(advice(5_000, TimeUnit::Auto).unwrap().contains("clock of the device"));
        // Ahead, and no unit helps: the clock guard has its own word for it.
        assert_eq!(advice(1_900_000_000_000, TimeUnit::Milliseconds), None);
    }

    #[test]
    fn it_is_said_once_for_all_copies() {
        let watch = TimeWatch::new();
        let copy = watch.clone();
        let now = Timestamp::from_millis(1_800_000_000_000);
        watch.see("ts", 1_700_000_000_000, now, TimeUnit::Milliseconds);
        assert!(!watch.told.load(Ordering::Relaxed));
        copy.see("ts", 1_700_000_000, now, TimeUnit::Milliseconds);
        assert!(watch.told.load(Ordering::Relaxed));
    }
}
