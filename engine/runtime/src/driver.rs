//! The drivers, and what they share: how shard threads are started, pinned and stepped.

pub(crate) mod affinity;
mod glommio;
pub(crate) mod kind;
mod probe;
pub(crate) mod sim;
mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thalweg_flow::{BuildContext, Flow, Now, Shard, Step, Storage};
use thalweg_kernel::{ConnectorError, Shared, Str, Tasks, message_of_panic, thread_name};

use crate::clock::wall_clock;
use crate::config::RuntimeConfig;
use crate::driver::kind::DriverKind;
use crate::driver::sim::Simulation;
use crate::error::JobError;
use crate::metrics::{self, PUBLISH_EVERY, Publisher, REPUBLISH_EVERY};
use crate::protocol::{Follower, Phase, Report, SETTLE_MAX};
use crate::running::{Attempt, Control, News};
use crate::signal::Signal;

/// A shard sleeps at most this long: drivers need a time, and nobody needs this one.
const SLEEP_MAX: Duration = Duration::from_secs(60 * 60);

/// The simulation that `config` asks for, if it does.
pub(crate) fn simulation(config: &RuntimeConfig) -> Option<Simulation> {
    match config.driver {
        DriverKind::Simulated { seed } => Some(Simulation::new(seed)),
        DriverKind::Auto | DriverKind::Glommio | DriverKind::Threads => None,
    }
}

/// A job's description, to be called on every shard.
pub(crate) type Describe = Arc<dyn Fn(&Flow) + Send + Sync>;

/// A job's shards on threads of their own: one life of it.
pub(crate) struct Shards {
    pub(crate) attempt: Arc<Attempt>,
    threads: Vec<JoinHandle<()>>,
}

/// What a life of a job needs to know.
pub(crate) struct Spec<'a> {
    pub(crate) job: &'a Str,
    pub(crate) describe: &'a Describe,
    pub(crate) config: &'a RuntimeConfig,
    pub(crate) driver: DriverKind,
    pub(crate) control: &'a Arc<Control>,
    pub(crate) storage: Option<Storage>,
}

impl Shards {
    /// Starts a thread for each shard. Each reports when it is built and when it has ended.
    pub(crate) fn start(spec: &Spec<'_>, news: &flume::Sender<News>) -> Result<Self, JobError> {
        let Spec { job, describe, config, driver, control, storage } = spec;
        let signals: Vec<_> = (0..config.shards).map(|_| Arc::<Signal>::default()).collect();
        let wakers: Arc<[_]> = signals.iter().map(Signal::waker).collect::<Vec<_>>().into();
        let attempt = Arc::new(Attempt::new(Arc::clone(&wakers), news.clone()));
        let shared = Arc::<Shared>::default();
        let cores = if config.pin {
            affinity::of_each_shard(&config.cores, config.shards)
        } else {
            Vec::new()
        };
        let mut shards = Self { attempt: Arc::clone(&attempt), threads: Vec::new() };
        for (shard, signal) in signals.into_iter().enumerate() {
            let cx = BuildContext {
                job: (*job).clone(),
                shard,
                wakers: Arc::clone(&wakers),
                tasks: None,
                shared: Arc::clone(&shared),
                key_groups: config.key_groups,
                tuning: config.tuning,
                storage: storage.clone(),
            };
            let seat = Seat {
                shard,
                core: cores.get(shard).copied(),
                spin: config.spin,
                signal,
                attempt: Arc::clone(&attempt),
                control: Arc::clone(control),
            };
            let (describe, driver) = (Arc::clone(describe), *driver);
            let run = move || run_shard(cx, &describe, seat, driver);
            let thread =
                thread::Builder::new().name(thread_name(job, &format!("s{shard}"))).spawn(run);
            match thread {
                Ok(thread) => shards.threads.push(thread),
                Err(error) => {
                    attempt.enter(Phase::Aborting);
                    shards.join();
                    let reason = format!("cannot start a thread for shard {shard}: {error}");
                    return Err(JobError::Driver { driver, reason });
                }
            }
        }
        Ok(shards)
    }

    /// Waits for the threads to end.
    pub(crate) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // Whatever panicked there was caught and reported.
            let _ = thread.join();
        }
    }
}

/// No shard outlives its supervisor, however that ends.
impl Drop for Shards {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.attempt.enter(Phase::Aborting);
            self.join();
        }
    }
}

