//! What the log says of times: who is late and who made them late, whose clock is ahead, and that windows close by the clock.
//!
//! # Idea
//! The first thing of a kind is told at once. What follows is told once in [`EVERY`], as a count with the newest
//! example, and the rest when the job ends. The shards of a job tell together, so there is one line for all. A sender whose
//! clock is ahead is named once.
//!
//! # Limits
//! At most [`NAMES_MAX`] senders are named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use thalweg_flow::{AheadRecord, LateRecord, Shard, TimeMover};
use thalweg_kernel::Str;
use thalweg_kernel::options::units::show_about;

use crate::clock::wall_clock;

/// From one line of a kind to the next.
const EVERY: Duration = Duration::from_secs(60);
/// At most this many senders are named whose clocks are ahead.
const NAMES_MAX: usize = 64;

/// A number of the shards of a job that only grows, and how much of it was told.
#[derive(Default)]
struct Told {
    shards: Vec<i64>,
    told: i64,
    at: Option<Instant>,
}

impl Told {
    fn is_now(&mut self, shard: usize, number: i64) {
        if self.shards.len() <= shard {
            self.shards.resize(shard + 1, 0);
        }
        let before = std::mem::replace(&mut self.shards[shard], number);
        if number < before {
            // The shard lives anew, and counts from the beginning.
            self.told -= before;
        }
    }

    fn total(&self) -> i64 {
        self.shards.iter().sum()
    }

    /// How many are new, if it is time to say so.
    fn due(&mut self, is_last: bool) -> Option<i64> {
        let new = self.total() - self.told;
        let is_due = is_last || self.at.is_none_or(|at| at.elapsed() >= EVERY);
        (new > 0 && is_due).then(|| {
            (self.told, self.at) = (self.total(), Some(Instant::now()));
            new
        })
    }

