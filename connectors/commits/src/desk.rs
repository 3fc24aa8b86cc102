//! [`Desk`]: the thread behind the shards, in steps. What is done there is a [`Clerk`]'s.
//!
//! # Waiting
//! What can be waited out (a lock, a full disk, a server that is away) is tried again, after 20 ms at first
//! and 1 s at last, and logged. Meanwhile shards fill up to their limits, and then are not ready. Anything
//! else ends this attempt of the job, and what every attempt would meet again ends the job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_kernel::ConnectorError;
use tracing::{info, warn};

use crate::note::NoteDamaged;
use crate::office::{Common, Port};

const PAUSE_MS_MIN: u64 = 20;
const PAUSE_MS_MAX: u64 = 1_000;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Somebody else has the lock, the disk is full, the server is away: it is tried again. Says what
    /// would help.
    #[error("{0}")]
    Wait(String),
    /// The job fails, and is started again as its restart strategy says: somebody may have mended it. Says
    /// what to do.
    #[error("{0}")]
    Final(String),
    /// The job ends: every attempt would meet it again. Says what to do.
    #[error("{0}")]
    Lasting(String),
}

/// A note stays as it is.
impl From<NoteDamaged> for Trouble {
    fn from(error: NoteDamaged) -> Self {
        Self::Lasting(error.to_string())
    }
}

impl Trouble {
    /// The same as the error of the sink called `name`.
    #[cold]
    pub fn error(&self, name: &str) -> ConnectorError {
        let error = ConnectorError::new(name, self.to_string());
        if matches!(self, Self::Lasting(_)) { error.lasting() } else { error }
    }
}

/// Who does the work at a desk.
pub trait Clerk: Send + 'static {
    /// What a shard says.
    type Message: Send + 'static;
    /// What is known of an instance.
    type Port: Port;

    /// Takes note of what a shard has said.
    fn hear(&mut self, message: Self::Message);

    /// Does one thing. `alone`: nobody is left to say anything.
    ///
    /// # Errors
    /// What has met a [`Trouble::Wait`] is done by a later call.
    fn work(&mut self, alone: bool) -> Result<Progress, Trouble>;

    /// Called between works; when to call again if nothing is said until then.
    fn tick(&mut self, _now: Instant) -> Option<Instant> {
        None
    }
}

/// What a work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done.
    Worked,
    /// Nothing to do until a shard says something.
    Idle,
    /// All shards have closed or gone.
    Done,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done: step again.
    Worked,
    /// Nothing to do until a shard says something.
    Idle,
    /// To be tried again after a pause.
    Waits(String),
    /// It has failed for good, and has told the shards.
    Failed,
    /// All shards have closed or gone.
    Done,
}

/// See the [module](self).
pub struct Desk<C: Clerk> {
    clerk: C,
    inbox: flume::Receiver<C::Message>,
    common: Arc<Common<C::Port>>,
    /// The shards have gone.
    alone: bool,
}

impl<C: Clerk> Desk<C> {
    /// A desk where `clerk` hears what comes into `inbox`.
    pub fn new(clerk: C, inbox: flume::Receiver<C::Message>, common: Arc<Common<C::Port>>) -> Self {
        Self { clerk, inbox, common, alone: false }
    }

    /// Who works here.
    pub fn clerk(&mut self) -> &mut C {
        &mut self.clerk
    }

    /// Hears what the shards have said, and does one thing.
    pub fn step(&mut self) -> Step {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => self.clerk.hear(message),
                Err(flume::TryRecvError::Empty) => break,
                Err(flume::TryRecvError::Disconnected) => {
                    self.alone = true;
                    break;
                }
            }
        }
        match self.clerk.work(self.alone) {
            Ok(Progress::Worked) => Step::Worked,
            Ok(Progress::Idle) => Step::Idle,
            Ok(Progress::Done) => Step::Done,
            // Whoever comes next finds it in the notes.
            Err(Trouble::Wait(_)) if self.alone || self.common.is_gone() => Step::Done,
            Err(Trouble::Wait(why)) => Step::Waits(why),
            Err(trouble) => {
                self.common.fail(trouble);
                Step::Failed
            }
        }
    }

    /// The thread's body.
    pub(crate) fn run(mut self) {
        let (mut pause_ms, mut tries) = (PAUSE_MS_MIN, 0_u64);
        loop {
            match self.step() {
                Step::Worked => {
                    if tries > 0 {
                        info!("{}: goes on after {tries} attempts", self.common.name());
                        (pause_ms, tries) = (PAUSE_MS_MIN, 0);
                    }
                    self.clerk.tick(Instant::now());
                }
                Step::Idle => {
                    let heard = match self.clerk.tick(Instant::now()) {
                        Some(due) => self.inbox.recv_deadline(due),
                        None => self.inbox.recv().map_err(Into::into),
                    };
                    match heard {
                        Ok(message) => self.clerk.hear(message),
                        Err(flume::RecvTimeoutError::Timeout) => {}
                        Err(flume::RecvTimeoutError::Disconnected) => self.alone = true,
                    }
                }
                Step::Waits(why) => {
                    tries += 1;
                    if tries.is_power_of_two() {
                        warn!("{}: waits: {why} (attempt {tries})", self.common.name());
                    }
                    let until = Instant::now() + Duration::from_millis(pause_ms);
                    while let Ok(message) = self.inbox.recv_deadline(until) {
                        self.clerk.hear(message);
                    }
                    pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
                }
                Step::Failed | Step::Done => return,
            }
        }
    }
}
