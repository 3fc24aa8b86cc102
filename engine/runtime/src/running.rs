//! [`Running`]: the handle of a started job, and how jobs fail.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;

use thalweg_kernel::{ConfigError, ConnectorError};

use crate::config::DriverKind;
use crate::metrics::{Board, Snapshot};

/// Why a job did not start or did not reach its end.
///
/// Its `Debug` is its `Display`: `fn main() -> Result<(), JobError>` prints the former.
#[derive(thiserror::Error)]
pub enum JobError {
    /// A wrong setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A source or sink failed for good.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The driver cannot work on this machine.
    #[error("the {driver} driver is not available: {reason}")]
    Driver {
        /// Which one.
        driver: DriverKind,
        /// Why, and what to use instead.
        reason: String,
    },
    /// User code or the engine panicked.
    #[error("shard {shard} panicked: {message}")]
    Panicked {
        /// The shard it happened on.
        shard: usize,
        /// The panic's message.
        message: String,
    },
    /// It was aborted, by its [`Stopper`].
    #[error("the job was ended at once, without draining: what was in flight is lost")]
    Aborted,
    /// No shard can move and nothing will wake any: a bug of an operator or a connector.
    #[error("the job stalled: every shard waits and nothing will wake it (seed {seed})")]
    Stalled {
        /// The seed that shows it.
        seed: u64,
    },
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the shards of a job are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Running,
    Draining,
    Aborting,
}

/// What the shards of a job share with its handle.
pub(crate) struct Control {
    phase: AtomicU8,
    wakers: Arc<[Waker]>,
    error: Mutex<Option<JobError>>,
    pub(crate) board: Board,
}

impl Control {
    pub(crate) fn new(wakers: Arc<[Waker]>) -> Self {
        let board = Board::new(wakers.len());
        Self { phase: AtomicU8::new(Phase::Running as u8), wakers, error: Mutex::default(), board }
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    /// Moves on to `phase`; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Ends the job with `error`; the first one counts.
    pub(crate) fn fail(&self, error: JobError) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.enter(Phase::Aborting);
    }

    fn take_error(&self) -> Option<JobError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A job that has been started. Dropping the handle aborts the job.
#[must_use = "dropping the handle aborts the job; call `wait`"]
pub struct Running {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    driver: DriverKind,
}

impl Running {
    pub(crate) fn new(control: Arc<Control>, driver: DriverKind) -> Self {
        Self { control, threads: Vec::new(), driver }
    }

    /// Takes charge of a shard's thread.
    pub(crate) fn adopt(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    /// The driver that runs it: [`DriverKind::Auto`] has been decided.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Asks for an orderly end: sources stop, everything in flight reaches the sinks, open windows
    /// fire. Returns at once; [`wait`](Self::wait) returns when it is done.
    pub fn stop(&self) {
        self.control.enter(Phase::Draining);
    }

    /// A handle that can stop or abort the job from elsewhere, such as a signal handler.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.control))
    }

    /// Whether all shards have ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// The metrics as the shards last published them, about a second ago at most.
    pub fn snapshot(&self) -> Snapshot {
        self.control.board.snapshot()
    }

    /// Waits for the end of the job and returns its last metrics.
    ///
    /// # Errors
    /// The first error of any shard; [`JobError::Aborted`] if the job was aborted.
    pub fn wait(mut self) -> Result<Snapshot, JobError> {
        self.join();
        match self.control.take_error() {
            Some(error) => Err(error),
            None if self.control.phase() == Phase::Aborting => Err(JobError::Aborted),
            None => Ok(self.control.board.snapshot()),
        }
    }

    fn join(&mut self) {
        for (shard, thread) in self.threads.drain(..).enumerate() {
            if thread.join().is_err() {
                let message = "outside of a step".into();
                self.control.fail(JobError::Panicked { shard, message });
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.control.enter(Phase::Aborting);
            self.join();
        }
    }
}

/// Stops a job from elsewhere. See [`Running::stopper`].
#[derive(Clone)]
pub struct Stopper(Arc<Control>);

impl Stopper {
    /// As [`Running::stop`].
    pub fn stop(&self) {
        self.0.enter(Phase::Draining);
    }

    /// Ends the job without draining it.
    pub fn abort(&self) {
        self.0.enter(Phase::Aborting);
    }
}
