//! [`Desk`]: the thread behind the shards, in steps; and [`Office`], which all shards share.
//!
//! # Waiting
//! What can be waited out (a lock, a full disk) is tried again, after 20 ms at first and 1 s at last, and
//! logged. Meanwhile shards fill up to their limits, and then are not ready. Anything else is final.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use metrics::{Counter, counter};
use thalweg_kernel::{ConnectorError, Epoch, OpenContext};
use tracing::{info, warn};

use super::columns::Columns;
use super::database::{Applied, Database, Trouble, apply};
use super::ledger::{Ledger, Message, Work};
use super::writer::{Limits, RowWriter};

const PAUSE_MS_MIN: u64 = 20;
const PAUSE_MS_MAX: u64 = 1_000;

/// What the shards and the thread share.
pub(super) struct Common {
    pub(super) name: String,
    failure: OnceLock<String>,
    /// A shard has gone without closing: the job has ended, and may be started again.
    pub(super) gone: AtomicBool,
    ports: Mutex<Vec<Arc<Port>>>,
}

impl Common {
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        self.failure.get().map_or(Ok(()), |what| Err(ConnectorError::new(&self.name, what)))
    }

    /// Never left half-changed, so a panic elsewhere does not matter.
    pub(super) fn ports(&self) -> MutexGuard<'_, Vec<Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn fail(&self, what: String) {
        // Only the first one tells what happened.
        let _ = self.failure.set(what);
        self.ports().iter().for_each(|port| port.waker.wake_by_ref());
    }
}

/// What the thread has done for one instance in this run.
pub(super) struct Port {
    pub(super) instance: u16,
    /// What was recovered is applied.
    pub(super) recovered: AtomicBool,
    /// All of this epoch is applied, and of those before it.
    pub(super) upto: AtomicU64,
    /// Rows that were applied, and the bytes of their notes.
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) waker: Waker,
}

/// What all instances of a sink share: put it into the registry of their contexts.
pub struct Office {
    to_desk: flume::Sender<Message>,
    common: Arc<Common>,
}

impl Office {
    /// Starts the thread. `name` is the sink's, for errors: kind and address.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start<D: Database>(
        name: String,
        cx: &OpenContext,
        database: D,
    ) -> Result<Self, ConnectorError> {
        let (office, desk) = Self::new(name, cx, database);
        thread::Builder::new()
            .name(format!("sql-out-{}", cx.operator_id))
            .spawn(move || desk.run())
            .map_err(|cause| {
                ConnectorError::new(&office.common.name, "cannot start its I/O thread")
                    .caused_by(cause)
            })?;
        Ok(office)
    }

    /// The office, and the desk for the caller to step.
    pub fn new<D: Database>(name: String, cx: &OpenContext, database: D) -> (Self, Desk<D>) {
        // Unbounded as a channel: what is under way is bounded by what the instances may hold.
        let (to_desk, inbox) = flume::unbounded();
        let common = Arc::new(Common {
            name,
            failure: OnceLock::new(),
            gone: AtomicBool::new(false),
            ports: Mutex::new(Vec::new()),
        });
        let desk = Desk {
            database,
            ledger: Ledger::new(cx.instances),
            inbox,
            common: Arc::clone(&common),
            current: None,
            alone: false,
            meters: Meters::new(cx),
        };
        (Self { to_desk, common }, desk)
    }

    /// The instance on the shard of `cx`. Held back for epochs if the job takes checkpoints, unless it
    /// is to be `at_least_once`.
    pub fn open<T>(
        &self,
        cx: &OpenContext,
        columns: Columns<T>,
        limits: Limits,
        at_least_once: bool,
    ) -> RowWriter<T> {
        let port = Arc::new(Port {
            instance: cx.shard as u16,
            recovered: AtomicBool::new(false),
            upto: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waker: cx.waker.clone(),
        });
        self.common.ports().push(Arc::clone(&port));
        let holds = cx.durability.checkpoints && !at_least_once;
        let (to_desk, common) = (self.to_desk.clone(), Arc::clone(&self.common));
        RowWriter::new(columns, limits, holds, port, to_desk, common, &cx.durability)
    }
}

/// Counters, labelled with job and operator.
struct Meters {
    rows: Counter,
    refused: Counter,
    skipped: Counter,
    transactions: Counter,
    waits: Counter,
}

