//! What a process function is told of the call at hand, and what it does there: timers, side outputs, failing.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Key, Timestamp};

use super::failure::FunctionError;
use super::timers::{AllTimers, Fired, TimerSpace};
use crate::exchange::side::SideTag;
use crate::state::TimeDomain;

/// Stands for the key where there is none: in functions of streams that are not partitioned, and in calls for no
/// key in particular. It is no [`Key`], so that such a call reaches neither keyed state nor timers.
#[derive(Debug)]
pub struct NoKey(());

/// What a process function is told of the call at hand. `K` is the key, or [`NoKey`].
pub struct Context<'a, K> {
    pub(crate) key: &'a K,
    /// The key's hash for tables.
    pub(crate) hash: u64,
    pub(crate) time: Timestamp,
    pub(crate) watermark: Timestamp,
    /// The event time that has been dealt with: the watermark, or while timers fire, the time of the latest.
    pub(crate) reached: Timestamp,
    pub(crate) processing_time: Timestamp,
    pub(super) timers: Option<&'a mut AllTimers<K>>,
    pub(super) fired: Option<Fired>,
    pub(super) failure: Option<FunctionError>,
}

impl Context<'_, NoKey> {
    /// A call for no key.
    #[inline]
    pub(super) fn of_none(
        time: Timestamp,
        watermark: Timestamp,
        processing_time: Timestamp,
    ) -> Self {
        Self {
            key: &NoKey(()),
            hash: 0,
            time,
            watermark,
            reached: watermark,
            processing_time,
            timers: None,
            fired: None,
            failure: None,
        }
    }
}

impl<K> Context<'_, K> {
    /// The record's event time, or the time for which the timer was set; otherwise the watermark.
    #[inline]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The watermark: no record of this time or an earlier one is expected any more. It is that of the key where the stream
    /// has a [clock per key](crate::KeyedStream::clock_per_key), and of all keys otherwise.
    #[inline]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Whether the record at hand has come behind the watermark, when no record of its time was expected any more.
    #[inline]
    pub fn is_late(&self) -> bool {
        self.time <= self.watermark
    }

    /// This machine's clock, as of the step.
    #[inline]
    pub fn processing_time(&self) -> Timestamp {
        self.processing_time
    }

    /// Emits to a side output, with the time of the call.
    pub fn side<E>(&self, tag: &SideTag<E>, value: E) {
        tag.emit(self.time, value);
    }

    /// The call has failed: [`on_error`](crate::Stream::on_error) says what becomes of its record. The last error of a
    /// call counts, and what the function does after this still happens.
    #[cold]
    pub fn fail(&mut self, error: impl Into<FunctionError>) {
        self.failure = Some(error.into());
    }
}

impl<K: Key> Context<'_, K> {
    /// The key.
    #[inline]
    pub fn key(&self) -> &K {
        self.key
    }

    /// Which timer fires, if this call is because of one.
    #[inline]
    pub fn fired(&self) -> Option<Fired> {
        self.fired
    }

    /// Sets a timer of this key in event time.
    pub fn event_timer(&mut self, time: Timestamp) {
        self.set_timer(TimerSpace::OWN, TimeDomain::EventTime, time);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_event_timer(&mut self, time: Timestamp) {
        self.delete_timer(TimerSpace::OWN, TimeDomain::EventTime, time);
    }

    /// Sets a timer of this key by this machine's clock.
    pub fn processing_timer(&mut self, time: Timestamp) {
        self.set_timer(TimerSpace::OWN, TimeDomain::ProcessingTime, time);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_processing_timer(&mut self, time: Timestamp) {
        self.delete_timer(TimerSpace::OWN, TimeDomain::ProcessingTime, time);
    }

    /// Sets a timer of this key in a [space](crate::States::timers) of timers.
    #[inline]
    pub fn set_timer(&mut self, space: TimerSpace, domain: TimeDomain, time: Timestamp) {
        let space = if seeded(Defect::FlowTimerLosesItsSpace) { TimerSpace::OWN } else { space };
        if let Some(timers) = &self.timers {
            timers.of(space, domain).borrow_mut().insert(time, self.hash, self.key);
        }
    }

    /// Takes a timer of this key back from a space of timers, if there is one at that time.
    #[inline]
    pub fn delete_timer(&mut self, space: TimerSpace, domain: TimeDomain, time: Timestamp) {
        if let Some(timers) = &self.timers {
            timers.of(space, domain).borrow_mut().delete(time, self.hash, self.key);
        }
    }
}
