//! The timers of a process function, in both time domains: counted, bounded, and part of every checkpoint.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Epoch, Key, StateError, StateId, StateKind, Timestamp, ValueDamaged};

use crate::checkpoint::{Checkpoints, Description, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::flow::Flow;
use crate::state::Overflow;
use crate::state::timers::{Inserted, Timers};
use crate::table_hash::table_hash;

/// An operator has at most so many timers of each kind on a shard; one more is counted
/// (`numTimersOverLimitDropped`) and not registered.
pub const TIMERS_MAX: usize = 10_000_000;

/// The timers of one time domain.
pub(super) struct OneTimers<K> {
    pub(super) timers: Timers<K>,
    /// Those that are set while the last ones fire: see [`begin_end`](Self::begin_end).
    after_end: Option<Timers<K>>,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    over_limit: Counter,
}

pub(super) struct BothTimers<K> {
    pub(super) event: Rc<RefCell<OneTimers<K>>>,
    pub(super) processing: Rc<RefCell<OneTimers<K>>>,
}

impl<K: Key> BothTimers<K> {
    /// The timers of `node`, registered as states of it.
    pub(super) fn new(flow: &Flow, node: u32, overflow: Overflow) -> Self {
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
        let (mut timers, id) = (Timers::new(TIMERS_MAX), StateId::of("", ""));
        if overflow == Overflow::EvictLeastRecentlyUsed {
            timers = timers.known_by_key();
        }
        let checkpoints = Rc::clone(checkpoints);
        Self { timers, after_end: None, id, checkpoints, over_limit }
    }

    pub(super) fn insert(&mut self, time: Timestamp, hash: u64, key: &K) {
        let timers = match &mut self.after_end {
            Some(_) if self.timers.contains(time, hash, key) => return,
            Some(after_end) => after_end,
            None => &mut self.timers,
        };
        if timers.insert(time, hash, key.clone()) == Inserted::Refused {
            self.over_limit.add(1);
        }
    }

    pub(super) fn delete(&mut self, time: Timestamp, hash: u64, key: &K) {
        if !self.timers.delete(time, hash, key)
            && let Some(after_end) = &mut self.after_end
        {
            after_end.delete(time, hash, key);
        }
    }

    /// At the end of time every timer is due, and one that sets the next would go on for ever. So what is set
    /// from now on is kept apart, until the last of those that are there has fired.
    pub(super) fn begin_end(&mut self) {
        self.after_end = Some(Timers::new(TIMERS_MAX));
    }

    /// What was set since then is there for the day when the stream goes on.
    pub(super) fn finish_end(&mut self) {
        let Some(mut after_end) = self.after_end.take() else { return };
        while let Some((time, key)) = after_end.pop_due(Timestamp::MAX) {
            self.insert(time, table_hash(&key), &key);
        }
    }
}

impl<K: Key> Stateful for OneTimers<K> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        stored.own(id, &mut |_, rest, _| Ok(self.timers.restore(rest)?))
    }

    fn snapshot(&mut self, _epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        self.timers.snapshot(self.id, self.checkpoints.groups(), &mut out.changes);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.timers.memory_bytes()
    }
}
