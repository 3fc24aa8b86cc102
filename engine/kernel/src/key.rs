//! Keys, their fixed hash, key groups and the shards that own them.
//!
//! A key's hash decides its key group, and key groups go to shards in contiguous ranges (Flink's
//! scheme). So state can move when the number of shards changes. **Neither the hash nor the number
//! of groups may ever change for a job that has state.** The hash is xxh3 over a defined byte form
//! (integers little-endian), not `std::hash`, whose byte form the language may change.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::Str;

/// Something a stream can be partitioned by.
pub trait Key: Clone + Eq + Send + 'static {
    /// The fixed 64-bit hash of this key. Equal keys have equal hashes, on every machine, for ever.
    fn key_hash(&self) -> u64;

    /// A cheaper hash for tables in memory, where there is one. Nothing that is stored or sent depends
    /// on it. It is as well spread as the fixed one in its low bits and in its high ones.
    const TABLE_HASH: Option<fn(&Self) -> u64> = None;

    /// Appends the key to `out` as it is stored. Equal keys have equal bytes, others have others, for
    /// ever. Where the key ends must follow from its bytes, so that others can stand behind them.
    fn write_key(&self, out: &mut Vec<u8>);

    /// Reads a key from the beginning of `bytes`, which are left with what is behind it; `None` if no
    /// key stands there.
    fn read_key(bytes: &mut &[u8]) -> Option<Self>;

    /// The key for a person: in messages about one of its records.
    fn describe(&self) -> String {
        let mut bytes = Vec::new();
        self.write_key(&mut bytes);
        format!("b\"{}\"", bytes.escape_ascii())
    }
}

/// The first `N` bytes, taken off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

/// Bytes of any number: their length stands before them.
fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn read_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

