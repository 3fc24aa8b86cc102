//! Where a string ends: eight bytes at a time in one machine word, on every CPU, without unsafe
//! code. JSON is mostly strings, so this is most of what decoding costs.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first byte at or after `at` that a plain string cannot contain: a quote, a backslash or a
/// control character. The length of `bytes` if there is none.
#[inline]
pub(super) fn string_stop(bytes: &[u8], mut at: usize) -> usize {
    let mut rest = bytes.get(at..).unwrap_or_default();
    while let Some((word, behind)) = rest.split_first_chunk::<8>() {
        let found = stops(u64::from_le_bytes(*word));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
        rest = behind;
    }
    at + rest.iter().position(|&byte| is_stop(byte)).unwrap_or(rest.len())
}

#[inline]
const fn is_stop(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

/// Marks the stops in a word. A borrow can mark a false one only above a true one, so the lowest
/// mark, which is the first byte in little-endian order, is always right.
#[inline]
const fn stops(word: u64) -> u64 {
    let quote = word ^ (LOW * b'"' as u64);
    let backslash = word ^ (LOW * b'\\' as u64);
    let control = word.wrapping_sub(LOW * 0x20) & !word;
    let equal = (quote.wrapping_sub(LOW) & !quote) | (backslash.wrapping_sub(LOW) & !backslash);
    (control | equal) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_byte_by_byte_definition_everywhere() {
        let naive = |bytes: &[u8], at: usize| {
            (at..bytes.len()).find(|&i| is_stop(bytes[i])).unwrap_or(bytes.len())
        };
        for byte in 0..=255u8 {
            for filler in [b'a', 0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xff] {
                for length in 0..20 {
                    for place in 0..length {
                        let mut bytes = vec![filler; length];
                        bytes[place] = byte;
                        for at in 0..=length {
                            assert_eq!(string_stop(&bytes, at), naive(&bytes, at), "{bytes:?}");
                        }
                    }
                }
            }
        }
    }
}
