//! The process function of a stream that has a [clock per key](crate::time::per_key). The clock of a record's key decides
//! what is late and which timers fire.
//!
//! # Work that does not fit into a step
//! One record may make a million timers of its key due. All calls that keys' clocks cause share one [`Budget`] in each step.
//! When that is spent, the key is *behind*: the rest of its timers fire in later steps. Meanwhile records of all keys wait in
//! order, and so do marks ([`stage`](crate::pipeline)). The head of the chain is not stepped, so the records that
//! wait are at most those of one step.

use std::collections::VecDeque;
use std::mem::take;
use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Collector, Key, Timestamp};

use super::KeyedProcessing;
use crate::flow::Flow;
use crate::pipeline::{Budget, Now};
use crate::process::function::Process;
use crate::process::silence::Silence;
use crate::process::timers::WalkOverKeys;
use crate::state::{AtKey, States};
use crate::table_hash::table_hash;
use crate::time::per_key::{ClockPerKey, KeyClocks};

/// The clocks of a function's keys, and which of the keys are silent.
pub(super) struct ClocksOfKeys<K, T> {
    clocks: Box<dyn KeyClocks<K, T>>,
    silence: Option<Silence<K>>,
    now: Now,
    /// What is left of the step's.
    budget: Budget,
    /// The key whose timers are not done.
    behind: Option<Behind<K>>,
    /// Records that have come since, in order.
    waiting: VecDeque<(Timestamp, K, u64, T)>,
    /// The restored timers whose keys `silence` does not know yet.
    restored: Option<WalkOverKeys>,
}

/// A key whose timers are due up to a time, and have not all fired.
struct Behind<K> {
    key: K,
    hash: u64,
    until: Timestamp,
}

impl<K: Key, T: 'static> ClocksOfKeys<K, T> {
    pub(super) fn open(clock: ClockPerKey<K, T>, flow: &Flow, states: &mut States<'_, K>) -> Self {
        let silence = clock.idle_after.map(Silence::new);
        let clocks = clock.open(flow, states);
        Self {
            clocks,
            silence,
            now: Now::default(),
            budget: Budget::default(),
            behind: None,
            waiting: VecDeque::new(),
            restored: Some(WalkOverKeys::default()),
        }
    }

    /// A step begins.
    pub(super) fn step_begins(&mut self, now: Now, work_max: usize) {
        if let Some(silence) = &mut self.silence {
            silence.step_begins(self.now.steady, now.steady);
        }
        self.now = now;
        self.budget = Budget::of(work_max);
    }

    /// How far the clock of a key has come.
    pub(super) fn watermark(&mut self, at: &AtKey<'_, K>) -> Timestamp {
        self.clocks.watermark(at)
    }

    /// Whether keys count as silent after a while.
    pub(super) fn knows_silence(&self) -> bool {
        self.silence.is_some()
    }

    /// Whether a key is behind.
    pub(super) fn has_put_down(&self) -> bool {
        self.behind.is_some()
    }

    /// What is left of the step's budget, to be [given back](Self::give_back).
    pub(super) fn take_budget(&mut self) -> Budget {
        take(&mut self.budget)
    }

    pub(super) fn give_back(&mut self, budget: Budget) {
        self.budget = budget;
    }
}

