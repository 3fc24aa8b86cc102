//! Numbers: checked against JSON's grammar and read in one pass.
//!
//! A decimal of at most 15 digits with a small exponent is computed with one multiplication or division.
//! (Clinger's fast path: both operands are exact, so the result is correctly rounded.) Everything else goes
//! through the standard library's parser, which is exact too. Almost all numbers have few digits and take a path
//! of their own ([`small`]). It gives up at anything unusual and leaves that to the long path.

use thalweg_kernel::Cause;

use super::digits::{SMALL_BYTES_MAX, Small, digits, small};
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
    payload: &'de str,
    start: usize,
    end: usize,
}

/// As many digits as always fit a `u64`.
const DIGITS_MAX: u32 = 19;

const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
const TENS_U64: [u64; 20] = {
    let mut tens = [1; 20];
    let mut i = 1;
    while i < tens.len() {
        tens[i] = tens[i - 1] * 10;
        i += 1;
    }
    tens
};
const TENS_F32: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

impl<'de> Parser<'de, '_> {
    /// Reads the number that begins here.
    #[inline(never)]
    pub(crate) fn number(&mut self) -> Result<Number<'de>, Error> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let negative = bytes.get(start) == Some(&b'-');
        let whole_at = start + usize::from(negative);
        let (mut mantissa, whole) = digits(bytes, whole_at);
        if whole == 0 || (whole > 1 && bytes.get(whole_at) == Some(&b'0')) {
            return Err(self.no_number(whole, whole_at));
        }
        self.at = whole_at + whole;
        let mut count = whole;
        let mut exponent = 0;
        let mut integer = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            let (value, fraction) = digits(bytes, self.at);
            if fraction == 0 {
                return Err(self.expected("a digit after the decimal point"));
            }
            self.at += fraction;
            count += fraction;
            // With more digits than the table has powers, the mantissa has lost its meaning.
            mantissa = mantissa.wrapping_mul(TENS_U64[fraction.min(19)]).wrapping_add(value);
            exponent = -i32::try_from(fraction).unwrap_or(i32::MAX);
            integer = false;
        }
        if let Some(b'e' | b'E') = self.peek() {
            exponent = exponent.saturating_add(self.exponent()?);
            integer = false;
        }
        let digits = u32::try_from(count).unwrap_or(u32::MAX);
        let (payload, end) = (self.text, self.at);
        Ok(Number { negative, integer, mantissa, digits, exponent, payload, start, end })
    }

    /// The number that begins here, if it is a small one; takes it.
    #[inline(always)]
    pub(super) fn small_number(&mut self, fits: impl FnOnce(&Small) -> bool) -> Option<Small> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let number = match rest.first_chunk() {
            Some(text) => small(text)?,
            None => small_near_end(rest)?,
        };
        if !fits(&number) {
            return None;
        }
        self.at += number.len;
        Some(number)
    }

    /// Checks and skips the number that begins here.
    #[inline]
    pub(super) fn skip_number(&mut self) -> Result<(), Error> {
        match self.small_number(|_| true) {
            Some(_) => Ok(()),
            None => self.number().map(drop),
        }
    }

    #[cold]
    fn no_number(&mut self, whole: usize, whole_at: usize) -> Error {
        if whole == 0 {
            return self.no_value();
        }
        self.at = whole_at;
        self.malformed("a number must not begin with a superfluous 0")
    }

    #[inline(never)]
    fn exponent(&mut self) -> Result<i32, Error> {
        self.at += 1;
        let negative = self.peek() == Some(b'-');
        if let Some(b'-' | b'+') = self.peek() {
            self.at += 1;
        }
        let (value, count) = digits(self.text.as_bytes(), self.at);
        self.at += count;
        match count {
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

/// The text with zeros behind the end of the payload.
#[inline(never)]
fn small_near_end(rest: &[u8]) -> Option<Small> {
    let mut text = [0; SMALL_BYTES_MAX];
    text.get_mut(..rest.len())?.copy_from_slice(rest);
    small(&text)
}

impl Small {
    /// The nearest `f64`: both operands are exact.
    #[inline]
    pub(super) fn as_f64(&self) -> f64 {
        // Signed, since that is one instruction.
        let value = self.mantissa.cast_signed() as f64 / TENS[self.fraction % 8];
        if self.negative { -value } else { value }
    }

    #[inline]
    pub(super) fn is_integer(&self) -> bool {
        self.fraction == 0
    }
}

impl<'de> Number<'de> {
    /// The number as written.
    pub(crate) fn text(&self) -> &'de str {
        &self.payload[self.start..self.end]
    }

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
        self.text().trim_start_matches('-').parse().ok()
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
        match self.text().parse::<f64>() {
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
        match self.text().parse::<f32>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(self.beyond("f32", position)),
        }
    }

    #[cold]
    fn beyond(&self, float: &str, position: usize) -> Error {
        let what = format!("the number {} is beyond the range of {float}", shortened(self.text()));
        Error::new(Cause::NotANumber, what, Some(position))
    }
}
