//! Integers that a message writes as strings: for `#[serde(deserialize_with = "...")]`.
//!
//! JSON's writers put identifiers and timestamps in quotes because some of its readers have only
//! floats. [`decimal`] and [`hex`] read them without a detour through a `String`, eight
//! digits at a time.
//!
//! ```
//! use serde::Deserialize;
//! use thalweg_format::{Json, quoted};
//! use thalweg_kernel::{Decode, Message, Str, Timestamp};
//!
//! #[derive(Deserialize)]
//! struct AdEvent {
//!     #[serde(deserialize_with = "quoted::hex")]
//!     ad_id: u64,
//!     event_type: Str,
//!     #[serde(deserialize_with = "quoted::decimal")]
//!     event_time: i64,
//! }
//!
//! let payload = br#"{"ad_id":"00112233445566ff","event_type":"view","event_time":"1700000000123"}"#;
//! let event = Json::<AdEvent>::new().decode(&Message::new("ads", payload, Timestamp::default()))?;
//! assert_eq!(event.ad_id, 0x0011_2233_4455_66ff);
//! assert_eq!((event.event_type.as_str(), event.event_time), ("view", 1_700_000_000_123));
//! # Ok::<(), thalweg_kernel::DecodeError>(())
//! ```

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

use crate::json::digits::{HIGH, eight_to_sixteen};

/// Reads a string of decimal digits, with a sign or without, as any integer type that it fits. Values beyond an
/// `i128` are out of range even for a `u128`.
///
/// # Errors
/// If the value is no string, or the string is anything else or beyond the type's range.
#[inline]
pub fn decimal<'de, D: Deserializer<'de>, T: TryFrom<i128>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Decimal(PhantomData))
}

/// Reads a string of one to sixteen hexadecimal digits, of either case.
///
/// # Errors
/// If the value is no string, or the string is anything else.
#[inline]
pub fn hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_str(Hex)
}

struct Decimal<T>(PhantomData<T>);

impl<T: TryFrom<i128>> Visitor<'_> for Decimal<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of decimal digits ({})", std::any::type_name::<T>())
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let value = of_decimal(text).and_then(|value| T::try_from(value).ok());
        value.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

struct Hex;

impl Visitor<'_> for Hex {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of up to sixteen hexadecimal digits")
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        of_hex(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[inline]
fn of_decimal(text: &str) -> Option<i128> {
    eight_to_sixteen(text.as_bytes()).map(i128::from).or_else(|| text.parse().ok())
}

#[inline]
fn of_hex(text: &str) -> Option<u64> {
    let mut digits = [b'0'; 16];
    match text.as_bytes().as_array() {
        Some(all) => digits = *all,
        None if text.is_empty() => return None,
        None => {
            let start = digits.len().checked_sub(text.len())?;
            digits[start..].copy_from_slice(text.as_bytes());
        }
    }
    let both = u128::from_be_bytes(digits);
    let (high, low) = (eight_hex((both >> 64) as u64)?, eight_hex(both as u64)?);
    Some(high << 32 | low)
}

/// The value of eight hexadecimal digits, the first in the highest byte.
#[inline]
const fn eight_hex(word: u64) -> Option<u64> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    /// Sets a byte's highest bit if the byte, which is ASCII, is `least` or more.
    const fn at_least(word: u64, least: u8) -> u64 {
        word + ONES * (0x80 - least) as u64
    }
    if word & HIGH != 0 {
        return None;
    }
    let lower = word | (ONES * 0x20);
    let digit = at_least(word, b'0') & !at_least(word, b'9' + 1);
    let letter = at_least(lower, b'a') & !at_least(lower, b'f' + 1);
    if (digit | letter) & HIGH != HIGH {
        return None;
    }
    // A letter's low half is 1 to 6.
    let halves = (word & (ONES * 0x0f)) + ((letter & HIGH) >> 7) * 9;
    let bytes = (halves | halves >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    Some((fours | fours >> 16) & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    fn read(text: &str) -> StrDeserializer<'_, Error> {
        text.into_deserializer()
    }

    #[test]
    fn hex_agrees_with_the_standard_library() {
        let mut number = 1u64;
        for round in 0..20_000u32 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
            let value = number >> (round % 64);
            for text in [format!("{value:x}"), format!("{value:X}"), format!("{value:016x}")] {
                assert_eq!(hex(read(&text)), Ok(value), "{text}");
            }
        }
        for place in 0..16 {
            for odd in (0..=127u8).map(char::from) {
                let text =
                    format!("{}{odd}{}", &"0a9fF1bC52de7863"[..place], "0".repeat(15 - place));
                assert_eq!(hex(read(&text)).is_ok(), odd.is_ascii_hexdigit(), "{text:?}");
            }
        }
        for text in ["", "00000000000000000", "é0", "0x1", "+1", " 1"] {
            assert!(hex(read(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn decimal_agrees_with_the_standard_library() {
        let mut number = 1u64;
        for round in 0..20_000u32 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
            let value = number >> (round % 64);
            for text in [value.to_string(), format!("{value:017}")] {
                assert_eq!(decimal(read(&text)), Ok(value), "{text}");
            }
        }
        for length in 1..20 {
            for place in 0..length {
                for odd in (0..=127u8).map(char::from) {
                    let mut text = "9".repeat(length);
                    text.replace_range(place..=place, odd.encode_utf8(&mut [0; 4]));
                    let expected = text.parse::<i128>().ok();
                    assert_eq!(decimal(read(&text)).ok(), expected, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn decimal_takes_what_its_type_takes() {
        assert_eq!(decimal(read("1700000000123")), Ok(1_700_000_000_123i64));
        assert_eq!(decimal(read("007")), Ok(7u8));
        for value in [0, 1, u64::MAX, u64::MAX - 1, 9_999_999_999_999_999_999] {
            assert_eq!(decimal(read(&value.to_string())), Ok(value));
        }
        for value in [i64::MIN, -1, i64::MAX] {
            assert_eq!(decimal(read(&value.to_string())), Ok(value));
        }
        for text in ["", "-", "256", "-1", "1.0", "1e2", " 1", "1 ", "١", "0x1"] {
            assert!(decimal::<_, u8>(read(text)).is_err(), "{text}");
        }
        let refused = decimal::<_, u64>(read("18446744073709551616")).unwrap_err();
        assert!(refused.to_string().contains("a string of decimal digits (u64)"), "{refused}");
    }
}
