//! The supervisor of a job: a thread that starts its shards, stores their epochs, and starts them again
//! when they have failed.

mod epochs;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::metrics::counter;
use thalweg_flow::Storage;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, Journals, Str};

use crate::config::{DriverKind, RuntimeConfig};
use crate::coordinator::{Complete, Coordinator, Due};
use crate::driver::{self, Shards, Spec};
use crate::job::Describe;
use crate::restart::Restarts;
use crate::running::{Attempt, Control, JobError, News, Phase, Running};
use crate::storage::{OpenedStore, Opening};
use epochs::Epochs;

/// Starts a job. Returns once every source and sink is open.
pub(crate) fn start(
    job: Str,
    describe: Describe,
    config: &RuntimeConfig,
) -> Result<Running, JobError> {
    config.validate()?;
    let driver = driver::decided(config)?;
    let store = match &config.state {
        None => None,
        Some(state) => {
            let opening = Opening { job: job.clone(), key_groups: config.key_groups.count() };
            let opened = (state.backend.open)(&opening)?;
            check_record(&opened, &opening)?;
            Some(opened)
        }
    };
    let (tell, news) = flume::unbounded();
    let control = Arc::new(Control::new(config.shards, store.is_some(), tell.clone()));
    let (started, has_started) = flume::bounded(1);
    let (epochs, journals) = match store {
        Some(OpenedStore { store, journals }) => {
            let counts = (config.key_groups.count(), config.shards);
            (Some(Epochs::new(job.clone(), counts, Arc::clone(&control), store)), journals)
        }
        None => (None, None),
    };
    let supervisor = Supervisor {
        job,
        describe,
        config: config.clone(),
        driver,
        control: Arc::clone(&control),
        epochs,
        journals,
        tell,
        news,
        steady: Instant::now(),
        started: Some(started),
    };
    let ended = Ended(Arc::clone(&control));
    let run = move || {
        let _told_however_it_ends = ended;
        supervisor.run();
    };
    let thread = thread::Builder::new().name("supervisor".into()).spawn(run);
    let thread = thread.map_err(|error| JobError::Driver {
        driver,
        reason: format!("cannot start a thread for the supervisor: {error}"),
    })?;
    let running = Running::new(control, thread, driver);
    match has_started.recv() {
        Ok(()) => Ok(running),
        // It has ended instead, and says why.
        Err(_) => Err(running.wait().err().unwrap_or(JobError::Aborted)),
    }
}

/// What is stored must be of this job, with the same key groups.
fn check_record(opened: &OpenedStore, opening: &Opening) -> Result<(), JobError> {
    let Some(record) = opened.store.newest() else { return Ok(()) };
    if record.job != opening.job {
        return Err(JobError::Storage(format!(
            "the state directory belongs to the job {:?}, not to {:?}; give each job its own",
            record.job, opening.job
        )));
    }
    if record.key_groups != opening.key_groups {
        return Err(JobError::Storage(format!(
            "the state was written with {} key groups, and the job has {}; their number can never \
             change",
            record.key_groups, opening.key_groups
        )));
    }
    Ok(())
}

