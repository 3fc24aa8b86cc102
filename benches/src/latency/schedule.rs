//! When each message is due, and what is recorded when it arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::quantiles::Durations;

/// The streams; see the [module above](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// To the bare client.
    Bare,
    /// To the plain pipeline.
    Job,
    /// To the keyed pipeline.
    Keyed,
    /// Through the journal, state and the outbox.
    Outbox,
}

impl Stream {
    /// Those whose latency ends in a job's sink, in the order their messages are sent.
    pub const TO_SINK: &[Self] = &[Self::Bare, Self::Job, Self::Keyed];
    /// Those whose latency ends where a result is received, in the order their messages are sent.
    pub const TO_RESULT: &[Self] = &[Self::Bare, Self::Outbox];

    /// The topic of its messages.
    pub const fn topic(self) -> &'static str {
        match self {
            Self::Bare => "thalweg-bench/bare",
            Self::Job => "thalweg-bench/job",
            Self::Keyed => "thalweg-bench/keyed",
            Self::Outbox => "thalweg-bench/outbox",
        }
    }

    /// The topic of what comes of its messages through the broker: itself, or results.
    pub const fn results(self) -> &'static str {
        match self {
            Self::Outbox => "thalweg-bench/results",
            _ => self.topic(),
        }
    }
}

/// Which messages are sent when.
#[derive(Debug)]
pub struct Schedule {
    streams: &'static [Stream],
    begin: OnceLock<Instant>,
    period: Duration,
    /// The messages of each stream that are not recorded: the first ones.
    warm_up: u64,
    /// The messages of each stream.
    count: u64,
}

impl Schedule {
    /// `rate` messages a second on each of these streams, for `seconds` after a warm-up of a second.
    pub fn new(streams: &'static [Stream], rate: u32, seconds: f64) -> Self {
        let warm_up = u64::from(rate);
        let count = warm_up + (f64::from(rate) * seconds).ceil() as u64;
        let period = Duration::from_secs(1) / rate.max(1);
        Self { streams, begin: OnceLock::new(), period, warm_up, count }
    }

    /// The streams.
    pub fn streams(&self) -> &'static [Stream] {
        self.streams
    }

    /// The messages of each stream.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them are recorded, if none is lost.
    pub fn recorded(&self) -> u64 {
        self.count - self.warm_up
    }

    /// The first message is due now.
    pub fn begin(&self) {
        self.begin.get_or_init(Instant::now);
    }

    /// When message `n` of a stream is due, the streams evenly offset; `None` before the beginning and after the
    /// last one.
    #[inline]
    pub fn due(&self, stream: Stream, n: u64) -> Option<Instant> {
        if n >= self.count {
            return None;
        }
        let place = self.streams.iter().position(|of| *of == stream)?;
        let offset = self.period * place as u32 / self.streams.len() as u32;
        let periods = Duration::from_nanos(self.period.as_nanos() as u64 * n);
        self.begin.get().map(|begin| *begin + periods + offset)
    }

    /// As [`Self::due`], for the messages that are recorded.
    #[inline]
    fn recorded_due(&self, stream: Stream, n: u64) -> Option<Instant> {
        if n < self.warm_up { None } else { self.due(stream, n) }
    }
}

/// The latencies of one stream, from all threads that receive it.
#[derive(Clone, Debug)]
pub struct Tally {
    durations: Arc<Mutex<Durations>>,
    recorded: Arc<AtomicU64>,
}

impl Tally {
    /// An empty one.
    ///
    /// # Errors
    /// As [`Durations::new`].
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { durations: Arc::new(Mutex::new(Durations::new()?)), recorded: Arc::default() })
    }

    /// Waits until `count` have been recorded, but no longer than the limit.
    pub fn wait_for(&self, messages: u64, at_most: Duration) {
        let begun = Instant::now();
        while self.recorded.load(Ordering::Relaxed) < messages && begun.elapsed() < at_most {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What has been handed in.
    pub fn take(&self) -> Durations {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One thread's recorder: hands its figures in when dropped, so recording takes no lock.
#[derive(Debug)]
pub struct Recorder {
    schedule: Arc<Schedule>,
    stream: Stream,
    durations: Durations,
    tally: Tally,
}

impl Recorder {
    /// For one receiver of `stream`.
    ///
    /// # Errors
    /// As [`Durations::new`].
    pub fn new(schedule: &Arc<Schedule>, stream: Stream, tally: &Tally) -> anyhow::Result<Self> {
        let (schedule, tally) = (Arc::clone(schedule), tally.clone());
        Ok(Self { schedule, stream, durations: Durations::new()?, tally })
    }

    /// Message `n` was received at `now`.
    #[inline]
    pub fn record(&mut self, n: u64, now: Instant) {
        if let Some(due) = self.schedule.recorded_due(self.stream, n) {
            self.durations.record(now.saturating_duration_since(due));
            self.tally.recorded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tally.durations.lock().unwrap_or_else(PoisonError::into_inner).add(&self.durations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_offset_by_a_third_of_the_period() {
        let schedule = Schedule::new(Stream::TO_SINK, 1_000, 2.0);
        assert_eq!(schedule.due(Stream::Bare, 0), None);
        schedule.begin();
        let due = |stream, n| schedule.due(stream, n).unwrap();
        let first = due(Stream::Bare, 0);
        assert_eq!(due(Stream::Job, 0) - first, Duration::from_nanos(333_333));
        assert_eq!(due(Stream::Keyed, 3) - first, Duration::from_nanos(3_666_666));
        assert_eq!((schedule.count(), schedule.recorded()), (3_000, 2_000));
        assert_eq!(schedule.due(Stream::Bare, 3_000), None);
    }

    #[test]
    fn the_warm_up_is_not_recorded_and_figures_are_handed_in_at_the_end() {
        let schedule = Arc::new(Schedule::new(Stream::TO_SINK, 10, 1.0));
        schedule.begin();
        let tally = Tally::new().unwrap();
        let mut recorder = Recorder::new(&schedule, Stream::Job, &tally).unwrap();
        for n in 0..=20 {
            let due = schedule.due(Stream::Job, n.min(19)).unwrap();
            recorder.record(n, due + Duration::from_micros(n));
        }
        assert!(tally.take().is_empty());
        drop(recorder);
        assert_eq!(tally.take().len(), 10);
        assert!((tally.take().quantiles().max_us - 19.0).abs() < 0.2);
    }
}
