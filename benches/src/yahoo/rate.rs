//! Open loop, from memory: events come when they are due, whatever the engine does meanwhile.
//!
//! Event `i` is due `i / rate` seconds after the beginning, and its event time says so: `T0 + i * 1000 / rate` ms.
//! Windows are short ([`WINDOW_MS`] unless asked otherwise). **The latency of a row begins when the event that
//! completes its window was due. It ends when the row is in the sink's hands.** That event is the first one at or
//! after the window's end in the last of the partitions to have one. So a latency holds all that the engine is
//! responsible for: waking the source in time, the operators, the exchange, merging watermarks, and firing. It
//! also holds what queues up when the engine falls behind (no coordinated omission). It holds no waiting for the
//! window itself.
//!
//! The first fifth of the run, a second at the most, is not recorded; neither are rows that only the end
//! of the stream completes. All rows are counted, and checked.
//!
//! **Backlog.** At each poll the source is behind its schedule by some time. What counts is the least it was
//! behind within a quarter of the events. An interruption passes. A source that cannot keep up is further behind
//! in the last quarter than it ever was in the second one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use thalweg::flow::Flow;
use thalweg::kernel::{
    ConnectorError, Emit, Generated, OpenContext, PartitionId, Partitions, Source, SourceSpec,
    SourceStatus, Timestamp,
};
use thalweg::prelude::*;

use super::job::count_views;
use super::line::{Backlog, Latency, Line};
use super::spec::Spec;
use super::watch::{Observe, Watched};
use super::workload::{Ads, Answer, Event, T0_MS};
use crate::quantiles::Durations;
use crate::report::{Meter, rounded};
use crate::spin;

/// The window of a run at a rate, unless asked otherwise.
pub const WINDOW_MS: i64 = 1;

/// The first event is due this long after the first poll, so that every shard is up by then.
const LEAD: Duration = Duration::from_millis(50);

/// What is not recorded: a fifth of the events, but at most the events of a second.
const WARM_UP_SHARE: u64 = 5;

/// When each event is due.
#[derive(Debug)]
pub struct Schedule {
    begun: OnceLock<Instant>,
    rate: u64,
    events: u64,
    partitions: u64,
}

impl Schedule {
    /// Of `events` events at `rate` a second, event `i` in partition `i % partitions`.
    pub fn new(rate: u64, events: u64, partitions: usize) -> Self {
        let (rate, partitions) = (rate.max(1), partitions.max(1) as u64);
        Self { begun: OnceLock::new(), rate, events, partitions }
    }

    fn begun(&self) -> Instant {
        *self.begun.get_or_init(|| Instant::now() + LEAD)
    }

    /// How long after the beginning event `i` is due.
    #[inline]
    fn offset(&self, i: u64) -> Duration {
        Duration::from_nanos((u128::from(i) * 1_000_000_000 / u128::from(self.rate)) as u64)
    }

    /// How many events are due by now.
    #[inline]
    fn due(&self, since: Duration) -> u64 {
        // Event 0 is due at once.
        let due = since.as_nanos() * u128::from(self.rate) / 1_000_000_000 + 1;
        u64::try_from(due).unwrap_or(u64::MAX).min(self.events)
    }

    /// The event that completes a window with this end; `None` if only the end of the stream does.
    fn completing(&self, end: Timestamp) -> Option<u64> {
        let ms = u64::try_from(end.as_millis() - T0_MS).ok()?;
        let first = (u128::from(ms) * u128::from(self.rate)).div_ceil(1_000) as u64;
        let last = first + self.partitions - 1;
        (last < self.events).then_some(last)
    }

    /// The first event that is recorded.
    fn recorded_from(&self) -> u64 {
        (self.events / WARM_UP_SHARE).min(self.rate)
    }
}

/// The least time behind in each quarter, of the worst partition.
#[derive(Clone, Debug, Default)]
struct Quarters(Arc<Mutex<[Duration; 4]>>);

