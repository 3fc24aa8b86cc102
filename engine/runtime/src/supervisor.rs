//! The supervisor of a job: a thread that starts its shards, stores their epochs, and starts them again
//! when they have failed. What it does when is decided by [`Supervision`]; here it is done.

mod epochs;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thalweg_flow::Storage;
use thalweg_kernel::{Epoch, Journals, Str, thread_name};

use crate::config::RuntimeConfig;
use crate::driver::kind::DriverKind;
use crate::driver::{self, Describe, Shards, Spec, affinity, job_span};
use crate::error::JobError;
use crate::protocol::{Decision, FULL_RETRY, Report, Rules, Stored, Supervision};
use crate::running::{Attempt, Control, News, Running, Savepoint};
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
    let control = Arc::new(Control::new(&job, config.shards, store.is_some(), tell.clone()));
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
        shards: None,
        started,
    };
    let ended = Ended(Arc::clone(&control));
    let name = thread_name(&supervisor.job, "super");
    let run = move || {
        let _told_however_it_ends = ended;
        let _in_every_line = job_span(&supervisor.job).entered();
        // Shards and the threads of connectors inherit it.
        affinity::confine(&supervisor.config.cores);
        supervisor.run();
    };
    let thread = thread::Builder::new().name(name).spawn(run);
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

/// Acts on what the [protocol](crate::protocol) decides.
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
    /// Those of this life.
    shards: Option<Shards>,
    /// To be told when the first life has begun.
    started: flume::Sender<()>,
}

impl Supervisor {
    fn run(mut self) {
        let mut supervision = Supervision::new(self.rules(), self.now());
        loop {
            while let Some(decision) = supervision.next(self.now()) {
                if let Decision::End(ended) = decision {
                    self.shards = None;
                    return ended.unwrap_or_else(|error| self.control.fail(error));
                }
                if let Some(news) = self.act(decision, supervision.error()) {
                    supervision.take(news, self.now());
                }
            }
            let news = match supervision.due_at() {
                None => self.news.recv().ok(),
                Some(at) => self.news.recv_timeout(at.saturating_sub(self.now())).ok(),
            };
            if let Some(news) = news {
                supervision.take(news, self.now());
            }
        }
    }

    fn rules(&self) -> Rules {
        let stored = self.config.state.as_ref().zip(self.epochs.as_ref()).map(|(state, epochs)| {
            let (newest, next) = epochs.newest();
            Stored { checkpoints: state.checkpoints, newest, next }
        });
        let (shards, restart) = (self.config.shards, self.config.restart);
        Rules { shards, stored, restart, full_retry: FULL_RETRY, seed: chance() }
    }

    fn now(&self) -> Duration {
        self.steady.elapsed()
    }

    /// Acts on a decision; what comes of it, if that is news. `error` is what the life has failed with.
    fn act(&mut self, decision: Decision<Savepoint>, error: Option<&JobError>) -> Option<News> {
        match decision {
            Decision::Start(again) => return self.start(again).err().map(News::NotStarted),
            Decision::Started(again) => self.tell_started(again),
            Decision::Enter(phase) => self.order(|attempt| attempt.enter(phase)),
            Decision::Begin { epoch, last } => self.order(|attempt| attempt.begin(epoch, last)),
            Decision::Doze => {
                let attempt = self.shards.as_ref().map(|shards| &shards.attempt)?;
                return attempt.doze().map(|shard| News::Shard(shard, Report::Moved));
            }
            Decision::Late(epoch) => {
                tracing::error!(%epoch, "a checkpoint is not complete in time");
                self.control.stats().failed += 1;
                self.control.publish();
            }
            Decision::Store(complete) => {
                let steady = self.steady;
                return Some(self.epochs.as_mut()?.store(complete, || steady.elapsed()));
            }
            Decision::Save(Savepoint { path, answer }, epoch) => {
                let written = self.epochs.as_mut()?.save(&path);
                let _gone = answer.send(written.map(|()| epoch));
            }
            Decision::Announce(epoch) => {
                let oldest = self.epochs.as_ref().map_or(epoch, |epochs| epochs.oldest(epoch));
                self.order(|attempt| attempt.announce(epoch, oldest));
            }
            Decision::Tidy => return Some(self.epochs.as_mut()?.tidy()),
            Decision::Rest(delay) => {
                self.shards = None;
                let error = error.map(JobError::to_string).unwrap_or_default();
                tracing::error!(error, restart_in = ?delay, "the job has failed");
            }
            Decision::End(_) => {}
        }
        None
    }

    /// Begins a life of the job.
    fn start(&mut self, again: bool) -> Result<(), JobError> {
        if again {
            self.control.stats().restarts += 1;
            self.control.publish();
        }
        let storage = match &mut self.epochs {
            None => None,
            Some(epochs) => {
                let newest = Some(epochs.newest().0).filter(|&newest| newest > Epoch::NONE);
                self.control.stats().restored = newest;
                let allowed = self.config.state.as_ref().map(|state| state.allowed.clone());
                Some(Storage {
                    reader: epochs.readers()?,
                    journals: self.journals.clone(),
                    lineage: epochs.lineage(),
                    allowed: allowed.unwrap_or_default(),
                })
            }
        };
        let spec = Spec {
            job: &self.job,
            describe: &self.describe,
            config: &self.config,
            driver: self.driver,
            control: &self.control,
            storage,
        };
        self.shards = Some(Shards::start(&spec, &self.tell)?);
        Ok(())
    }

    fn order(&self, order: impl FnOnce(&Attempt)) {
        if let Some(shards) = &self.shards {
            order(&shards.attempt);
        }
    }

    fn tell_started(&self, again: bool) {
        if again {
            return tracing::info!("the job goes on");
        }
        let (shards, driver) = (self.config.shards, self.driver);
        let restored = self.control.stats().restored.map(Epoch::number);
        tracing::info!(shards, %driver, restored, "job started");
        let _gone = self.started.send(());
    }
}

fn chance() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(0_u8)
}
