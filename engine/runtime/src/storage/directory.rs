//! State in a directory: LMDB for epochs, journals beside it.
//!
//! ```text
//! DIR/state      the epochs of the job: crate thalweg-store
//! DIR/journal    a journal for each source that cannot be replayed: crate thalweg-journal
//! ```
//!
//! Whoever removes or replaces the directory under a running job takes its state away, whatever is still open. An
//! epoch that was stored then exists for nobody. So its files are looked up again by their paths when an epoch
//! has been stored, before anybody is told. A restart does that, too.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_flow::OpenReader;
use thalweg_journal::{FileJournals, JournalConfig};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Lineage, StateError, StateReader, Str};
use thalweg_store::{EpochRecord, Folding, Resume, Savepoint, Store, StoreError, StoreOptions};

use super::{EpochStore, OpenedStore, StateBackend};
use crate::error::JobError;

/// How a state directory is kept.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    dir: PathBuf,
    store: StoreOptions,
    journal: JournalConfig,
    resume: Resume,
    savepoint: Option<PathBuf>,
    take_over: Option<Str>,
}

impl StateDirectory {
    /// State in `dir`, which is made if it is not there.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            store: StoreOptions::default(),
            journal: JournalConfig::default(),
            resume: Resume::Newest,
            savepoint: None,
            take_over: None,
        }
    }

    /// How epochs are stored.
    #[must_use]
    pub fn store(mut self, options: StoreOptions) -> Self {
        self.store = options;
        self
    }

    /// How journals are written.
    #[must_use]
    pub fn journal(mut self, config: JournalConfig) -> Self {
        self.journal = config;
        self
    }

    /// Resumes from an older epoch that is still kept, and forgets the later ones.
    #[must_use]
    pub fn from_epoch(mut self, epoch: Epoch) -> Self {
        self.resume = Resume::Epoch(epoch);
        self
    }

    /// Begins with a savepoint, if there is no state yet.
    #[must_use]
    pub fn from_savepoint(mut self, path: impl Into<PathBuf>) -> Self {
        self.savepoint = Some(path.into());
        self
    }

    /// Takes the place of another state directory, named by its id, that is no longer in use. It is lost,
    /// or this one began with a savepoint of it. Sinks that find commits of that one under the job's name
    /// in their database refuse to start otherwise, and their error names the id. Does nothing where there
    /// are none (any more).
    ///
    /// Results that the other directory's epochs brought stay. Of a savepoint, those of later epochs are
    /// written again; without one, all that the job computes anew. Key columns make that harmless.
    #[must_use]
    pub fn take_over(mut self, id: impl Into<Str>) -> Self {
        self.take_over = Some(id.into());
        self
    }

    /// Where the epochs of the state directory `dir` are.
    pub fn epochs_in(dir: &Path) -> PathBuf {
        dir.join("state")
    }

    /// Where the journals of the state directory `dir` are.
    pub fn journals_in(dir: &Path) -> PathBuf {
        dir.join("journal")
    }

    /// The backend.
    pub fn backend(self) -> StateBackend {
        let dir = self.dir.clone();
        StateBackend::new(move |_| self.open()).in_directory(dir)
    }

    fn open(&self) -> Result<OpenedStore, JobError> {
        let (epochs, journals) = (Self::epochs_in(&self.dir), Self::journals_in(&self.dir));
        for dir in [&epochs, &journals] {
            make_durable(dir).map_err(|error| {
                let dir = dir.display();
                JobError::Storage(format!("cannot make the state directory {dir}: {error}"))
            })?;
        }
        let journals = FileJournals::new(journals, self.journal.clone())?;
        let refused = |error: StoreError| JobError::Storage(error.to_string());
        let opened = Store::open(&epochs, self.store, self.resume);
        let empty = match &opened {
            Ok(store) => store.recovered().is_none(),
            // Perhaps an import that was cut short; importing looks whether it may.
            Err(error) => matches!(error, StoreError::Refused(_)),
        };
        let store = match self.savepoint.as_ref().filter(|_| empty) {
            Some(path) => {
                drop(opened);
                let mut savepoint = Savepoint::open(path).map_err(refused)?;
                Store::import(&epochs, self.store, &mut savepoint)
            }
            None => opened,
        };
        let store = store.map_err(refused)?;
        let (directory, parent) = store.identity();
        let data = epochs.join(DATA_FILE);
        let kept = [data, Self::journals_in(&self.dir)];
        let kept = kept.map(|path| InPlace::at(&path).map_err(|e| gone(&path, &e.to_string())));
        let store = Box::new(Directory {
            kept: kept.into_iter().collect::<Result<_, _>>().map_err(refused)?,
            dir: epochs,
            options: self.store,
            newest: store.recovered().cloned(),
            lineage: Lineage { directory, parent, takes_over: self.take_over.clone() },
            store: Some(store),
            crowded: false,
        });
        Ok(OpenedStore { store, journals: Some(Arc::new(journals)) })
    }
}

