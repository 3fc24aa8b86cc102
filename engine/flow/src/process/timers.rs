//! The timers of a process function, in both time domains: counted, bounded, and part of every checkpoint.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Epoch, Key, StateError, StateId, StateKind, Timestamp, ValueDamaged};

use crate::checkpoint::{Checkpoints, Description, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::flow::Flow;
use crate::state::Overflow;
use crate::state::timers::{Inserted, Timers};

/// An operator has at most so many timers of each kind on a shard; one more is counted
/// (`numTimersOverLimitDropped`) and not registered.
pub const TIMERS_MAX: usize = 10_000_000;

/// The timers of one time domain.
pub(super) struct OneTimers<K> {
    pub(super) timers: Timers<K>,
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
        Self { timers, id, checkpoints: Rc::clone(checkpoints), over_limit }
    }

    pub(super) fn insert(&mut self, time: Timestamp, hash: u64, key: &K) {
        if self.timers.insert(time, hash, key.clone()) == Inserted::Refused {
            self.over_limit.add(1);
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
