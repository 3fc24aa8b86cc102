//! The timers of a process function: counted, bounded, and part of every checkpoint.
//!
//! A timer has a domain, event time or processing time, and a *space*. Every function has a space of its own. A function
//! that is built of parts gives each part a space, so that no part gets the timers of another. Each space is stored
//! under its name, beside the state of the operator.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Epoch, Key, StateError, StateId, StateKind, Str, Timestamp, ValueDamaged};

use crate::checkpoint::{Checkpoints, Description, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::flow::Flow;
use crate::pipeline::Budget;
use crate::pressure::Takes;
use crate::state::TimeDomain;
use crate::state::timers::{Inserted, Timers, Walk};

/// An operator has at most this many timers of each domain in each space on a shard. One more is counted
/// (`numTimersOverLimitDropped`) and not registered.
pub const TIMERS_MAX: usize = 10_000_000;

/// The timers of one time domain.
pub(crate) struct OneTimers<K> {
    pub(crate) timers: Timers<K>,
    /// Timers that are set while the last ones fire: see [`begin_end`](Self::begin_end).
    after_end: Option<Timers<K>>,
    /// Whether they can be found by their keys.
    knows_keys: bool,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    over_limit: Counter,
    /// Counted with them.
    beside_bytes: usize,
}

/// The timers of one space, in both domains.
pub(crate) struct BothTimers<K> {
    pub(crate) event: Rc<RefCell<OneTimers<K>>>,
    pub(crate) processing: Rc<RefCell<OneTimers<K>>>,
}

impl<K: Key> BothTimers<K> {
    /// The timers of `node`, registered as states of it.
    pub(crate) fn new(flow: &Flow, node: u32) -> Self {
        let over_limit = flow.counter("numTimersOverLimitDropped", node);
        Self::of_space(flow, node, (false, &over_limit), "")
    }

    /// The timers of `node`, registered as states whose names end in `space`.
    fn of_space(
        flow: &Flow,
        node: u32,
        (known_by_key, over_limit): (bool, &Counter),
        space: &str,
    ) -> Self {
        let timers = |domain: &str| {
            let timers = OneTimers::new(flow.checkpoints(), over_limit.clone(), known_by_key);
            let timers = Rc::new(RefCell::new(timers));
            let name = format!("{domain}{space}");
            let describe = Description::of::<K, ()>(node, &name, StateKind::Timers);
            flow.checkpoints().register(describe, Some(Rc::clone(&timers) as _));
            timers
        };
        Self { event: timers("event timers"), processing: timers("processing timers") }
    }
}

/// A space of timers: the one that every function has, or one that it has [asked for](crate::States::timers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerSpace(usize);

impl TimerSpace {
    /// The space that every function has.
    pub const OWN: Self = Self(0);

    /// The space that was asked for as number `asked`, from 0.
    pub(crate) fn asked_for(asked: usize) -> Self {
        Self(asked + 1)
    }
}

/// Which timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Its space.
    pub space: TimerSpace,
    /// By which time it fires.
    pub domain: TimeDomain,
}

/// Where a walk over the keys of event timers goes on.
#[derive(Default)]
pub(super) struct WalkOverKeys {
    space: usize,
    from: Walk,
}

/// The timers of an operator, by space.
pub(super) struct AllTimers<K>(Vec<BothTimers<K>>);

impl<K: Key> AllTimers<K> {
    /// The timers of `node`, registered as states of it; with these spaces beside its own. `known_by_key` says that they
    /// can be found by their keys.
    pub(super) fn new(flow: &Flow, node: u32, known_by_key: bool, spaces: &[Str]) -> Self {
        let over_limit = flow.counter("numTimersOverLimitDropped", node);
        let rules = (known_by_key, &over_limit);
        let own = BothTimers::of_space(flow, node, rules, "");
        let others = spaces
            .iter()
            .map(|space| BothTimers::of_space(flow, node, rules, &format!(" of {space}")));
        Self([own].into_iter().chain(others).collect())
    }