/// Whether the driver of `config` works on this machine, and which one it is.
pub(crate) fn decided(config: &RuntimeConfig) -> Result<DriverKind, JobError> {
    decide(config.driver)
}

/// Settles [`DriverKind::Auto`].
fn decide(driver: DriverKind) -> Result<DriverKind, JobError> {
    match driver {
        // Measured: see ARCHITECTURE.md.
        DriverKind::Auto => Ok(DriverKind::Threads),
        DriverKind::Glommio => match probe::io_uring() {
            Ok(()) => Ok(driver),
            Err(reason) => {
                let reason = format!("{reason}; use `auto` or `threads` instead");
                Err(JobError::Driver { driver, reason })
            }
        },
        DriverKind::Threads => Ok(driver),
        DriverKind::Simulated { .. } => Err(JobError::Driver {
            driver,
            reason: "it runs a job to its end on the calling thread; use `Job::run_with`".into(),
        }),
    }
}

/// What log lines of a job's threads say of it. Entered once for each thread.
pub(crate) fn job_span(job: &str) -> tracing::Span {
    // Of the highest level, so that it is there whatever is logged.
    tracing::error_span!("job", name = job)
}

/// Where a shard runs and how it waits.
struct Seat {
    shard: usize,
    /// The thread's own core. It is not pinned before the shard is built. The threads that sources and sinks start would inherit
    /// that core, and compete with the shard for it.
    core: Option<usize>,
    spin: Duration,
    signal: Arc<Signal>,
    attempt: Arc<Attempt>,
    control: Arc<Control>,
}

/// Sinks have not shown all results of the last checkpoint in time.
#[cold]
fn tell_unsettled() {
    tracing::warn!(
        "results of the last checkpoint have not all reached their sinks in {} s; the next start delivers them",
        SETTLE_MAX.as_secs()
    );
}

/// Drops what is left of the tasks of a shard: with the shard they have lost their purpose.
struct EndsTasks(Tasks);

impl Drop for EndsTasks {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The life of a shard's thread.
fn run_shard(mut cx: BuildContext, describe: &Describe, seat: Seat, driver: DriverKind) {
    let (shard, attempt) = (seat.shard, Arc::clone(&seat.attempt));
    let _in_every_line = tracing::error_span!(parent: &job_span(&cx.job), "shard", shard).entered();
    let life = || -> Result<(), JobError> {
        cx.tasks = match driver {
            // It has no call that waits for somebody else's descriptor.
            DriverKind::Glommio => None,
            _ => Some(threads::tasks()?),
        };
        // After the shard, which sees its connections off.
        let _dropped_at_last = cx.tasks.clone().map(EndsTasks);
        let stepped = Stepped::new(Shard::build(&**describe, &cx)?, &cx, seat);
        attempt.report(shard, Report::Built);
        match &cx.tasks {
            None => glommio::drive(stepped),
            Some(tasks) => Ok(threads::drive(stepped, tasks)?),
        }
    };
    let ended = match catch_unwind(AssertUnwindSafe(life)) {
        Ok(ended) => ended,
        Err(panic) => Err(JobError::Panicked { shard, message: message_of_panic(&*panic) }),
    };
    attempt.report(shard, Report::Ended(ended));
}

/// What is left to do after a turn.
enum Turn {
    /// Take another one at once.
    Again,
    /// Sleep until the signal is raised, for this long at most.
    Sleep(Duration),
    /// The shard is done.
    End,
}

/// A shard with everything a driver does around each step: the clock, the orders of the job, and
/// publishing.
struct Stepped {
    shard: Shard,
    follower: Follower,
    seat: Seat,
    publisher: Publisher,
    started: Instant,
    /// The steady time of the next publishing, while there is anything to publish.
    publish_at: Option<Duration>,
    /// It has said why sources wait, in this life,
    has_told: bool,
    /// and that state is over its limit.
    has_told_over: bool,
}

impl Stepped {
    fn new(shard: Shard, cx: &BuildContext, seat: Seat) -> Self {
        let publisher = Publisher::new(&cx.job, seat.shard, shard.metrics());
        let (started, publish_at) = (Instant::now(), Some(Duration::ZERO));
        let follower = Follower::default();
        let (has_told, has_told_over) = (false, false);
        Self { shard, follower, seat, publisher, started, publish_at, has_told, has_told_over }
    }

