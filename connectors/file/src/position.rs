//! [`Position`]: where a file is to be read on, as it is stored; and [`Identity`]: which file that is.
//!
//! # Which file it is
//! A path says little: a log is renamed and begun anew, or cut and filled again, also to more than it was. So a position
//! holds what tells files apart, and [`Position::is_of`] decides.
//!
//! | the file under the path | is |
//! |---|---|
//! | has fewer bytes than were read | another: it was cut |
//! | begins with other bytes | another: it was replaced, or cut and filled again |
//! | has another number on its disk, and few bytes that tell | another |
//! | otherwise | the one that was read |
//!
//! # Layout
//! All numbers are little-endian. The first release wrote 16 bytes, or 24 for a file of a folder; what is missing is
//! taken as zero.
//!
//! ```text
//! u64 offset: of the next line, in the lines as they are when unpacked
//! u64 a fixed hash of the path
//! u64 inode, or 0 if the file was not opened yet
//! u64 device
//! u64 line: the number of the next line from 1, or 0 if it is not known
//! u64 fingerprint: CRC-32C of the first bytes
//! u32 how many bytes that covers
//! u32 1 if the file is packed
//! ```

use std::path::Path;

use thalweg_kernel::Key;
use thalweg_kernel::defects::{Defect, seeded};

/// The fingerprint of a file covers this many bytes at most.
pub(crate) const FINGERPRINT_BYTES_MAX: usize = 1024;

/// A fingerprint of at least this many bytes tells files apart by itself. A file that was copied or restored has it, too.
const FINGERPRINT_BYTES_SURE: u32 = 256;

/// What tells a file from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    pub(crate) device: u64,
    pub(crate) fingerprint: u32,
    /// How many of the first bytes the fingerprint covers.
    pub(crate) covered: u32,
    pub(crate) packed: bool,
}

impl Identity {
    /// The identity with the fingerprint of these first bytes.
    #[must_use]
    pub(crate) fn beginning(mut self, head: &[u8]) -> Self {
        let head = &head[..head.len().min(FINGERPRINT_BYTES_MAX)];
        (self.fingerprint, self.covered) = (crc32c::crc32c(head), head.len() as u32);
        self
    }

    /// Whether the fingerprint tells it from any other file.
    pub(crate) fn tells_by_itself(&self) -> bool {
        self.covered >= FINGERPRINT_BYTES_SURE
    }

    /// Whether a file that begins with `head` begins as this one did.
    pub(crate) fn begins_with(&self, head: &[u8]) -> bool {
        head.get(..self.covered as usize)
            .is_some_and(|head| crc32c::crc32c(head) == self.fingerprint)
    }
}

/// Where a file is to be read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    /// The hash of its path.
    pub(crate) path: [u8; 8],
    /// The number of the next line, or 0.
    pub(crate) line: u64,
    pub(crate) identity: Identity,
}

/// Why a file is not the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// It has fewer bytes than were read.
    Shorter,
    /// It begins with other bytes.
    BeginsOtherwise,
    /// It is another file of the disk.
    Replaced,
}

impl Other {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Shorter => "it has fewer bytes than were read of it",
            Self::BeginsOtherwise => "it begins with other bytes",
            Self::Replaced => "another file has taken its place",
        }
    }
}