/// Says at its end that the supervisor has ended.
struct Ended(Arc<Control>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Supervisor {
    job: Str,
    describe: Describe,
    config: RuntimeConfig,
    driver: DriverKind,
    control: Arc<Control>,
    epochs: Option<Epochs>,
    journals: Option<Arc<dyn Journals>>,
    tell: flume::Sender<News>,
    news: flume::Receiver<News>,
    steady: Instant,
    /// To be told once, when the first life has begun.
    started: Option<flume::Sender<()>>,
}

impl Supervisor {
    fn run(mut self) {
        let mut restarts = Restarts::new(self.config.restart, self.epochs.is_some());
        loop {
            let Err(error) = self.live() else { return };
            let wanted = self.control.wish() < Phase::Aborting && self.started.is_none();
            let delay = if wanted && error.may_be_mended() {
                restarts.failed(self.now(), chance())
            } else {
                None
            };
            let Some(delay) = delay else { return self.control.fail(error) };
            tracing::error!(job = %self.job, %error, restart_in = ?delay, "the job has failed");
            if !self.rest(delay) {
                return self.control.fail(error);
            }
            self.control.stats().restarts += 1;
            counter!("thalweg_numRestarts", "job" => self.job.to_string()).increment(1);
        }
    }

    fn now(&self) -> Duration {
        self.steady.elapsed()
    }

    /// Waits before a restart; false if the job is to end instead.
    fn rest(&self, delay: Duration) -> bool {
        let until = self.now() + delay;
        while self.now() < until {
            let left = until.saturating_sub(self.now());
            // Savepoints asked for meanwhile are answered by dropping the question.
            let _ = self.news.recv_timeout(left);
            if self.control.wish() > Phase::Running {
                return false;
            }
        }
        true
    }

    /// One life of the job, from its newest epoch to its end.
    fn live(&mut self) -> Result<(), JobError> {
        let storage = match &mut self.epochs {
            None => None,
            Some(epochs) => Some(Storage {
                reader: epochs.readers()?,
                journals: self.journals.clone(),
                lineage: epochs.lineage(),
                drop_unknown: self.config.state.as_ref().is_some_and(|state| state.drop_unknown),
            }),
        };
        let spec = Spec {
            job: &self.job,
            describe: &self.describe,
            config: &self.config,
            driver: self.driver,
            control: &self.control,
            storage,
        };
        let mut shards = Shards::start(&spec, &self.tell)?;
        let first = (Epoch::NONE, Epoch::NONE.next());
        let (newest, next) = self.epochs.as_ref().map_or(first, Epochs::newest);
        let mut life = Life {
            attempt: Arc::clone(&shards.attempt),
            coordinator: self.config.state.as_ref().map(|state| {
                Coordinator::new(state.checkpoints, self.config.shards, next, self.now())
            }),
            building: self.config.shards,
            living: self.config.shards,
            suspending: None,
            error: None,
        };
        if self.control.wish() == Phase::Suspending
            && let Some(coordinator) = &mut life.coordinator
        {
            // Asked for between two lives.
            life.suspending = Some(coordinator.want());
        }
        self.control.stats().restored = Some(newest).filter(|&newest| newest > Epoch::NONE);
        if newest > Epoch::NONE {
            // Sources and sinks learn what exists, as they would have from the life before.
            let oldest = self.epochs.as_ref().map_or(newest, Epochs::oldest);
            life.attempt.announce(newest, oldest);
        }
        while life.living > 0 {
            if let Err(error) = self.turn(&mut life) {
                life.fail(error);
            }
        }
        shards.join();
        if let Some(epochs) = &mut self.epochs {
            epochs.forget();
        }
        life.error.map_or(Ok(()), Err)
    }

    /// Does what is due, then waits for news and takes one.
    fn turn(&mut self, life: &mut Life) -> Result<(), JobError> {
        let now = self.now();
        if let Some(complete) = self.epochs.as_mut().and_then(|epochs| epochs.retry(now)) {
            self.store_epoch(life, complete)?;
        }
        if life.building == 0
            && let Some(coordinator) = &mut life.coordinator
        {
            match coordinator.due(now) {
                Some(Due::Begin(epoch)) => {
                    if life.suspending == Some(epoch) {
                        life.attempt.end_with(epoch);
                    }
                    life.attempt.begin(epoch);
                }
                Some(Due::Late { epoch, failures, tolerated }) => {
                    tracing::error!(job = %self.job, %epoch, "a checkpoint is not complete in time");
                    self.control.stats().failed += 1;
                    counter!("thalweg_numberOfFailedCheckpoints", "job" => self.job.to_string())
                        .increment(1);
                    if !tolerated {
                        life.fail(JobError::Checkpoint { epoch, failures });
                    }
                }
                None => {}
            }
        }
        match self.next_news(life) {
            Some(news) => self.take(life, news),
            None => self.epochs.as_mut().map_or(Ok(()), Epochs::tidy),
        }
    }

    /// Waits for news until something is due.
    fn next_news(&self, life: &Life) -> Option<News> {
        let coordinated = life.coordinator.as_ref().filter(|_| life.building == 0);
        let due_at = coordinated.and_then(|coordinator| coordinator.due_at());
        let stored_at = self.epochs.as_ref().and_then(|epochs| epochs.due_at(self.now()));
        match [due_at, stored_at].into_iter().flatten().min() {
            None => self.news.recv().ok(),
            Some(at) => self.news.recv_timeout(at.saturating_sub(self.now())).ok(),
        }
    }

    fn take(&mut self, life: &mut Life, news: News) -> Result<(), JobError> {
        match news {
            News::Built => {
                life.building -= 1;
                if life.building == 0 {
                    self.tell_started();
                }
            }
            News::Snapshot(snapshot) => {
                let complete = life.coordinator.as_mut().and_then(|c| c.hand_over(snapshot));
                if let Some(complete) = complete {
                    self.store_epoch(life, complete)?;
                }
            }
            News::AwaitsEpoch(shard) => {
                if let Some(coordinator) = &mut life.coordinator {
                    coordinator.awaits_epoch(shard);
                }
            }
            News::Pressed => {
                if let Some(coordinator) = &mut life.coordinator {
                    coordinator.press();
                }
            }
            News::Ended(shard, ended) => {
                life.living -= 1;
                if let Err(error) = ended {
                    life.fail(error);
                } else if let Some(complete) =
                    life.coordinator.as_mut().and_then(|c| c.ended(shard))
                {
                    self.store_epoch(life, complete)?;
                }
            }
            News::Wish => {
                if self.control.wish() == Phase::Suspending
                    && let Some(coordinator) = &mut life.coordinator
                {
                    life.suspending.get_or_insert_with(|| coordinator.want());
                }
            }
            News::Savepoint(path, last, answer) => {
                if let (Some(coordinator), Some(epochs)) = (&mut life.coordinator, &mut self.epochs)
                {
                    let epoch = if last {
                        // First of all nothing more is taken in.
                        self.control.enter(Phase::Suspending);
                        *life.suspending.get_or_insert_with(|| coordinator.want())
                    } else {
                        coordinator.want()
                    };
                    epochs.save(epoch, path, answer);
                }
            }
        }
        Ok(())
    }

    fn tell_started(&mut self) {
        let Some(started) = self.started.take() else {
            return tracing::info!(job = %self.job, "the job goes on");
        };
        let (shards, driver) = (self.config.shards, self.driver);
        let restored = self.control.stats().restored.map(Epoch::number);
        tracing::info!(job = %self.job, shards, %driver, restored, "job started");
        let _ = started.send(());
    }

    fn store_epoch(&mut self, life: &mut Life, complete: Complete) -> Result<(), JobError> {
        let Some(epochs) = &mut self.epochs else { return Ok(()) };
        let (epoch, begun) = (complete.epoch, complete.begun);
        let bytes = complete.blocks.iter().map(|block| block.len() as u64).sum();
        if seeded(Defect::RuntimeCommitsEarly) {
            life.attempt.announce(epoch, epochs.oldest());
        }
        if !epochs.store(complete, self.steady.elapsed())? {
            return Ok(());
        }
        let trims = seeded(Defect::RuntimeTrimsToNewest);
        life.attempt.announce(epoch, if trims { epoch } else { epochs.oldest() });
        let now = self.steady.elapsed();
        if let Some(coordinator) = &mut life.coordinator {
            coordinator.stored(now);
        }
        epochs.publish(epoch, now.saturating_sub(begun), bytes);
        Ok(())
    }
}

/// A life of the job, as the supervisor sees it.
struct Life {
    attempt: Arc<Attempt>,
    coordinator: Option<Coordinator>,
    /// Shards that are still being built, and that have not ended.
    building: usize,
    living: usize,
    /// The epoch to end with.
    suspending: Option<Epoch>,
    /// The first error.
    error: Option<JobError>,
}

impl Life {
    fn fail(&mut self, error: JobError) {
        self.error.get_or_insert(error);
        self.coordinator = None;
        self.attempt.enter(Phase::Aborting);
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}
