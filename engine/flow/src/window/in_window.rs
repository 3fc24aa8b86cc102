//! A key in one of its windows: what contents and timers of windows belong to that are kept for each key.

use thalweg_kernel::{Key, Timestamp};

use super::time_window::TimeWindow;
use crate::table_hash::table_hash;

/// Flipped, it makes times compare as bytes do.
const SIGN: u64 = 1 << 63;

/// See the module. It lies in the key group of its key.
///
/// ```text
/// key u64:start u64:last      times big-endian, with their sign bit flipped
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InWindow<K> {
    pub(super) key: K,
    /// The window under which it is kept: one that has grown stays where it began.
    pub(super) home: TimeWindow,
}

impl<K: Key> Key for InWindow<K> {
    fn key_hash(&self) -> u64 {
        self.key.key_hash()
    }

    const TABLE_HASH: Option<fn(&Self) -> u64> = Some(|at| hash_in(table_hash(&at.key), at.home));

    fn write_key(&self, out: &mut Vec<u8>) {
        self.key.write_key(out);
        for time in [self.home.start, self.home.last] {
            out.extend_from_slice(&(time.as_millis() as u64 ^ SIGN).to_be_bytes());
        }
    }

    fn read_key(bytes: &mut &[u8]) -> Option<Self> {
        let key = K::read_key(bytes)?;
        let mut time = || {
            let (time, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(Timestamp::from_millis((u64::from_be_bytes(*time) ^ SIGN) as i64))
        };
        let (start, last) = (time()?, time()?);
        Some(Self { key, home: TimeWindow { start, last } })
    }
}

/// The hash for tables, from that of the key.
#[inline(always)]
pub(super) fn hash_in(hash: u64, home: TimeWindow) -> u64 {
    let times = home.start.as_millis() as u64 ^ (home.last.as_millis() as u64).rotate_left(32);
    let mixed = hash ^ times.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let product = u128::from(mixed ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_lies_in_the_order_of_time() {
        let mut before = Vec::new();
        for start in [i64::MIN, -7, 0, 3, i64::MAX - 9] {
            let home = TimeWindow { start: start.into(), last: (start + 9).into() };
            let at = InWindow { key: 12_u32, home };
            let mut bytes = Vec::new();
            at.write_key(&mut bytes);
            assert!(before < bytes, "{start}");
            let mut rest = bytes.as_slice();
            assert_eq!(InWindow::read_key(&mut rest), Some(at.clone()));
            assert!(rest.is_empty());
            assert_eq!(InWindow::<u32>::read_key(&mut &bytes[1..]), None);
            assert_eq!(
                (at.key_hash(), table_hash(&at)),
                (12_u32.key_hash(), hash_in(table_hash(&12_u32), home))
            );
            before = bytes;
        }
    }
}
