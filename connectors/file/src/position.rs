//! [`Position`]: where a file is to be read on, as it is stored.

use std::path::Path;

use thalweg_kernel::Key;

/// Where a file is to be read on. Stored little-endian: the byte in eight, then the file's [`identity`] in eight. A
/// file of a folder has its inode in eight more, or 0 if it was not opened yet.
pub(crate) struct Position {
    pub(crate) offset: u64,
    pub(crate) file: [u8; 8],
    pub(crate) inode: u64,
}

impl Position {
    pub(crate) fn read(stored: Option<&[u8]>) -> Option<Self> {
        let (offset, rest) = stored?.split_first_chunk()?;
        let (file, rest) = rest.split_first_chunk()?;
        let inode = rest.first_chunk().map_or(0, |inode| u64::from_le_bytes(*inode));
        Some(Self { offset: u64::from_le_bytes(*offset), file: *file, inode })
    }
}

/// What tells a file from others in a stored position: a fixed hash of its path.
pub(crate) fn identity(path: &Path) -> [u8; 8] {
    path.display().to_string().key_hash().to_le_bytes()
}
