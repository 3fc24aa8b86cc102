//! The timers of windows that each key has of its own: by which they end, and those of their triggers.

use thalweg_kernel::{Epoch, Key, Timestamp};

use super::in_window::InWindow;
use crate::checkpoint::Checkpoints;
use crate::flow::Flow;
use crate::pipeline::Budget;
use crate::process::timers::{BothTimers, Spent};
use crate::state::TimeDomain;

/// See the module.
pub(super) struct WindowTimers<K>(BothTimers<InWindow<K>>);

impl<K: Key> WindowTimers<K> {
    /// The timers of `node`, registered as states of it.
    pub(super) fn new(flow: &Flow, node: u32) -> Self {
        Self(BothTimers::new(flow, node))
    }

    /// Sets a timer; `hash` is the one of `at` for tables.
    pub(super) fn set(&self, domain: TimeDomain, time: Timestamp, hash: u64, at: &InWindow<K>) {
        let timers = match domain {
            TimeDomain::EventTime => &self.0.event,
            TimeDomain::ProcessingTime => &self.0.processing,
        };
        timers.borrow_mut().insert(time, hash, at);
    }

    /// Takes out the earliest timer of a domain, if it is not after `until`.
    ///
    /// # Errors
    /// If there is one and the budget is spent.
    pub(super) fn pop_due(
        &self,
        domain: TimeDomain,
        until: Timestamp,
        budget: &Budget,
    ) -> Result<Option<(Timestamp, InWindow<K>)>, Spent> {
        let timers = match domain {
            TimeDomain::EventTime => &self.0.event,
            TimeDomain::ProcessingTime => &self.0.processing,
        };
        timers.borrow_mut().pop_due(until, budget)
    }

    /// The watermark that will make a timer due.
    pub(super) fn due_by_events(&self) -> Option<Timestamp> {
        self.0.event.borrow_mut().timers.earliest()
    }

    /// When this machine's clock will make a timer due.
    pub(super) fn due_by_clock(&self) -> Option<Timestamp> {
        self.0.processing.borrow_mut().timers.earliest()
    }

    /// Hands over what has changed.
    pub(super) fn take(&self, checkpoints: &Checkpoints, epoch: Epoch) {
        checkpoints.take(&*self.0.event, epoch);
        checkpoints.take(&*self.0.processing, epoch);
    }
}
