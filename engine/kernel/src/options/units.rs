//! Durations and sizes as people write them: `250ms`, `1h 30m`, `64KiB`. The one place that reads and writes them.
//!
//! A duration is a sequence of whole numbers with units. A size is one whole number. Without a unit it means bytes;
//! `KiB`, `MiB`, `GiB` and `TiB` are powers of 1,024, and `kB`, `MB`, `GB` and `TB` powers of 1,000.

use std::fmt::Write;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// Names of a unit, the one that is written first, and its length in nanoseconds.
const TIMES: [(&[&str], u64); 10] = [
    (&["y", "year", "years"], 31_557_600 * SECOND),
    (&["M", "month", "months"], 2_630_016 * SECOND),
    (&["w", "week", "weeks"], 7 * 24 * 3_600 * SECOND),
    (&["d", "day", "days"], 24 * 3_600 * SECOND),
    (&["h", "hr", "hour", "hours"], 3_600 * SECOND),
    (&["m", "min", "mins", "minute", "minutes"], 60 * SECOND),
    (&["s", "sec", "secs", "second", "seconds"], SECOND),
    (&["ms", "msec", "millis"], 1_000_000),
    (&["us", "usec", "micros"], 1_000),
    (&["ns", "nsec", "nanos"], 1),
];

/// Of those a duration is written in: from days on a number of days is plainer.
const TIMES_WRITTEN: std::ops::Range<usize> = 3..10;

/// Names of a unit, and its size in bytes.
const SIZES: [(&[&str], u64); 9] = [
    (&["TiB"], 1 << 40),
    (&["GiB"], 1 << 30),
    (&["MiB"], 1 << 20),
    (&["KiB", "kiB"], 1 << 10),
    (&["TB"], 1_000_000_000_000),
    (&["GB"], 1_000_000_000),
    (&["MB"], 1_000_000),
    (&["kB", "KB"], 1_000),
    (&["B", ""], 1),
];

fn unit(units: &[(&[&str], u64)], name: &str) -> Option<u64> {
    units.iter().find(|(names, _)| names.contains(&name)).map(|(_, size)| *size)
}

/// A number and what stands behind it up to the next one, without white space.
fn leading(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let rest = text[digits..].trim_start();
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(letters);
    Some((text[..digits].parse().ok()?, name, rest.trim_start()))
}

/// Reads a duration. `0` needs no unit.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_kernel::options::units::duration;
/// assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5_400)));
/// assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
/// assert_eq!(duration("10"), None);
/// ```
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = None::<Duration>;
    while !rest.is_empty() {
        let (number, name, behind) = leading(rest)?;
        let nanos = u128::from(number) * u128::from(unit(&TIMES, name)?);
        let seconds = u64::try_from(nanos / u128::from(SECOND)).ok()?;
        let part = Duration::new(seconds, (nanos % u128::from(SECOND)) as u32);
        sum = Some(sum.unwrap_or_default().checked_add(part)?);
        rest = behind;
    }
    sum
}

/// Whether a duration is written with weeks, months or years, which calendars know by other lengths or beginnings.
pub fn is_of_a_calendar(text: &str) -> bool {
    let mut letters = text.split(|c: char| !c.is_alphabetic()).filter(|name| !name.is_empty());
    letters.any(|name| TIMES[..3].iter().any(|(names, _)| names.contains(&name)))
}

/// Writes a duration so that [`duration`] reads it back.
pub fn show_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut text = String::new();
    for (names, size) in &TIMES[TIMES_WRITTEN] {
        let (number, size) = (nanos / u128::from(*size), u128::from(*size));
        if number > 0 {
            let space = if text.is_empty() { "" } else { " " };
            let _infallible = write!(text, "{space}{number}{}", names[0]);
            nanos %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// How somebody may have meant what is no duration: a number with a fraction, or without a unit.
///
/// ```
/// # use thalweg_kernel::options::units::meant_duration;
/// assert_eq!(meant_duration("1.5s").as_deref(), Some("1s 500ms or 1500ms"));
/// assert_eq!(meant_duration("10").as_deref(), Some("10s or 10ms, with its unit"));
/// assert_eq!(meant_duration("soon"), None);
/// ```
pub fn meant_duration(text: &str) -> Option<String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, name) = (text[..end].parse::<f64>().ok()?, text[end..].trim());
    if name.is_empty() {
        let whole = text.bytes().all(|byte| byte.is_ascii_digit());
        return whole.then(|| format!("{text}s or {text}ms, with its unit"));
    }
    let nanos = number * unit(&TIMES, name)? as f64;
    // Longer ones than some decades are no settings, and a fraction of a nanosecond is none.
    if !(1.0..1e18).contains(&nanos) || !text.contains('.') {
        return None;
    }
    let meant = Duration::from_nanos(nanos.round() as u64);
    let (parts, ms) = (show_duration(meant), meant.as_millis());
    let is_whole = meant == Duration::from_millis(u64::try_from(ms).ok()?);
    Some(if is_whole && parts != format!("{ms}ms") { format!("{parts} or {ms}ms") } else { parts })
}

