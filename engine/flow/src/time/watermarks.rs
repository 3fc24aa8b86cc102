//! Watermark strategies. They say which field is the event time, and how far out of order or ahead
//! of the clock records may be. They say when a silent partition stops counting.
//!
//! A watermark follows every record that moves it, so lateness is decided record by record,
//! whatever the batch size. Where it stands is a [generator](super::generator)'s to say.
//!
//! The **clock guard** keeps a device whose clock is far ahead from making the whole fleet late. A
//! record further ahead of this machine's clock than the guard allows never moves a watermark. It
//! becomes a dead letter. A clock that is fast by less than the guard still makes others late, by that
//! much, unless time is [held to the clock](Watermarks::held_to_clock). Set the guard to what your devices' clocks can be
//! trusted with. While this machine's own
//! clock is behind, as before its first time synchronisation, the guard refuses everything. A strategy may
//! [wait](Watermarks::wait_for_clock) for that.
//!
//! Silence is measured in steady time: a jump of this machine's clock makes no partition idle.

use std::marker::PhantomData;
use std::time::Duration;

use thalweg_kernel::{ConnectorError, Str, Timestamp, time::millis};

use super::generator::{BoundedDisorder, Periodic, Punctuated};

/// The default clock guard: five minutes.
pub(crate) const CLOCK_GUARD_MS: i64 = 5 * 60 * 1_000;

/// Tells a record's event time.
pub trait EventTime<T>: 'static {
    /// Whether the time comes from the record, and so from a clock that may be wrong: the clock
    /// guard looks at those only.
    const FROM_RECORD: bool = true;

    /// Whether it tells who sent a record.
    const NAMES: bool = false;

    /// The event time of `value`, which was received at `received`.
    fn of(&self, value: &T, received: Timestamp) -> Timestamp;

    /// Who sent `value`, for the log.
    fn name(&self, _value: &T) -> Option<Str> {
        None
    }
}

/// Event time is when the record was received: ingestion time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received;

impl<T> EventTime<T> for Received {
    const FROM_RECORD: bool = false;

    #[inline(always)]
    fn of(&self, _value: &T, received: Timestamp) -> Timestamp {
        received
    }
}

/// Event time is what a function reads from the record.
#[derive(Clone, Copy, Debug)]
pub struct FromRecord<F, R>(F, PhantomData<fn() -> R>);

impl<T, R: Into<Timestamp> + 'static, F: Fn(&T) -> R + 'static> EventTime<T> for FromRecord<F, R> {
    #[inline(always)]
    fn of(&self, value: &T, _received: Timestamp) -> Timestamp {
        (self.0)(value).into()
    }
}

/// Event times that know who sent each record.
#[derive(Clone, Copy, Debug)]
pub struct Named<E, N>(E, N);

impl<T, E: EventTime<T>, N: Fn(&T) -> Str + 'static> EventTime<T> for Named<E, N> {
    const FROM_RECORD: bool = E::FROM_RECORD;
    const NAMES: bool = true;

    #[inline(always)]
    fn of(&self, value: &T, received: Timestamp) -> Timestamp {
        self.0.of(value, received)
    }

    #[inline]
    fn name(&self, value: &T) -> Option<Str> {
        Some((self.1)(value))
    }
}

/// A watermark strategy. Without [`timestamps`](Self::timestamps), event time is the time of
/// arrival.
#[derive(Clone, Copy, Debug)]
pub struct Watermarks<E = Received, G = BoundedDisorder> {
    pub(crate) event_time: E,
    /// Each partition has a clone of it.
    pub(crate) generator: G,
    pub(crate) idle_after: Option<Duration>,
    pub(crate) close_after: Option<Duration>,
    pub(crate) clock_guard_ms: i64,
    pub(crate) held_to_clock: bool,
    pub(crate) clock_wait: Option<Duration>,
}

impl Watermarks {
    /// Records come in order of event time; one that does not is late at once.
    pub fn monotonous() -> Self {
        Self::bounded_out_of_orderness(Duration::ZERO)
    }

