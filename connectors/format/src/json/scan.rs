//! Where a string ends: sixteen bytes at a time. JSON is mostly strings, so this is most of what
//! skipping costs.
//!
//! No byte is looked at one by one, not even at the end of a payload. What is left there is cut out of the
//! payload's last sixteen bytes.

use wide::u8x16;

const BLOCK_BYTES: usize = 16;

/// The first byte at or after `at` that a plain string cannot contain: a quote, a backslash or a
/// control character. The length of `bytes` if there is none.
#[inline]
pub(super) fn string_stop(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let found = stops(block);
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += BLOCK_BYTES;
    }
    string_stop_near_end(bytes, at)
}

/// The search with less than a block of bytes left.
#[inline(never)]
fn string_stop_near_end(bytes: &[u8], at: usize) -> usize {
    let end = bytes.len();
    let Some(block) = bytes.last_chunk::<BLOCK_BYTES>() else {
        let rest = bytes.get(at..).unwrap_or_default();
        return at + rest.iter().position(|&byte| is_stop(byte)).unwrap_or(rest.len());
    };
    let before = at.saturating_sub(end - BLOCK_BYTES).min(BLOCK_BYTES);
    match stops(block) >> before {
        0 => end,
        found => at + found.trailing_zeros() as usize,
    }
}

#[inline]
const fn is_stop(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

/// One bit per byte of a block, the first byte's lowest: set for a stop.
#[inline]
fn stops(block: &[u8; BLOCK_BYTES]) -> u32 {
    let block = u8x16::new(*block);
    let quote = block.simd_eq(u8x16::splat(b'"'));
    let backslash = block.simd_eq(u8x16::splat(b'\\'));
    let control = block.simd_eq(block.min(u8x16::splat(0x1f)));
    (quote | backslash | control).to_bitmask()
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
            for filler in [b'a', 0x20, 0x23, 0x5b, 0x80, 0xff] {
                for length in [1, 7, 15, 16, 17, 32, 33] {
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
