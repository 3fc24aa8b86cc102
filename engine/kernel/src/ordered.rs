//! [`OrderedKey`]: keys whose stored bytes sort as the keys do, so that a range of keys is a range of bytes.
//!
//! A map of keyed state stores each entry under its stream's key, followed by the entry's own key. So entries of one
//! map lie together, in the order of the map. A scan or a removal of a range is one operation on storage. Nothing of
//! this form may ever change.
//!
//! | keys | bytes |
//! |---|---|
//! | unsigned integers | big-endian |
//! | signed integers, [`Timestamp`] | big-endian with the sign bit flipped |
//! | `bool`, `char`, `()` | one byte, four bytes, none |
//! | strings and byte strings | their bytes, where 0 is followed by 255; two zeros end them |
//! | arrays of bytes | as they are |
//! | `Option` | 0, or 1 and the key |
//! | tuples | their parts, one after the other |
//! | [`Reverse`] | the bytes of the key, each inverted |
//!
//! No key's bytes begin with all the bytes of another key, so parts can stand one after the other. A user's own type
//! writes itself by the parts that its `Ord` compares, in the order in which it compares them.

use std::cmp::Reverse;

use crate::{Str, Timestamp};

/// A key whose stored bytes sort as the keys do.
///
/// ```
/// use thalweg_kernel::OrderedKey;
///
/// let bytes = |key: &(i32, &'static str)| {
///     let mut out = Vec::new();
///     key.write_ordered(&mut out);
///     out
/// };
/// assert!(bytes(&(-1, "b")) < bytes(&(0, "")));
/// assert!(bytes(&(0, "a")) < bytes(&(0, "a\0")));
/// ```
pub trait OrderedKey: Clone + Ord + 'static {
    /// Appends the key to `out`. Bytes compare as keys do, and no key's bytes begin with those of another key.
    fn write_ordered(&self, out: &mut Vec<u8>);

    /// Reads a key from the beginning of `bytes`, which are left with what is behind it; `None` if no key stands
    /// there.
    fn read_ordered(bytes: &mut &[u8]) -> Option<Self>;
}

/// The first `N` bytes, taken off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

macro_rules! integers {
    ($($t:ty: $flip:expr),*) => {$(
        impl OrderedKey for $t {
            #[inline]
            fn write_ordered(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self ^ $flip).to_be_bytes());
            }

            #[inline]
            fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self::from_be_bytes(take(bytes)?) ^ $flip)
            }
        }
    )*};
}
integers!(u8: 0, u16: 0, u32: 0, u64: 0, u128: 0);
integers!(i8: i8::MIN, i16: i16::MIN, i32: i32::MIN, i64: i64::MIN, i128: i128::MIN);

impl OrderedKey for Timestamp {
    #[inline]
    fn write_ordered(&self, out: &mut Vec<u8>) {
        self.as_millis().write_ordered(out);
    }

    #[inline]
    fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
        i64::read_ordered(bytes).map(Self::from_millis)
    }
}

impl OrderedKey for () {
    fn write_ordered(&self, _out: &mut Vec<u8>) {}

    fn read_ordered(_bytes: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl OrderedKey for bool {
    fn write_ordered(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
        match take(bytes)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

impl OrderedKey for char {
    fn write_ordered(&self, out: &mut Vec<u8>) {
        u32::from(*self).write_ordered(out);
    }

    fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
        u32::read_ordered(bytes).and_then(Self::from_u32)
    }
}

/// What follows a zero within a text or byte string; and what follows the zero that ends it.
const ZERO: u8 = u8::MAX;
const END: u8 = 0;

fn write_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut parts = bytes.split(|&byte| byte == 0);
    out.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        out.extend_from_slice(&[0, ZERO]);
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&[0, END]);
}

fn read_escaped(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        let zero = bytes.iter().position(|&byte| byte == 0)?;
        let (part, rest) = bytes.split_at(zero);
        let (&[_, after], rest) = rest.split_first_chunk()?;
        read.extend_from_slice(part);
        *bytes = rest;
        match after {
            END => return Some(read),
            ZERO => read.push(0),
            _ => return None,
        }
    }
}

macro_rules! strings {
    ($($t:ty: $read:expr),*) => {$(
        impl OrderedKey for $t {
            fn write_ordered(&self, out: &mut Vec<u8>) {
                write_escaped(self.as_ref(), out);
            }

            fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
                let read: fn(Vec<u8>) -> Option<Self> = $read;
                read(read_escaped(bytes)?)
            }
        }
    )*};
}
strings! {
    String: |bytes| Self::from_utf8(bytes).ok(),
    Str: |bytes| String::from_utf8(bytes).ok().map(Self::from),
    Vec<u8>: Some,
    bytes::Bytes: |bytes| Some(bytes.into()),
    &'static str: |bytes| String::from_utf8(bytes).ok().map(|text| crate::key::interned(&text))
}

impl<const N: usize> OrderedKey for [u8; N] {
    fn write_ordered(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes)
    }
}

impl<K: OrderedKey> OrderedKey for Option<K> {
    fn write_ordered(&self, out: &mut Vec<u8>) {
        self.is_some().write_ordered(out);
        if let Some(key) = self {
            key.write_ordered(out);
        }
    }

    fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
        if bool::read_ordered(bytes)? { K::read_ordered(bytes).map(Some) } else { Some(None) }
    }
}

