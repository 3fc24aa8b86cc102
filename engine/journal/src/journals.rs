//! [`FileJournals`]: the journals of one job, each in a directory of its own below one place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use thalweg_kernel::{
    ConfigError, JournalError, JournalReader, JournalWriter, Journals, Tasks, Timestamp,
};

use crate::config::{Backend, JournalConfig};
use crate::errors::failed;
use crate::files::FileDisk;
use crate::name::directory_of;
use crate::reader::{Reader, end_of};
use crate::segments::Recovery;
use crate::writer::{Shared, Writer};

/// How often a taken lock is tried, and the pause between two tries: a fifth of a second in all.
const LOCK_TRIES_MAX: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// The journals of one job, below one directory. Each is locked by whoever has it open for writing.
#[derive(Debug)]
pub struct FileJournals {
    place: PathBuf,
    config: JournalConfig,
    /// Those that are open here, by name: their durable end is known better than a file can tell.
    open: Mutex<HashMap<String, Weak<Shared<FileDisk>>>>,
}

impl FileJournals {
    /// Journals below `place`, which is created with the first of them.
    ///
    /// # Errors
    /// If the sizes in `config` do not go together.
    pub fn new(place: impl Into<PathBuf>, config: JournalConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { place: place.into(), config, open: Mutex::default() })
    }

    /// Opens the journal called `name` for writing, as [`Journals::open_at`], and tells what recovery found.
    ///
    /// # Errors
    /// As for [`Journals::open_at`].
    pub fn open_with_recovery(
        &self,
        name: &str,
        durable: Waker,
        begin: u64,
    ) -> Result<(Box<dyn JournalWriter>, Recovery), JournalError> {
        self.open_on(name, durable, begin, None)
    }

    fn open_on(
        &self,
        name: &str,
        durable: Waker,
        begin: u64,
        tasks: Option<&Tasks>,
    ) -> Result<(Box<dyn JournalWriter>, Recovery), JournalError> {
        let path = self.place.join(directory_of(name)?);
        create_directory(&path).map_err(|e| failed(name, "creating its directory", &e))?;
        let disk = FileDisk::new(&path, self.config.backend);
        let disk = disk.map_err(|e| failed(name, "opening its directory", &e))?;
        // On a shard nobody waits: the caller tries again.
        let tries = if tasks.is_some() { 1 } else { LOCK_TRIES_MAX };
        if !lock(&disk, tries).map_err(|e| failed(name, "locking its directory", &e))? {
            return Err(JournalError::Failed(format!(
                "journal {name} is open already: {} is locked. Two jobs, or two sources of a job, must not \
                 share a name and a directory; or an earlier process has not ended yet",
                path.display()
            )));
        }
        let (writer, recovery) =
            Writer::open(disk, name, &self.config, (random(), begin), durable, tasks)?;
        if recovery.segments == 0 && begin > 0 {
            tracing::warn!(
                journal = name,
                position = begin,
                "there is no journal here, and a checkpoint goes on from this position: what was acknowledged \
                 after it is in the journal of another directory, if anywhere, and is not processed"
            );
        }
        if recovery.cut_bytes > 0 {
            tracing::warn!(
                journal = name,
                bytes = recovery.cut_bytes,
                position = recovery.end,
                "cut a group that a crash had torn; none of it had been acknowledged"
            );
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(name.to_owned(), std::sync::Arc::downgrade(writer.shared()));
        Ok((Box::new(writer), recovery))
    }

    /// Reads the records of a journal from position `from` on, up to those that are durable now.
    ///
    /// # Errors
    /// If the journal is damaged, `from` has been trimmed, or does not exist yet.
    pub fn reader(&self, name: &str, from: u64) -> Result<Reader<FileDisk>, JournalError> {
        let Some((disk, end)) = self.disk_and_end(name)? else {
            return Err(no_journal(name, &self.place));
        };
        Reader::new(disk, name, from, end)
    }

    /// Reads the records of a journal from the first one on that was received at `time` or later, up to
    /// those that are durable now. The reader's position tells which it is.
    ///
    /// # Errors
    /// If the journal is damaged.
    pub fn read_from_time(
        &self,
        name: &str,
        time: Timestamp,
    ) -> Result<Reader<FileDisk>, JournalError> {
        let Some((disk, end)) = self.disk_and_end(name)? else {
            return Err(no_journal(name, &self.place));
        };
        Reader::from_time(disk, name, time, end)
    }

    /// The journal's directory and durable end; `None` where there is no such journal.
    fn disk_and_end(&self, name: &str) -> Result<Option<(FileDisk, u64)>, JournalError> {
        let path = self.place.join(directory_of(name)?);
        let mut disk = match FileDisk::new(&path, Backend::Plain) {
            Ok(disk) => disk,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(name, "opening its directory", &error)),
        };
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = open.get(name).and_then(Weak::upgrade);
        drop(open);
        let end = match shared {
            Some(shared) => shared.durable()?,
            None => end_of(&mut disk, name)?.0,
        };
        Ok(Some((disk, end)))
    }
}

impl Journals for FileJournals {
    fn open(&self, name: &str, durable: Waker) -> Result<Box<dyn JournalWriter>, JournalError> {
        self.open_at(name, durable, 0, None)
    }

    fn open_at(
        &self,
        name: &str,
        durable: Waker,
        begin: u64,
        tasks: Option<&Tasks>,
    ) -> Result<Box<dyn JournalWriter>, JournalError> {
        Ok(self.open_on(name, durable, begin, tasks)?.0)
    }

    fn read(&self, name: &str, from: u64) -> Result<Box<dyn JournalReader>, JournalError> {
        match self.disk_and_end(name)? {
            Some((disk, end)) => Ok(Box::new(Reader::new(disk, name, from, end)?)),
            // A journal that was never written is empty.
            None if from == 0 => Ok(Box::new(Nothing)),
            None => Err(no_journal(name, &self.place)),
        }
    }
}

/// Takes the directory's lock, and tries for a moment. A process that starts another holds its locks twice until
/// the other runs its own program. A killed one may still be on its way out.
fn lock(disk: &FileDisk, tries: u32) -> io::Result<bool> {
    for _ in 1..tries {
        if disk.lock()? {
            return Ok(true);
        }
        std::thread::sleep(LOCK_WAIT);
    }
    disk.lock()
}

/// Reads a journal that is not there yet.
struct Nothing;

impl JournalReader for Nothing {
    fn next(&mut self) -> Result<Option<thalweg_kernel::JournalRecord<'_>>, JournalError> {
        Ok(None)
    }
}

#[cold]
fn no_journal(name: &str, place: &Path) -> JournalError {
    JournalError::Position(format!(
        "there is no journal {name} below {}. Has the directory been moved, or the source been renamed?",
        place.display()
    ))
}

/// Creates a directory and those above it, durably.
fn create_directory(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if !path.is_dir() {
        above.map_or(Ok(()), create_directory)?;
        // Another journal's may have been made meanwhile.
        if let Err(error) = fs::create_dir(path)
            && !path.is_dir()
        {
            return Err(error);
        }
    }
    // Also if it was there: a life before may have been killed between making and syncing it.
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// A number that nobody outside can guess: the standard library seeds its hashers so.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