/// Writes about how long a duration is, for a person: from ten seconds on in whole ones.
pub fn show_about(duration: Duration) -> String {
    let whole = Duration::from_secs(duration.as_secs());
    show_duration(if whole.as_secs() < 10 { duration } else { whole })
}

/// Reads a size in bytes.
///
/// ```
/// # use thalweg_kernel::options::units::bytes;
/// assert_eq!(bytes("64KiB"), Some(65_536));
/// assert_eq!(bytes("4096"), Some(4_096));
/// ```
pub fn bytes(text: &str) -> Option<u64> {
    let (number, name, rest) = leading(text.trim())?;
    if rest.is_empty() { number.checked_mul(unit(&SIZES, name)?) } else { None }
}

/// Writes a size: in the largest binary unit that divides it, else as a plain number.
pub fn show_bytes(bytes: u64) -> String {
    let binary = SIZES[..4].iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    binary
        .map_or_else(|| bytes.to_string(), |(names, size)| format!("{}{}", bytes / size, names[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("10s", Some(ms(10_000))),
            (" 1h 30m ", Some(ms(5_400_000))),
            ("1h30m", Some(ms(5_400_000))),
            ("2 minutes", Some(ms(120_000))),
            ("1m", Some(ms(60_000))),
            ("400days", Some(ms(400 * 86_400_000))),
            ("0", Some(ms(0))),
            ("0s", Some(ms(0))),
            ("7us", Some(Duration::from_micros(7))),
            ("1w", Some(ms(7 * 86_400_000))),
            ("1month", Some(ms(2_630_016_000))),
            ("1y", Some(ms(31_557_600_000))),
            ("1s500ms", Some(ms(1_500))),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("soon", None),
            ("1s 2", None),
            ("99999999999999999999s", None),
            ("18446744073709551615y", None),
        ] {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn weeks_and_months_are_of_a_calendar() {
        for (text, expected) in [
            ("1w", true),
            ("2 d 1month", true),
            ("1y", true),
            ("1M", true),
            ("1m", false),
            ("7d", false),
        ] {
            assert_eq!(is_of_a_calendar(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for nanos in [0, 1, 999, 1_500_000, 61_000_000_000, 90_061_001_002_003, u64::MAX] {
            let written = show_duration(Duration::from_nanos(nanos));
            assert_eq!(duration(&written), Some(Duration::from_nanos(nanos)), "{written}");
        }
        assert_eq!(show_duration(Duration::from_secs(5_400)), "1h 30m");
        let about = [9_994, 239_985].map(|ms| show_about(Duration::from_millis(ms)));
        assert_eq!(about, ["9s 994ms", "3m 59s"]);
        assert_eq!(show_duration(Duration::from_secs(366 * 86_400)), "366d");
        for size in [0, 1, 1_000, 1_024, 1 << 20, 3 << 30, u64::MAX] {
            assert_eq!(bytes(&show_bytes(size)), Some(size));
        }
        let shown = [0, 1_000, 256 * 1_024, 3 << 20, 3 << 30, 3 << 40].map(show_bytes);
        assert_eq!(shown, ["0", "1000", "256KiB", "3MiB", "3GiB", "3TiB"]);
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_says_otherwise() {
        for (text, expected) in [
            ("262144", Some(262_144)),
            ("1 MiB", Some(1 << 20)),
            ("1MB", Some(1_000_000)),
            ("2TiB", Some(2 << 40)),
            ("2GiB", Some(2 << 30)),
            ("2kiB", Some(2_048)),
            ("2TB", Some(2_000_000_000_000)),
            ("2GB", Some(2_000_000_000)),
            ("2kB", Some(2_000)),
            ("5B", Some(5)),
            ("1M", None),
            ("1MiB 2", None),
            ("", None),
            ("-1", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
