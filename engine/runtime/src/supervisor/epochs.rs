//! The supervisor's side of storage: does with the store what was decided, and tells what came of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thalweg_flow::OpenReader;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Lineage, Str};
use thalweg_store::{EpochRecord, StoreError};

use crate::clock::wall_clock;
use crate::error::JobError;
use crate::protocol::Complete;
use crate::running::{Control, News};
use crate::storage::EpochStore;

/// See the module. Times are steady.
pub(super) struct Epochs {
    job: Str,
    key_groups: u16,
    shards: usize,
    control: Arc<Control>,
    store: Box<dyn EpochStore>,
}

impl Epochs {
    pub(super) fn new(
        job: Str,
        (key_groups, shards): (u16, usize),
        control: Arc<Control>,
        store: Box<dyn EpochStore>,
    ) -> Self {
        Self { job, key_groups, shards, control, store }
    }

    /// Opens what the newest epoch holds, for a new life of the job.
    pub(super) fn readers(&mut self) -> Result<OpenReader, JobError> {
        self.store.readers(self.shards).map_err(storage_error)
    }

    /// Whose epochs these are.
    pub(super) fn lineage(&self) -> Lineage {
        self.store.lineage()
    }

    /// The newest epoch, and a lower bound for the number of the next.
    pub(super) fn newest(&self) -> (Epoch, Epoch) {
        let newest = self.store.newest().map_or(Epoch::NONE, |record| record.epoch);
        (newest, self.store.next())
    }

    /// The oldest epoch that sources may be asked for again, when `newest` is stored.
    pub(super) fn oldest(&self, newest: Epoch) -> Epoch {
        if seeded(Defect::RuntimeTrimsToNewest) { newest } else { self.store.oldest() }
    }

    /// Stores an epoch.
    pub(super) fn store(&mut self, complete: Complete, now: impl Fn() -> Duration) -> News {
        let (epoch, begun, bytes) = (complete.epoch, complete.begun, complete.bytes());
        let record = EpochRecord {
            epoch,
            job: self.job.clone(),
            key_groups: self.key_groups,
            shards: self.shards as u32,
            at: wall_clock(),
            states: complete.states.to_vec(),
            counts: BTreeMap::new(),
            oldest: Epoch::NONE,
            directory: self.store.lineage().directory,
        };
        match self.store.commit(record, &complete.blocks) {
            Ok(()) => {}
            Err(StoreError::Full(what)) => {
                tracing::error!(%epoch, "a checkpoint finds no room: {what}");
                return News::Full(complete);
            }
            Err(error) => return News::StoreFailed(storage_error(error)),
        }
        if complete.crowded {
            self.store.crowded();
        }
        self.tell(epoch, now().saturating_sub(begun), bytes);
        News::Stored { epoch, oldest: self.oldest(epoch) }
    }

    /// The store does some of what it has put off.
    pub(super) fn tidy(&mut self) -> News {
        match self.store.tidy() {
            Ok(more) => News::Tidied(more),
            Err(StoreError::Full(what)) => {
                tracing::error!("stored state cannot be tidied: {what}");
                News::Tidied(false)
            }
            Err(error) => News::StoreFailed(storage_error(error)),
        }
    }

    /// Writes the newest epoch as a savepoint.
    pub(super) fn save(&mut self, path: &Path) -> Result<(), JobError> {
        self.store.savepoint(path).map_err(storage_error)
    }

    /// Tells how long an epoch took, and how much it has changed.
    fn tell(&self, epoch: Epoch, duration: Duration, bytes: u64) {
        let mut stats = self.control.stats();
        stats.newest = epoch;
        stats.completed += 1;
        (stats.duration, stats.bytes) = (duration, bytes);
        drop(stats);
        self.control.publish();
    }
}

fn storage_error(error: StoreError) -> JobError {
    JobError::Storage(error.to_string())
}
