//! Event time while a source is silent: it goes on by the clock.
//!
//! # Idea
//! A watermark follows from records, so the last windows of a source that falls silent would wait for its next record. A
//! strategy with [`close_after`](crate::Watermarks::close_after) lets event time go on without one. It does so once
//! all partitions that a shard reads have been silent for that long. The watermark of each goes on from where its last
//! records have left it, as this machine's clock does. So a device that sends once a minute finds its windows open, since they are not over
//! by its own clock either.
//!
//! Nobody waits for the clock of a *backlog*. Its records are more than [`OLD_MS`] old, and event time passed much faster in
//! them than on this machine. Behind one, event time goes on [`OLD_FACTOR`] times as fast. A pause in a backlog costs that many times its
//! length at most. A live device whose date is wrong is as old, and its time passes as ours does: it makes no backlog.
//!
//! # Design
//! A watermark goes only where something waits for it, and to nothing further: to the *due time* of what stands behind the
//! source (`exchange/kept.rs`). So the source needs one timer, and none if nothing is due. While it is silent, its terminal
//! watches the due time. The shard is woken when another shard waits for something else.
//! Where every mark matters, as to an operator of the user's, time goes on in steps that become longer and longer.
//!
//! The watermark is the partition's own. A barrier stores it, so what was late stays late after a restart.
//!
//! A process that was stopped, or a machine that was busy elsewhere, has heard nothing for another reason. So a timer
//! that comes more than [`AWAY`] late proves no silence: the source looks again after [`LOOK_AGAIN`].
//!
//! # Limits
//! A partition that has not had a record yet has no time that could go on. It holds the others up until it is
//! [idle](crate::Watermarks::idle_after). Sources on other shards do, too.
//! The first batch of a device whose date is wrong looks like a backlog; its next batch does not.

use std::time::Duration;

use thalweg_kernel::time::millis;
use thalweg_kernel::{Collector, Timestamp};

use super::partition::Partition;
use crate::counters::Counter;
use crate::pipeline::Now;
use crate::time::merge::Merge;

/// Records that are behind this machine's clock by more were not made a short time ago.
const OLD_MS: i64 = 24 * 60 * 60 * 1_000;
/// How much faster than the clock event time goes on behind them.
const OLD_FACTOR: i64 = 12;
/// A backlog passes more event time than this, beside twice the time that it took.
const BACKLOG_MS: i64 = 60 * 1_000;
/// A timer may come so late.
const AWAY: Duration = Duration::from_millis(500);
/// When to look again behind a timer that came later.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The first pause between two looks where every mark matters. The next one is twice as long, and so on.
const LOOK_FIRST: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Quiet {
    after: Duration,
    /// What anything waits for, if it was asked for the step that goes on.
    due: Option<Timestamp>,
    /// When it is to be stepped again at the latest.
    planned: Option<Duration>,
    /// The process was away: no silence is believed in until then, whatever else steps the source.
    not_before: Option<Duration>,
    /// The next pause where every mark matters.
    pause: Duration,
    advances: Counter,
}

impl Quiet {
    pub(super) fn new(after: Duration, advances: Counter) -> Self {
        Self { after, due: None, planned: None, not_before: None, pause: LOOK_FIRST, advances }
    }

    /// When all partitions will have been silent for long enough; `None` while one speaks, and if there is none.
    fn comes_at<S, G>(&self, partitions: &[Partition<S, G>]) -> Option<Duration> {
        let mut open = partitions.iter().filter(|partition| !partition.ended);
        let since = open.try_fold(None, |last, partition| {
            let since = partition.silent_since()?;
            Some(last.max(Some(since)))
        });
        Some(since??.saturating_add(self.after))
    }

    /// Whether they have been.
    pub(super) fn has_come<S, G>(&self, steady: Duration, partitions: &[Partition<S, G>]) -> bool {
        self.comes_at(partitions).is_some_and(|at| at <= steady)
    }

    /// The least watermark that makes anything happen.
    pub(super) fn wait_for(&mut self, due: Timestamp) {
        self.due = Some(due);
    }

