//! State in a directory: LMDB for epochs, journals beside it.
//!
//! ```text
//! DIR/state      the epochs of the job: crate thalweg-store
//! DIR/journal    a journal for each source that cannot be replayed: crate thalweg-journal
//! ```

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_flow::OpenReader;
use thalweg_journal::{FileJournals, JournalConfig};
use thalweg_kernel::{Epoch, StateError, StateReader};
use thalweg_store::{EpochRecord, Folding, Resume, Savepoint, Store, StoreError, StoreOptions};

use super::{EpochStore, OpenedStore, StateBackend};
use crate::running::JobError;

/// Steps of folding between two looks at the news.
const FOLD_STEPS: usize = 1;

/// How a state directory is kept.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    dir: PathBuf,
    store: StoreOptions,
    journal: JournalConfig,
    resume: Resume,
    savepoint: Option<PathBuf>,
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
        StateBackend::new(move |_| self.open())
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
        let store = Directory {
            dir: epochs,
            options: self.store,
            newest: None,
            store: Some(store.map_err(refused)?),
            crowded: false,
        };
        let newest = store.store.as_ref().and_then(Store::recovered).cloned();
        let store = Box::new(Directory { newest, ..store });
        Ok(OpenedStore { store, journals: Some(Arc::new(journals)) })
    }
}

/// Makes a directory that a power cut does not take away: the name of each directory on the way to it is
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

struct Directory {
    dir: PathBuf,
    options: StoreOptions,
    newest: Option<EpochRecord>,
    /// `None` after it could not be opened again.
    store: Option<Store>,
    crowded: bool,
}

impl Directory {
    fn store(&mut self) -> Result<&mut Store, StoreError> {
        self.store
            .as_mut()
            .ok_or_else(|| StoreError::Failed("the state directory is closed".into()))
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

    fn commit(&mut self, record: EpochRecord, blocks: &[Vec<u8>]) -> Result<(), StoreError> {
        let blocks: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
        self.store()?.commit(record.clone(), &blocks)?;
        self.newest = Some(record);
        Ok(())
    }

    fn readers(&mut self, count: usize) -> Result<OpenReader, StoreError> {
        let newest = self.newest.as_ref().map(|record| record.epoch);
        if self.store()?.recovered().map(|record| record.epoch) != newest {
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
        let mut wanted = self.crowded;
        for _ in 0..FOLD_STEPS {
            match self.store()?.fold(wanted)? {
                Folding::Idle => {
                    self.crowded = false;
                    return Ok(false);
                }
                Folding::More => wanted = true,
                Folding::Done(_) => {
                    self.crowded = false;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn savepoint(&mut self, path: &Path) -> Result<(), StoreError> {
        let Some(newest) = self.newest.as_ref().map(|record| record.epoch) else {
            return Err(StoreError::Refused("there is no epoch yet".into()));
        };
        self.store()?.export(newest, path)
    }
}