    /// Records come up to `bound` behind the latest one.
    pub fn bounded_out_of_orderness(bound: Duration) -> Self {
        Self::generated_by(BoundedDisorder { lateness_ms: millis(bound) })
    }

    /// Watermarks follow the records for which `watermark`, given a record and its event time, returns one.
    pub fn punctuated<T, F: Fn(&T, Timestamp) -> Option<Timestamp> + Clone + 'static>(
        watermark: F,
    ) -> Watermarks<Received, Punctuated<F>> {
        Self::generated_by(Punctuated(watermark))
    }

    /// Watermarks are what a [generator](crate::WatermarkGenerator) of your own says.
    pub fn generated_by<G>(generator: G) -> Watermarks<Received, G> {
        Watermarks {
            event_time: Received,
            generator,
            idle_after: None,
            close_after: None,
            clock_guard_ms: CLOCK_GUARD_MS,
            held_to_clock: false,
            clock_wait: None,
        }
    }
}

impl<G> Watermarks<Received, G> {
    /// Reads the event time, in milliseconds since the epoch, from each record.
    pub fn timestamps<T, R: Into<Timestamp>, F: Fn(&T) -> R>(
        self,
        event_time: F,
    ) -> Watermarks<FromRecord<F, R>, G> {
        self.of_parts(|_, generator| (FromRecord(event_time, PhantomData), generator))
    }
}

impl<E, G> Watermarks<E, G> {
    /// Why a strategy of `whose` cannot work.
    pub(crate) fn refused(&self, whose: &str) -> Option<ConnectorError> {
        let what = || {
            format!(
                "{whose} would count as silent without any time passing; give idle_after() a duration above zero, or leave \
                 it out"
            )
        };
        let at_once = self.idle_after == Some(Duration::ZERO);
        at_once.then(|| ConnectorError::new("job", what()))
    }

    /// The same rules for another event time or generator.
    fn of_parts<F, H>(self, parts: impl FnOnce(E, G) -> (F, H)) -> Watermarks<F, H> {
        let (event_time, generator) = parts(self.event_time, self.generator);
        Watermarks {
            event_time,
            generator,
            idle_after: self.idle_after,
            close_after: self.close_after,
            clock_guard_ms: self.clock_guard_ms,
            held_to_clock: self.held_to_clock,
            clock_wait: self.clock_wait,
        }
    }

    /// Passes watermarks on at most once in `interval`, at the end of a step. Fewer watermarks cost less; which
    /// records are late then depends on the speed of this machine too.
    #[must_use]
    pub fn every(self, interval: Duration) -> Watermarks<E, Periodic<G>> {
        self.of_parts(|event_time, generator| (event_time, Periodic::new(generator, interval)))
    }

    /// A partition that is silent for this long no longer holds the watermark back. Without it, a
    /// silent partition holds it back for ever. A job with a duration of zero is refused.
    #[must_use]
    pub fn idle_after(mut self, silence: Duration) -> Self {
        self.idle_after = Some(silence);
        self
    }

    /// Closes windows by the clock while the source is silent. Without it, the last windows wait for the next record, however
    /// long that takes.
    ///
    /// Once all partitions that a shard reads have been silent for this long, event time goes on by itself. It goes on as the
    /// clock does, from where each partition has left it. So a window that has readings closes `silence` after the last of
    /// them, or when it is over by the clock of its readings. The later one counts. Behind a backlog nobody waits for the clock,
    /// and event time goes on twelve times as fast. (A backlog is more than a day behind this machine's clock, and passes at least
    /// twice as fast.)
    ///
    /// Event time goes on only as far as something waits for it, and the watermark is part of each checkpoint. A record that
    /// comes for a window that has closed is late. So `silence` should be longer than the pauses of a source whose clock
    /// is behind. Which records are late then depends on the clock of this machine: a replay may decide otherwise.
    ///
    /// With a duration of zero, windows close as soon as they are over by the clock. Together with event times of
    /// [arrival](Received), these are windows by arrival, or by processing time.
    #[must_use]
    pub fn close_after(mut self, silence: Duration) -> Self {
        self.close_after = Some(silence);
        self
    }

