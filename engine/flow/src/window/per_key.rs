//! Windows that each key has of its own: the general window operator.
//!
//! # State
//! The content of a window is an entry of keyed state under key and window ([`InWindow`]). Like all keyed state it is
//! part of checkpoints, leaves memory when memory is short, and lies in the key's group. What the trigger keeps of a
//! window is another such entry. Where windows [merge](super::assigner::Assigner::MERGES), a third entry is under the key
//! alone: the set of its open windows ([`Sessions`]). The watermark that was reached is kept too, so that what was late
//! stays late after a restart.
//!
//! # Time
//! A window ends when the watermark reaches its last millisecond. A timer sees to that, which is set when the window's
//! first record comes. If the window has grown since then, the timer fires too early, and is set again for the new end.
//! So a session costs a timer for each gap, and none for each record.
//!
//! # Limits
//! [`WindowedStream::keys_max`](super::WindowedStream::keys_max) bounds the (key, window) pairs that are open on a shard.
//! A record that would open one more is counted (`numKeysOverLimitDropped`) and dropped for that window. Timers that a
//! trigger sets have the limit of all timers, [`TIMERS_MAX`](crate::TIMERS_MAX).

use std::cell::RefCell;
use std::mem::take;
use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::aggregate::Aggregate;
use super::assigner::Assigner;
use super::content::WindowFunction;
use super::in_window::{InWindow, hash_in};
use super::operator::Late;
use super::reached::Reached;
use super::sessions::{Open, Sessions};
use super::state::Dropped;
use super::time_window::TimeWindow;
use super::timers::WindowTimers;
use super::trigger::{Fires, SetTimers, Trigger, TriggerContext};
use crate::checkpoint::Checkpoints;
use crate::exchange::key_by;
use crate::pipeline::{Budget, Now, Operator, due_time};
use crate::state::keyed::{AnyKeyed, Keyed};
use crate::state::{AtKey, TimeDomain};
use crate::table_hash::{table_hash, table_hash_from};

/// What a window that fires takes of a step's budget: it is looked up and taken out of two or three tables.
const FIRED_UNITS: usize = 8;

/// An entry of keyed state for each key and window.
pub(super) type Entries<K, V> = Rc<RefCell<Keyed<InWindow<K>, V>>>;

/// The window operator of windows in keyed state.
pub struct WindowsPerKey<K: Key, T, W, R: Trigger<T>, A: Aggregate<T>, F> {
    pub(super) assigner: W,
    pub(super) trigger: R,
    pub(super) aggregate: A,
    pub(super) function: F,
    pub(super) contents: Entries<K, A::Accumulator>,
    pub(super) trigger_states: Entries<K, R::State>,
    /// Where windows merge.
    pub(super) sessions: Option<Sessions<K>>,
    pub(super) timers: WindowTimers<K>,
    pub(super) reached: Rc<RefCell<Reached>>,
    pub(super) keys_max: usize,
    pub(super) dropped: Dropped,
    pub(super) late: Late<T>,
    /// The newest late record, until somebody takes it.
    pub(super) late_record: Rc<RefCell<Option<(K, Timestamp)>>>,
    pub(super) checkpoints: Rc<Checkpoints>,
    pub(super) work_max: usize,
    pub(super) clock: Clock,
    /// The windows of the record at hand, and those that its window takes in.
    pub(super) windows: Vec<TimeWindow>,
    pub(super) others: Vec<Open>,
}

/// What time it is for an operator.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) watermark: Timestamp,
    pub(super) processing_time: Timestamp,
}

impl Clock {
    pub(super) const BEGINNING: Self =
        Self { watermark: Timestamp::MIN, processing_time: Timestamp::MIN };

    fn at<K>(self, key: &K, hash: u64) -> AtKey<'_, K> {
        let Self { watermark, processing_time } = self;
        AtKey { key, hash, time: watermark, reached: watermark, processing_time }
    }
}

/// The timers of one window.
struct Timers<'a, K> {
    timers: &'a WindowTimers<K>,
    hash: u64,
    at: &'a InWindow<K>,
}