    /// Takes a turn. The driver has taken the signal's flag down; `woken` says whether it was up. Something beside the shard is
    /// due at `due_at`, or as soon as `has_come` says so. The last turn publishes: what the job has done stands in its last
    /// numbers.
    fn turn(
        &mut self,
        woken: bool,
        due_at: Option<Instant>,
        has_come: impl FnMut() -> bool,
    ) -> Result<Turn, ConnectorError> {
        let due_at = due_at.map(|at| at.saturating_duration_since(self.started));
        let turn = self.step(woken, due_at, has_come);
        if !matches!(turn, Ok(Turn::Again | Turn::Sleep(_))) {
            self.publish(self.now());
            self.seat.control.tell_times(&self.shard, self.seat.shard, true);
            self.publisher.tell(&self.shard);
        }
        turn
    }

    fn now(&self) -> Now {
        Now { wall: wall_clock(), steady: self.started.elapsed() }
    }

    /// Steps once and does what is due around it.
    fn step(
        &mut self,
        woken: bool,
        due_at: Option<Duration>,
        has_come: impl FnMut() -> bool,
    ) -> Result<Turn, ConnectorError> {
        let Self { shard, follower, seat, .. } = self;
        if follower.obey(&seat.attempt.orders(), shard)? {
            return Ok(Turn::End);
        }
        let now = self.now();
        let Self { shard, follower, seat, .. } = self;
        let mut pressed = false;
        let step = follower.step(shard, now, |report| {
            pressed |= matches!(report, Report::Pressed);
            seat.attempt.report(seat.shard, report);
        })?;
        if pressed {
            self.tell_pressed();
        }
        let is_due = self.publish_at.is_some_and(|at| now.steady >= at);
        // A step that was taken to publish, and for nothing else, has changed no number.
        if woken || step == Step::Busy || !is_due {
            let soon = now.steady + PUBLISH_EVERY;
            self.publish_at = Some(self.publish_at.map_or(soon, |at| at.min(soon)));
        }
        if is_due {
            self.publish(now);
        }
        Ok(match step {
            Step::Done => {
                if self.follower.has_given_up() {
                    tell_unsettled();
                }
                Turn::End
            }
            Step::Busy => Turn::Again,
            Step::Idle(at) => {
                let longest = now.steady + SLEEP_MAX;
                let times = [at, self.publish_at, due_at].into_iter().flatten();
                self.wait(times.fold(longest, Duration::min), has_come)
            }
        })
    }

    /// State is short of memory.
    #[cold]
    fn tell_pressed(&mut self) {
        if self.shard.is_full() && !self.has_told {
            self.has_told = true;
            tracing::warn!(
                "sources wait for state to be stored: it changes faster than that, or \
                 state_pending_bytes_max is small (accumulateStateBackPressuredTimeMs counts it; said once)"
            );
        }
    }

    /// State takes more memory than it may.
    #[cold]
    fn tell_over(&mut self) {
        self.has_told_over = true;
        tracing::warn!(
            "state takes more memory than it may, and storage cannot make it less: timers, lists of operators, \
             or keys with very many entries; the job goes on. Give it more state_memory_bytes_max, or fewer of \
             them (stateBytesOverLimit says by how much; said once)"
        );
    }

    /// How to wait until a steady time: spinning while the time for it lasts, then asleep.
    fn wait(&self, until: Duration, has_come: impl FnMut() -> bool) -> Turn {
        let left = until.saturating_sub(self.started.elapsed());
        if self.seat.signal.spin(self.seat.spin.min(left), has_come) {
            return Turn::Again;
        }
        let left = until.saturating_sub(self.started.elapsed());
        if left.is_zero() { Turn::Again } else { Turn::Sleep(left) }
    }

    fn publish(&mut self, now: Now) {
        self.publish_at = metrics::is_served().then(|| now.steady + REPUBLISH_EVERY);
        if self.shard.is_over_limit() && !self.has_told_over {
            self.tell_over();
        }
        let told = self.publisher.publish(&self.shard, now.steady);
        let times = self.seat.control.tell_times(&self.shard, self.seat.shard, false);
        let times = times.map(|pause| now.steady.saturating_add(pause));
        for at in [told, times].into_iter().flatten() {
            self.publish_at = Some(self.publish_at.map_or(at, |before| before.min(at)));
        }
        self.seat.control.board.post(self.seat.shard, self.shard.metrics(), now.wall);
        if self.seat.shard == 0 {
            self.seat.control.publish();
        }
    }
}