    /// How long what is new waits.
    fn waits(&self) -> Option<Duration> {
        let waits = || EVERY.saturating_sub(self.at?.elapsed()).into();
        (self.total() > self.told).then(waits).flatten()
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Times {
    late: Told,
    late_record: Option<LateRecord>,
    /// By shard: who has moved time there last.
    movers: BTreeMap<usize, TimeMover>,
    /// Of them, the one that had moved it furthest when the newest late record was noticed.
    late_mover: Option<TimeMover>,
    ahead: Told,
    ahead_record: Option<AheadRecord>,
    named: BTreeSet<Str>,
    records: Told,
    /// When it was looked how many records there were and were ahead: at the beginning of this minute, and of the one before.
    looks: [Option<(Instant, i64, i64)>; 2],
    has_told_by_clock: bool,
    /// By shard: sources wait for this machine's clock.
    waits_for_clock: BTreeSet<usize>,
}

impl Times {
    /// Tells what `shard` has noticed since this was called last.
    pub(crate) fn tell(&mut self, shard: &Shard, number: usize, is_last: bool) -> Option<Duration> {
        let sum = |name: &str| {
            let metrics = shard.metrics().iter().filter(|metric| metric.name == name);
            metrics.map(thalweg_flow::Metric::value).sum::<i64>()
        };
        self.late.is_now(number, sum("numLateRecordsDropped"));
        self.ahead.is_now(number, sum("numRecordsAheadOfClock"));
        self.records.is_now(number, sum("numRecordsOut"));
        let notices = shard.take_time_notices();
        if let Some(mover) = notices.mover {
            self.movers.insert(number, mover);
        }
        if notices.late.is_some() {
            self.late_record = notices.late;
            self.late_mover = self.movers.values().max_by_key(|mover| mover.time).cloned();
        }
        self.ahead_record = notices.ahead.or_else(|| self.ahead_record.take());
        if !self.has_told_by_clock && sum("numWatermarksByClock") > 0 {
            self.has_told_by_clock = true;
            tracing::info!(
                "nothing has come for a while, so windows close by the clock; what comes for them later is late. Where devices \
                 send what they have gathered, give close_after and out_of_orderness more than they gather \
                 (numWatermarksByClock counts it; said once)"
            );
        }
        self.tell_clock(number, sum("waitsForClock") > 0);
        self.tell_ahead(is_last);
        self.look();
        self.tell_late(is_last);
        [self.late.waits(), self.ahead.waits()].into_iter().flatten().min()
    }

    fn tell_clock(&mut self, shard: usize, waits: bool) {
        let before = !self.waits_for_clock.is_empty();
        if waits {
            self.waits_for_clock.insert(shard);
        } else {
            self.waits_for_clock.remove(&shard);
        }
        let now = wall_clock().iso();
        match (before, !self.waits_for_clock.is_empty()) {
            (false, true) => tracing::warn!(
                "this machine's clock says {now}, which cannot be: records wait until it is set, in the journal where there is \
                 one (clock_wait says how long at most)"
            ),
            (true, false) => tracing::info!("this machine's clock says {now}: records are taken"),
            _ => {}
        }
    }

    fn tell_ahead(&mut self, is_last: bool) {
        let record = self.ahead_record.take();
        if let Some(AheadRecord { who, by_ms }) = &record
            && self.named.len() < NAMES_MAX
            && self.named.insert(who.clone())
        {
            let by = show_about(Duration::from_millis(by_ms.unsigned_abs()));
            // What it has sent is no news any more.
            self.ahead.due(true);
            if self.most_are_ahead() {
                tracing::warn!(
                    "this machine's clock may be behind: most records are ahead of it, such as one of {who} by {by}"
                );
            } else {
                tracing::warn!(
                    "the clock of {who} is fast: a record is {by} ahead of this machine's clock and of most others (said \
                     once of each sender; numRecordsAheadOfClock counts them)"
                );
            }
            return;
        }
        self.ahead_record = record;
        if let Some(new) = self.ahead.due(is_last) {
            let total = self.ahead.total();
            let newest = self.ahead_record.take().map(|record| {
                let by = show_about(Duration::from_millis(record.by_ms.unsigned_abs()));
                format!("{} by {by}", record.who)
            });
            let newest = newest.as_deref().unwrap_or("unknown");
            tracing::warn!(new, total, newest, "records ahead of this machine's clock");
        }
    }

    /// Whether the clocks of others agree against this machine's. What came in the last minute or two counts: somebody may have
    /// set a clock before.
    fn most_are_ahead(&self) -> bool {
        let (_, ahead, records) = self.looks[1].unwrap_or((Instant::now(), 0, 0));
        2 * (self.ahead.total() - ahead) > self.records.total() - records
    }

    fn look(&mut self) {
        if self.looks[0].is_none_or(|(at, ..)| at.elapsed() >= EVERY) {
            let now = (Instant::now(), self.ahead.total(), self.records.total());
            self.looks = [Some(now), self.looks[0]];
        }
    }

    fn tell_late(&mut self, is_last: bool) {
        let Some(new) = self.late.due(is_last) else { return };
        let total = self.late.total();
        let newest = self.late_record.take().map_or_else(String::new, |late| {
            format!(
                "; the newest is of {} at {}, and windows up to {} have closed",
                late.key,
                late.time.iso(),
                late.watermark.iso()
            )
        });
        let by = match &self.late_mover {
            None => String::new(),
            Some(TimeMover { who: None, .. }) => {
                "; the clock has moved time there while nothing came (close_after)".to_owned()
            }
            Some(TimeMover { who: Some(who), time }) => {
                format!("; {who} has moved time there, with a record at {}", time.iso())
            }
        };
        tracing::warn!(new, total, "records were late, and count nowhere{newest}{by}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what came before somebody set a clock says nothing of the clocks of now.
    #[test]
    fn whose_clock_is_wrong_is_judged_by_what_came_lately() {
        let mut times = Times::default();
        times.records.is_now(0, 1_000);
        times.ahead.is_now(0, 900);
        assert!(times.most_are_ahead());
        times.look();
        times.looks = [None, times.looks[0]];
        times.records.is_now(0, 1_100);
        times.ahead.is_now(0, 901);
        assert!(!times.most_are_ahead());
    }

    #[test]
    fn what_is_new_is_told_at_once_and_then_gathers() {
        let mut told = Told::default();
        told.is_now(1, 3);
        assert_eq!((told.due(false), told.due(false), told.waits()), (Some(3), None, None));
        told.is_now(0, 4);
        assert_eq!((told.due(false), told.total()), (None, 7));
        assert!(told.waits().is_some_and(|pause| pause <= EVERY && pause > EVERY / 2));
        assert_eq!((told.due(true), told.waits()), (Some(4), None));
        told.is_now(0, 0);
        told.is_now(1, 2);
        assert_eq!(told.due(true), Some(2), "of another life");
    }
}