    /// A partition has brought something in this step: what was due before is not what is due now.
    pub(super) fn speaks(&mut self) {
        self.due = None;
        // Also where no silence is needed, and so none is seen to begin.
        self.pause = LOOK_FIRST;
    }

    /// No partition has brought anything in this step: lets event time go on as far as it may. Whether it has, and
    /// when it may go on further.
    pub(super) fn go_on<S, G, T>(
        &mut self,
        now: Now,
        partitions: &mut [Partition<S, G>],
        merge: &mut Merge,
        out: &mut impl Collector<T>,
    ) -> (bool, Option<Duration>) {
        let (due, planned) = (self.due.take(), self.planned.take());
        let Some(comes_at) = self.comes_at(partitions) else { return (false, None) };
        if now.steady < comes_at {
            self.pause = LOOK_FIRST;
            return (false, self.plan(comes_at));
        }
        if planned.is_some_and(|at| now.steady > at.saturating_add(AWAY)) {
            self.not_before = Some(now.steady.saturating_add(LOOK_AGAIN));
        }
        if let Some(at) = self.not_before.filter(|at| now.steady < *at) {
            return (false, self.plan(at));
        }
        self.not_before = None;
        // It has just fallen silent: the next step is told what is due.
        let Some(due) = due else { return (false, self.plan(now.steady)) };
        if due == Timestamp::MIN {
            let mut moved = false;
            for partition in partitions {
                let reached = reached(now, partition).unwrap_or(Timestamp::MIN);
                moved |= partition.goes_on(reached, merge, out);
            }
            let at = now.steady.saturating_add(self.pause);
            self.pause = self.pause.saturating_mul(2);
            self.advances.add(usize::from(moved));
            return (moved, self.plan(at));
        }
        let (mut moved, mut next) = (false, None::<Duration>);
        for partition in partitions.iter_mut().filter(|partition| partition.watermark() < due) {
            let Some(reached) = reached(now, partition) else { continue };
            if reached >= due {
                moved |= partition.goes_on(due, merge, out);
            } else if due < NEVER {
                let left = due.ms_since(reached).saturating_add(factor(now, partition) - 1);
                let left = (left / factor(now, partition)).unsigned_abs();
                let at = now.steady.saturating_add(Duration::from_millis(left));
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        self.advances.add(usize::from(moved));
        (moved, next.and_then(|at| self.plan(at)))
    }

    fn plan(&mut self, at: Duration) -> Option<Duration> {
        self.planned = Some(at);
        self.planned
    }
}

/// What is due then waits for nobody here: for others, or for nothing at all.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX - 1);

/// How long a partition has been silent.
fn silent_ms<S, G>(now: Now, partition: &Partition<S, G>) -> i64 {
    millis(
        partition.silent_since().map_or(Duration::ZERO, |since| now.steady.saturating_sub(since)),
    )
}

/// How fast the time of a silent partition goes on.
fn factor<S, G>(now: Now, partition: &Partition<S, G>) -> i64 {
    let fell_silent = now.wall.minus_ms(silent_ms(now, partition));
    let is_old = fell_silent.ms_since(partition.latest()) > OLD_MS;
    let is_backlog = partition.passed().is_some_and(|(event_ms, steady)| {
        event_ms > millis(steady).saturating_mul(2).saturating_add(BACKLOG_MS)
    });
    if is_old && is_backlog { OLD_FACTOR } else { 1 }
}

/// How far the time of a silent partition has come by the clock, if it has a time.
fn reached<S, G>(now: Now, partition: &mut Partition<S, G>) -> Option<Timestamp> {
    let since = partition.silent_since()?;
    let left_at = partition.left_at(since);
    let goes_on = silent_ms(now, partition).saturating_mul(factor(now, partition));
    // The end of time is not the clock's to say.
    (left_at > Timestamp::MIN).then(|| left_at.plus_ms(goes_on).min(NEVER.minus_ms(1)))
}
