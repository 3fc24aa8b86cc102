//! [`RowCoordinator`]: what the instances of a sink into an SQL database share; and [`RowCommitter`], which applies
//! their rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::SystemTime;

use metrics::{Counter, counter};
use thalweg_kernel::{ConnectorError, DeadLetter, OpenContext, RefusedResults, Timestamp};
use tracing::{info, warn};

use crate::claim::Claim;
use crate::columns::Columns;
use crate::commit_thread::{CommitThread, Committer, Progress};
use crate::common::Common;
use crate::database::{Applied, Database, apply, check_claim};
use crate::ledger::{Ledger, Message, Work};
use crate::refused::{Refusal, Refused};
use crate::row_port::RowPort;
use crate::trouble::Trouble;
use crate::writer::{Limits, RowWriter};

/// What all instances of a sink share: put it into the registry of their contexts.
pub struct RowCoordinator {
    to_thread: flume::Sender<Message>,
    common: Arc<Common<RowPort>>,
}

impl RowCoordinator {
    /// Looks into the database, and starts the thread. `name` is the sink's, for errors: kind and address.
    ///
    /// What can be waited out is waited out by the thread.
    ///
    /// # Errors
    /// If the table is not to be written to, or its commits are another job's, or there is no thread to be
    /// had.
    pub fn start<D: Database>(
        name: String,
        cx: &OpenContext,
        mut database: D,
    ) -> Result<Self, ConnectorError> {
        match check_claim(&mut database, Claim::of(cx).as_ref()) {
            Ok(()) => {}
            Err(Trouble::Wait(why)) => warn!("{name}: waits: {why}"),
            Err(trouble) => return Err(trouble.error(&name)),
        }
        let (coordinator, thread) = Self::new(name, cx, database);
        thread.start(cx)?;
        Ok(coordinator)
    }

    /// The coordinator, and its thread for the caller to step.
    pub fn new<D: Database>(
        name: String,
        cx: &OpenContext,
        database: D,
    ) -> (Self, CommitThread<RowCommitter<D>>) {
        // Unbounded as a channel: what is under way is bounded by what the instances may hold.
        let (to_thread, inbox) = flume::unbounded();
        let common = Common::new(name);
        let committer = RowCommitter {
            database,
            claim: Claim::of(cx),
            ledger: Ledger::new(cx.instances),
            common: Arc::clone(&common),
            current: None,
            refused: 0,
            meters: Meters::new(cx),
        };
        let thread = CommitThread::new(committer, inbox, Arc::clone(&common));
        (Self { to_thread, common }, thread)
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
        let port = self.common.enter(RowPort {
            instance: cx.shard as u16,
            recovered: AtomicBool::new(false),
            upto: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            refused: RefusedResults::default(),
            waker: cx.waker.clone(),
        });
        let holds = cx.durability.checkpoints && !at_least_once;
        let (to_thread, common) = (self.to_thread.clone(), Arc::clone(&self.common));
        RowWriter::new(columns, limits, holds, port, to_thread, common, &cx.durability)
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

/// Applies rows to a database.
pub struct RowCommitter<D> {
    database: D,
    claim: Option<Claim>,
    ledger: Ledger,
    common: Arc<Common<RowPort>>,
    current: Option<Work>,
    /// The rows that were refused in this run.
    refused: u64,
    meters: Meters,
}

impl<D: Database> Committer for RowCommitter<D> {
    type Message = Message;
    type Port = RowPort;

    fn hear(&mut self, message: Message) {
        self.ledger.take(message);
    }

    /// Applies one piece of work.
    fn work(&mut self, alone: bool) -> Result<Progress, Trouble> {
        let common = Arc::clone(&self.common);
        let gone = move || common.is_gone();
        // Whoever comes next finds it in the notes, but for what is in none.
        let work = if gone() {
            self.current.take().filter(Work::is_direct).or_else(|| self.ledger.direct_work())
        } else {
            self.current.take().or_else(|| self.ledger.next_work())
        };
        let Some(work) = work else {
            let done = gone() || alone || self.ledger.all_closed();
            return Ok(if done { Progress::Done } else { Progress::Idle });
        };
        let result = if work.is_empty() {
            Ok(Some(Applied::default()))
        } else {
            apply(&mut self.database, self.claim.as_ref(), &work, &gone)
        };
        match result {
            Ok(Some(applied)) => {
                self.tell(&work, &applied);
                self.settle(&work);
                Ok(Progress::Worked)
            }
            Ok(None) => Ok(Progress::Done),
            Err(trouble) => {
                if matches!(trouble, Trouble::Wait(_)) {
                    self.meters.waits.increment(1);
                    self.current = Some(work);
                }
                Err(trouble)
            }
        }
    }
}

impl<D> RowCommitter<D> {
    fn tell(&mut self, work: &Work, applied: &Applied) {
        self.tell_refused(&applied.written.refused);
        let name = self.common.name();
        if !work.is_empty() {
            self.meters.transactions.increment(1);
        }
        self.meters.rows.increment(applied.written.rows);
        self.meters.skipped.increment(applied.skipped);
        for forgotten in &applied.forgotten {
            warn!(
                "{name}: holds results up to epoch {} of instance {}, but the job resumes from \
                 epoch {}: results of later epochs are written again",
                forgotten.epoch, forgotten.instance, work.upto
            );
        }
        if let Some(from) = &applied.taken_over {
            warn!("{name}: took over the commits of state directory {from}");
        }
        if !work.notes.is_empty() && work.restored.is_some() {
            info!(
                "{name}: committed again up to epoch {}: {} rows; {} notes had been applied",
                work.upto, applied.written.rows, applied.skipped
            );
        }
    }

    /// Logs the first row that was refused, the second, the fourth, and so on, and hands all to their shards.
    fn tell_refused(&mut self, refused: &Refused) {
        let before = self.refused;
        self.refused += refused.count;
        self.meters.refused.increment(refused.count);
        let name = self.common.name();
        if let Some(Refusal { row, why, .. }) = refused.first.first()
            && passes_power_of_two(before, self.refused)
        {
            let count = self.refused;
            warn!("{name}: a row was left out: {why}; the row: {row} ({count} so far)");
        }
        let ports = self.common.ports();
        for Refusal { instance, row, why } in &refused.first {
            // Of an earlier run it may be another's, who has opened in any case.
            let own = ports.iter().find(|port| port.instance == *instance);
            if let Some(port) = own.or(ports.first()) {
                let now = wall_clock();
                port.refused.push(DeadLetter::of_result(name, why, now, row.as_bytes()));
            }
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
}

/// Whether a count that grows from `before` to `now` reaches 1, 2, 4, 8 or a higher power of two.
const fn passes_power_of_two(before: u64, now: u64) -> bool {
    (before + 1).next_power_of_two() <= now
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_told_at_powers_of_two() {
        let told: Vec<_> =
            (0..9).filter(|&before| passes_power_of_two(before, before + 1)).collect();
        assert_eq!(told, [0, 1, 3, 7]);
        assert!(
            passes_power_of_two(4, 9) && !passes_power_of_two(4, 7) && !passes_power_of_two(4, 4)
        );
    }
}
