//! What a keyed process function is told of the record or timer at hand, and where it sets timers.

use thalweg_kernel::{Key, Timestamp};

use super::timers::BothTimers;

/// What a process function is told of the record or timer at hand.
pub struct Context<'a, K> {
    pub(crate) key: &'a K,
    /// The key's hash for tables.
    pub(crate) hash: u64,
    pub(crate) time: Timestamp,
    pub(crate) watermark: Timestamp,
    /// The event time that has been dealt with: the watermark, or while timers fire, the time of the latest.
    pub(crate) reached: Timestamp,
    pub(crate) processing_time: Timestamp,
    pub(super) timers: &'a mut BothTimers<K>,
}

impl<K: Key> Context<'_, K> {
    /// The key.
    #[inline]
    pub fn key(&self) -> &K {
        self.key
    }

    /// The record's event time, or the time for which the timer was set.
    #[inline]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The watermark: no record of this time or an earlier one is expected any more.
    #[inline]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// This machine's clock, as of the step.
    #[inline]
    pub fn processing_time(&self) -> Timestamp {
        self.processing_time
    }

    /// Sets a timer of this key in event time.
    pub fn event_timer(&mut self, time: Timestamp) {
        self.timers.event.borrow_mut().insert(time, self.hash, self.key);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_event_timer(&mut self, time: Timestamp) {
        self.timers.event.borrow_mut().delete(time, self.hash, self.key);
    }

    /// Sets a timer of this key by this machine's clock.
    pub fn processing_timer(&mut self, time: Timestamp) {
        self.timers.processing.borrow_mut().insert(time, self.hash, self.key);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_processing_timer(&mut self, time: Timestamp) {
        self.timers.processing.borrow_mut().delete(time, self.hash, self.key);
    }
}