impl<K: Key> SetTimers for Timers<'_, K> {
    fn event(&mut self, time: Timestamp) {
        self.timers.set(TimeDomain::EventTime, time, self.hash, self.at);
    }

    fn processing(&mut self, time: Timestamp) {
        self.timers.set(TimeDomain::ProcessingTime, time, self.hash, self.at);
    }
}

/// A window in which something happens.
struct Place<K> {
    hash: u64,
    at: InWindow<K>,
    window: TimeWindow,
}

impl<K: Key> Place<K> {
    fn new(key: &K, hash: u64, Open { window, home }: Open) -> Self {
        Self { hash: hash_in(hash, home), at: InWindow { key: key.clone(), home }, window }
    }
}

impl<K, T, W, R, A, F> WindowsPerKey<K, T, W, R, A, F>
where
    K: Key,
    T: Clone + 'static,
    W: Assigner,
    R: Trigger<T>,
    A: Aggregate<T>,
    F: WindowFunction<K, A::Output>,
{
    /// Adds a record to each of its windows that has not ended.
    fn add(
        &mut self,
        time: Timestamp,
        (hash, key): (u64, &K),
        record: T,
        out: &mut impl Collector<F::Out>,
    ) {
        let (mut windows, watermark) = (take(&mut self.windows), self.clock.watermark);
        self.assigner.assign(time, &mut |window| {
            if window.last > watermark {
                windows.push(window);
            }
        });
        match windows.pop() {
            Some(last) => {
                for window in windows.drain(..) {
                    self.add_to(window, time, (hash, key), record.clone(), out);
                }
                self.add_to(last, time, (hash, key), record, out);
            }
            None => self.is_late(time, key, record),
        }
        self.windows = windows;
    }

    fn add_to(
        &mut self,
        window: TimeWindow,
        time: Timestamp,
        (hash, key): (u64, &K),
        record: T,
        out: &mut impl Collector<F::Out>,
    ) {
        let place = Place::new(key, hash, Open { window, home: window });
        let is_full = self.is_full();
        if is_full && !self.contents.borrow_mut().has(&self.clock.at(&place.at, place.hash)) {
            return self.dropped.keys_over_limit.add(1);
        }
        self.put(&place, time, record, out);
    }

    /// Adds a record to its window, which may take in others of the key.
    fn add_merging(
        &mut self,
        time: Timestamp,
        (hash, key): (u64, &K),
        record: T,
        out: &mut impl Collector<F::Out>,
    ) {
        let Some(sessions) = &self.sessions else { return };
        let (mut alone, mut others) = (None, take(&mut self.others));
        self.assigner.assign(time, &mut |window| alone = Some(window));
        let Some(alone) = alone else { return };
        let at = self.clock.at(key, hash);
        others.clear();
        let joined = sessions.join(&at, alone, &mut others);
        let place = Place::new(key, hash, joined.open);
        // What has joined nothing may be late. What is open is not, and neither is what joins it.
        if place.window.last <= self.clock.watermark {
            self.is_late(time, key, record);
        } else if joined.is_new() && self.is_full() {
            self.dropped.keys_over_limit.add(1);
        } else {
            sessions.keep(&at, joined, &others);
            for &other in &others {
                self.take_in(&place, &Place::new(key, hash, other));
            }
            if !others.is_empty() {
                let fires = self.ask(&place, |trigger, cx| trigger.merged(cx));
                self.act(&place, fires, out);
            }
            self.put(&place, time, record, out);
        }
        self.others = others;
    }

    /// Moves what is kept of `other` to a window that has taken it in. Its timer finds nothing when it fires.
    fn take_in(&mut self, place: &Place<K>, other: &Place<K>) {
        let (into, from) = (self.at(place), self.at(other));
        let mut contents = self.contents.borrow_mut();
        let moved = contents.get(&from).map(|content| {
            let mut moved = self.aggregate.create();
            self.aggregate.merge(&mut moved, content);
            moved
        });
        contents.clear(&from);
        if let Some(moved) = moved {
            contents.change(
                &into,
                || self.aggregate.create(),
                |content| self.aggregate.merge(content, &moved),
            );
        }
        if size_of::<R::State>() > 0 {
            let mut states = self.trigger_states.borrow_mut();
            let mut moved = R::State::default();
            if let Some(state) = states.get(&from) {
                self.trigger.merge(&mut moved, state);
                states.clear(&from);
                states.change(&into, R::State::default, |state| self.trigger.merge(state, &moved));
            }
        }
    }

    fn at<'a>(&self, place: &'a Place<K>) -> AtKey<'a, InWindow<K>> {
        self.clock.at(&place.at, place.hash)
    }

    fn is_full(&self) -> bool {
        self.contents.borrow().holds().keys >= self.keys_max
    }

    #[cold]
    fn is_late(&self, time: Timestamp, key: &K, record: T) {
        match &self.late.tag {
            Some(late) => late.emit(time, record),
            None => {
                self.dropped.late.add(1);
                self.late_record.borrow_mut().get_or_insert_with(|| (key.clone(), time)).1 = time;
            }
        }
    }

    /// Adds a record to an open window.
    fn put(
        &mut self,
        place: &Place<K>,
        time: Timestamp,
        record: T,
        out: &mut impl Collector<F::Out>,
    ) {
        let fires = self.ask(place, |trigger, cx| trigger.record(&record, time, cx));
        let mut is_new = false;
        let create = || {
            is_new = true;
            self.aggregate.create()
        };
        let add = |content: &mut _| self.aggregate.add(content, record);
        self.contents.borrow_mut().change(&self.clock.at(&place.at, place.hash), create, add);
        if is_new {
            self.end_at(place, place.window.last);
        }
        self.act(place, fires, out);
    }

    /// Sets the timer by which a window ends, or is looked at again.
    fn end_at(&self, place: &Place<K>, last: Timestamp) {
        self.timers.set(TimeDomain::EventTime, last, place.hash, &place.at);
    }

    /// Asks the trigger.
    #[inline]
    fn ask<Q>(
        &mut self,
        place: &Place<K>,
        question: impl FnOnce(&mut R, &mut TriggerContext<'_, R::State>) -> Q,
    ) -> Q {
        let at = self.at(place);
        let mut timers = Timers { timers: &self.timers, hash: place.hash, at: &place.at };
        let (trigger, Clock { watermark, processing_time }) = (&mut self.trigger, self.clock);
        let ask = |state: &mut R::State| {
            let (window, timers) = (place.window, &mut timers as &mut dyn SetTimers);
            question(
                trigger,
                &mut TriggerContext { window, state, watermark, processing_time, timers },
            )
        };
        if size_of::<R::State>() == 0 {
            return ask(&mut R::State::default());
        }
        self.trigger_states.borrow_mut().change(&at, R::State::default, ask)
    }

    /// Does what the trigger said.
    #[inline]
    fn act(&mut self, place: &Place<K>, fires: Fires, out: &mut impl Collector<F::Out>) {
        if fires == Fires::No {
            return;
        }
        let at = self.at(place);
        let mut contents = self.contents.borrow_mut();
        if fires != Fires::Purges {
            let value = contents.get(&at).map(|content| self.aggregate.result(content));
            if let Some(value) = value {
                self.function.fire(place.at.key.clone(), place.window, value, out);
            }
        }
        if fires != Fires::Yes {
            contents.clear(&at);
        }
    }

    /// A timer fires.
    fn fire(
        &mut self,
        time: Timestamp,
        at: InWindow<K>,
        domain: TimeDomain,
        out: &mut impl Collector<F::Out>,
    ) {
        let hash = table_hash(&at.key);
        let open = match &self.sessions {
            // A window that was taken in is none any more.
            Some(sessions) => sessions.at_home(&self.clock.at(&at.key, hash), at.home),
            None => Some(Open { window: at.home, home: at.home }),
        };
        let Some(Open { window, .. }) = open else { return };
        let place = Place { hash: hash_in(hash, at.home), at, window };
        if domain == TimeDomain::ProcessingTime {
            if window.last > self.clock.watermark {
                let fires = self.ask(&place, |trigger, cx| trigger.processing_time(time, cx));
                self.act(&place, fires, out);
            }
            return;
        }
        let fires = self.ask(&place, |trigger, cx| trigger.event_time(time, cx));
        self.act(&place, fires, out);
        if time < window.last {
            if self.sessions.is_some() {
                // It has grown since the timer was set.
                self.end_at(&place, window.last);
            }
            return;
        }
        let at = self.at(&place);
        self.contents.borrow_mut().clear(&at);
        if size_of::<R::State>() > 0 {
            self.trigger_states.borrow_mut().clear(&at);
        }
        if let Some(sessions) = &self.sessions {
            sessions.end(&self.clock.at(&place.at.key, hash), place.at.home);
        }
    }
}