impl<K: Key, T: 'static, P: Process<K, T>> KeyedProcessing<K, T, P> {
    /// Lets a record wait behind a key that is behind.
    #[cold]
    pub(super) fn wait_behind(&mut self, (time, key, hash): (Timestamp, K, u64), record: T) {
        if let Some(of_keys) = &mut self.clocks {
            of_keys.waiting.push_back((time, key, hash, record));
        }
    }

    /// The clock of a key follows a record. Returns the times of the record's call, and the time up to which the key's
    /// timers are due behind that.
    #[inline(never)]
    pub(super) fn follow(
        &mut self,
        key: &K,
        hash: u64,
        record: &T,
        time: Timestamp,
    ) -> ((Timestamp, Timestamp, Timestamp), Option<Timestamp>) {
        let at = self.at(key, hash);
        let Some(of_keys) = &mut self.clocks else {
            return ((time, self.watermark, self.reached), None);
        };
        let (before, until) = of_keys.clocks.follow(&at, record, time, of_keys.now);
        ((time, before, before), Some(until))
    }

    /// Fires what a record has made due of its key.
    #[inline(never)]
    pub(super) fn fire_behind(
        &mut self,
        (key, hash): (K, u64),
        until: Timestamp,
        out: &mut impl Collector<P::Out>,
    ) {
        self.fire_due(Behind { key, hash, until }, out);
    }

    /// Fires what is due of a key, as far as the step's budget allows.
    fn fire_due(&mut self, due: Behind<K>, out: &mut impl Collector<P::Out>) {
        let Behind { key, hash, until } = &due;
        let of_key = (*hash, key);
        let Some(of_keys) = &mut self.clocks else { return };
        let mut budget = of_keys.take_budget();
        let mut is_done = false;
        while !is_done && !budget.is_spent() {
            is_done = !self.fire_of_key(of_key, (*until, *until), &mut budget, out);
        }
        // Mostly nothing was due, and that is known by now.
        let is_done =
            is_done || self.timers.earliest_of(*hash, key).is_none_or(|(time, _)| time > *until);
        let Self { clocks: Some(of_keys), timers, .. } = self else { return };
        of_keys.give_back(budget);
        if !is_done {
            of_keys.behind = Some(due);
            return;
        }
        if let Some(silence) = &mut of_keys.silence {
            let has_timers = || timers.earliest_of(*hash, key).is_some();
            silence.heard(of_key, of_keys.now.steady, has_timers);
        }
    }

    /// Goes on with what keys' clocks have caused in earlier steps; whether all of it is done.
    pub(super) fn catch_up(&mut self, out: &mut impl Collector<P::Out>) -> bool {
        while let Some(of_keys) = &mut self.clocks {
            if let Some(due) = of_keys.behind.take() {
                self.fire_due(due, out);
                if self.has_put_down_by_clocks() {
                    return false;
                }
                continue;
            }
            let Some((time, key, hash, record)) = of_keys.waiting.pop_front() else { break };
            self.process((time, key, hash), record, out);
        }
        true
    }

    pub(super) fn has_put_down_by_clocks(&self) -> bool {
        self.clocks.as_ref().is_some_and(|of_keys| of_keys.has_put_down())
    }

    /// Fires the earliest event timer of a key, if it is not after `until`; whether one was.
    fn fire_of_key(
        &mut self,
        (hash, key): (u64, &K),
        (until, watermark): (Timestamp, Timestamp),
        budget: &mut Budget,
        out: &mut impl Collector<P::Out>,
    ) -> bool {
        let Some((time, fired)) = self.timers.pop_due_of(hash, key, until) else { return false };
        budget.spend(1);
        let at = self.at(key, hash);
        // Of a silent key the clock goes on with its timers.
        let watermark = match &mut self.clocks {
            Some(of_keys) if time > watermark => of_keys.clocks.advance(&at, time),
            _ => watermark,
        };
        let times = (time, watermark, time);
        self.call_timer(times, (key, hash), fired, &mut budget.meter(out));
        true
    }

    /// A call that no record has caused may have set timers of a key.
    pub(super) fn watch(&mut self, hash: u64, key: &K) {
        let Self { clocks, timers, .. } = self;
        let Some(ClocksOfKeys { silence: Some(silence), now, .. }) = clocks.as_deref_mut() else {
            return;
        };
        silence.watch((hash, key), now.steady, || timers.earliest_of(hash, key).is_some());
    }

    /// Goes on, in a step that begins, with what was put down. Fires timers of silent keys that the stream's watermark has
    /// passed. Returns when more keys are to be looked at, on this machine's clock.
    #[inline]
    pub(super) fn fire_by_clocks(
        &mut self,
        now: Now,
        out: &mut impl Collector<P::Out>,
    ) -> Option<Timestamp> {
        self.clocks.as_ref()?;
        self.catch_up_and_look(now, out)
    }

    #[inline(never)]
    fn catch_up_and_look(
        &mut self,
        now: Now,
        out: &mut impl Collector<P::Out>,
    ) -> Option<Timestamp> {
        // The end of the stream fires all timers that there are.
        if !self.catch_up(out) || self.watermark == Timestamp::MAX {
            return None;
        }
        let of_keys = self.clocks.as_mut().filter(|of_keys| of_keys.silence.is_some())?;
        let mut budget = of_keys.take_budget();
        self.know_restored(now, &mut budget);
        self.look_at_silent(now, &mut budget, out);
        let Self { clocks: Some(of_keys), timers, .. } = self else { return None };
        of_keys.give_back(budget);
        let silence = of_keys.silence.as_mut()?;
        timers.count_beside(silence.takes_bytes());
        if of_keys.restored.is_some() {
            return Some(now.wall);
        }
        let left = silence.look_at()?.saturating_sub(now.steady);
        Some(
            now.wall
                .plus_ms(i64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)),
        )
    }

    fn silence(&mut self) -> Option<&mut Silence<K>> {
        self.clocks.as_mut()?.silence.as_mut()
    }

    /// Keys of restored timers are silent from now on.
    fn know_restored(&mut self, now: Now, budget: &mut Budget) {
        let Self { clocks: Some(of_keys), timers, .. } = self else { return };
        let Some(silence) = &mut of_keys.silence else { return };
        while let Some(walk) = of_keys.restored.take_if(|_| !budget.is_spent()) {
            budget.spend(1);
            let next = timers.walk_over_keys(walk, |key| {
                budget.spend(1);
                silence.watch((table_hash(key), key), now.steady, || true);
            });
            of_keys.restored = next.filter(|_| !seeded(Defect::FlowForgetsRestoredKeys));
        }
    }

    fn look_at_silent(&mut self, now: Now, budget: &mut Budget, out: &mut impl Collector<P::Out>) {
        if !self.silence().is_some_and(|silence| silence.may_look(now.steady)) {
            return;
        }
        while !budget.is_spent()
            && let Some(looked) = self.silence().and_then(|silence| silence.look(now.steady))
        {
            budget.spend(1);
            let Some((hash, key)) = looked else { continue };
            let until = (self.watermark, Timestamp::MIN);
            while !budget.is_spent() && self.fire_of_key((hash, &key), until, budget, out) {}
            let Self { clocks: Some(of_keys), timers, .. } = self else { return };
            let Some(silence) = &mut of_keys.silence else { return };
            // Work that is left is done in the next step. Otherwise the key is looked at when it has been silent for as long
            // again.
            let since = if budget.is_spent() { Duration::ZERO } else { now.steady };
            silence.watch((hash, &key), since, || timers.earliest_of(hash, &key).is_some());
        }
    }
}