    /// Says who sent a record, such as the key of its device. So the log names whose clock is ahead of this machine's, and who
    /// moved time where others are late. It costs a name for each record that moves time.
    pub fn named_by<T, N: Fn(&T) -> Str>(self, name: N) -> Watermarks<Named<E, N>, G> {
        self.of_parts(|event_time, generator| (Named(event_time, name), generator))
    }

    /// A record that is ahead of this machine's clock moves time to that clock, and no further. So a device whose clock is fast
    /// makes nobody late, and windows wait for the clock. The record itself keeps its time. Where this machine's clock is behind,
    /// windows close later by as much.
    #[must_use]
    pub fn held_to_clock(mut self) -> Self {
        self.held_to_clock = true;
        self
    }

    /// Waits with the first records while this machine's clock cannot be right, for this long at most. Records stay where they come
    /// from, or in the journal. The clock cannot be right while it shows a time before 2026. Nor can it if that time is more than the
    /// clock guard behind records which an earlier run has taken. A gateway without a battery-backed clock boots so, and the
    /// guard would refuse every record until the clock is set.
    #[must_use]
    pub fn wait_for_clock(mut self, longest: Duration) -> Self {
        self.clock_wait = Some(longest);
        self
    }

    /// How far ahead of this machine's clock an event time may be; five minutes by default.
    #[must_use]
    pub fn clock_guard(mut self, guard: Duration) -> Self {
        self.clock_guard_ms = millis(guard);
        self
    }

    /// Believes every event time, as when replaying data from the future of this machine's clock.
    #[must_use]
    pub fn without_clock_guard(mut self) -> Self {
        self.clock_guard_ms = i64::MAX;
        self
    }
}

/// How far one source partition has come, and its silence.
#[derive(Clone, Copy)]
pub(crate) struct PartitionClock {
    idle_after: Option<Duration>,
    latest: Timestamp,
    /// The first event time of this life that was news.
    first: Option<Timestamp>,
    /// The last watermark. None below it is passed on.
    watermark: Timestamp,
    /// After the latest event time while the partition speaks; the beginning of time while it is idle.
    news_from: Timestamp,
    /// The steady time of the last step that brought records, or of the first step.
    heard_at: Option<Duration>,
    idle: bool,
}

impl PartitionClock {
    pub(crate) fn new<E, G>(strategy: &Watermarks<E, G>) -> Self {
        Self {
            idle_after: strategy.idle_after,
            latest: Timestamp::MIN,
            first: None,
            watermark: Timestamp::MIN,
            news_from: Timestamp::MIN,
            heard_at: None,
            idle: false,
        }
    }

    /// The first event time of this life that was news; the latest, if none was.
    pub(crate) fn first(&self) -> Timestamp {
        self.first.unwrap_or(self.latest)
    }

    /// The latest event time so far.
    pub(crate) fn latest(&self) -> Timestamp {
        self.latest
    }

    /// The steady time of the last step that brought records, or of the first one that brought none.
    pub(crate) fn heard_at(&self) -> Option<Duration> {
        self.heard_at
    }

    /// The last watermark, or the beginning of time.
    pub(crate) fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Goes on from a latest event time.
    pub(crate) fn resume(&mut self, latest: Timestamp) {
        self.latest = latest;
    }

    /// A record before this time changes nothing: the partition speaks already, and a later time is
    /// believed. So one comparison is all that most records cost.
    #[inline(always)]
    pub(crate) fn news_from(&self) -> Timestamp {
        self.news_from
    }

    /// A poll begins in which event times up to `latest` are believed. (If the clock was set back, that
    /// is earlier than what was believed before: then every record is looked at.)
    pub(crate) fn believe(&mut self, latest: Timestamp) {
        let quiet = !self.idle && self.latest <= latest;
        self.news_from = if quiet { self.latest.plus_ms(1) } else { Timestamp::MIN };
    }

