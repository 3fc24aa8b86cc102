//! [`StoreError`]: why the store cannot do something, and what to do about it.

use std::io;
use std::path::Path;

use thalweg_kernel::{ChangesDamaged, StateError};

/// The store cannot do something. The text says what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk or in the map. Nothing was written; the call may be tried again once there is room.
    #[error("{0}")]
    Full(String),
    /// Reading or writing failed. Final: whether what was being written exists is only known after a
    /// restart, so the process must end and recover.
    #[error("{0}")]
    Failed(String),
    /// What is stored is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// Somebody else has the state directory open.
    #[error("{0}")]
    InUse(String),
    /// Not possible as asked; nothing was changed.
    #[error("{0}")]
    Refused(String),
}

impl From<StoreError> for StateError {
    fn from(error: StoreError) -> Self {
        Self::Other(error.to_string())
    }
}

impl StoreError {
    /// `what` went wrong inside LMDB.
    #[cold]
    pub(crate) fn lmdb(what: &str, error: &heed::Error) -> Self {
        match error {
            heed::Error::Mdb(heed::MdbError::MapFull) => Self::Full(format!(
                "{what}: the state has reached the size of its map; allow more with `map_bytes` \
                 and start again, or wait until folding frees some"
            )),
            heed::Error::Mdb(
                heed::MdbError::Corrupted | heed::MdbError::PageNotFound | heed::MdbError::Invalid,
            ) => Self::Damaged(format!(
                "{what}: the file of the state is damaged: start from a savepoint, or from a copy of the state \
                 directory"
            )),
            _ => Self::Failed(format!("{what}: {}", words(error))),
        }
    }

    /// `what` went wrong with a file.
    #[cold]
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let text = format!("{what} {}: {error}", path.display());
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::Full(format!("{text}; make room and try again"))
        } else {
            Self::Failed(text)
        }
    }

    /// A block of changes cannot be read.
    #[cold]
    pub(crate) fn changes(place: &str, error: ChangesDamaged) -> Self {
        Self::Damaged(format!("{place}: {error}"))
    }
}

/// An error of the library's without its code.
pub(crate) fn words(error: &heed::Error) -> String {
    let text = error.to_string();
    let words = text.strip_prefix("MDB_").and_then(|text| text.split_once(": "));
    words.map_or_else(|| text.clone(), |(_, words)| words.to_owned())
}

/// At most this much of a key is shown.
const KEY_BYTES_SHOWN: usize = 48;

/// A key, for people.
pub(crate) fn show_key(key: &[u8]) -> String {
    let shown = &key[..key.len().min(KEY_BYTES_SHOWN)];
    let more = if shown.len() < key.len() { "..." } else { "" };
    match key.split_at_checked(10) {
        Some((prefix, _)) => {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let group = u16::from_be_bytes([prefix[8], prefix[9]]);
            let rest = shown[10..].escape_ascii();
            format!("state {} group {group} key \"{rest}{more}\"", hex(&prefix[..8]))
        }
        None => format!("key \"{}\"", shown.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_no_code_of_the_library() {
        let full = heed::Error::Mdb(heed::MdbError::ReadersFull);
        let shown = StoreError::lmdb("cannot read the state", &full).to_string();
        assert!(shown.starts_with("cannot read the state: ") && !shown.contains("MDB"), "{shown}");
        let away = heed::Error::Io(io::Error::other("the card was pulled out"));
        assert_eq!(words(&away), "the card was pulled out");
        let damaged = StoreError::lmdb("cannot open d", &heed::Error::Mdb(heed::MdbError::Invalid));
        assert!(matches!(damaged, StoreError::Damaged(_)) && !damaged.to_string().contains("LMDB"));
    }
}
