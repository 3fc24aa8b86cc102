//! [`CommitThread`]: the thread behind the shards, in steps. A [`Committer`] says what is done in them.
//!
//! # Waiting
//! What can be waited out (a lock, a full disk, a server that is away) is logged and tried again. The pause
//! is 20 ms at first and 1 s at last. Meanwhile shards fill up to their limits, and then are not ready.
//! Anything else ends this attempt of the job, and what every attempt would meet again ends the job.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thalweg_kernel::{ConnectorError, OpenContext, thread_name};
use tracing::{info, warn};

use crate::common::{Common, Port};
use crate::trouble::Trouble;

const PAUSE_MS_MIN: u64 = 20;
const PAUSE_MS_MAX: u64 = 1_000;

/// What the thread does.
pub trait Committer: Send + 'static {
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
pub struct CommitThread<C: Committer> {
    committer: C,
    inbox: flume::Receiver<C::Message>,
    common: Arc<Common<C::Port>>,
    /// The shards have gone.
    alone: bool,
}

impl<C: Committer> CommitThread<C> {
    /// A thread on which `committer` hears what comes into `inbox`; nothing runs until it is started or stepped.
    pub fn new(
        committer: C,
        inbox: flume::Receiver<C::Message>,
        common: Arc<Common<C::Port>>,
    ) -> Self {
        Self { committer, inbox, common, alone: false }
    }

    /// What it does.
    pub fn committer(&mut self) -> &mut C {
        &mut self.committer
    }

    /// Hears what the shards have said, and does one thing.
    pub fn step(&mut self) -> Step {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => self.committer.hear(message),
                Err(flume::TryRecvError::Empty) => break,
                Err(flume::TryRecvError::Disconnected) => {
                    self.alone = true;
                    break;
                }
            }
        }
        match self.committer.work(self.alone) {
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

    /// Starts the thread, for the operator of `cx`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(self, cx: &OpenContext) -> Result<(), ConnectorError> {
        let common = Arc::clone(&self.common);
        let witness = Witness(Arc::clone(&common));
        let span = tracing::Span::current();
        let body = move || {
            let _tells_of_a_panic = witness;
            span.in_scope(|| self.run());
        };
        let name = thread_name(&cx.job, &format!("out{}", cx.operator_id));
        let started = thread::Builder::new().name(name).spawn(body);
        started
            .map(drop)
            .map_err(|cause| common.error("cannot start its I/O thread").caused_by(cause))
    }

    /// The thread's body.
    fn run(mut self) {
        let (mut pause_ms, mut tries) = (PAUSE_MS_MIN, 0_u64);
        loop {
            match self.step() {
                Step::Worked => {
                    if tries > 0 {
                        info!("{}: goes on after {tries} attempts", self.common.name());
                        (pause_ms, tries) = (PAUSE_MS_MIN, 0);
                    }
                    self.committer.tick(Instant::now());
                }
                Step::Idle => {
                    let heard = match self.committer.tick(Instant::now()) {
                        Some(due) => self.inbox.recv_deadline(due),
                        None => self.inbox.recv().map_err(Into::into),
                    };
                    match heard {
                        Ok(message) => self.committer.hear(message),
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
                        self.committer.hear(message);
                    }
                    pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
                }
                Step::Failed | Step::Done => return,
            }
        }
    }
}

/// Tells the shards if the thread panics.
struct Witness<P: Port>(Arc<Common<P>>);

impl<P: Port> Drop for Witness<P> {
    fn drop(&mut self) {
        if thread::panicking() {
            let what = "the I/O thread ended unexpectedly; its panic message is in the log";
            self.0.fail(Trouble::Final(what.to_owned()));
        }
    }
}