    /// Whether the partition counts as silent.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.idle
    }

    /// Records resume.
    pub(crate) fn wake(&mut self) {
        self.idle = false;
        self.news_from = self.latest.plus_ms(1);
    }

    /// Takes note of a record of this event time, and returns whether it is later than any before.
    #[inline(always)]
    pub(crate) fn observe(&mut self, event: Timestamp) -> bool {
        let later = event > self.latest;
        if later {
            self.first.get_or_insert(event);
            self.latest = event;
            self.news_from = event.plus_ms(1);
        }
        later
    }

    /// Takes note of a watermark of the generator's, and returns whether it is above the last.
    #[inline(always)]
    pub(crate) fn advance(&mut self, watermark: Timestamp) -> bool {
        let above = watermark > self.watermark;
        if above {
            self.watermark = watermark;
        }
        above
    }

    /// Records came during the step at this steady time.
    pub(crate) fn heard(&mut self, steady: Duration) {
        self.heard_at = Some(steady);
    }

    /// Whether the partition has just fallen silent.
    pub(crate) fn falls_idle(&mut self, steady: Duration) -> bool {
        self.heard_at.get_or_insert(steady);
        let due = self.idle_at().is_some_and(|at| steady >= at);
        if due {
            self.idle = true;
            self.news_from = Timestamp::MIN;
        }
        due
    }

    /// It counts as silent from now on, whatever the time. Whether it did before.
    pub(crate) fn falls_idle_now(&mut self) -> bool {
        self.news_from = Timestamp::MIN;
        std::mem::replace(&mut self.idle, true)
    }

    /// The steady time at which it will count as silent, if it does not already and nothing comes.
    pub(crate) fn idle_at(&self) -> Option<Duration> {
        if self.idle {
            return None;
        }
        Some(self.heard_at?.saturating_add(self.idle_after?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::generator::WatermarkGenerator;

    /// The watermark behind a record of this event time, if it moved.
    fn follow(
        clock: &mut PartitionClock,
        mut generator: BoundedDisorder,
        event: i64,
    ) -> Option<Timestamp> {
        if !clock.observe(event.into()) {
            return None;
        }
        let watermark = WatermarkGenerator::<u8>::latest(&mut generator, event.into());
        watermark.filter(|&watermark| clock.advance(watermark))
    }

    #[test]
    fn a_record_at_the_bound_is_not_late() {
        let strategy = Watermarks::bounded_out_of_orderness(Duration::from_millis(5));
        let mut clock = PartitionClock::new(&strategy);
        let mut follow = |event| follow(&mut clock, strategy.generator, event);
        assert_eq!(follow(100), Some(94.into()));
        assert_eq!(follow(100), None);
        assert_eq!(follow(98), None);
        assert_eq!(follow(101), Some(95.into()));
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let strategy = Watermarks::monotonous();
        let mut clock = PartitionClock::new(&strategy);
        let mut follow = |event| follow(&mut clock, strategy.generator, event);
        assert_eq!(follow(i64::MIN), None);
        assert_eq!(follow(i64::MIN + 1), None, "the beginning of time is no news");
        assert_eq!(follow(i64::MIN + 2), Some((i64::MIN + 1).into()));
    }

    #[test]
    fn falls_idle_once_and_wakes() {
        let at = Duration::from_millis;
        let strategy = Watermarks::monotonous().idle_after(at(10));
        let mut clock = PartitionClock::new(&strategy);
        assert!(!clock.falls_idle(at(100)), "silence begins at the first step");
        assert!(!clock.falls_idle(at(109)));
        assert!(clock.falls_idle(at(110)) && clock.is_idle());
        assert!(!clock.falls_idle(at(200)));
        clock.wake();
        clock.heard(at(200));
        assert_eq!(clock.idle_at(), Some(at(210)));
    }
}
