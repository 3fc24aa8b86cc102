//! Where epochs are stored: the seam between the supervisor of a job and its store.

pub(crate) mod directory;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_flow::OpenReader;
use thalweg_kernel::{Epoch, Journals, Lineage, Str};
use thalweg_store::{EpochRecord, StoreError};

use crate::error::JobError;

/// Stores the epochs of a job.
pub trait EpochStore: Send {
    /// The newest epoch, with what was told of it.
    fn newest(&self) -> Option<&EpochRecord>;

    /// The number of the next epoch, or a lower bound of it.
    fn next(&self) -> Epoch;

    /// The oldest epoch that can be restored.
    fn oldest(&self) -> Epoch;

    /// Whose epochs they are; nobody's unless the store has an id.
    fn lineage(&self) -> Lineage {
        Lineage::default()
    }

    /// Stores an epoch: it exists if and only if this succeeds, whole.
    ///
    /// # Errors
    /// [`StoreError::Full`] changes nothing and may be tried again; all others are final.
    fn commit(&mut self, record: EpochRecord, blocks: &[Vec<u8>]) -> Result<(), StoreError>;

    /// Opens what the newest epoch holds, for as many shards as are said. No reader of an earlier call
    /// is left.
    ///
    /// # Errors
    /// If it cannot be read.
    fn readers(&mut self, shards: usize) -> Result<OpenReader, StoreError>;

    /// State takes more memory than it may: what was stored should become readable soon.
    fn crowded(&mut self) {}

    /// Does some of the work that can be put off, for some milliseconds at most; whether more is due.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit).
    fn tidy(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Writes the newest epoch as a savepoint.
    ///
    /// # Errors
    /// If it cannot be written; what is stored is not affected.
    fn savepoint(&mut self, path: &Path) -> Result<(), StoreError>;
}

/// Opens the store of a job when it starts.
#[derive(Clone)]
pub struct StateBackend {
    pub(crate) open: Arc<OpenStore>,
    directory: Option<PathBuf>,
}

type OpenStore = dyn Fn(&Opening) -> Result<OpenedStore, JobError> + Send + Sync;

/// What a store is told when it opens.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The job's name.
    pub job: Str,
    /// The job's key groups.
    pub key_groups: u16,
}

/// An open store, and the journals beside it.
pub struct OpenedStore {
    /// The store.
    pub store: Box<dyn EpochStore>,
    /// Opens journals; none if sources are not to have any.
    pub journals: Option<Arc<dyn Journals>>,
}

impl StateBackend {
    /// A backend that opens its store with `open`.
    pub fn new(
        open: impl Fn(&Opening) -> Result<OpenedStore, JobError> + Send + Sync + 'static,
    ) -> Self {
        Self { open: Arc::new(open), directory: None }
    }

    /// The same in a directory of this machine, by which the running job can be found.
    #[must_use]
    pub fn in_directory(self, directory: PathBuf) -> Self {
        Self { directory: Some(directory), ..self }
    }

    /// The directory that it is in, if it is in one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

impl fmt::Debug for StateBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateBackend")
    }
}