impl Meters {
    fn new(cx: &OpenContext) -> Self {
        let make = |name: &'static str| counter!(name, "job" => cx.job.to_string(), "operator" => cx.operator.to_string());
        Self {
            rows: make("thalweg_sql_rows_total"),
            refused: make("thalweg_sql_refused_rows_total"),
            skipped: make("thalweg_sql_skipped_notes_total"),
            transactions: make("thalweg_sql_transactions_total"),
            waits: make("thalweg_sql_waits_total"),
        }
    }
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was applied: step again.
    Applied,
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
pub struct Desk<D> {
    database: D,
    ledger: Ledger,
    inbox: flume::Receiver<Message>,
    common: Arc<Common>,
    current: Option<Work>,
    /// The shards have gone.
    alone: bool,
    meters: Meters,
}

impl<D: Database> Desk<D> {
    /// Hears what the shards have said, and applies one piece of work.
    pub fn step(&mut self) -> Step {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => self.ledger.take(message),
                Err(flume::TryRecvError::Empty) => break,
                Err(flume::TryRecvError::Disconnected) => {
                    self.alone = true;
                    break;
                }
            }
        }
        let common = Arc::clone(&self.common);
        let gone = move || common.gone.load(SeqCst);
        // Whoever comes next finds it in the notes, but for what is in none.
        let work = if gone() {
            self.current.take().filter(Work::is_direct).or_else(|| self.ledger.direct_work())
        } else {
            self.current.take().or_else(|| self.ledger.next_work())
        };
        let Some(work) = work else {
            let done = gone() || self.alone || self.ledger.all_closed();
            return if done { Step::Done } else { Step::Idle };
        };
        let result = if work.is_empty() {
            Ok(Some(Applied::default()))
        } else {
            apply(&mut self.database, &work, &gone)
        };
        match result {
            Ok(Some(applied)) => {
                self.tell(&work, &applied);
                self.settle(&work);
                Step::Applied
            }
            Ok(None) => Step::Done,
            Err(Trouble::Wait(why)) => {
                self.meters.waits.increment(1);
                self.current = Some(work);
                if self.alone || gone() { Step::Done } else { Step::Waits(why) }
            }
            Err(Trouble::Final(why)) => {
                self.common.fail(why);
                Step::Failed
            }
        }
    }

    fn tell(&self, work: &Work, applied: &Applied) {
        let name = &self.common.name;
        if !work.is_empty() {
            self.meters.transactions.increment(1);
        }
        self.meters.rows.increment(applied.written.rows);
        self.meters.refused.increment(applied.written.refused);
        self.meters.skipped.increment(applied.skipped);
        for (instance, epoch) in &applied.forgotten {
            warn!(
                "{name}: holds results up to epoch {epoch} of instance {instance}, but the job \
                 resumes from epoch {}: results of later epochs are written again",
                work.upto
            );
        }
        if !work.notes.is_empty() && work.restored.is_some() {
            info!(
                "{name}: committed again up to epoch {}: {} rows; {} notes had been applied",
                work.upto, applied.written.rows, applied.skipped
            );
        }
    }

    /// Lets the shards know.
    fn settle(&self, work: &Work) {
        let ports = self.common.ports();
        for port in ports.iter() {
            let mine = work.notes.iter().filter(|held| held.id.instance == port.instance);
            // What an earlier run has written does not count as held in this one.
            let mine = mine.filter(|_| work.restored.is_none());
            let direct = work.direct.iter().filter(|direct| direct.instance == port.instance);
            let mine = mine.map(|held| (held.rows, held.note.len()));
            let (rows, bytes) = mine
                .chain(direct.map(|direct| (direct.rows, direct.note.len())))
                .fold((0, 0), |(rows, bytes), (more, len)| (rows + more, bytes + len as u64));
            port.rows.fetch_add(rows, SeqCst);
            port.bytes.fetch_add(bytes, SeqCst);
            port.upto.store(work.upto.number(), SeqCst);
            port.recovered.store(true, SeqCst);
            port.waker.wake_by_ref();
        }
    }

    /// The thread's body.
    fn run(mut self) {
        let _tells_of_a_panic = Witness(Arc::clone(&self.common));
        let (mut pause_ms, mut tries) = (PAUSE_MS_MIN, 0_u64);
        loop {
            match self.step() {
                Step::Applied if tries > 0 => {
                    info!("{}: goes on after {tries} attempts", self.common.name);
                    (pause_ms, tries) = (PAUSE_MS_MIN, 0);
                }
                Step::Applied => {}
                Step::Idle => match self.inbox.recv() {
                    Ok(message) => self.ledger.take(message),
                    Err(_) => self.alone = true,
                },
                Step::Waits(why) => {
                    tries += 1;
                    if tries.is_power_of_two() {
                        warn!("{}: waits: {why} (attempt {tries})", self.common.name);
                    }
                    let until = Instant::now() + Duration::from_millis(pause_ms);
                    while let Ok(message) = self.inbox.recv_deadline(until) {
                        self.ledger.take(message);
                    }
                    pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
                }
                Step::Failed | Step::Done => return,
            }
        }
    }
}

/// Tells the shards if the thread panics.
struct Witness(Arc<Common>);

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            let what = "the I/O thread ended unexpectedly; its panic message is in the log";
            self.0.fail(what.to_owned());
        }
    }
}

/// The epoch up to which a port's instance is applied.
pub(super) fn upto(port: &Port) -> Epoch {
    Epoch::new(port.upto.load(SeqCst))
}
