//! The file of an environment whose making a power cut has torn.
//!
//! LMDB writes its first two pages at once and does not sync them. If one of them comes back torn, the file is not
//! empty and LMDB would refuse it for ever. Yet nothing was ever committed, for a commit syncs, and makes the file
//! longer than that.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::StoreError;

/// LMDB's magic, behind the sixteen bytes of a page's header.
const MAGIC: [u8; 4] = 0xBEEF_C0DE_u32.to_ne_bytes();
const MAGIC_AT: usize = 16;

/// Removes the environment's file in `dir` if it was never more than a torn beginning.
pub(crate) fn remove(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("data.mdb");
    let page = rustix::param::page_size();
    let failed = |error: &std::io::Error| StoreError::io("cannot look into", &path, error);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    let length = file.metadata().map_err(|error| failed(&error))?.len();
    if length == 0 || length > 2 * page as u64 {
        return Ok(());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    let known = |at: usize| bytes.get(at + MAGIC_AT..at + MAGIC_AT + 4) == Some(&MAGIC);
    if known(0) && known(page) {
        return Ok(());
    }
    tracing::warn!("{} was torn while it was being made: it is made anew", path.display());
    fs::remove_file(&path).map_err(|error| failed(&error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::{Resume, Store, StoreOptions};

    #[test]
    fn a_file_that_was_torn_while_it_was_made_is_made_anew() {
        let page = rustix::param::page_size();
        let options = StoreOptions { map_bytes: 1 << 20, ..StoreOptions::default() };
        let place = tempfile::tempdir().unwrap();
        drop(Store::open(place.path(), options, Resume::Newest).unwrap());
        let whole = fs::read(place.path().join("data.mdb")).unwrap();
        for torn in [&[0][..], &[page], &[0, page]] {
            for length in [512, page, page + 512, 2 * page] {
                let place = tempfile::tempdir().unwrap();
                let mut made = whole[..length].to_vec();
                torn.iter().filter(|at| **at < length).for_each(|&at| made[at..at + 512].fill(0));
                fs::write(place.path().join("data.mdb"), made).unwrap();
                let store = Store::open(place.path(), options, Resume::Newest);
                assert!(store.is_ok(), "{torn:?} of {length}: {:?}", store.err());
            }
        }
        // What is longer was once committed: it is not for us to throw away.
        let mut broken = whole.clone();
        broken[..2 * page].fill(0);
        fs::write(place.path().join("data.mdb"), &broken).unwrap();
        assert!(Store::open(place.path(), options, Resume::Newest).is_err());
        assert_eq!(fs::read(place.path().join("data.mdb")).unwrap(), broken);
    }
}
