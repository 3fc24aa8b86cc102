//! Opening the LMDB environment: the only unsafe code of the store.
//!
//! Types promise here what LMDB demands of its callers. The owner of the directory opens it for writing, with a
//! [`DirLock`] in hand. Others open it for reading, which LMDB allows beside one writer. The map is reserved once,
//! sparse, and never resized; the dangerous flags (WRITE_MAP, MAP_ASYNC, NO_SYNC) cannot be asked for.
#![allow(unsafe_code)]

use std::path::Path;

use heed::{EnvFlags, EnvOpenOptions, WithoutTls};

use crate::StoreError;
use crate::error::words;
use crate::lock::DirLock;

/// An open environment. Read transactions are not tied to threads, so that a reader can move with its shard.
pub(crate) type Env = heed::Env<WithoutTls>;

/// The most read transactions at one time, over all processes. Each reader has two at most.
const READERS_MAX: u32 = 1_022;

/// Databases in an environment.
const DATABASES_MAX: u32 = 8;

/// Opens the environment in the directory that `lock` holds, for reading and writing. Its map has
/// `map_bytes`, a multiple of the page size, or more if it is larger already.
pub(crate) fn open(lock: &DirLock, map_bytes: usize) -> Result<Env, StoreError> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(DATABASES_MAX);
    // SAFETY: it only tells the kernel not to read around what is asked for. Cold keys lie anywhere: with state
    // larger than memory, reading 32 pages for each of them drives out what is wanted next.
    unsafe { options.flags(EnvFlags::NO_READ_AHEAD) };
    // SAFETY: the file is mapped, so nobody may change or cut it but through LMDB, which coordinates its users
    // by its own lock file. `lock` makes this process the only writer and the path canonical, so two names of
    // one directory cannot fool heed, which refuses to open a path twice in a process. Other processes of ours
    // open it read-only, below. No flag is set that gives up a guarantee.
    unsafe { options.open(lock.dir()) }
        .map_err(|error| StoreError::lmdb(&format!("cannot open {}", lock.dir().display()), &error))
}

/// Opens the environment in `dir` for reading, whether another process owns it or nobody.
pub(crate) fn open_read_only(dir: &Path) -> Result<Env, StoreError> {
    let failed = |error: &heed::Error| {
        let hint = match error {
            heed::Error::EnvAlreadyOpened => "this process owns it: ask its store",
            _ => "is it a state directory, and may you write to its lock.mdb?",
        };
        StoreError::Refused(format!("cannot look into {}: {}; {hint}", dir.display(), words(error)))
    };
    let dir = dir.canonicalize().map_err(|error| failed(&error.into()))?;
    // One that is empty is about to be made, or never was.
    if !dir.join("data.mdb").metadata().is_ok_and(|file| file.is_file() && file.len() > 0) {
        return Err(StoreError::Refused(format!("there is no state in {}", dir.display())));
    }
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(DATABASES_MAX);
    // SAFETY: READ_ONLY takes nothing away that LMDB promises; it is unsafe only because other flags are.
    unsafe { options.flags(EnvFlags::READ_ONLY) };
    // SAFETY: the environment is opened read-only under a canonical path. A writer in another process
    // is an owner with a `DirLock`, and goes through LMDB, which allows readers beside it.
    unsafe { options.open(&dir) }.map_err(|error| failed(&error))
}