impl Position {
    pub(crate) fn read(stored: Option<&[u8]>) -> Option<Self> {
        let mut rest = stored?;
        let mut next = || {
            let (number, behind) = rest.split_first_chunk::<8>()?;
            rest = behind;
            Some(u64::from_le_bytes(*number))
        };
        let (offset, path) = (next()?, next()?.to_le_bytes());
        let [inode, device, line, fingerprint, last] = [(); 5].map(|()| next().unwrap_or(0));
        let identity = Identity {
            inode,
            device,
            fingerprint: fingerprint as u32,
            covered: last as u32,
            packed: last >> 32 != 0,
        };
        Some(Self { offset, path, line, identity })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self { offset, path, line, identity } = self;
        let Identity { inode, device, fingerprint, covered, packed } = identity;
        let last = u64::from(*covered) | u64::from(*packed) << 32;
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(path);
        for number in [*inode, *device, *line, u64::from(*fingerprint), last] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Whether it is that of a file with this identity, of `bytes` bytes, which begins with `head`.
    pub(crate) fn is_of(&self, found: &Identity, bytes: u64, head: &[u8]) -> Result<(), Other> {
        let known = &self.identity;
        // What is stored of a packed file says nothing of its bytes on the disk.
        if !known.packed && bytes < self.offset {
            return Err(Other::Shorter);
        }
        if seeded(Defect::FileKnownByLength) {
            return Ok(());
        }
        if !known.begins_with(head) {
            return Err(Other::BeginsOtherwise);
        }
        // The first release did not note which file it was.
        let is_other = known.inode != 0 && known.inode != found.inode;
        if is_other && !known.tells_by_itself() && self.offset > 0 {
            return Err(Other::Replaced);
        }
        Ok(())
    }
}

/// What tells a path from others in a stored position: a fixed hash.
pub(crate) fn hash_of(path: &Path) -> [u8; 8] {
    path.display().to_string().key_hash().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(inode: u64, offset: u64, head: &[u8]) -> Position {
        let identity = Identity { inode, ..Identity::default() }.beginning(head);
        Position { offset, path: [7; 8], line: 3, identity }
    }

    #[test]
    fn a_position_is_read_as_it_was_written_also_by_the_first_release() {
        let mut known = position(9, 100, b"head");
        (known.identity.device, known.identity.packed) = (4, true);
        let mut stored = Vec::new();
        known.write(&mut stored);
        assert_eq!(stored.len(), 56);
        assert_eq!(Position::read(Some(&stored)), Some(known));
        let plain = Position { offset: 100, path: [7; 8], ..Position::default() };
        assert_eq!(Position::read(Some(&stored[..16])), Some(plain));
        let of_folder = Position::read(Some(&stored[..24])).unwrap();
        assert_eq!((of_folder.identity.inode, of_folder.identity.covered), (9, 0));
        assert_eq!(Position::read(Some(&stored[..9])), None);
        assert_eq!(Position::read(None), None);
    }

    #[test]
    fn a_file_is_another_if_it_is_shorter_begins_otherwise_or_few_bytes_tell() {
        let is_of = |known: &Position, inode, bytes, head: &[u8]| {
            known.is_of(&Identity { inode, ..Identity::default() }, bytes, head)
        };
        let known = position(9, 100, b"a,b\n");
        assert_eq!(is_of(&known, 9, 100, b"a,b\n1,2"), Ok(()));
        assert_eq!(is_of(&known, 9, 99, b"a,b\n1,2"), Err(Other::Shorter));
        // It was cut and filled again, with more than before.
        assert_eq!(is_of(&known, 9, 900, b"c,d\n"), Err(Other::BeginsOtherwise));
        assert_eq!(is_of(&known, 9, 900, b"a,"), Err(Other::BeginsOtherwise));
        // A new log has the header of the old one.
        assert_eq!(is_of(&known, 8, 900, b"a,b\n"), Err(Other::Replaced));
        // The same content under another number: it was copied or restored.
        let head = [b'x'; 2_000];
        let long = position(9, 1_500, &head);
        assert_eq!(long.identity.covered, 1_024);
        assert_eq!(is_of(&long, 8, 2_000, &head), Ok(()));
        // Of the first release nothing is known but the length.
        let old = Position { offset: 5, ..Position::default() };
        assert_eq!(is_of(&old, 8, 5, b"abcde"), Ok(()));
        let mut packed = known;
        packed.identity.packed = true;
        assert_eq!(is_of(&packed, 9, 10, b"a,b\n"), Ok(()));
    }
}