macro_rules! integer_keys {
    ($($t:ty),*) => {$(
        impl Key for $t {
            #[inline]
            fn key_hash(&self) -> u64 {
                xxh3_64(&self.to_le_bytes())
            }

            // A third of the instructions of the fixed one.
            const TABLE_HASH: Option<fn(&Self) -> u64> = Some(|key| fold(*key as u64));

            fn write_key(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read_key(bytes: &mut &[u8]) -> Option<Self> {
                take(bytes).map(Self::from_le_bytes)
            }

            fn describe(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
integer_keys!(u8, u16, u32, u64, i8, i16, i32, i64);

macro_rules! wide_integer_keys {
    ($($t:ty),*) => {$(
        impl Key for $t {
            #[inline]
            fn key_hash(&self) -> u64 {
                xxh3_64(&self.to_le_bytes())
            }

            fn write_key(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read_key(bytes: &mut &[u8]) -> Option<Self> {
                take(bytes).map(Self::from_le_bytes)
            }

            fn describe(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
wide_integer_keys!(u128, i128);

/// A number's bits, spread over all others. (With most other constants the multiples of some power of two
/// come to lie together.)
#[inline(always)]
const fn fold(number: u64) -> u64 {
    let product = (number ^ 0x1319_8a2e_0370_7344) as u128 * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

macro_rules! byte_keys {
    ($($t:ty: $read:expr),*) => {$(
        impl Key for $t {
            #[inline]
            fn key_hash(&self) -> u64 {
                xxh3_64(self.as_ref())
            }

            fn write_key(&self, out: &mut Vec<u8>) {
                write_bytes(self.as_ref(), out);
            }

            fn read_key(bytes: &mut &[u8]) -> Option<Self> {
                let read: fn(&[u8]) -> Option<Self> = $read;
                read(read_bytes(bytes)?)
            }

            fn describe(&self) -> String {
                format!("{self:?}")
            }
        }
    )*};
}
byte_keys! {
    String: |bytes| std::str::from_utf8(bytes).ok().map(String::from),
    Str: |bytes| std::str::from_utf8(bytes).ok().map(Str::from),
    Vec<u8>: |bytes| Some(bytes.to_vec()),
    bytes::Bytes: |bytes| Some(bytes::Bytes::copy_from_slice(bytes)),
    &'static str: |bytes| std::str::from_utf8(bytes).ok().map(interned)
}

/// A string that lives as long as the program. Each is kept once: what is restored again costs nothing.
///
/// It is never freed, since `'static` promises that. That is bounded nevertheless. A key of this type was written
/// by a program that had it as a literal, or had leaked it itself. So the distinct ones are few. Keys that input
/// makes up are `Str`.
pub(crate) fn interned(text: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(text) {
        return found;
    }
    let kept: &'static str = Box::leak(text.into());
    known.insert(kept);
    kept
}

impl Key for bool {
    #[inline]
    fn key_hash(&self) -> u64 {
        u8::from(*self).key_hash()
    }

    fn write_key(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read_key(bytes: &mut &[u8]) -> Option<Self> {
        match take(bytes)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

impl Key for char {
    #[inline]
    fn key_hash(&self) -> u64 {
        u32::from(*self).key_hash()
    }

    fn write_key(&self, out: &mut Vec<u8>) {
        u32::from(*self).write_key(out);
    }

    fn read_key(bytes: &mut &[u8]) -> Option<Self> {
        u32::read_key(bytes)?.try_into().ok()
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

impl Key for () {
    #[inline]
    fn key_hash(&self) -> u64 {
        xxh3_64(&[])
    }

    fn write_key(&self, _out: &mut Vec<u8>) {}

    fn read_key(_bytes: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl<const N: usize> Key for [u8; N] {
    #[inline]
    fn key_hash(&self) -> u64 {
        xxh3_64(self)
    }

    fn write_key(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read_key(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes)
    }
}

impl<K: Key> Key for Option<K> {
    #[inline]
    fn key_hash(&self) -> u64 {
        match self {
            None => combine(0, 0),
            Some(key) => combine(1, key.key_hash()),
        }
    }

    fn write_key(&self, out: &mut Vec<u8>) {
        self.is_some().write_key(out);
        if let Some(key) = self {
            key.write_key(out);
        }
    }

    fn read_key(bytes: &mut &[u8]) -> Option<Self> {
        if bool::read_key(bytes)? { K::read_key(bytes).map(Some) } else { Some(None) }
    }

    fn describe(&self) -> String {
        self.as_ref().map_or_else(|| "none".into(), K::describe)
    }
}

macro_rules! tuple_keys {
    ($($name:ident),+) => {
        impl<$($name: Key),+> Key for ($($name,)+) {
            #[inline]
            #[allow(non_snake_case)]
            fn key_hash(&self) -> u64 {
                let ($($name,)+) = self;
                let mut hash = 0;
                $(hash = combine(hash, $name.key_hash());)+
                hash
            }

            #[allow(non_snake_case)]
            fn write_key(&self, out: &mut Vec<u8>) {
                let ($($name,)+) = self;
                $($name.write_key(out);)+
            }

            fn read_key(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::read_key(bytes)?,)+))
            }

            #[allow(non_snake_case)]
            fn describe(&self) -> String {
                let ($($name,)+) = self;
                format!("({})", [$($name.describe()),+].join(", "))
            }
        }
    };
}
tuple_keys!(A);
tuple_keys!(A, B);
tuple_keys!(A, B, C);
tuple_keys!(A, B, C, D);

#[inline]
fn combine(left: u64, right: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&left.to_le_bytes());
    bytes[8..].copy_from_slice(&right.to_le_bytes());
    xxh3_64(&bytes)
}

/// The number of key groups of a job: the granularity in which keyed state moves between shards,
/// and so the largest useful number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGroups(u16);

impl Default for KeyGroups {
    /// 128 groups, as in Flink.
    fn default() -> Self {
        Self(128)
    }
}

impl KeyGroups {
    /// `count` groups; `None` for zero.
    pub const fn new(count: u16) -> Option<Self> {
        if count == 0 { None } else { Some(Self(count)) }
    }

    /// How many groups there are.
    pub const fn count(self) -> u16 {
        self.0
    }

    /// The group that a key with this hash belongs to.
    ///
    /// Taken from the middle bits. Hash tables pick buckets by the lowest bits and tag entries by
    /// the highest, and both must stay well spread within a shard.
    #[inline]
    pub const fn group_of(self, hash: u64) -> u16 {
        let middle = (hash >> 16) as u32 as u64;
        ((middle * self.0 as u64) >> 32) as u16
    }

    /// The shard, of `shards`, that owns `group`.
    #[inline]
    pub const fn owner(self, group: u16, shards: usize) -> usize {
        group as usize * shards / self.0 as usize
    }

    /// The groups that `shard` of `shards` owns.
    pub fn groups_of(self, shard: usize, shards: usize) -> std::ops::Range<u16> {
        let first = |shard: usize| (shard * usize::from(self.0)).div_ceil(shards) as u16;
        first(shard)..first(shard + 1)
    }

    /// The hashes of the keys that `shard` of `shards` owns.
    pub fn owned_by(self, shard: usize, shards: usize) -> Owned {
        let groups = usize::from(self.0);
        let first = |shard: usize| {
            let group = (shard * groups).div_ceil(shards);
            ((group as u64) << 32).div_ceil(groups as u64)
        };
        Owned { from: first(shard), count: first(shard + 1) - first(shard) }
    }

    /// The shard, of `shards`, that owns the key with this hash.
    #[inline]
    pub const fn shard_of(self, hash: u64, shards: usize) -> usize {
        self.owner(self.group_of(hash), shards)
    }
}

/// The hashes that one shard owns. Group and shard grow with the middle bits of a hash, so the hashes
/// are a range of these bits.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    from: u64,
    count: u64,
}

impl Owned {
    /// Whether the shard owns the key with this hash. A subtraction and a comparison.
    #[inline(always)]
    pub const fn contains(self, hash: u64) -> bool {
        ((hash >> 16) as u32 as u64).wrapping_sub(self.from) < self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values computed by the reference xxHash library: a change here breaks every stored state.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(42_u64.key_hash(), 0xd5a6_f8c8_38df_27c8);
        assert_eq!("d00042".to_owned().key_hash(), 0xa669_33d1_d0e4_4af7);
        assert_eq!(Str::from("d00042").key_hash(), "d00042".key_hash());
        assert_eq!((1_u32, "a").key_hash(), 0x5c90_527f_29c9_a88b);
        assert_eq!(
            [false, true].map(|key| key.key_hash()),
            [0xc44b_dff4_074e_ecdb, 0xe12e_f9d2_eb86_ceeb]
        );
        assert_eq!('ü'.key_hash(), 0xd9bf_2463_e536_4cd2);
        assert_eq!(().key_hash(), 0x2d06_8005_38d3_94c2);
        assert_eq!([1_u8, 2, 3].key_hash(), 0xebce_9b76_32ae_733b);
        assert_eq!(bytes::Bytes::from_static(&[1, 2, 3]).key_hash(), [1_u8, 2, 3].key_hash());
        assert_eq!(None::<u16>.key_hash(), 0xd0a6_6a65_c752_8968);
        assert_eq!(Some(7_u16).key_hash(), 0xe70b_5a9c_a902_0c3c);
        assert_eq!((-1_i8).key_hash(), 0xd6bc_ec3c_6b29_d72e);
        assert_eq!((-2_i32).key_hash(), 0x7016_8a72_e6d8_f6ab);
        assert_eq!((-2_i64).key_hash(), 0x77f9_9232_1730_1859);
        assert_eq!(1_u128.key_hash(), 0x26f2_a114_8cf5_2011);
    }

    /// Rows of a table lie where the low bits say, and the high ones tell them apart.
    #[test]
    fn numbers_that_follow_a_pattern_spread_over_a_table() {
        let hash = u32::TABLE_HASH.unwrap();
        for step in [1, 10, 64, 4_096, 65_536] {
            let hashes: Vec<_> = (0..4_096).map(|n| hash(&(n * step))).collect();
            for (bits, of) in [("low", 0), ("middle", 28), ("high", 52)] {
                let taken: BTreeSet<_> = hashes.iter().map(|hash| (hash >> of) & 0xfff).collect();
                // Chance takes 63 % of the places.
                assert!(taken.len() > 1_500, "{bits} bits of multiples of {step}: {}", taken.len());
            }
        }
    }

    #[test]
    fn a_person_reads_what_key_it_was() {
        #[derive(Clone, PartialEq, Eq)]
        struct Own(u8);
        impl Key for Own {
            fn key_hash(&self) -> u64 {
                self.0.key_hash()
            }
            fn write_key(&self, out: &mut Vec<u8>) {
                out.extend([self.0, b'x']);
            }
            fn read_key(_: &mut &[u8]) -> Option<Self> {
                None
            }
        }
        assert_eq!(Own(7).describe(), r#"b"\x07x""#);
        assert_eq!((true, 'x', "d1", -3_i64).describe(), r#"(true, 'x', "d1", -3)"#);
        assert_eq!((Some(7_u8), None::<u8>).describe(), "(7, none)");
    }

    #[test]
    fn keys_come_back_from_their_bytes_whatever_stands_behind_them() {
        fn check<K: Key + std::fmt::Debug>(key: K) {
            let mut bytes = Vec::new();
            key.write_key(&mut bytes);
            let length = bytes.len();
            bytes.extend_from_slice(b"more");
            let mut rest = &bytes[..];
            assert_eq!(K::read_key(&mut rest).as_ref(), Some(&key));
            assert_eq!(rest, b"more");
            // What stands behind a key says nothing about it.
            bytes[length..].fill(0xff);
            assert_eq!(K::read_key(&mut &bytes[..]).as_ref(), Some(&key));
            for cut in 0..length {
                assert_eq!(K::read_key(&mut &bytes[..cut]), None, "{key:?} cut at {cut}");
            }
        }
        check((1_u8, -2_i64, 3_u128));
        check((String::from("d1"), Str::from(""), "static", vec![1_u8, 2]));
        check((Some('x'), None::<u32>, true, [1_u8, 2, 3]));
        check((false, None::<bool>));
        check(((), bytes::Bytes::from_static(b"abc")));
        assert!(std::ptr::eq(interned("the same"), interned(&String::from("the same"))));
    }

    #[test]
    fn every_group_has_one_owner_and_ranges_are_contiguous() {
        let groups = KeyGroups::default();
        for shards in 1..=groups.count() as usize {
            let owners: Vec<_> =
                (0..groups.count()).map(|group| groups.owner(group, shards)).collect();
            assert!(owners.is_sorted());
            for shard in 0..shards {
                let theirs =
                    (0..groups.count()).filter(|&group| owners[usize::from(group)] == shard);
                assert!(theirs.eq(groups.groups_of(shard, shards)));
            }
            assert_eq!((owners[0], owners[127]), (0, shards - 1));
        }
        assert_eq!((groups.count(), KeyGroups::new(0)), (128, None));
    }

    #[test]
    fn what_a_shard_owns_is_what_goes_to_it() {
        for groups in [1, 5, 127, 128, u16::MAX].map(|count| KeyGroups::new(count).unwrap()) {
            for shards in [1, 2, 3, 5].into_iter().filter(|&n| n <= groups.count().into()) {
                let owned: Vec<_> = (0..shards).map(|n| groups.owned_by(n, shards)).collect();
                let edges = (0..=groups.count()).flat_map(|group| {
                    let first = ((u64::from(group) << 32) / u64::from(groups.count())) as u32;
                    [first.wrapping_sub(1), first, first.wrapping_add(1)]
                });
                for middle in edges.chain([0, u32::MAX]) {
                    let hash = u64::from(middle) << 16 | 0xffff_0000_0000_ffff;
                    let owner = groups.shard_of(hash, shards);
                    assert!((0..shards).all(|n| owned[n].contains(hash) == (n == owner)));
                }
            }
        }
    }

    #[test]
    fn keys_spread_over_the_shards() {
        let mut counts = [0; 8];
        for device in 0..8_000_u32 {
            let hash = Str::from(format!("d{device:05}")).key_hash();
            counts[KeyGroups::default().shard_of(hash, 8)] += 1;
        }
        assert!(counts.iter().all(|&n| (800..1_200).contains(&n)), "{counts:?}");
    }
}