/// Makes a directory that a power cut does not take away. The name of each directory on the way to it is
/// synced, also if it was there. (An earlier life may have been killed between making and syncing it.)
fn make_durable(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for ancestor in dir.canonicalize()?.ancestors() {
        match File::open(ancestor) {
            Ok(directory) => directory.sync_all()?,
            // Not ours, so not of our making.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// LMDB's own name for its file.
const DATA_FILE: &str = "data.mdb";

/// A file or directory that must stay what it is.
struct InPlace {
    path: PathBuf,
    /// Its device and inode.
    identity: (u64, u64),
    /// A directory is held open, or another could get its inode. LMDB holds its file itself.
    _held: Option<File>,
}

impl InPlace {
    fn at(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let held = if found.is_dir() { Some(File::open(path)?) } else { None };
        Ok(Self { path: path.to_owned(), identity: (found.dev(), found.ino()), _held: held })
    }

    fn check(&self) -> Result<(), StoreError> {
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(()),
            Ok(_) => Err(gone(&self.path, "another has taken its place")),
            Err(error) => Err(gone(&self.path, &error.to_string())),
        }
    }
}

#[cold]
fn gone(path: &Path, how: &str) -> StoreError {
    StoreError::Failed(format!(
        "{} is not any more what it was when the job started ({how}): a state directory must not be removed, \
         moved or restored under a running job. What was acknowledged since is in the one that was there",
        path.display()
    ))
}

struct Directory {
    /// What is looked up again.
    kept: Vec<InPlace>,
    dir: PathBuf,
    options: StoreOptions,
    newest: Option<EpochRecord>,
    /// `None` after it could not be opened again.
    store: Option<Store>,
    lineage: Lineage,
    crowded: bool,
}

impl Directory {
    fn store(&mut self) -> Result<&mut Store, StoreError> {
        self.store
            .as_mut()
            .ok_or_else(|| StoreError::Failed("the state directory is closed".into()))
    }

    /// Whether everything is still in its place.
    fn check_in_place(&self) -> Result<(), StoreError> {
        self.kept.iter().try_for_each(InPlace::check)
    }
}

impl EpochStore for Directory {
    fn newest(&self) -> Option<&EpochRecord> {
        self.newest.as_ref()
    }

    fn next(&self) -> Epoch {
        self.store.as_ref().map_or(Epoch::NONE, Store::next)
    }

    fn oldest(&self) -> Epoch {
        self.store.as_ref().map_or(Epoch::NONE, Store::oldest)
    }

    fn lineage(&self) -> Lineage {
        self.lineage.clone()
    }

    fn commit(&mut self, record: EpochRecord, blocks: &[Vec<u8>]) -> Result<(), StoreError> {
        let blocks: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
        self.store()?.commit(record.clone(), &blocks)?;
        self.check_in_place()?;
        self.newest = Some(record);
        Ok(())
    }

    fn readers(&mut self, count: usize) -> Result<OpenReader, StoreError> {
        self.check_in_place()?;
        let newest = self.newest.as_ref().map(|record| record.epoch);
        let stale = self.store()?.recovered().map(|record| record.epoch) != newest;
        if stale && !seeded(Defect::RuntimeRestoresStale) {
            // Shards that begin now read what was stored since: it must be in the base.
            self.store = None;
            self.store = Some(Store::open(&self.dir, self.options, Resume::Newest)?);
        }
        let store = self.store()?;
        let readers: VecDeque<_> = (0..count).map(|_| store.reader()).collect();
        let readers = Mutex::new(readers);
        Ok(Arc::new(move || -> Result<Box<dyn StateReader>, StateError> {
            let next = readers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            next.ok_or_else(|| StateError::Other("every shard has its reader already".into()))
        }))
    }

    fn crowded(&mut self) {
        self.crowded = true;
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        let wanted = self.crowded;
        let more = matches!(self.store()?.fold(wanted)?, Folding::More);
        self.crowded &= more;
        Ok(more)
    }

    fn savepoint(&mut self, path: &Path) -> Result<(), StoreError> {
        let Some(newest) = self.newest.as_ref().map(|record| record.epoch) else {
            return Err(StoreError::Refused("there is no epoch yet".into()));
        };
        self.store()?.export(newest, path)
    }
}