    #[inline]
    pub(super) fn of(&self, space: TimerSpace, domain: TimeDomain) -> &Rc<RefCell<OneTimers<K>>> {
        let BothTimers { event, processing } = &self.0[space.0];
        match domain {
            TimeDomain::EventTime => event,
            TimeDomain::ProcessingTime => processing,
        }
    }

    /// The timers of all spaces, in both domains.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<RefCell<OneTimers<K>>>> {
        self.0.iter().flat_map(|space| [&space.event, &space.processing])
    }

    /// The time of the earliest timer of a domain, and its space.
    #[inline]
    pub(super) fn earliest(&self, domain: TimeDomain) -> Option<(Timestamp, TimerSpace)> {
        let spaces = (0..self.0.len()).map(TimerSpace);
        let earliest = spaces.filter_map(|space| {
            let earliest = self.of(space, domain).borrow_mut().timers.earliest();
            earliest.map(|time| (time, space))
        });
        earliest.min_by_key(|&(time, _)| time)
    }

    /// The earliest event timer of a key, and its space.
    pub(super) fn earliest_of(&self, hash: u64, key: &K) -> Option<(Timestamp, TimerSpace)> {
        let spaces = self.0.iter().enumerate().filter_map(|(space, timers)| {
            let earliest = timers.event.borrow().timers.earliest_of(hash, key);
            earliest.map(|time| (time, TimerSpace(space)))
        });
        spaces.min_by_key(|&(time, _)| time)
    }

    /// Takes out the earliest event timer of a key, if it is not after `until`.
    pub(super) fn pop_due_of(
        &self,
        hash: u64,
        key: &K,
        until: Timestamp,
    ) -> Option<(Timestamp, Fired)> {
        let (time, space) = self.earliest_of(hash, key).filter(|&(time, _)| time <= until)?;
        let domain = TimeDomain::EventTime;
        self.of(space, domain).borrow_mut().delete(time, hash, key);
        Some((time, Fired { space, domain }))
    }

    /// Gives `each` the keys of a piece of the event timers, once for each timer. Where the next piece is, if there is one.
    pub(super) fn walk_over_keys(
        &self,
        WalkOverKeys { space, from }: WalkOverKeys,
        each: impl FnMut(&K),
    ) -> Option<WalkOverKeys> {
        let timers = self.0.get(space)?.event.borrow();
        let next = timers.timers.keys_from(from, each);
        Some(next.map_or(WalkOverKeys { space: space + 1, from: Walk::default() }, |from| {
            WalkOverKeys { space, from }
        }))
    }

    /// Memory that is taken for these timers beside them.
    pub(super) fn count_beside(&self, bytes: usize) {
        self.of(TimerSpace::OWN, TimeDomain::EventTime).borrow_mut().beside_bytes = bytes;
    }

    /// Takes out the earliest timer of a domain, if it is not after `until`.
    ///
    /// # Errors
    /// If there is one and the budget is spent.
    #[inline]
    pub(super) fn pop_due(
        &self,
        domain: TimeDomain,
        until: Timestamp,
        budget: &Budget,
    ) -> Result<Option<(Timestamp, K, Fired)>, Spent> {
        let mut space = TimerSpace::OWN;
        if self.0.len() > 1 {
            let Some((_, first)) = self.earliest(domain) else { return Ok(None) };
            space = first;
        }
        let due = self.of(space, domain).borrow_mut().pop_due(until, budget)?;
        Ok(due.map(|(time, key)| (time, key, Fired { space, domain })))
    }
}

impl<K: Key> OneTimers<K> {
    fn new(checkpoints: &Rc<Checkpoints>, over_limit: Counter, knows_keys: bool) -> Self {
        Self {
            timers: timers(knows_keys),
            after_end: None,
            knows_keys,
            id: StateId::of("", ""),
            checkpoints: Rc::clone(checkpoints),
            over_limit,
            beside_bytes: 0,
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

    fn takes(&mut self) -> Takes {
        let after_end = self.after_end.as_ref().map_or(0, Timers::takes_bytes);
        Takes::fixed(self.timers.takes_bytes() + after_end + self.beside_bytes)
    }
}
