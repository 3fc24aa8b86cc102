//! Numbers: checked against JSON's grammar and read in the same pass.
//!
//! A decimal of at most 15 digits with a small exponent is computed with one multiplication or
//! division (Clinger's fast path: both operands are exact, so the result is correctly rounded);
//! everything else goes through the standard library's parser, which is exact too.

use thalweg_kernel::Cause;

use super::error::{Error, shortened};
use super::parser::Parser;

/// A number's digits as one integer, with the power of ten that belongs to it.
#[derive(Clone, Copy)]
pub(crate) struct Number<'de> {
    pub(super) negative: bool,
    /// Neither a fraction nor an exponent was written.
    pub(super) integer: bool,
    /// Meaningless when `digits` is over [`DIGITS_MAX`].
    mantissa: u64,
    digits: u32,
    exponent: i32,
    /// As written.
    pub(crate) text: &'de str,
}

/// The value of a word of eight ASCII digits, the first in the lowest byte; `None` if one of them is
/// no digit. Pairs, then fours, then all eight are put together, each step for all at once.
#[inline]
const fn eight_digits(word: u64) -> Option<u64> {
    const SIXES: u64 = 0x0606_0606_0606_0606;
    const HIGH_HALVES: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const THREES: u64 = 0x3030_3030_3030_3030;
    // A digit is 0x30 to 0x39: its high half is 3, and still is when 6 is added.
    if word & HIGH_HALVES != THREES || word.wrapping_add(SIXES) & HIGH_HALVES != THREES {
        return None;
    }
    let ones = word & !HIGH_HALVES;
    let pairs = (ones.wrapping_mul(10).wrapping_add(ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100).wrapping_add(pairs >> 16)) & 0x0000_ffff_0000_ffff;
    Some(fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff)
}

/// As many digits as always fit a `u64`.
const DIGITS_MAX: u32 = 19;

const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
const TENS_F32: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

impl<'de> Parser<'de, '_> {
    /// Reads the number that begins here.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number<'de>, Error> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let mut mantissa = 0;
        let whole = self.digits(&mut mantissa);
        if whole == 0 {
            self.at = start;
            return Err(self.no_value());
        }
        if whole > 1 && self.text.as_bytes().get(self.at - whole) == Some(&b'0') {
            self.at -= whole;
            return Err(self.malformed("a number must not begin with a superfluous 0"));
        }
        let mut digits = whole;
        let mut exponent = 0;
        let mut integer = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            let fraction = self.digits(&mut mantissa);
            if fraction == 0 {
                return Err(self.expected("a digit after the decimal point"));
            }
            digits += fraction;
            exponent = -i32::try_from(fraction).unwrap_or(i32::MAX);
            integer = false;
        }
        if let Some(b'e' | b'E') = self.peek() {
            exponent = exponent.saturating_add(self.exponent()?);
            integer = false;
        }
        let text = &self.text[start..self.at];
        let digits = u32::try_from(digits).unwrap_or(u32::MAX);
        Ok(Number { negative, integer, mantissa, digits, exponent, text })
    }

    /// Appends the digits that begin here to `mantissa`, and counts them.
    #[inline]
    fn digits(&mut self, mantissa: &mut u64) -> usize {
        let start = self.at;
        let mut rest = self.text.as_bytes().get(start..).unwrap_or_default();
        // A timestamp has thirteen digits: one multiplication after the other would take longer
        // than all the rest of a small message.
        while let Some((word, behind)) = rest.split_first_chunk::<8>()
            && let Some(value) = eight_digits(u64::from_le_bytes(*word))
        {
            *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(value);
            self.at += 8;
            rest = behind;
        }
        while let Some((byte, behind)) = rest.split_first()
            && byte.is_ascii_digit()
        {
            *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
            rest = behind;
        }
        self.at - start
    }

    fn exponent(&mut self) -> Result<i32, Error> {
        self.at += 1;
        let negative = self.peek() == Some(b'-');
        if let Some(b'-' | b'+') = self.peek() {
            self.at += 1;
        }
        let mut value = 0;
        match self.digits(&mut value) {
            0 => Err(self.expected("a digit of the exponent")),
            // Leading zeros aside, such an exponent is beyond all floats.
            10.. => Ok(if negative { i32::MIN } else { i32::MAX }),
            _ => {
                let value = i32::try_from(value).unwrap_or(i32::MAX);
                Ok(if negative { -value } else { value })
            }
        }
    }
}

impl Number<'_> {
    /// The value as `u64`, if it is written as an integer and fits.
    #[inline]
    pub(super) fn as_u64(&self) -> Option<u64> {
        let magnitude = self.magnitude()?;
        // Minus zero, as C's printf may write it, is zero.
        (!self.negative || magnitude == 0).then_some(magnitude)
    }

    /// The value as `i64`, if it is written as an integer and fits.
    #[inline]
    pub(super) fn as_i64(&self) -> Option<i64> {
        let magnitude = self.magnitude()?;
        if self.negative {
            0i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        }
    }

    #[inline]
    fn magnitude(&self) -> Option<u64> {
        if self.digits <= DIGITS_MAX {
            return self.integer.then_some(self.mantissa);
        }
        // Some twenty-digit integers fit; one with a fraction does not parse.
        self.text.trim_start_matches('-').parse().ok()
    }

    /// The nearest `f64`.
    #[inline]
    pub(super) fn as_f64(&self, position: usize) -> Result<f64, Error> {
        let ten = TENS.get(self.exponent.unsigned_abs() as usize);
        if let Some(&ten) = ten
            && self.digits <= DIGITS_MAX
            && self.mantissa <= 1 << f64::MANTISSA_DIGITS
        {
            let exact = self.mantissa as f64;
            let value = if self.exponent < 0 { exact / ten } else { exact * ten };
            return Ok(if self.negative { -value } else { value });
        }
        match self.text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(self.beyond("f64", position)),
        }
    }

    /// The nearest `f32`: rounded once, not by way of `f64`.
    #[inline]
    pub(super) fn as_f32(&self, position: usize) -> Result<f32, Error> {
        let ten = TENS_F32.get(self.exponent.unsigned_abs() as usize);
        if let Some(&ten) = ten
            && self.digits <= DIGITS_MAX
            && self.mantissa <= 1 << f32::MANTISSA_DIGITS
        {
            let exact = self.mantissa as f32;
            let value = if self.exponent < 0 { exact / ten } else { exact * ten };
            return Ok(if self.negative { -value } else { value });
        }
        match self.text.parse::<f32>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(self.beyond("f32", position)),
        }
    }

    #[cold]
    fn beyond(&self, float: &str, position: usize) -> Error {
        let what = format!("the number {} is beyond the range of {float}", shortened(self.text));
        Error::new(Cause::NotANumber, what, Some(position))
    }
}

#[cfg(test)]
mod tests {
    use super::eight_digits;

    #[test]
    fn eight_digits_are_their_value() {
        let value =
            |text: &str| eight_digits(u64::from_le_bytes(text.as_bytes().try_into().unwrap()));
        for number in (0..100_000_000u64).step_by(9_973).chain([99_999_999, 10, 12_345_678]) {
            assert_eq!(value(&format!("{number:08}")), Some(number));
        }
        for place in 0..8 {
            for byte in (0..=127u8).filter(|byte| !byte.is_ascii_digit()) {
                let mut text = *b"90909090";
                text[place] = byte;
                assert_eq!(value(std::str::from_utf8(&text).unwrap()), None);
            }
            assert_eq!(eight_digits(u64::from_le_bytes(*b"90909090") | 0x80 << (8 * place)), None);
        }
    }
}
