//! [`Running`]: the handle of a started job, and what its shards are asked to do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use thalweg_flow::Shard;
use thalweg_kernel::Epoch;

use crate::clock::wall_clock;
use crate::driver::kind::DriverKind;
use crate::error::JobError;
use crate::metrics::{Board, CheckpointStats, JobPublisher, Snapshot};
use crate::protocol::{self, Doze, Orders, Phase, Report};
use crate::times::Times;

/// How often whoever waits for a savepoint looks whether the job is still there.
const ANSWER_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who waits for a savepoint, and where it is to be written.
pub(crate) struct Savepoint {
    pub(crate) path: PathBuf,
    /// Dropped if there will be none.
    pub(crate) answer: flume::Sender<Result<Epoch, JobError>>,
}

/// What the supervisor is told.
///
/// Its queue has no bound of its own. A shard has at most one report of each kind on its way, and whoever asks for
/// a savepoint waits for the answer.
pub(crate) type News = protocol::News<Savepoint>;

/// One life of a job: what its shards share with the supervisor. Only the supervisor gives orders.
pub(crate) struct Attempt {
    phase: AtomicU8,
    begun: AtomicU64,
    stored: AtomicU64,
    oldest: AtomicU64,
    last: AtomicU64,
    doze: Doze,
    wakers: Arc<[Waker]>,
    news: flume::Sender<News>,
}

impl Attempt {
    pub(crate) fn new(wakers: Arc<[Waker]>, news: flume::Sender<News>) -> Self {
        let Orders { begun, phase, stored, oldest, last } = Orders::FIRST;
        Self {
            phase: AtomicU8::new(phase as u8),
            begun: AtomicU64::new(begun.number()),
            stored: AtomicU64::new(stored.number()),
            oldest: AtomicU64::new(oldest.number()),
            last: AtomicU64::new(last.number()),
            doze: Doze::new(wakers.len()),
            wakers,
            news,
        }
    }

    /// What is ordered. The order of reads is that of [`Orders::phase`]: what was ordered before an epoch began is
    /// seen by whoever sees that it has.
    #[inline]
    pub(crate) fn orders(&self) -> Orders {
        let begun = Epoch::new(self.begun.load(Ordering::Acquire));
        let phase = match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Suspending,
            2 => Phase::Draining,
            _ => Phase::Aborting,
        };
        let stored = Epoch::new(self.stored.load(Ordering::Acquire));
        let oldest = Epoch::new(self.oldest.load(Ordering::Relaxed));
        let last = Epoch::new(self.last.load(Ordering::Relaxed));
        Orders { begun, phase, stored, oldest, last }
    }

    /// Orders `epoch` to begin, as the last one or not.
    pub(crate) fn begin(&self, epoch: Epoch, last: bool) {
        self.doze.end();
        if last {
            self.last.store(epoch.number(), Ordering::Relaxed);
        }
        self.begun.store(epoch.number(), Ordering::Release);
        self.wake();
    }

    pub(crate) fn announce(&self, stored: Epoch, oldest: Epoch) {
        self.oldest.store(oldest.number(), Ordering::Relaxed);
        self.stored.store(stored.number(), Ordering::Release);
        self.wake();
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.wake();
    }

    /// Orders shards to report when they move; one that has moved already, if there is one.
    pub(crate) fn doze(&self) -> Option<usize> {
        self.doze.begin()
    }

    /// Tells the supervisor, which outlives the shards.
    pub(crate) fn report(&self, shard: usize, report: Report) {
        if report.passes(&self.doze, shard) {
            let _ = self.news.send(News::Shard(shard, report));
        }
    }

    fn wake(&self) {
        self.wakers.iter().for_each(Waker::wake_by_ref);
    }
}

/// What a job shares with its handle.
pub(crate) struct Control {
    news: flume::Sender<News>,
    stateful: bool,
    ended: AtomicBool,
    error: Mutex<Option<JobError>>,
    stats: Mutex<CheckpointStats>,
    publisher: Mutex<JobPublisher>,
    pub(crate) board: Board,
    /// What is told of times in the log.
    times: Mutex<Times>,
}

impl Control {
    pub(crate) fn new(job: &str, shards: usize, stateful: bool, news: flume::Sender<News>) -> Self {
        Self {
            publisher: Mutex::new(JobPublisher::new(job)),
            news,
            stateful,
            ended: AtomicBool::new(false),
            error: Mutex::default(),
            stats: Mutex::default(),
            board: Board::new(shards),
            times: Mutex::default(),
        }
    }

    /// Asks the job for `phase`.
    fn ask(&self, phase: Phase) {
        let _gone = self.news.send(News::Wish(phase));
    }

    /// The supervisor has ended.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// The job ends with `error`.
    pub(crate) fn fail(&self, error: JobError) {
        locked(&self.error).get_or_insert(error);
    }

    /// Publishes the job's own numbers.
    pub(crate) fn publish(&self) {
        let stats = *self.stats();
        locked(&self.publisher).publish(stats);
    }