impl<K, T, W, R, A, F> Operator<key_by::Keyed<K, T>> for WindowsPerKey<K, T, W, R, A, F>
where
    K: Key,
    T: Clone + 'static,
    W: Assigner,
    R: Trigger<T>,
    A: Aggregate<T>,
    F: WindowFunction<K, A::Output>,
{
    type Out = F::Out;

    const PUTS_DOWN: bool = true;

    #[inline]
    fn record(
        &mut self,
        time: Timestamp,
        keyed: key_by::Keyed<K, T>,
        out: &mut impl Collector<F::Out>,
    ) {
        let key_by::Keyed { hash, key, value } = keyed;
        let hash = table_hash_from(&key, hash);
        if W::MERGES {
            self.add_merging(time, (hash, &key), value, out);
        } else {
            self.add(time, (hash, &key), value, out);
        }
    }

    fn due(&mut self, mark: Mark, budget: &mut Budget, out: &mut impl Collector<F::Out>) -> bool {
        let Mark::Watermark(watermark) = mark else { return true };
        // After a restart time may come back to where it was, and does not go further back.
        self.clock.watermark = self.clock.watermark.max(watermark);
        self.reached.borrow_mut().advance(watermark);
        loop {
            let domain = TimeDomain::EventTime;
            let due = self.timers.pop_due(domain, self.clock.watermark, budget);
            let Ok(due) = due else { return false };
            let Some((time, at)) = due else { return true };
            // At the end of time: what comes one day for a window that the end has closed is late.
            self.reached.borrow_mut().advance(time);
            budget.spend(FIRED_UNITS);
            self.fire(time, at, domain, out);
        }
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<F::Out>) {
        if let Mark::Barrier(epoch) = mark {
            self.checkpoints.take(&*self.contents, epoch);
            self.checkpoints.take(&*self.trigger_states, epoch);
            if let Some(sessions) = &self.sessions {
                self.checkpoints.take(&*sessions.0, epoch);
            }
            self.timers.take(&self.checkpoints, epoch);
            self.checkpoints.take(&*self.reached, epoch);
        }
        self.late.sides.mark(mark);
        out.mark(mark);
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<F::Out>) -> Option<Timestamp> {
        self.clock.processing_time = now.wall;
        // What an earlier run had reached is known now.
        self.clock.watermark = self.clock.watermark.max(self.reached.borrow().watermark());
        // The rest with the next step: after a jump of the clock, or of a trigger that asks for now.
        let mut budget = Budget::of(self.work_max);
        let domain = TimeDomain::ProcessingTime;
        while let Ok(Some((time, at))) = self.timers.pop_due(domain, now.wall, &budget) {
            budget.spend(1);
            self.fire(time, at, domain, out);
        }
        self.timers.due_by_clock()
    }

    fn ready(&self) -> bool {
        self.late.sides.have_room()
    }

    fn due_at(&self) -> Timestamp {
        let due = due_time(self.timers.due_by_events(), self.clock.watermark);
        due.min(self.late.sides.due_at())
    }
}
