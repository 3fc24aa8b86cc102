//! Runs of decimal digits, eight at a time in one machine word. A timestamp has thirteen: one
//! multiplication after the other would take longer than all the rest of a small message.

const ZEROS: u64 = 0x3030_3030_3030_3030;
pub(crate) const HIGH: u64 = 0x8080_8080_8080_8080;

const TENS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// As many bytes as hold any number that [`small`] reads, and the byte behind it.
pub(super) const SMALL_BYTES_MAX: usize = 18;

/// A number of few digits without exponent, as almost all are: fifteen at the most, or seven
/// before and seven behind a decimal point.
pub(super) struct Small {
    pub(super) negative: bool,
    pub(super) mantissa: u64,
    /// Digits behind the decimal point; none for an integer.
    pub(super) fraction: usize,
    /// In bytes.
    pub(super) len: usize,
}

/// The number at the beginning of `text`, if it is a small one and written as JSON wants it.
#[inline(always)]
pub(super) fn small(text: &[u8; SMALL_BYTES_MAX]) -> Option<Small> {
    let negative = text[0] == b'-';
    let start = usize::from(negative);
    let ones = u64::from_le_bytes(*text[start..].first_chunk()?) ^ ZEROS;
    let others = others(ones);
    let (mantissa, whole, fraction, len);
    if others == 0 {
        let (value, more) = eight_of(&text[start + 8..][..8])?;
        (whole, fraction, len) = (8 + more, 0, start + 8 + more);
        mantissa = eight(ones) * TENS[more] + value;
    } else {
        let bits = others.trailing_zeros() & 0x38;
        whole = bits as usize / 8;
        if text[start + whole] == b'.' {
            // What follows the point is marked rightly too: the point itself carries nothing.
            let behind = others & (others - 1);
            let end = behind.trailing_zeros() & 0x38;
            if behind != 0 && bits > 0 {
                // All in one word: close the gap that the point leaves.
                let before = (1 << bits) - 1;
                let joined = ones & before | ones >> 8 & !before;
                (fraction, len) = ((end - bits) as usize / 8 - 1, start + end as usize / 8);
                mantissa = eight(joined << 8 << (64 - end));
            } else {
                let value;
                (value, fraction) = eight_of(&text[start + whole + 1..][..8])?;
                len = start + whole + 1 + fraction;
                mantissa = eight(ones << 8 << (56 - bits)) * TENS[fraction] + value;
            }
            if fraction == 0 {
                return None;
            }
        } else {
            (fraction, len) = (0, start + whole);
            mantissa = eight(ones << 8 << (56 - bits));
        }
    }
    let long = whole == 16 || fraction == 8 || matches!(text[len], b'.' | b'e' | b'E');
    let faulty = whole == 0 || (whole > 1 && text[start] == b'0');
    if long || faulty { None } else { Some(Small { negative, mantissa, fraction, len }) }
}

#[inline(always)]
fn eight_of(text: &[u8]) -> Option<(u64, usize)> {
    text.first_chunk().map(|word| eight_in(u64::from_le_bytes(*word)))
}

/// The digits that begin at `at`, as a number modulo 2^64, and how many there are.
#[inline]
pub(super) fn digits(bytes: &[u8], at: usize) -> (u64, usize) {
    let (mut value, mut count) = up_to_eight(bytes, at);
    let mut found = count;
    while found == 8 {
        let more;
        (more, found) = up_to_eight(bytes, at + count);
        value = value.wrapping_mul(TENS[found]).wrapping_add(more);
        count += found;
    }
    (value, count)
}

/// The value of `text` if it is nothing but digits, and eight to sixteen of them.
#[inline]
pub(crate) fn eight_to_sixteen(text: &[u8]) -> Option<u64> {
    if text.len() > 16 {
        return None;
    }
    let first = u64::from_le_bytes(*text.first_chunk()?) ^ ZEROS;
    let last = u64::from_le_bytes(*text.last_chunk()?) ^ ZEROS;
    if others(first) | others(last) != 0 {
        return None;
    }
    // What both words hold counts in the first.
    let behind = text.len() - 8;
    let rest = last & !(u64::MAX >> 1 >> (behind * 8).saturating_sub(1));
    Some(eight(first) * TENS[behind] + if behind == 0 { 0 } else { eight(rest) })
}

#[inline]
fn up_to_eight(bytes: &[u8], at: usize) -> (u64, usize) {
    eight_in(word(bytes, at))
}

/// The digits that a word begins with.
#[inline(always)]
fn eight_in(word: u64) -> (u64, usize) {
    let ones = word ^ ZEROS;
    let others = others(ones);
    if others == 0 {
        return (eight(ones), 8);
    }
    // Moves the digits to the high end; the zeros that come in are leading zeros of the number.
    let bits = others.trailing_zeros() & 0x38;
    (eight(ones << 8 << (56 - bits)), bits as usize / 8)
}

/// Marks the bytes above 9. A carry comes from a marked byte only, so the lowest mark, which is the
/// first byte, is right.
#[inline]
const fn others(word: u64) -> u64 {
    (word.wrapping_add(HIGH - 0x0a0a_0a0a_0a0a_0a0a) | word) & HIGH
}

/// The number with these eight digits, the first in the lowest byte. Pairs are put together. Then each of the four
/// pairs is multiplied with its power of ten, two at a time. The sum stands in the high half.
#[inline]
const fn eight(ones: u64) -> u64 {
    const EVERY_SECOND: u64 = 0x0000_00ff_0000_00ff;
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8);
    let first_and_third = (pairs & EVERY_SECOND).wrapping_mul(100 | 1_000_000 << 32);
    let second_and_fourth = (pairs >> 16 & EVERY_SECOND).wrapping_mul(1 | 10_000 << 32);
    first_and_third.wrapping_add(second_and_fourth) >> 32
}

/// The eight bytes at `at`; zeros follow the end.
#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(word) => u64::from_le_bytes(*word),
        None => word_near_end(bytes, at),
    }
}

#[inline(never)]
fn word_near_end(bytes: &[u8], at: usize) -> u64 {
    let missing = (at + 8).saturating_sub(bytes.len()) as u32;
    match bytes.last_chunk() {
        Some(word) => u64::from_le_bytes(*word).checked_shr(missing * 8).unwrap_or(0),
        None => {
            let rest = bytes.get(at..).unwrap_or_default();
            rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_their_value_wherever_they_end() {
        let mut number = 1u64;
        for round in 0..20_000u64 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            let digits_text = (number >> (round % 64)).to_string();
            for before in ["", "x", "{\"abcdefg\":"] {
                for behind in ["", "}", ".", ":", "/", "\u{7f}", "é", "e-1234567890", "a0"] {
                    let text = format!("{before}{digits_text}{behind}");
                    let expected = (digits_text.parse().unwrap(), digits_text.len());
                    assert_eq!(digits(text.as_bytes(), before.len()), expected, "{text}");
                }
            }
        }
    }

    #[test]
    fn no_other_byte_is_a_digit() {
        for place in 0..8 {
            for byte in (0..=255u8).filter(|byte| !byte.is_ascii_digit()) {
                for filler in [b'0', b'9'] {
                    let mut text = [filler; 8];
                    text[place] = byte;
                    assert_eq!(digits(&text, 0).1, place, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn leading_zeros_and_runs_longer_than_any_number() {
        assert_eq!(digits(b"0000000000000000000000000000000000000017,", 0), (17, 40));
        assert_eq!(digits(b"", 0), (0, 0));
        assert_eq!(digits(&[b'7'; 1000], 1).1, 999);
    }
}