impl<K: OrderedKey> OrderedKey for Reverse<K> {
    fn write_ordered(&self, out: &mut Vec<u8>) {
        let from = out.len();
        self.0.write_ordered(out);
        out[from..].iter_mut().for_each(|byte| *byte = !*byte);
    }

    fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
        let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        let mut rest = &inverted[..];
        let key = K::read_ordered(&mut rest)?;
        *bytes = &bytes[bytes.len() - rest.len()..];
        Some(Self(key))
    }
}

macro_rules! tuples {
    ($($name:ident),+) => {
        impl<$($name: OrderedKey),+> OrderedKey for ($($name,)+) {
            #[allow(non_snake_case, reason = "the parts are named by their types")]
            fn write_ordered(&self, out: &mut Vec<u8>) {
                let ($($name,)+) = self;
                $($name.write_ordered(out);)+
            }

            fn read_ordered(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::read_ordered(bytes)?,)+))
            }
        }
    };
}
tuples!(A);
tuples!(A, B);
tuples!(A, B, C);
tuples!(A, B, C, D);
tuples!(A, B, C, D, E);
tuples!(A, B, C, D, E, F);

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    /// Goal: bytes sort as keys do. Keys come back from their bytes whatever stands behind them. No key's bytes
    /// begin with those of another key.
    fn check<K: OrderedKey + Debug>(keys: impl IntoIterator<Item = K>) {
        let keys: Vec<K> = keys.into_iter().collect();
        let bytes = |key: &K| {
            let mut out = Vec::new();
            key.write_ordered(&mut out);
            out
        };
        for a in &keys {
            let mut with_more = bytes(a);
            let length = with_more.len();
            with_more.extend_from_slice(b"\xff\0more");
            let mut rest = &with_more[..];
            assert_eq!(K::read_ordered(&mut rest).as_ref(), Some(a));
            assert_eq!(rest, b"\xff\0more");
            for cut in 0..length {
                assert_eq!(K::read_ordered(&mut &with_more[..cut]), None, "{a:?} cut at {cut}");
            }
            for b in &keys {
                assert_eq!(a.cmp(b), bytes(a).cmp(&bytes(b)), "{a:?} {b:?}");
                assert!(a == b || !bytes(b).starts_with(&bytes(a)), "{a:?} {b:?}");
            }
        }
    }

    const TEXTS: [&str; 10] =
        ["", "\0", "\0\0", "\0\u{1}", "a", "a\0", "a\0b", "ab", "b", "ü\u{ff}"];

    #[test]
    fn bytes_sort_as_keys_do() {
        check([0_u8, 1, 127, 128, 255]);
        check([0_u64, 1, 255, 256, u64::MAX]);
        check([i8::MIN, -1, 0, 1, i8::MAX]);
        check([i16::MIN, -256, -255, 0, 255, 256, i16::MAX]);
        check([i64::MIN, -1, 0, 1, i64::MAX]);
        check([i128::MIN, -1, 0, i128::MAX]);
        check([u16::MAX, 0]);
        check([u128::MAX, 1 << 64, 0]);
        check([Timestamp::MIN, Timestamp::default(), Timestamp::MAX]);
        check([false, true]);
        check(['\0', 'a', 'ü', '\u{10ffff}']);
        check(TEXTS);
        check(TEXTS.map(String::from));
        check(TEXTS.map(Str::from));
        check(TEXTS.map(|text| text.as_bytes().to_vec()));
        check([&[0_u8, 255][..], &[255], &[255, 255, 0], &[1]].map(bytes::Bytes::copy_from_slice));
        check([[0_u8, 1], [0, 0], [255, 0]]);
        check(TEXTS.map(Some).into_iter().chain([None]));
        check(TEXTS.map(Reverse));
        check([i32::MIN, -1, 0, 1].map(Reverse));
        check(TEXTS.into_iter().flat_map(|a| TEXTS.map(|b| (a, b))));
        check(TEXTS.into_iter().flat_map(|a| [-1, 0, 1].map(|n| (Reverse(a), n, Some(a)))));
        check([(1_u8, 2_u8, 3_u8, 4_u8), (1, 2, 4, 0)]);
        check([(1_u8, 2_u8, 3_u8, 4_u8, 'a'), (1, 2, 4, 0, 'b')]);
        check([(1_u8, (), 3_u8, 4_u8, 'a', true), (1, (), 4, 0, 'b', false)]);
        check([("a",), ("b",)]);
        check([()]);
    }

    #[test]
    fn what_is_no_key_is_not_read() {
        assert_eq!(bool::read_ordered(&mut &[2][..]), None);
        assert_eq!(String::read_ordered(&mut &[b'a', 0, 7][..]), None);
        assert_eq!(String::read_ordered(&mut &[0xff, 0, 0][..]), None);
        assert_eq!(char::read_ordered(&mut &[0xff; 4][..]), None);
    }

    /// Goal: a stored key stays what it is.
    #[test]
    fn the_form_never_changes() {
        let mut out = Vec::new();
        (1_u16, -2_i16, "a\0b", Some(true), Reverse(1_u8)).write_ordered(&mut out);
        assert_eq!(out, b"\x00\x01\x7f\xfea\x00\xffb\x00\x00\x01\x01\xfe");
    }
}
