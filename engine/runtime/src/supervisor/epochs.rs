//! The supervisor's side of storage: stores epochs that are complete, tries again where there was no room,
//! writes savepoints of them, and lets the store tidy when nothing else is due.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use thalweg_flow::OpenReader;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Lineage, Str};
use thalweg_store::{EpochRecord, StoreError};

use crate::coordinator::Complete;
use crate::driver;
use crate::running::{Control, JobError};
use crate::storage::EpochStore;

/// How often a store that was full is tried again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Work that the store has put off waits for so long without news.
const TIDY_AFTER: Duration = Duration::from_millis(1);

/// Who waits for a savepoint.
pub(super) type Answer = flume::Sender<Result<Epoch, JobError>>;

/// See the module. Times are steady.
pub(super) struct Epochs {
    job: Str,
    key_groups: u16,
    shards: usize,
    control: Arc<Control>,
    store: Box<dyn EpochStore>,
    /// Savepoints that wait for an epoch from this one on.
    savepoints: Vec<(Epoch, PathBuf, Answer)>,
    /// An epoch that found no room, and when to try again.
    full: Option<(Complete, Duration)>,
    untidy: bool,
}

impl Epochs {
    pub(super) fn new(
        job: Str,
        (key_groups, shards): (u16, usize),
        control: Arc<Control>,
        store: Box<dyn EpochStore>,
    ) -> Self {
        let (savepoints, full, untidy) = (Vec::new(), None, false);
        Self { job, key_groups, shards, control, store, savepoints, full, untidy }
    }

    /// Opens what the newest epoch holds, for a new life of the job.
    pub(super) fn readers(&mut self) -> Result<OpenReader, JobError> {
        self.store.readers(self.shards).map_err(storage_error)
    }

    /// Whose epochs these are.
    pub(super) fn lineage(&self) -> Lineage {
        self.store.lineage()
    }

    /// The newest epoch, and the number of the next.
    pub(super) fn newest(&self) -> (Epoch, Epoch) {
        let newest = self.store.newest().map_or(Epoch::NONE, |record| record.epoch);
        (newest, self.store.next().max(newest.next()))
    }

    /// The oldest epoch that can be restored.
    pub(super) fn oldest(&self) -> Epoch {
        self.store.oldest()
    }

    /// A savepoint is wanted of `epoch`, or one after it.
    pub(super) fn save(&mut self, epoch: Epoch, path: PathBuf, answer: Answer) {
        self.savepoints.push((epoch, path, answer));
    }

    /// Stores an epoch and the savepoints that wait for it; false if it found no room, and is kept.
    pub(super) fn store(&mut self, complete: Complete, now: Duration) -> Result<bool, JobError> {
        let epoch = complete.epoch;
        let record = EpochRecord {
            epoch,
            job: self.job.clone(),
            key_groups: self.key_groups,
            shards: self.shards as u32,
            at: driver::wall_clock(),
            states: complete.states.to_vec(),
            counts: BTreeMap::new(),
            oldest: Epoch::NONE,
            directory: self.store.lineage().directory,
        };
        match self.store.commit(record, &complete.blocks) {
            Ok(()) => {}
            Err(StoreError::Full(what)) => {
                tracing::error!(job = %self.job, %epoch, "a checkpoint finds no room: {what}");
                if !seeded(Defect::RuntimeGivesUpFullEpoch) {
                    self.full = Some((complete, now + FULL_RETRY));
                }
                return Ok(false);
            }
            Err(error) => return Err(storage_error(error)),
        }
        if complete.crowded {
            self.store.crowded();
        }
        self.untidy = true;
        self.write_savepoints(epoch);
        Ok(true)
    }

    /// The epoch that found no room, once it is time to try again.
    pub(super) fn retry(&mut self, now: Duration) -> Option<Complete> {
        self.full.take_if(|(_, at)| *at <= now).map(|(complete, _)| complete)
    }

    /// When there is something to do without news.
    pub(super) fn due_at(&self, now: Duration) -> Option<Duration> {
        let retry_at = self.full.as_ref().map(|&(_, at)| at);
        let tidy_at = self.untidy.then(|| now + TIDY_AFTER);
        retry_at.into_iter().chain(tidy_at).min()
    }

    /// Nothing is due: the store may do what it has put off.
    pub(super) fn tidy(&mut self) -> Result<(), JobError> {
        if !self.untidy {
            return Ok(());
        }
        match self.store.tidy() {
            Ok(more) => self.untidy = more,
            Err(StoreError::Full(what)) => {
                tracing::error!(job = %self.job, "stored state cannot be tidied: {what}");
                self.untidy = false;
            }
            Err(error) => return Err(storage_error(error)),
        }
        Ok(())
    }

    /// A life of the job has ended, and with it what waited in it. Who waits for a savepoint learns it by
    /// that.
    pub(super) fn forget(&mut self) {
        self.savepoints.clear();
        self.full = None;
    }

    /// Tells of an epoch that was stored: how long it took, and how much it has changed.
    pub(super) fn publish(&self, epoch: Epoch, duration: Duration, bytes: u64) {
        let mut stats = self.control.stats();
        stats.newest = epoch;
        stats.completed += 1;
        (stats.duration, stats.bytes) = (duration, bytes);
        drop(stats);
        let job = || self.job.to_string();
        counter!("thalweg_numberOfCompletedCheckpoints", "job" => job()).increment(1);
        gauge!("thalweg_lastCheckpointDuration", "job" => job()).set(duration.as_secs_f64() * 1e3);
        gauge!("thalweg_lastCheckpointSize", "job" => job()).set(bytes as f64);
    }

    fn write_savepoints(&mut self, epoch: Epoch) {
        let due = |from: Epoch| from <= epoch || seeded(Defect::RuntimeOldSavepoint);
        for (_, path, answer) in self.savepoints.extract_if(.., |(from, _, _)| due(*from)) {
            let written = self.store.savepoint(&path).map_err(storage_error);
            let _ = answer.send(written.map(|()| epoch));
        }
    }
}

fn storage_error(error: StoreError) -> JobError {
    JobError::Storage(error.to_string())
}
