//! [`FileDisk`]: a journal's directory on a real file system.
//!
//! A directory can be removed or replaced while it is written: what goes into its open files is then durable and
//! gone. So the directory is looked up again by its path after each sync, and before a name in it changes. Two
//! calls beside an `fdatasync` take 1 us beside 100.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

use crate::config::Backend;
use crate::direct::{Blocks, Direct};
use crate::disk::{Completion, Disk, Submit, WriteError};
use crate::ring::{Order, Ring, SubmitRing};

/// Zeros are written in pieces of this size, each synced. A group that is written meanwhile waits for one piece,
/// not for a whole segment.
const FILL_BYTES: usize = 1 << 20;

/// A journal's directory.
pub struct FileDisk {
    path: PathBuf,
    /// The directory itself, to sync it and to lock it.
    directory: Arc<File>,
    /// Its device and inode.
    identity: (u64, u64),
    backend: Backend,
    ring: Option<Ring>,
}

impl FileDisk {
    /// The directory at `path`, which is there. With [`Backend::Auto`] and [`Backend::Plain`] this writes
    /// by plain calls, and with the latter nobody [submits](Disk::submitter) to it.
    ///
    /// # Errors
    /// If it cannot be opened, or if io_uring is asked for and the kernel forbids it.
    pub fn new(path: &Path, backend: Backend) -> io::Result<Self> {
        let directory = Arc::new(File::open(path)?);
        let identity = identity(&directory.metadata()?);
        let ring = match backend {
            Backend::Auto | Backend::Plain => None,
            Backend::Uring => Some(Ring::new().map_err(no_ring)?),
        };
        Ok(Self { path: path.to_owned(), directory, identity, backend, ring })
    }

    /// Takes the directory's lock; whether it was free. It is held until this disk and its clones are gone.
    ///
    /// # Errors
    /// If the file system has no locks.
    pub fn lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&*self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the directory is still the one at its path.
    fn check_here(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(there) if identity(&there) == self.identity => Ok(()),
            Ok(_) => Err(self.gone("another directory has taken its place")),
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    /// Whether a file has a name in the directory at its path.
    fn check_kept(&self, file: &File) -> io::Result<()> {
        if file.metadata()?.nlink() == 0 {
            return Err(self.gone("its files were removed"));
        }
        self.check_here()
    }

    #[cold]
    fn gone(&self, how: &str) -> io::Error {
        io::Error::other(format!(
            "the directory {} is not any more what it was when the journal was opened ({how}): it must not be \
             removed, moved or restored under a running job",
            self.path.display()
        ))
    }
}

fn identity(of: &fs::Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// Whether this kernel lets this process use io_uring.
pub fn uring_allowed() -> bool {
    Ring::new().is_ok()
}

#[cold]
fn no_ring(error: io::Error) -> io::Error {
    let hint = "set journal.backend = \"auto\", or allow io_uring (sysctl kernel.io_uring_disabled, the \
                container's seccomp profile)";
    io::Error::new(error.kind(), format!("io_uring is not to be had: {error}; {hint}"))
}

/// Reads on until `into` is full or nothing is left: how much was read. `read` is told how much is there already.
fn fill(
    into: &mut [u8],
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match read(&mut into[done..], done) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The clone writes by plain calls: a ring belongs to one thread.
impl Clone for FileDisk {
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            directory: Arc::clone(&self.directory),
            identity: self.identity,
            backend: self.backend,
            ring: None,
        }
    }
}

impl std::fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileDisk({})", self.path.display())
    }
}

impl Disk for FileDisk {
    /// Shared with a ring while the kernel writes it.
    type File = Arc<File>;

    fn list(&mut self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        // What is not even text is not ours.
        names.filter_map(Result::transpose).collect()
    }

    fn create(&mut self, name: &str) -> io::Result<Arc<File>> {
        self.check_here()?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        options.open(self.path.join(name)).map(Arc::new)
    }

    fn open(&mut self, name: &str, write: bool) -> io::Result<Arc<File>> {
        OpenOptions::new().read(true).write(write).open(self.path.join(name)).map(Arc::new)
    }

