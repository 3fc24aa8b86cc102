//! The drivers, and what they share: how shard threads are started, pinned and stepped.

mod glommio;
mod probe;
pub(crate) mod sim;
mod threads;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use core_affinity::CoreId;
use thalweg_flow::{BuildContext, Now, Shard, Step};
use thalweg_kernel::{ConnectorError, Shared, Str, Timestamp, time::millis};

use crate::config::{DriverKind, RuntimeConfig};
use crate::driver::sim::Simulation;
use crate::job::Describe;
use crate::metrics::{PUBLISH_EVERY, Publisher};
use crate::running::{Control, JobError, Phase, Running};
use crate::signal::Signal;

/// The simulation that `config` asks for, if it does.
pub(crate) fn simulation(config: &RuntimeConfig) -> Option<Simulation> {
    match config.driver {
        DriverKind::Simulated { seed } => Some(Simulation::new(seed)),
        DriverKind::Auto | DriverKind::Glommio | DriverKind::Threads => None,
    }
}

/// Starts a job on one thread per shard.
pub(crate) fn start(
    job: Str,
    describe: Describe,
    config: &RuntimeConfig,
) -> Result<Running, JobError> {
    config.validate()?;
    let driver = decide(config.driver)?;
    let signals: Vec<_> = (0..config.shards).map(|_| Arc::<Signal>::default()).collect();
    let wakers = signals.iter().map(Signal::waker).collect::<Vec<_>>().into();
    let control = Arc::new(Control::new(Arc::clone(&wakers)));
    let shared = Arc::<Shared>::default();
    let cores = cores(config);
    let (built, all_built) = flume::bounded(config.shards);
    // From here on, an early return drops the handle, and that ends the shards already started.
    let mut running = Running::new(Arc::clone(&control), driver);
    for (shard, signal) in signals.into_iter().enumerate() {
        let cx = BuildContext {
            job: job.clone(),
            shard,
            wakers: Arc::clone(&wakers),
            shared: Arc::clone(&shared),
            key_groups: config.key_groups,
            tuning: config.tuning,
            storage: None,
        };
        let seat = Seat {
            shard,
            core: cores.get(shard).copied(),
            spin: config.spin,
            signal,
            control: Arc::clone(&control),
        };
        let describe = Arc::clone(&describe);
        let built = built.clone();
        let run = move || run_shard(&cx, &describe, seat, driver, &built);
        let thread = thread::Builder::new().name(format!("shard-{shard}")).spawn(run);
        running.adopt(thread.map_err(|error| JobError::Driver {
            driver,
            reason: format!("cannot start a thread for shard {shard}: {error}"),
        })?);
    }
    drop(built);
    let ready = all_built.iter().take(config.shards).count();
    if ready < config.shards {
        // Some shard failed, and with it the job; `wait` joins them all and tells the first error.
        return Err(running.wait().err().unwrap_or(JobError::Aborted));
    }
    let shards = config.shards;
    tracing::info!(job = %job, shards, %driver, pinned = !cores.is_empty(), "job started");
    Ok(running)
}

/// Settles [`DriverKind::Auto`].
fn decide(driver: DriverKind) -> Result<DriverKind, JobError> {
    match driver {
        DriverKind::Auto => Ok(match probe::io_uring() {
            Ok(()) => DriverKind::Glommio,
            Err(reason) => {
                tracing::warn!(%reason, "io_uring is not usable: running on plain threads");
                DriverKind::Threads
            }
        }),
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

/// The cores to pin shards to; none if shards are not to be pinned.
fn cores(config: &RuntimeConfig) -> Vec<CoreId> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if config.pin && config.shards <= cores.len() { cores } else { Vec::new() }
}

/// Where a shard runs and how it waits.
struct Seat {
    shard: usize,
    core: Option<CoreId>,
    spin: Duration,
    signal: Arc<Signal>,
    control: Arc<Control>,
}

impl Seat {
    /// Pins this thread. Not before the shard is built: the I/O threads that sources and sinks
    /// start would inherit the one core and compete with the shard for it.
    fn pin(&self) {
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core)
        {
            tracing::warn!(shard = self.shard, core = core.id, "cannot pin the shard to its core");
        }
    }
}

/// The life of a shard's thread.
fn run_shard(
    cx: &BuildContext,
    describe: &Describe,
    seat: Seat,
    driver: DriverKind,
    built: &flume::Sender<()>,
) {
    let (shard, control) = (seat.shard, Arc::clone(&seat.control));
    let life = || -> Result<(), JobError> {
        let stepped = Stepped::new(Shard::build(&**describe, cx)?, cx, seat);
        // The receiver waits for every shard, so it is there.
        let _ = built.send(());
        match driver {
            DriverKind::Glommio => glommio::drive(stepped),
            _ => Ok(threads::drive(stepped)?),
        }
    };
    let error = match catch_unwind(AssertUnwindSafe(life)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => JobError::Panicked { shard, message: message_of(&*panic) },
    };
    control.fail(error);
}

/// The message of a caught panic.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
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

/// A shard with everything a driver does around each step: the clock, the phase of the job, and
/// publishing.
struct Stepped {
    shard: Shard,
    seat: Seat,
    publisher: Publisher,
    begun: Instant,
    /// The steady time of the next publishing.
    publish_at: Duration,
    draining: bool,
}

impl Stepped {
    fn new(shard: Shard, cx: &BuildContext, seat: Seat) -> Self {
        let publisher = Publisher::new(&cx.job, seat.shard, shard.metrics());
        let (begun, publish_at) = (Instant::now(), Duration::ZERO);
        Self { shard, seat, publisher, begun, publish_at, draining: false }
    }

    /// Steps once and does what is due around it.
    fn turn(&mut self) -> Result<Turn, ConnectorError> {
        self.seat.signal.clear();
        match self.seat.control.phase() {
            Phase::Running => {}
            Phase::Draining if self.draining => {}
            Phase::Draining => {
                self.draining = true;
                self.shard.stop();
            }
            Phase::Aborting => return Ok(Turn::End),
        }
        let now = Now { wall: wall_clock(), steady: self.begun.elapsed() };
        let step = self.shard.step(now)?;
        self.publish_if_due(now, step == Step::Done);
        Ok(match step {
            Step::Done => Turn::End,
            Step::Busy => Turn::Again,
            Step::Idle(at) => self.wait(at.map_or(self.publish_at, |at| at.min(self.publish_at))),
        })
    }

    /// How to wait until a steady time: spinning while the time for it lasts, then asleep.
    fn wait(&self, until: Duration) -> Turn {
        let left = until.saturating_sub(self.begun.elapsed());
        if self.seat.signal.spin(self.seat.spin.min(left)) {
            return Turn::Again;
        }
        let left = until.saturating_sub(self.begun.elapsed());
        if left.is_zero() { Turn::Again } else { Turn::Sleep(left) }
    }

    /// Publishes if it is time.
    fn publish_if_due(&mut self, now: Now, last: bool) {
        if now.steady < self.publish_at && !last {
            return;
        }
        self.publish_at = now.steady + PUBLISH_EVERY;
        self.publisher.publish(&self.shard);
        self.seat.control.board.post(self.seat.shard, self.shard.metrics(), now.wall);
    }
}

/// This machine's clock.
fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_millis(since_epoch.map_or(0, millis))
}