impl Quarters {
    fn hand_in(&self, least: &[Option<Duration>; 4]) {
        let mut worst = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (worst, least) in worst.iter_mut().zip(least) {
            *worst = (*worst).max(least.unwrap_or_default());
        }
    }

    fn backlog(&self) -> Backlog {
        let behind = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |quarter: usize| rounded(behind[quarter].as_secs_f64() * 1e3, 3);
        Backlog { behind_middle_ms: ms(1), behind_end_ms: ms(3) }
    }
}

/// A source that keeps to a schedule.
#[derive(Clone, Debug)]
struct Punctual {
    schedule: Arc<Schedule>,
    quarters: Quarters,
}

impl SourceSpec for Punctual {
    type Item = Event;
    type Partition = Due;

    fn describe(&self) -> String {
        format!("generator of {} ad events a second", self.schedule.rate)
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.schedule.partitions as usize)
    }

    fn open(&self, partition: &PartitionId, _cx: &OpenContext) -> Result<Due, ConnectorError> {
        Ok(Due {
            schedule: Arc::clone(&self.schedule),
            ads: Ads,
            next: partition.number().unwrap_or_default() as u64,
            quarters: self.quarters.clone(),
            least: [None; 4],
            stopped: false,
        })
    }
}

/// An open partition of a [`Punctual`].
struct Due {
    schedule: Arc<Schedule>,
    ads: Ads,
    next: u64,
    quarters: Quarters,
    least: [Option<Duration>; 4],
    stopped: bool,
}

impl Source for Due {
    type Item = Event;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Event>,
    ) -> Result<SourceStatus, ConnectorError> {
        let schedule = &*self.schedule;
        if self.next >= schedule.events || self.stopped {
            return Ok(SourceStatus::Ended);
        }
        let begun = schedule.begun();
        let clock = Instant::now();
        let Some(since) = clock.checked_duration_since(begun) else {
            return Ok(SourceStatus::Waiting(Some(begun - clock + schedule.offset(self.next))));
        };
        if let Some(behind) = since.checked_sub(schedule.offset(self.next)) {
            let least = &mut self.least[(self.next * 4 / schedule.events) as usize];
            *least = Some(least.map_or(behind, |least| least.min(behind)));
        }
        let due = schedule.due(since);
        let stride = schedule.partitions;
        let until = due.min(self.next.saturating_add(stride.saturating_mul(records_max as u64)));
        while self.next < until {
            let i = self.next;
            // Cheaper than by 128 bits, with equal results up to a million years of events.
            let event_time = T0_MS + (i * 1_000 / schedule.rate) as i64;
            out.record(self.ads.event(i, event_time), now, &Generated);
            self.next += stride;
        }
        if self.next >= schedule.events {
            return Ok(SourceStatus::Ended);
        }
        if self.next < due {
            return Ok(SourceStatus::Ready);
        }
        let wait = schedule.offset(self.next).saturating_sub(begun.elapsed());
        Ok(match wait {
            Duration::ZERO => SourceStatus::Ready,
            wait => SourceStatus::Waiting(Some(wait)),
        })
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.quarters.hand_in(&self.least);
    }
}

/// What all shards' sinks have seen.
type Seen = Arc<Mutex<(Answer, Durations)>>;

/// Looks at the clock for each row.
struct RowClock {
    schedule: Arc<Schedule>,
    window_ms: i64,
    answer: Answer,
    late: Durations,
    seen: Seen,
}

impl Clone for RowClock {
    fn clone(&self) -> Self {
        // Made before anything is seen, so there is nothing to count twice.
        Self {
            schedule: Arc::clone(&self.schedule),
            window_ms: self.window_ms,
            answer: self.answer,
            late: self.late.clone(),
            seen: Arc::clone(&self.seen),
        }
    }
}

