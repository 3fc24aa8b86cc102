//! The timers of a process function, in both time domains: counted, bounded, and part of every checkpoint.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Epoch, Key, StateError, StateId, StateKind, Timestamp, ValueDamaged};

use crate::checkpoint::{Checkpoints, Description, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::flow::Flow;
use crate::pipeline::Budget;
use crate::state::Overflow;
use crate::state::timers::{Inserted, Timers};

/// An operator has at most so many timers of each kind on a shard; one more is counted
/// (`numTimersOverLimitDropped`) and not registered.
pub const TIMERS_MAX: usize = 10_000_000;

/// The timers of one time domain.
pub(crate) struct OneTimers<K> {
    pub(crate) timers: Timers<K>,
    /// Those that are set while the last ones fire: see [`begin_end`](Self::begin_end).
    after_end: Option<Timers<K>>,
    /// Whether all of a key can be deleted.
    knows_keys: bool,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    over_limit: Counter,
}

pub(crate) struct BothTimers<K> {
    pub(crate) event: Rc<RefCell<OneTimers<K>>>,
    pub(crate) processing: Rc<RefCell<OneTimers<K>>>,
}

impl<K: Key> BothTimers<K> {
    /// The timers of `node`, registered as states of it.
    pub(crate) fn new(flow: &Flow, node: u32, overflow: Overflow) -> Self {
        let over_limit = flow.counter("numTimersOverLimitDropped", node);
        let timers = |name| {
            let timers = OneTimers::new(flow.checkpoints(), over_limit.clone(), overflow);
            let timers = Rc::new(RefCell::new(timers));
            let describe = Description::of::<K, ()>(node, name, StateKind::Timers);
            flow.checkpoints().register(describe, Some(Rc::clone(&timers) as _));
            timers
        };
        Self { event: timers("event timers"), processing: timers("processing timers") }
    }
}

impl<K: Key> OneTimers<K> {
    fn new(checkpoints: &Rc<Checkpoints>, over_limit: Counter, overflow: Overflow) -> Self {
        let knows_keys = overflow == Overflow::EvictLeastRecentlyUsed;
        Self {
            timers: timers(knows_keys),
            after_end: None,
            knows_keys,
            id: StateId::of("", ""),
            checkpoints: Rc::clone(checkpoints),
            over_limit,
        }
    }

    pub(crate) fn insert(&mut self, time: Timestamp, hash: u64, key: &K) {
        let timers = match &mut self.after_end {
            Some(_) if self.timers.contains(time, hash, key) => return,
            Some(after_end) => after_end,
            None => &mut self.timers,
        };
        if timers.insert(time, hash, key.clone()) == Inserted::Refused {
            self.over_limit.add(1);
        }
    }

    pub(crate) fn delete(&mut self, time: Timestamp, hash: u64, key: &K) {
        if !self.timers.delete(time, hash, key)
            && let Some(after_end) = &mut self.after_end
        {
            after_end.delete(time, hash, key);
        }
    }

    /// Takes out the earliest timer, if it is not after `until`.
    ///
    /// # Errors
    /// If there is one and the budget is spent.
    #[inline]
    pub(crate) fn pop_due(
        &mut self,
        until: Timestamp,
        budget: &Budget,
    ) -> Result<Option<(Timestamp, K)>, Spent> {
        if budget.is_spent() && self.timers.earliest().is_some_and(|time| time <= until) {
            return Err(Spent);
        }
        Ok(self.timers.pop_due(until))
    }

    /// At the end of time every timer is due, and one that sets the next would go on for ever. So what is set
    /// from now on is kept apart, for the day when the stream goes on.
    pub(crate) fn begin_end(&mut self) {
        let knows_keys = self.knows_keys;
        self.after_end.get_or_insert_with(|| timers(knows_keys));
    }

    /// Deletes all timers of a key.
    pub(crate) fn delete_key(&mut self, hash: u64, key: &K) {
        for timers in [&mut self.timers].into_iter().chain(&mut self.after_end) {
            timers.delete_key(hash, key);
        }
    }
}

/// No timers yet; `knows_keys` says that all of a key can be deleted.
fn timers<K: Key>(knows_keys: bool) -> Timers<K> {
    let timers = Timers::new(TIMERS_MAX);
    if knows_keys { timers.known_by_key() } else { timers }
}

/// A timer is due, and the budget of the step is spent.
pub(crate) struct Spent;

impl<K: Key> Stateful for OneTimers<K> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        stored.own(id, &mut |_, rest, _| Ok(self.timers.restore(rest)?))
    }

    fn snapshot(&mut self, _epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        for timers in [&mut self.timers].into_iter().chain(&mut self.after_end) {
            timers.snapshot(self.id, self.checkpoints.groups(), &mut out.changes);
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.timers.memory_bytes() + self.after_end.as_ref().map_or(0, Timers::memory_bytes)
    }
}
