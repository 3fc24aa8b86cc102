//! [`Disk`]: one journal's directory, as all code that decides sees it. Real files stand behind it, or a
//! disk in memory that loses, tears and refuses ([`sim`](crate::sim)).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The files of one journal's directory.
pub trait Disk: Send {
    /// An open file.
    type File: Send + std::fmt::Debug;

    /// The names of all files.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// Creates an empty file, in place of one that may be there. Its name is not durable yet.
    ///
    /// # Errors
    /// If it cannot be created; `StorageFull` where there is no room.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;

    /// Opens a file; `write` says whether for writing too.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn open(&mut self, name: &str, write: bool) -> io::Result<Self::File>;

    /// How long a file is, in bytes.
    ///
    /// # Errors
    /// If the system does not say.
    fn size(&mut self, file: &Self::File) -> io::Result<u64>;

    /// Reserves the bytes from `from` on up to `to` and makes them zeros, durably, together with the
    /// file's new length. `fill` writes the zeros out instead of leaving the space marked as unwritten.
    ///
    /// # Errors
    /// `StorageFull` where there is no room. The file is then of no use.
    fn allocate(&mut self, file: &Self::File, from: u64, to: u64, fill: bool) -> io::Result<()>;

    /// Waits for writes of a process that is no more, if the system may still be at them.
    fn settle(&mut self, _file: &Self::File, _size: u64) {}

    /// Reads up to as much as fits `into`; how much it was. Less only at the end of the file.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read_at(&mut self, file: &Self::File, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes. They are not durable yet, and after a crash any of their sectors may be the old
    /// one or the new one.
    ///
    /// # Errors
    /// `StorageFull` where there is no room: some bytes may have been written.
    fn write_at(&mut self, file: &Self::File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes durable what was written to a file.
    ///
    /// # Errors
    /// If that failed: what was written since the last time may be lost, and is never tried again.
    fn sync_data(&mut self, file: &Self::File) -> io::Result<()>;

    /// [`write_at`](Self::write_at), then [`sync_data`](Self::sync_data), in one go where the system can.
    ///
    /// # Errors
    /// Of the one or the other.
    fn write_durably(
        &mut self,
        file: &Self::File,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), WriteError> {
        self.write_at(file, bytes, offset).map_err(WriteError::Write)?;
        self.sync_data(file).map_err(WriteError::Sync)
    }

    /// What writes groups to this directory while its caller goes on, where the system can.
    fn submitter(&self) -> Option<Box<dyn Submit<Self::File>>> {
        None
    }

    /// Gives a file another name, in place of a file that may have it.
    ///
    /// # Errors
    /// If that cannot be done.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// If that cannot be done.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are and what they are called.
    ///
    /// # Errors
    /// If that failed; never tried again.
    fn sync_dir(&mut self) -> io::Result<()>;
}

/// Writes a group and then syncs it while its caller goes on: one group at a time.
pub trait Submit<F>: Send {
    /// Becomes readable when the group that was submitted is complete.
    fn descriptor(&self) -> Arc<dyn AsFd + Send + Sync>;

    /// Has all `bytes` written, and then synced. No group is on its way. It never waits for the disk.
    ///
    /// # Errors
    /// If it takes no group any more. It gives the bytes back, and nothing of them was written.
    fn submit(&mut self, file: &F, bytes: Vec<u8>, offset: u64) -> Result<(), Vec<u8>>;

    /// What became of the group that was submitted. `None` if there is none, or if it is on its way still: only where it
    /// need not `wait`.
    fn complete(&mut self, wait: bool) -> Option<Completion>;
}

/// What became of a group that was submitted.
#[derive(Debug)]
pub struct Completion {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// The number of bytes that were written. If these are all of them, they are durable. With fewer, nothing was synced.
    pub written: Result<usize, WriteError>,
}

/// Which half of a durable write failed. It matters: a full disk is met when writing, and passes.
#[derive(Debug)]
pub enum WriteError {
    /// The bytes were not, or not all, taken.
    Write(io::Error),
    /// They were taken and may not be durable. Final.
    Sync(io::Error),
}

/// Whether an error means that there is no room, which may change.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