impl Observe<Windowed<u64, u64>> for RowClock {
    #[inline]
    fn see(&mut self, row: Windowed<u64, u64>) {
        let now = Instant::now();
        self.answer.add(row.key, row.start.as_millis(), self.window_ms, row.value);
        let completing = self.schedule.completing(row.end);
        if let Some(i) = completing.filter(|&i| i >= self.schedule.recorded_from()) {
            let due = self.schedule.begun() + self.schedule.offset(i);
            self.late.record(now.saturating_duration_since(due));
        }
    }
}

impl Drop for RowClock {
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.merge(&self.answer);
        seen.1.add(&self.late);
    }
}

/// Runs it, in this process.
///
/// # Errors
/// If the job fails, or is too short for anything to be recorded.
pub fn run(spec: &Spec) -> anyhow::Result<Line> {
    let rate = spec.rate.unwrap_or_default();
    let noise_time = Duration::from_millis(spec.noise_ms);
    let mut noise = spin::open_loops(spec.cores, rate, noise_time)?;

    let schedule = Arc::new(Schedule::new(rate, spec.events, spec.cores));
    let quarters = Quarters::default();
    let source = Punctual { schedule: Arc::clone(&schedule), quarters: quarters.clone() };
    let seen: Seen = Arc::new(Mutex::new((Answer::default(), Durations::new()?)));
    let clock = RowClock {
        schedule,
        window_ms: spec.window_ms,
        answer: Answer::default(),
        late: Durations::new()?,
        seen: Arc::clone(&seen),
    };
    let window = spec.window();
    let shared = Mutex::new((source, Watched(clock)));
    let job = Job::new("yahoo", move |flow: &Flow| {
        let (source, sink) = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        count_views(flow, source, window, sink);
    });
    let (config, _state) = spec.config()?;
    let meter = Meter::start();
    job.run_with(&config)?;
    let spent = meter.stop();

    noise.add(&spin::open_loops(spec.cores, rate, noise_time)?);
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut line = spec.line(&seen.0, spent)?;
    line.latency = Some(Latency::new(rate, &seen.1, &noise)?);
    line.backlog = Some(quarters.backlog());
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yahoo::workload::event_times;

    #[test]
    fn a_window_is_completed_by_the_last_partition_to_pass_its_end() {
        // 2,000 events a second: events 0 and 1 are in millisecond 0, 2 and 3 in millisecond 1.
        let end = |ms: i64| Timestamp::from_millis(T0_MS + ms);
        assert_eq!(Schedule::new(2_000, 100, 1).completing(end(1)), Some(2));
        assert_eq!(Schedule::new(2_000, 100, 2).completing(end(1)), Some(3));
        assert_eq!(Schedule::new(300, 100, 1).completing(end(1)), Some(1));
        assert_eq!(Schedule::new(2_000, 100, 1).completing(end(50)), None);
        assert_eq!(event_times(2_000)(3), T0_MS + 1);
    }

    #[test]
    fn events_are_due_one_by_one() {
        let schedule = Schedule::new(1_000, 10, 1);
        assert_eq!(schedule.due(Duration::ZERO), 1);
        assert_eq!(schedule.due(Duration::from_micros(2_999)), 3);
        assert_eq!(schedule.due(Duration::from_secs(1)), 10);
        for i in 0..10 {
            assert_eq!(schedule.due(schedule.offset(i)), i + 1);
        }
    }

    #[test]
    fn a_backlog_is_that_of_the_worst_partition_at_its_best() {
        let quarters = Quarters::default();
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        quarters.hand_in(&[ms(9), ms(1), ms(2), ms(7)]);
        quarters.hand_in(&[None, ms(2), None, ms(3)]);
        let backlog = quarters.backlog();
        assert_eq!((backlog.behind_middle_ms, backlog.behind_end_ms), (2.0, 7.0));
        assert_eq!(backlog.growth_ms(), 5.0);
    }
}