    fn size(&mut self, file: &Arc<File>) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn allocate(&mut self, file: &Arc<File>, from: u64, to: u64, fill: bool) -> io::Result<()> {
        let reserved = rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from);
        let fill = match reserved {
            Ok(()) => fill,
            // A file system that cannot reserve: writing zeros does it too.
            Err(rustix::io::Errno::OPNOTSUPP) => true,
            Err(error) => return Err(error.into()),
        };
        if fill {
            let zeros = vec![0; FILL_BYTES.min((to - from) as usize)];
            let mut at = from;
            while at < to {
                let piece = zeros.len().min((to - at) as usize);
                file.write_all_at(&zeros[..piece], at)?;
                file.sync_data()?;
                at += piece as u64;
            }
        }
        file.sync_all()
    }

    /// A write past the page cache can outlive its process. Reserving what is reserved already waits for such writes.
    fn settle(&mut self, file: &Arc<File>, size: u64) {
        // Where nothing can be reserved there are none.
        let _settled = rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size);
    }

    fn read_at(&mut self, file: &Arc<File>, into: &mut [u8], offset: u64) -> io::Result<usize> {
        fill(into, |into, done| file.read_at(into, offset + done as u64))
    }

    fn write_at(&mut self, file: &Arc<File>, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self, file: &Arc<File>) -> io::Result<()> {
        file.sync_data()
    }

    fn write_durably(
        &mut self,
        file: &Arc<File>,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), WriteError> {
        let written = match &mut self.ring {
            Some(ring) => ring.write_and_sync(file.as_fd(), bytes, offset)?,
            None => 0,
        };
        if written < bytes.len() || self.ring.is_none() {
            let rest = file.write_all_at(&bytes[written..], offset + written as u64);
            rest.map_err(WriteError::Write)?;
            file.sync_data().map_err(WriteError::Sync)?;
        }
        self.check_kept(file).map_err(WriteError::Sync)
    }

    fn submitter(&self) -> Option<Box<dyn Submit<Arc<File>>>> {
        if self.backend == Backend::Plain {
            return None;
        }
        match SubmitRing::new() {
            Ok(ring) => Some(Box::new(Submitting::new(ring, self.clone()))),
            Err(error) => {
                tracing::debug!(%error, "the journal's thread writes all groups: no ring is to be had");
                None
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.check_here()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.check_here()?;
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

/// A ring that writes to the files of a directory.
struct Submitting {
    ring: SubmitRing,
    disk: FileDisk,
    /// The segment that is written past the page cache.
    direct: Option<Direct>,
    /// Such writes have failed, and are not tried any more.
    indirect: bool,
    /// The group that is on its way in blocks, with where they lie.
    group: Option<(Vec<u8>, Range<usize>, u64)>,
}

impl Submitting {
    fn new(ring: SubmitRing, disk: FileDisk) -> Self {
        Self { ring, disk, direct: None, indirect: false, group: None }
    }

    /// A group in blocks, where the segment can be written so.
    fn lay_out(&mut self, file: &Arc<File>, group: &[u8], offset: u64) -> Option<Blocks> {
        if self.indirect {
            return None;
        }
        if self.direct.as_ref().is_none_or(|direct| !direct.is_of(file)) {
            self.direct = None;
            match Direct::open(file) {
                Ok(direct) => self.direct = Some(direct),
                Err(error) => return self.give_up_direct(&error),
            }
        }
        match self.direct.as_mut()?.lay_out(group, offset) {
            Ok(blocks) => blocks,
            Err(error) => self.give_up_direct(&error),
        }
    }

    #[cold]
    fn give_up_direct<T>(&mut self, error: &io::Error) -> Option<T> {
        tracing::debug!(%error, "the journal is written through the page cache");
        self.direct = None;
        self.indirect = true;
        None
    }
}

impl Submit<Arc<File>> for Submitting {
    fn descriptor(&self) -> Arc<dyn AsFd + Send + Sync> {
        self.ring.descriptor()
    }

    fn submit(&mut self, file: &Arc<File>, bytes: Vec<u8>, offset: u64) -> Result<(), Vec<u8>> {
        let blocks = self.lay_out(file, &bytes, offset);
        let (Some(direct), Some(blocks)) = (&mut self.direct, blocks) else {
            return self.ring.submit(file, bytes, offset, &Order::WriteThenSync);
        };
        let Blocks { buffer, range, offset } = blocks;
        let order = Order::Through(range.clone());
        if let Err(buffer) = self.ring.submit(direct.file(), buffer, offset, &order) {
            direct.complete(Blocks { buffer, range, offset }, &bytes, 0);
            return Err(bytes);
        }
        self.group = Some((bytes, range, offset));
        Ok(())
    }

    fn complete(&mut self, wait: bool) -> Option<Completion> {
        let (file, mut completion) = self.ring.complete(wait)?;
        if let Some((group, range, offset)) = self.group.take() {
            let Completion { bytes: buffer, written } = completion;
            let blocks = Blocks { buffer, range, offset };
            let bytes = written.as_ref().copied().unwrap_or(0);
            let of_group = match &mut self.direct {
                Some(direct) => direct.complete(blocks, &group, bytes),
                None => 0,
            };
            let written = match written {
                // The journal's thread writes it then, as on all file systems.
                Err(WriteError::Write(error)) if is_unknown(&error) => {
                    self.give_up_direct(&error).unwrap_or(Ok(0))
                }
                written => written.map(|_| of_group),
            };
            completion = Completion { bytes: group, written };
        }
        if let Ok(written) = completion.written
            && written == completion.bytes.len()
            && let Err(error) = self.disk.check_kept(&file)
        {
            completion.written = Err(WriteError::Sync(error));
        }
        Some(completion)
    }
}

/// Whether a file system knows no such write.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_goes_on_until_all_is_there_and_an_error_ends_it() {
        let read = |answers: &[Result<usize, io::ErrorKind>]| {
            let (mut into, mut answers) = ([0; 10], answers.iter());
            let filled = fill(&mut into, |into, done| {
                let read = answers.next().unwrap().map_err(io::Error::from)?;
                into[..read].fill(done as u8 + 1);
                Ok(read)
            });
            (filled.map_err(|error| error.kind()), into)
        };
        let interrupted = Err(io::ErrorKind::Interrupted);
        let whole = read(&[Ok(3), interrupted, Ok(2), Ok(5)]);
        assert_eq!(whole, (Ok(10), [1, 1, 1, 4, 4, 6, 6, 6, 6, 6]));
        assert_eq!(read(&[Ok(3), interrupted, Ok(0)]).0, Ok(3));
        let broken = io::ErrorKind::Other;
        assert_eq!(read(&[Ok(3), Err(broken)]).0, Err(broken));
    }

    /// Goal: groups that are submitted are in the file behind each other, whoever wrote the one before, on any file system.
    #[test]
    fn groups_that_are_submitted_are_in_the_file() {
        const SIZE: u64 = 64 * 1024;
        let places = [Path::new("."), Path::new("/dev/shm"), Path::new("/tmp")];
        for place in places.into_iter().filter(|place| place.is_dir()) {
            let dir = tempfile::tempdir_in(place).unwrap();
            let mut disk = FileDisk::new(dir.path(), Backend::Auto).unwrap();
            let Some(mut submit) = disk.submitter() else { return };
            let mut offset = 64;
            let mut expected = vec![0; SIZE as usize];
            let mut file = disk.create("segment").unwrap();
            disk.allocate(&file, 0, SIZE, true).unwrap();
            for round in 0..40_usize {
                let group = vec![round as u8 + 1; 1 + round * 37];
                expected[offset..offset + group.len()].copy_from_slice(&group);
                let (at, size) = (offset as u64, group.len());
                offset += size;
                if round % 7 == 3 {
                    disk.write_durably(&file, &group, at).unwrap();
                    continue;
                }
                if round == 20 {
                    file = disk.open("segment", true).unwrap();
                }
                submit.submit(&file, group.clone(), at).unwrap();
                let completion = submit.complete(true).unwrap();
                assert_eq!(completion.bytes, group);
                match completion.written.unwrap() {
                    // This file system has no such writes: the first one goes by the thread.
                    0 => disk.write_durably(&file, &group, at).unwrap(),
                    written => assert_eq!(written, size, "{round}"),
                }
            }
            assert!(fs::read(dir.path().join("segment")).unwrap() == expected, "{place:?}");
            // Up to its very end, and no further.
            let at = SIZE - 10;
            submit.submit(&file, vec![9; 10], at).unwrap();
            assert_eq!(submit.complete(true).unwrap().written.unwrap(), 10);
            assert_eq!(file.metadata().unwrap().len(), SIZE);
        }
    }
}
