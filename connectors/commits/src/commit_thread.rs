//! [`CommitThread`]: the thread behind the shards, in steps. A [`Committer`] says what is done in them.
//!
//! # Waiting
//! What can be waited out (a lock, a full disk, a server that is away) is logged and tried again. The pause
//! is 20 ms at first and 1 s at last. Meanwhile shards fill up to their limits, and then are not ready.
//! Anything else ends this attempt of the job, and what every attempt would meet again ends the job.

use std::num::NonZeroU64;
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
        let mut patience = Patience::new();
        loop {
            match self.step() {
                Step::Worked => {
                    if let Some(tries) = patience.worked() {
                        info!("{}: goes on after {tries} attempts", self.common.name());
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
                    let (pause, told) = patience.waits();
                    if let Some(tries) = told {
                        warn!("{}: waits: {why} (attempt {tries})", self.common.name());
                    }
                    let until = Instant::now() + pause;
                    while let Ok(message) = self.inbox.recv_deadline(until) {
                        self.committer.hear(message);
                    }
                }
                Step::Failed | Step::Done => return,
            }
        }
    }
}

/// How long the thread waits after attempts in vain, and when the log is told.
#[derive(Debug)]
struct Patience {
    pause_ms: u64,
    tries: u64,
}

impl Patience {
    const fn new() -> Self {
        Self { pause_ms: PAUSE_MS_MIN, tries: 0 }
    }

    /// One more attempt was in vain: the pause after it, and its number if the log is to be told.
    fn waits(&mut self) -> (Duration, Option<u64>) {
        self.tries += 1;
        let pause = Duration::from_millis(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
        (pause, Some(self.tries).filter(|tries| tries.is_power_of_two()))
    }

    /// An attempt worked: how many were in vain before it, if any.
    fn worked(&mut self) -> Option<NonZeroU64> {
        NonZeroU64::new(std::mem::replace(self, Self::new()).tries)
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc;
    use std::task::{Wake, Waker};

    use super::*;

    const HANGS: Duration = Duration::from_secs(60);

    /// Tells of each call.
    struct Bell(mpsc::Sender<String>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send("woken".into());
        }
    }

    struct Waiting(Waker);

    impl Port for Waiting {
        fn waker(&self) -> &Waker {
            &self.0
        }
    }

    /// Answers as it was told to, and says what it was asked.
    struct Scripted {
        answers: VecDeque<Result<Progress, Trouble>>,
        said: mpsc::Sender<String>,
        due: Option<Instant>,
    }

    impl Committer for Scripted {
        type Message = &'static str;
        type Port = Waiting;

        fn hear(&mut self, message: &'static str) {
            let _ = self.said.send(format!("heard {message}"));
        }

        fn work(&mut self, alone: bool) -> Result<Progress, Trouble> {
            let _ = self.said.send(if alone { "works alone" } else { "works" }.into());
            self.answers.pop_front().unwrap()
        }

        fn tick(&mut self, _: Instant) -> Option<Instant> {
            let _ = self.said.send("ticks".into());
            self.due
        }
    }

    type Made = (CommitThread<Scripted>, flume::Sender<&'static str>, mpsc::Receiver<String>);

    fn made(answers: impl Into<VecDeque<Result<Progress, Trouble>>>) -> Made {
        let (to_thread, inbox) = flume::unbounded();
        let (said, heard) = mpsc::channel();
        let common = Common::new("fake t".into());
        common.enter(Waiting(Arc::new(Bell(said.clone())).into()));
        let committer = Scripted { answers: answers.into(), said, due: None };
        (CommitThread::new(committer, inbox, common), to_thread, heard)
    }

    fn wait() -> Result<Progress, Trouble> {
        Err(Trouble::Wait("busy".into()))
    }

    fn context() -> OpenContext {
        let mut engine = crate::model::Engine::default();
        engine.contexts(1, Waker::noop(), &mut crate::model::Random::new(1)).remove(0)
    }

    #[test]
    fn what_can_be_waited_out_is_given_up_once_nobody_is_there() {
        let (mut thread, to_thread, _heard) = made([wait(), wait()]);
        assert_eq!(thread.step(), Step::Waits("busy".into()));
        thread.common.leave();
        assert_eq!(thread.step(), Step::Done);
        let (mut thread, _to_thread, _heard) = made([wait()]);
        thread.alone = true;
        assert_eq!(thread.step(), Step::Done);
        drop(to_thread);
        let (mut thread, to_thread, heard) = made([wait()]);
        to_thread.send("last words").unwrap();
        drop(to_thread);
        assert_eq!(thread.step(), Step::Done);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["heard last words", "works alone"]);
    }

    #[test]
    fn what_is_final_is_told_to_every_shard() {
        let (mut thread, _to_thread, heard) = made([Err(Trouble::Final("no such table".into()))]);
        assert_eq!(thread.common.check().map_err(|error| error.to_string()), Ok(()));
        assert_eq!(thread.step(), Step::Failed);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["works", "woken"]);
        let error = thread.common.check().unwrap_err();
        assert_eq!((error.to_string(), error.lasting), ("fake t: no such table".into(), false));
        thread.common.fail(Trouble::Lasting("later".into()));
        assert!(!thread.common.check().unwrap_err().lasting, "the first one tells what happened");
    }

