//! The file of an environment whose making a power cut has torn.
//!
//! LMDB writes its first two pages at once and does not sync them. If they come back torn, the file is not
//! empty and holds no page that LMDB knows, so that it would refuse it for ever; yet nothing was ever committed,
//! for a commit syncs, and makes the file longer than that.

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
    if known(0) || known(page) {
        return Ok(());
    }
    tracing::warn!("{} was torn while it was being made: it is made anew", path.display());
    fs::remove_file(&path).map_err(|error| failed(&error))
}