    /// Tells what a shard has noticed of times. When it is to be called again, if it has kept anything back.
    pub(crate) fn tell_times(
        &self,
        shard: &Shard,
        number: usize,
        is_last: bool,
    ) -> Option<Duration> {
        locked(&self.times).tell(shard, number, is_last)
    }

    pub(crate) fn stats(&self) -> MutexGuard<'_, CheckpointStats> {
        locked(&self.stats)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A job that has been started. Dropping the handle aborts the job.
#[must_use = "dropping the handle aborts the job; call `wait`"]
pub struct Running {
    control: Arc<Control>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    driver: DriverKind,
}

impl Running {
    pub(crate) fn new(
        control: Arc<Control>,
        supervisor: JoinHandle<()>,
        driver: DriverKind,
    ) -> Self {
        Self { control, supervisor: Mutex::new(Some(supervisor)), driver }
    }

    /// The driver that runs it: [`DriverKind::Auto`] has been decided.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Asks for an orderly end: sources stop, everything in flight reaches the sinks, open windows
    /// fire. Returns at once; [`wait`](Self::wait) returns when it is done.
    pub fn stop(&self) {
        self.stopper().stop();
    }

    /// Asks for an end from which the job can go on. Nothing more is taken from the sources, one more
    /// epoch is stored, and windows stay open. A job without stored state is stopped instead.
    pub fn suspend(&self) {
        self.stopper().suspend();
    }

    /// A handle that can stop or abort the job from elsewhere, such as a signal handler.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.control))
    }

    /// Whether the job has ended.
    pub fn is_finished(&self) -> bool {
        self.control.ended.load(Ordering::Acquire)
    }

    /// The metrics as the shards last published them: at most about a second after they have changed, and at their ends.
    pub fn snapshot(&self) -> Snapshot {
        self.control.board.snapshot((!self.is_finished()).then(wall_clock))
    }

    /// The checkpoints so far.
    pub fn checkpoints(&self) -> CheckpointStats {
        *self.control.stats()
    }

    /// Takes a checkpoint now and writes it as a savepoint at `path`; its epoch. Waits for it.
    ///
    /// # Errors
    /// If the job has no stored state or has ended, or the savepoint cannot be written: the job goes on.
    pub fn savepoint(&self, path: &Path) -> Result<Epoch, JobError> {
        self.save(path, false)
    }

    /// [Suspends](Self::suspend) the job, and writes the epoch that it ends with as a savepoint at `path`: nothing
    /// comes after it.
    ///
    /// # Errors
    /// As for [`savepoint`](Self::savepoint); the job ends nevertheless.
    pub fn suspend_with_savepoint(&self, path: &Path) -> Result<Epoch, JobError> {
        self.save(path, true)
    }

    fn save(&self, path: &Path, last: bool) -> Result<Epoch, JobError> {
        if !self.control.stateful {
            let what = "the job has no state directory, so there is nothing to save";
            return Err(JobError::Storage(what.into()));
        }
        let (answer, answered) = flume::bounded(1);
        let savepoint = Savepoint { path: path.to_owned(), answer };
        let _gone = self.control.news.send(News::Savepoint(savepoint, last));
        loop {
            match answered.recv_timeout(ANSWER_LOOK_EVERY) {
                Ok(answer) => return answer,
                // The question may lie in a queue that nobody reads any more.
                Err(flume::RecvTimeoutError::Timeout) if !self.is_finished() => {}
                Err(_) => {
                    let what = "the job has ended, or is being started again";
                    return Err(JobError::Storage(what.into()));
                }
            }
        }
    }

    /// Waits for the end of the job and returns its last metrics.
    ///
    /// # Errors
    /// What the job has failed with; [`JobError::Aborted`] if the job was aborted.
    pub fn wait(self) -> Result<Snapshot, JobError> {
        self.join()
    }

    /// The same for a handle that is shared. One caller gets the error.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn join(&self) -> Result<Snapshot, JobError> {
        self.join_supervisor();
        match locked(&self.control.error).take() {
            Some(error) => Err(error),
            None => Ok(self.control.board.snapshot(None)),
        }
    }

    fn join_supervisor(&self) {
        let mut supervisor = locked(&self.supervisor);
        if let Some(supervisor) = supervisor.take()
            && supervisor.join().is_err()
        {
            let message = "its supervisor did".into();
            self.control.fail(JobError::Panicked { shard: 0, message });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if locked(&self.supervisor).is_some() {
            self.stopper().abort();
            self.join_supervisor();
        }
    }
}

/// Stops a job from elsewhere. See [`Running::stopper`].
#[derive(Clone)]
pub struct Stopper(Arc<Control>);

impl Stopper {
    /// As [`Running::stop`].
    pub fn stop(&self) {
        self.0.ask(Phase::Draining);
    }

    /// As [`Running::suspend`]; whether the job has stored state, and so is not just stopped.
    pub fn suspend(&self) -> bool {
        self.0.ask(if self.0.stateful { Phase::Suspending } else { Phase::Draining });
        self.0.stateful
    }

    /// Ends the job without draining it.
    pub fn abort(&self) {
        self.0.ask(Phase::Aborting);
    }
}
