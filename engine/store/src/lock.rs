//! [`DirLock`]: one owner per state directory.
//!
//! The owner holds an exclusive `flock` on `owner.lock`. The kernel lets go of it when the process ends,
//! however it ends, so a lock is never stale. The file holds the owner's process number, for the message
//! that a second one gets; a number without a lock means nothing.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The lock file's name.
const LOCK_FILE: &str = "owner.lock";

/// This process owns the state directory, until this is dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: PathBuf,
    _held: File,
}

impl DirLock {
    /// Takes the directory, which is made if it does not exist.
    pub(crate) fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let failed = |what: &str, error: &std::io::Error| StoreError::io(what, dir, error);
        if !dir.is_dir() {
            fs::create_dir_all(dir)
                .map_err(|error| failed("cannot make the state directory", &error))?;
        }
        let dir = dir.canonicalize().map_err(|e| failed("cannot find the state directory", &e))?;
        // Also if it was there: a life before may have been killed between making and syncing it.
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        let path = dir.join(LOCK_FILE);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StoreError::io("cannot open the lock", &path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&dir, &mut file)),
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::io("cannot lock", &path, &error));
            }
        }
        // Only for the message of others: a disk that is full must not keep the job from starting.
        let _ = file.set_len(0);
        let _ = file.write_all(std::process::id().to_string().as_bytes());
        Ok(Self { dir, _held: file })
    }

    /// The directory, without symbolic links.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cold]
fn in_use(dir: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    let holder = match file.read_to_string(&mut text).ok().and_then(|_| text.parse::<u32>().ok()) {
        Some(pid) if pid == std::process::id() => {
            "this process itself: drop the store and its readers first".to_owned()
        }
        Some(pid) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({}): stop it, or give this job another directory", name.trim())
        }
        None => "another process: stop it, or give this job another directory".to_owned(),
    };
    StoreError::InUse(format!("the state directory {} is in use by {holder}", dir.display()))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| StoreError::io("cannot sync the directory", dir, &error))
}