    /// Goal: the thread hears what is said while it waits, and ends when it is done.
    #[test]
    fn the_thread_works_until_it_is_done() {
        let answers =
            [wait(), Ok(Progress::Worked), Ok(Progress::Idle), wait(), Ok(Progress::Done)];
        let (thread, to_thread, heard) = made(answers);
        let began = Instant::now();
        thread.start(&context()).unwrap();
        let next = || heard.recv_timeout(HANGS).unwrap();
        assert_eq!(
            [next(), next(), next(), next(), next()],
            ["works", "works", "ticks", "works", "ticks"]
        );
        to_thread.send("go on").unwrap();
        assert_eq!([next(), next(), next()], ["heard go on", "works", "works"]);
        assert!(began.elapsed() >= Duration::from_millis(2 * PAUSE_MS_MIN), "it has waited twice");
        assert_eq!(
            heard.recv_timeout(HANGS),
            Err(mpsc::RecvTimeoutError::Disconnected),
            "it is gone"
        );
    }

    /// Goal: a committer that has something to do at a time is called then, although nobody speaks.
    #[test]
    fn the_thread_wakes_up_when_something_is_due() {
        let (mut thread, to_thread, heard) = made([Ok(Progress::Idle), Ok(Progress::Done)]);
        thread.committer().due = Some(Instant::now() + Duration::from_millis(1));
        thread.start(&context()).unwrap();
        let all: Vec<_> = heard.iter().collect();
        assert_eq!(all, ["works", "ticks", "works"]);
        drop(to_thread);
    }

    #[test]
    fn a_thread_that_nobody_can_speak_to_knows_that_it_is_alone() {
        let (thread, to_thread, heard) = made([Ok(Progress::Idle), Ok(Progress::Done)]);
        thread.start(&context()).unwrap();
        let next = || heard.recv_timeout(HANGS).unwrap();
        assert_eq!([next(), next()], ["works", "ticks"]);
        drop(to_thread);
        assert_eq!(next(), "works alone");
    }

    #[test]
    fn a_panic_of_the_thread_is_a_failure_of_the_sink() {
        let (thread, _to_thread, heard) = made([]);
        let common = Arc::clone(&thread.common);
        thread.start(&context()).unwrap();
        let next = || heard.recv_timeout(HANGS).unwrap();
        assert_eq!([next(), next()], ["works", "woken"]);
        let error = common.check().unwrap_err().to_string();
        assert!(error.contains("ended unexpectedly"), "{error}");
    }

    #[test]
    fn pauses_grow_and_the_log_is_told_less_and_less() {
        let mut patience = Patience::new();
        assert_eq!(patience.worked(), None);
        let waited: Vec<_> = (0..8).map(|_| patience.waits()).collect();
        let pauses: Vec<_> = waited.iter().map(|(pause, _)| pause.as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        let told: Vec<_> = waited.iter().filter_map(|(_, told)| *told).collect();
        assert_eq!(told, [1, 2, 4, 8]);
        assert_eq!(patience.worked(), NonZeroU64::new(8));
        assert_eq!(patience.waits(), (Duration::from_millis(20), Some(1)));
    }
}
