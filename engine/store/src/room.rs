//! [`Room`]: makes sure that a transaction finds room on the disk before it begins.
//!
//! LMDB reports a full disk from within its commit, where it cannot be told from a failed sync, which is final. So
//! the space behind its file is allocated first (`fallocate`, beyond the end of the file, which keeps its length).
//! That either works, or says that the disk is full while nothing has been written. On file systems that cannot
//! allocate, a full disk ends the job as any failed commit does. The job goes on from its last epoch once there is
//! room.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::StoreError;

/// Allocated at a time, at least.
const STEP_BYTES: u64 = 1 << 20;

/// The room behind the data file.
pub(crate) struct Room {
    file: File,
    path: PathBuf,
    /// Allocated up to here.
    end: u64,
}

impl Room {
    /// For the data file of the state directory.
    pub(crate) fn of(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("data.mdb");
        let file = File::options().write(true).open(&path);
        let file = file.map_err(|error| StoreError::io("cannot open", &path, &error))?;
        Ok(Self { file, path, end: 0 })
    }

    /// Makes sure of `bytes` behind `used`.
    ///
    /// # Errors
    /// [`StoreError::Full`]; nothing has been written then.
    pub(crate) fn ensure(&mut self, used: u64, bytes: u64) -> Result<(), StoreError> {
        let end = used + bytes;
        if end <= self.end {
            return Ok(());
        }
        let from = self.end.max(used);
        let length = (end - from).next_multiple_of(STEP_BYTES);
        let (what, path) = ("no room for the state on the disk of", &self.path);
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, length) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.end = u64::MAX;
                    return Ok(());
                }
                Err(error) => return Err(StoreError::io(what, path, &error.into())),
            }
        }
        self.end = from + length;
        Ok(())
    }
}
