//! What the thread asks of the file system, within one directory: a seam, so that crashes, full disks and
//! lost writes can be tested.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thalweg_commits::Trouble;

/// A directory. Names are without it.
pub(crate) trait Disk: Send + 'static {
    /// An open file.
    type File: Send;

    /// Whether this run is the only one that writes here; held until dropped.
    fn lock(&mut self) -> io::Result<bool>;
    fn create(&mut self, name: &str) -> io::Result<Self::File>;
    fn write_at(&mut self, file: &Self::File, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes a file's bytes survive a power cut.
    fn sync(&mut self, file: &Self::File) -> io::Result<()>;
    /// Makes names survive a power cut.
    fn sync_names(&mut self) -> io::Result<()>;
    fn names(&mut self) -> io::Result<Vec<String>>;
    /// A file's length; `None` if it is not there.
    fn length(&mut self, name: &str) -> io::Result<Option<u64>>;
    /// The length of the whole lines of a file.
    fn whole_lines(&mut self, name: &str) -> io::Result<u64>;
    /// Cuts a file, and syncs it.
    fn cut(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// Fails with `AlreadyExists` if there is a file called `to`.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// What an error of a disk means, but for one of a sync, which is always final.
pub(super) fn trouble(what: String) -> impl Fn(io::Error) -> Trouble {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Trouble::Wait(format!("{what}: {error}: make room; nothing is lost meanwhile"))
        }
        _ => Trouble::Final(format!("{what}: {error}")),
    }
}

/// A real one.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    lock: (File, bool),
}

impl Directory {
    /// Makes it if it is not there.
    pub(crate) fn open(path: &Path, tag: u64) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        // Also if it was there: a life before may have been killed between making and syncing it.
        for ancestor in path.canonicalize()?.ancestors().skip(1) {
            match File::open(ancestor) {
                Ok(directory) => directory.sync_all()?,
                // Not ours, so not of our making.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                Err(error) => return Err(error),
            }
        }
        let handle = File::open(path)?;
        let lock = path.join(format!(".part-{tag:016x}.lock"));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock)?;
        Ok(Self { path: path.into(), handle, lock: (lock, false) })
    }
}

/// The names of what is in a directory, as far as they are UTF-8: ours are.
pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

impl Disk for Directory {
    type File = File;

    fn lock(&mut self) -> io::Result<bool> {
        if !self.lock.1 {
            match self.lock.0.try_lock() {
                Ok(()) => self.lock.1 = true,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(self.lock.1)
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        File::create(self.path.join(name))
    }

    fn write_at(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn names(&mut self) -> io::Result<Vec<String>> {
        names(&self.path)
    }

    fn length(&mut self, name: &str) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(self.path.join(name)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn whole_lines(&mut self, name: &str) -> io::Result<u64> {
        const BLOCK_BYTES: u64 = 64 * 1024;
        let mut file = File::open(self.path.join(name))?;
        let mut end = file.seek(SeekFrom::End(0))?;
        while end > 0 {
            let start = end.saturating_sub(BLOCK_BYTES);
            let mut block = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            (&file).take(end - start).read_to_end(&mut block)?;
            if let Some(at) = memchr::memrchr(b'\n', &block) {
                return Ok(start + at as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    }

    fn cut(&mut self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(from), self.path.join(to));
        // Names are never used twice, and the lock keeps other runs out: looking first is enough.
        if to.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }
}
