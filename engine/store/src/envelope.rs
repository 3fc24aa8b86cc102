//! The envelopes around stored bytes: each says its version and carries a checksum (CRC32C), because
//! LMDB checks no pages. Numbers are little-endian.
//!
//! ```text
//! block  = "TWCL" u16:version(1) u16:0 u32:length u32:crc bytes     in the changelog, 16 bytes before
//! value  = u8:version(1) u32:crc bytes                              in the base, 5 bytes before
//! long   = u8:version(2) u32:crc u16:key-length u32:length key bytes
//! ```
//! The checksum of a block covers the key it is stored under, the header's first 12 bytes and the bytes. A value's
//! checksum covers its key and its bytes. That of a long entry, whose key is too long for LMDB, covers all behind
//! it. So what turns up under a wrong key is noticed too. An envelope before a value of the base has a fixed small
//! size: values are given to readers where they lie, and need no alignment.

use crc32c::{crc32c, crc32c_append};

/// Bytes before a block.
pub(crate) const BLOCK_HEADER_BYTES: usize = 16;
/// Bytes before a value.
pub(crate) const VALUE_HEADER_BYTES: usize = 5;
/// Bytes before the key of a long entry.
const LONG_HEADER_BYTES: usize = 11;

const BLOCK_MAGIC: [u8; 4] = *b"TWCL";
const BLOCK_VERSION: u16 = 1;
const VALUE_VERSION: u8 = 1;
const LONG_VERSION: u8 = 2;

/// What stands before a block of these `bytes` that is stored under `key`.
pub(crate) fn block_header(key: &[u8], bytes: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
    let mut header = [0; BLOCK_HEADER_BYTES];
    header[..4].copy_from_slice(&BLOCK_MAGIC);
    header[4..6].copy_from_slice(&BLOCK_VERSION.to_le_bytes());
    // The caller bounds blocks; one that is cut off here does not pass its checksum.
    header[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    let crc = block_crc(key, &header[..12], bytes);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn block_crc(key: &[u8], header: &[u8], bytes: &[u8]) -> u32 {
    crc32c_append(crc32c_append(crc32c(key), header), bytes)
}

/// The bytes of a stored block, unchecked.
pub(crate) fn block_bytes(stored: &[u8]) -> &[u8] {
    stored.get(BLOCK_HEADER_BYTES..).unwrap_or_default()
}

/// The bytes of a block stored under `key`, or what is wrong with it.
pub(crate) fn open_block<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], String> {
    let (header, bytes) =
        stored.split_first_chunk::<BLOCK_HEADER_BYTES>().ok_or("it has been cut off")?;
    if header[..4] != BLOCK_MAGIC {
        return Err("its first bytes are not those of a block".to_owned());
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version > BLOCK_VERSION {
        return Err(newer(version));
    }
    let [.., c0, c1, c2, c3] = *header;
    if block_crc(key, &header[..12], bytes) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(bytes)
}

#[cold]
fn newer(version: impl Into<u64>) -> String {
    let version: u64 = version.into();
    format!("it was written by a newer version of Thalweg (format {version}): use that one")
}

/// What stands before `value`, which is stored under `key`.
pub(crate) fn value_header(key: &[u8], value: &[u8]) -> [u8; VALUE_HEADER_BYTES] {
    let [a, b, c, d] = crc32c_append(crc32c(key), value).to_le_bytes();
    [VALUE_VERSION, a, b, c, d]
}

/// The value stored under `key`, or what is wrong with it.
#[inline]
pub(crate) fn open_value<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], String> {
    let Some((&[version, a, b, c, d], value)) = stored.split_first_chunk::<VALUE_HEADER_BYTES>()
    else {
        return Err("it has been cut off".to_owned());
    };
    if version != VALUE_VERSION {
        return Err(newer(version));
    }
    if crc32c_append(crc32c(key), value) != u32::from_le_bytes([a, b, c, d]) {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(value)
}

/// Appends a long entry to `out`.
pub(crate) fn write_long(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[LONG_VERSION, 0, 0, 0, 0]);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    let crc = crc32c(&out[at + 5..]);
    out[at + 1..at + 5].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the next long entry, key and value, off `rest`.
pub(crate) fn take_long<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), String> {
    let cut = "it has been cut off";
    let (header, behind) = rest.split_first_chunk::<LONG_HEADER_BYTES>().ok_or(cut)?;
    let &[version, c0, c1, c2, c3, k0, k1, v0, v1, v2, v3] = header;
    if version != LONG_VERSION {
        return Err(newer(version));
    }
    let key_length = usize::from(u16::from_le_bytes([k0, k1]));
    let length = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
    let (key, behind) = behind.split_at_checked(key_length).ok_or(cut)?;
    let (value, behind) = behind.split_at_checked(length).ok_or(cut)?;
    let covered = &rest[5..LONG_HEADER_BYTES + key_length + length];
    if crc32c(covered) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err("its checksum is wrong".to_owned());
    }
    *rest = behind;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut block = block_header(b"key", b"changes").to_vec();
        block.extend_from_slice(b"changes");
        let mut value = value_header(b"key", b"value").to_vec();
        value.extend_from_slice(b"value");
        let mut long = Vec::new();
        write_long(b"long key", b"value", &mut long);
        (block, value, long)
    }

    /// To write it anew after a deliberate change of format: `THALWEG_GOLDEN=write cargo test`.
    #[test]
    fn the_envelopes_are_those_of_the_golden_file() {
        let (block, value, long) = sample();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/envelopes-1.bin");
        let all = [&block[..], &value, &long].concat();
        if std::env::var_os("THALWEG_GOLDEN").is_some() {
            std::fs::write(path, &all).unwrap();
        }
        assert_eq!(std::fs::read(path).unwrap(), all);
    }

    #[test]
    fn what_was_enclosed_comes_back() {
        let (block, value, long) = sample();
        assert_eq!(open_block(b"key", &block), Ok(&b"changes"[..]));
        assert_eq!(open_value(b"key", &value), Ok(&b"value"[..]));
        let two = [&long[..], &long].concat();
        let mut rest = &two[..];
        for _ in 0..2 {
            assert_eq!(take_long(&mut rest), Ok((&b"long key"[..], &b"value"[..])));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (block, value, long) = sample();
        let check = |bytes: &[u8], opens: &dyn Fn(&[u8]) -> bool| {
            assert!(opens(bytes));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!opens(&flipped), "bit {bit}");
            }
            for end in 0..bytes.len() {
                assert!(!opens(&bytes[..end]), "cut at {end}");
            }
        };
        check(&block, &|bytes| open_block(b"key", bytes).is_ok());
        check(&value, &|bytes| open_value(b"key", bytes).is_ok());
        check(&long, &|mut bytes| take_long(&mut bytes).is_ok());
        assert!(open_block(b"kez", &block).is_err() && open_value(b"kez", &value).is_err());
    }

    #[test]
    fn newer_formats_are_named_as_such() {
        let (mut block, mut value, mut long) = sample();
        (block[4], value[0], long[0]) = (9, 9, 9);
        for error in [
            open_block(b"key", &block).unwrap_err(),
            open_value(b"key", &value).unwrap_err(),
            take_long(&mut &long[..]).unwrap_err(),
        ] {
            assert!(error.contains("newer version of Thalweg (format 9)"), "{error}");
        }
    }
}
