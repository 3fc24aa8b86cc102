//! Where epochs are stored: the seam between the supervisor of a job and its store.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thalweg_flow::OpenReader;
use thalweg_kernel::{Epoch, Journals, StateInfo, Str, Timestamp};

use crate::running::JobError;

/// What is told of an epoch beside its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    /// The job's name.
    pub job: Str,
    /// The job's key groups, which can never change.
    pub key_groups: u16,
    /// On how many shards it ran.
    pub shards: usize,
    /// When it was stored, by this machine's clock.
    pub stored_at: Timestamp,
    /// The states of the job.
    pub states: Vec<StateInfo>,
}

/// Why an epoch could not be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no room: nothing was changed, and it may be tried again when there is.
    #[error("{0}")]
    Full(String),
    /// What is stored is unknown or unusable: the process must end and recover from it.
    #[error("{0}")]
    Failed(String),
}

/// Stores the epochs of a job.
pub trait EpochStore: Send {
    /// The newest epoch, with what was told of it.
    fn newest(&self) -> Option<&EpochRecord>;

    /// The oldest epoch that can be restored.
    fn oldest(&self) -> Epoch;

    /// Stores an epoch: it exists if and only if this succeeds, whole.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn commit(&mut self, record: EpochRecord, blocks: &[Vec<u8>]) -> Result<(), StoreError>;

    /// Opens what the newest epoch holds, for one shard at a time.
    fn reader(&self) -> OpenReader;

    /// Does some of the work that can be put off, for some milliseconds at most; whether more is due.
    ///
    /// # Errors
    /// See [`StoreError`].
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
        Self { open: Arc::new(open) }
    }
}

impl fmt::Debug for StateBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateBackend")
    }
}
