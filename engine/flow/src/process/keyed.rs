//! The operator of a process function with keys, and its bounds.

mod clocks;

use std::cell::RefCell;
use std::mem::take;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Cause, Collector, Key, Mark, Timestamp};

use self::clocks::ClocksOfKeys;
use super::context::{Context, NoKey};
use super::failure::{Emits, Failures, failure_of};
use super::function::Process;
use super::timers::{AllTimers, Fired};
use super::unkeyed::call_for_none;
use crate::checkpoint::{Checkpoints, Stateful};
use crate::counters::Counter;
use crate::exchange::key_by::{Follower, Keyed, KeyedStream, Placement};
use crate::exchange::side::Sides;
use crate::flow::Flow;
use crate::graph::At;
use crate::pipeline::{Budget, Chain, Now, Operator, Then, due_time};
use crate::state::bounds::{Bounds, EVICTED_KEYS_MAX};
use crate::state::keyed::AllKeyed;
use crate::state::{AtKey, Overflow, States, TimeDomain, Ttl};
use crate::stream::Stream;
use crate::table_hash::{table_hash, table_hash_from};

/// A record that finds no room searches at most this many pieces, of 64 buckets each, for what has expired.
const EXPIRED_PIECES_MAX: usize = 16;
/// This many records are put aside together, to look their keys up at once.
const GATHERED_MAX: usize = 128;

/// A chain with a process function behind it, whose records are on the shards that own their keys.
pub(super) type Processed<C, P, F> = Then<
    <P as Placement<C>>::Placed,
    KeyedProcessing<<P as Placement<C>>::Key, <P as Placement<C>>::Value, F>,
>;

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// Calls a process function with each record of a key, on the shard that owns the key. `make` makes it
    /// on every shard, from the states that it asks for.
    pub fn process<F: Process<P::Key, P::Value>>(
        self,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> Stream<Processed<C, P, F>> {
        self.process_as("Process", make)
    }

    /// [`process`](Self::process) as an operator of the engine called `name`. Its stable name has its number among its own
    /// kind, not among the process functions of the user.
    pub(crate) fn process_as<F: Process<P::Key, P::Value>>(
        self,
        name: &str,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> Stream<Processed<C, P, F>> {
        let Self { stream, placement, follower } = self;
        let Stream { flow, chain, at } = placement.place::<F::Out>(stream, name);
        let operator = KeyedProcessing::new(&flow, at, follower, make);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

impl<K: Key, T: 'static, P: Process<K, T>> KeyedProcessing<K, T, P> {
    /// The operator at `at`.
    pub(super) fn new(
        flow: &Flow,
        at: At,
        Follower { bounds, sides, clock }: Follower<K, T>,
        make: impl FnOnce(&mut States<'_, K>) -> P,
    ) -> Self {
        sides.come_out_of(flow, at.node);
        let mut states = States::new(flow, at.node);
        let function = make(&mut states);
        let clocks = clock.map(|clock| Box::new(ClocksOfKeys::open(clock, flow, &mut states)));
        let by_events = |ttl: Ttl| ttl.domain == TimeDomain::EventTime;
        let expires_by_events = states.ttls().flatten().any(by_events);
        let (states, parts) = states.into_parts();
        // Keys that give way take their timers with them.
        let known_by_key = clocks.is_some() || bounds.overflow == Overflow::EvictLeastRecentlyUsed;
        let timers = AllTimers::new(flow, at.node, known_by_key, &parts.timer_spaces);
        let failures = flow.failures_of(at.node);
        failures.write_letters(flow.dead_letters_from(at.node, at.producers));
        Self {
            function,
            failures,
            opened: false,
            states,
            lists: parts.lists,
            timers,
            bounds,
            fitting: 0,
            sides,
            watermark: Timestamp::MIN,
            reached: Timestamp::MIN,
            processing_time: Timestamp::MIN,
            clocks,
            wants_watermarks: true,
            expires_by_events,
            checkpoints: Rc::clone(flow.checkpoints()),
            evicted: flow.counter("numKeysEvicted", at.node),
            gathers: false,
            cache_bytes: flow.tuning().state_cache_bytes,
            work_max: flow.tuning().step_work_max.max(1),
            gathered: Vec::new(),
            hashes: Vec::new(),
        }
    }

    pub(super) fn function(&self) -> &P {
        &self.function
    }

    /// Puts no records aside where keys have clocks of their own. A call for no key may come at any time, and would overtake
    /// the timers that those records make due.
    pub(super) fn one_by_one(mut self) -> Self {
        if self.clocks.is_some() {
            self.cache_bytes = usize::MAX;
        }
        self
    }
}

/// The operator of [`KeyedStream::process`].
pub struct KeyedProcessing<K, T, P> {
    function: P,
    failures: Failures,
    opened: bool,
    states: AllKeyed<K>,
    lists: Vec<Rc<RefCell<dyn Stateful>>>,
    pub(super) timers: AllTimers<K>,
    bounds: Bounds,
    /// This many calls stay within the bounds, whatever they do: nobody has to ask before each of them.
    fitting: usize,
    sides: Sides,
    pub(super) watermark: Timestamp,
    /// The event time that has been dealt with: the watermark, but while timers fire the time of the latest, and
    /// never the end of time. What lives until then is there for whoever comes.
    reached: Timestamp,
    processing_time: Timestamp,
    /// Where each key has a clock of its own.
    clocks: Option<Box<ClocksOfKeys<K, T>>>,
    /// Whether the function does anything with a watermark, so far as is known.
    wants_watermarks: bool,
    /// Whether any of its state expires in event time: then each watermark may change what it sees.
    expires_by_events: bool,
    checkpoints: Rc<Checkpoints>,
    evicted: Counter,
    /// Whether the function's state was too large for the caches in the last step. Then the operator puts records aside,
    /// and looks at the state of all their keys before it processes them. These accesses to memory overlap, as they
    /// would not with the function's work in between.
    gathers: bool,
    cache_bytes: usize,
    /// The units of work of a step: one budget for processing-time timers, and one for what the clocks of keys cause.
    pub(super) work_max: usize,
    gathered: Vec<(Timestamp, K, T)>,
    /// Of their keys.
    hashes: Vec<u64>,
}

impl<K: Key, T: 'static, P: Process<K, T>> KeyedProcessing<K, T, P> {
    #[inline]
    fn process(
        &mut self,
        (time, key, hash): (Timestamp, K, u64),
        record: T,
        out: &mut impl Collector<P::Out>,
    ) {
        if self.has_put_down_by_clocks() && !seeded(Defect::FlowRecordOvertakesItsKey) {
            return self.wait_behind((time, key, hash), record);
        }
        if !self.admits(&key, hash) {
            return;
        }
        let (mut times, mut until) = ((time, self.watermark, self.reached), None);
        if self.clocks.is_some() {
            (times, until) = self.follow(&key, hash, &record, time);
        }
        // In one place for all records: so the compiler puts the function's code here.
        let call = |function: &mut P, cx: &mut Context<'_, K>, out: &mut Emits<'_, _>| {
            function.record(record, cx, out);
        };
        self.call(times, (&key, hash), None, out, call);
        if let Some(until) = until {
            self.fire_behind((key, hash), until, out);
        }
    }

    /// Calls the function for a key, at this event time, with this watermark, when event time has reached that.
    #[inline(always)]
    pub(super) fn call<C: Collector<P::Out>>(
        &mut self,
        (time, watermark, reached): (Timestamp, Timestamp, Timestamp),
        (key, hash): (&K, u64),
        fired: Option<Fired>,
        out: &mut C,
        call: impl FnOnce(&mut P, &mut Context<'_, K>, &mut Emits<'_, C>),
    ) {
        let Self { function, failures, timers, processing_time, fitting, .. } = self;
        *fitting = fitting.saturating_sub(1);
        let times = (time, watermark, reached);
        let mut cx = Context::of_key((key, hash), times, *processing_time, timers, fired);
        let called = failures.emit(out, |out| call(function, &mut cx, out));
        if let Some(failure) = failure_of(called.err(), cx.failure) {
            failures.failed(time, Some(key), failure);
        }
    }

    /// Calls the function for no key.
    fn call_for_none<C: Collector<P::Out>, R>(
        &mut self,
        out: &mut C,
        call: impl FnOnce(&mut P, &mut Context<'_, NoKey>, &mut Emits<'_, C>) -> R,
    ) -> Option<R> {
        let cx = Context::of_none(self.watermark, self.watermark, self.processing_time);
        call_for_none(&mut self.function, &self.failures, cx, out, call)
    }

    /// Calls the function for no key with something of this event time, behind all records so far.
    pub(super) fn call_behind<C: Collector<P::Out>>(
        &mut self,
        time: Timestamp,
        out: &mut C,
        call: impl FnOnce(&mut P, &mut Context<'_, NoKey>, &mut Emits<'_, C>),
    ) {
        self.release(out);
        let cx = Context::of_none(time, self.watermark, self.processing_time);
        call_for_none(&mut self.function, &self.failures, cx, out, call);
    }

    fn open(&mut self) {
        if !self.opened {
            self.opened = true;
            self.failures.guard(self.watermark, || self.function.open());
        }
    }

    /// Processes what was put aside, if anything was.
    #[inline]
    fn release(&mut self, out: &mut impl Collector<P::Out>) {
        if !self.gathered.is_empty() {
            self.process_gathered(out);
        }
    }

    #[inline(never)]
    fn process_gathered(&mut self, out: &mut impl Collector<P::Out>) {
        self.states.iter().for_each(|state| state.borrow().look_ahead(&self.hashes));
        let (mut gathered, mut hashes) = (take(&mut self.gathered), take(&mut self.hashes));
        for ((time, key, record), hash) in gathered.drain(..).zip(hashes.drain(..)) {
            self.process((time, key, hash), record, out);
        }
        (self.gathered, self.hashes) = (gathered, hashes);
    }

    /// Whether there is room for what a record of this key may add.
    #[inline]
    fn admits(&mut self, key: &K, hash: u64) -> bool {
        self.fitting > 0 || self.has_room(key, hash)
    }

    fn has_room(&mut self, key: &K, hash: u64) -> bool {
        self.fitting = self.bounds.fitting(&self.states);
        self.fitting > 0
            || self.bounds.full(&self.states, false).is_none()
            || self.makes_room(key, hash)
    }

    #[cold]
    fn makes_room(&mut self, key: &K, hash: u64) -> bool {
        let at = self.at(key, hash);
        let is_known = self.states.iter().any(|state| state.borrow_mut().has(&at));
        // What nobody can see any more keeps nobody out.
        for _ in 0..EXPIRED_PIECES_MAX {
            let Some(number) = self.bounds.full(&self.states, is_known) else { return true };
            let mut full = self.states[number].borrow_mut();
            if !full.expire(self.reached, self.processing_time) {
                break;
            }
        }
        if self.bounds.overflow == Overflow::EvictLeastRecentlyUsed && self.bounds.keys_max > 0 {
            let mut spared = false;
            for _ in 0..EVICTED_KEYS_MAX {
                let Some(number) = self.bounds.full(&self.states, is_known) else { return true };
                // Memory may hold no key of this state, and the bounded search of the store may find none.
                let Some(oldest) = self.states[number].borrow_mut().least_recently_used() else {
                    break;
                };
                if oldest == *key && !spared {
                    // Used just now, which this state may not know yet. The next one, if there is any.
                    spared = true;
                    self.states[number].borrow_mut().has(&at);
                    continue;
                }
                self.evict(&oldest);
            }
        }
        let is_full = self.bounds.full(&self.states, is_known).is_some();
        if !is_full || is_known && !self.bounds.is_overfull(&self.states) {
            return true;
        }
        self.refuse(key);
        false
    }

    pub(super) fn at<'a>(&self, key: &'a K, hash: u64) -> AtKey<'a, K> {
        let Self { reached, processing_time, .. } = *self;
        AtKey { key, hash, time: reached, reached, processing_time }
    }

    /// Drops all that is kept of a key, and its timers: they would find nothing.
    fn evict(&mut self, key: &K) {
        let hash = table_hash(key);
        let at = self.at(key, hash);
        self.states.iter().for_each(|state| state.borrow_mut().drop_key(&at));
        self.timers.iter().for_each(|timers| timers.borrow_mut().delete_key(hash, key));
        self.evicted.add(1);
    }

    fn refuse(&self, key: &K) {
        let mut bytes = Vec::new();
        key.write_key(&mut bytes);
        let Bounds { keys_max, bytes_max, .. } = self.bounds;
        let reason =
            format!("no more state may be kept than of {keys_max} keys and {bytes_max} bytes");
        self.failures.letter(Cause::StateFull, reason, &bytes);
    }

    fn fire(
        &mut self,
        (time, key, fired): (Timestamp, K, Fired),
        budget: &mut Budget,
        out: &mut impl Collector<P::Out>,
    ) {
        budget.spend(1);
        let at = (time, self.watermark, self.reached);
        self.call_timer(at, (&key, table_hash(&key)), fired, &mut budget.meter(out));
    }

    /// Calls the function for a timer of a key. See [`call`](Self::call).
    fn call_timer(
        &mut self,
        at: (Timestamp, Timestamp, Timestamp),
        key: (&K, u64),
        fired: Fired,
        out: &mut impl Collector<P::Out>,
    ) {
        self.call(at, key, Some(fired), out, |function, cx, out| function.timer(cx, out));
    }

    /// Fires a processing-time timer.
    fn fire_by_the_machine(
        &mut self,
        (time, key, fired): (Timestamp, K, Fired),
        budget: &mut Budget,
        out: &mut impl Collector<P::Out>,
    ) {
        if self.clocks.is_none() {
            return self.fire((time, key, fired), budget, out);
        }
        let hash = table_hash(&key);
        let at = self.at(&key, hash);
        let Some(of_keys) = &mut self.clocks else { return };
        let watermark = of_keys.watermark(&at);
        budget.spend(1);
        let at = (time, watermark, watermark);
        self.call_timer(at, (&key, hash), fired, &mut budget.meter(out));
        self.watch(hash, &key);
    }

    /// Event time has gone on to there.
    fn reach(&mut self, time: Timestamp) {
        if time < Timestamp::MAX {
            self.reached = self.reached.max(time);
        }
    }

    /// Fires timers that are due in event time; whether that was all of them.
    fn fire_events(&mut self, budget: &mut Budget, out: &mut impl Collector<P::Out>) -> bool {
        let watermark = self.watermark;
        if watermark == Timestamp::MAX {
            self.timers.iter().for_each(|timers| timers.borrow_mut().begin_end());
        }
        loop {
            let Ok(due) = self.timers.pop_due(TimeDomain::EventTime, watermark, budget) else {
                return false;
            };
            let Some(due) = due else { break };
            self.reach(due.0);
            self.fire(due, budget, out);
        }
        self.reach(watermark);
        true
    }
}

impl<K: Key, T: 'static, P: Process<K, T>> Operator<Keyed<K, T>> for KeyedProcessing<K, T, P> {
    type Out = P::Out;

    #[inline]
    fn record(&mut self, time: Timestamp, record: Keyed<K, T>, out: &mut impl Collector<P::Out>) {
        let Keyed { hash, key, value } = record;
        let hash = table_hash_from(&key, hash);
        if !self.gathers {
            return self.process((time, key, hash), value, out);
        }
        self.gathered.push((time, key, value));
        self.hashes.push(hash);
        if self.gathered.len() >= GATHERED_MAX {
            self.process_gathered(out);
        }
    }

    const PUTS_DOWN: bool = true;

    fn due(&mut self, mark: Mark, budget: &mut Budget, out: &mut impl Collector<P::Out>) -> bool {
        self.release(out);
        if !self.catch_up(out) {
            return false;
        }
        let Mark::Watermark(watermark) = mark else { return true };
        self.watermark = watermark;
        let by_their_clocks = self.clocks.is_some() && !seeded(Defect::FlowKeyGoesByStream);
        if by_their_clocks && watermark < Timestamp::MAX {
            self.reach(watermark);
            return true;
        }
        let Some(of_keys) = &mut self.clocks else { return self.fire_events(budget, out) };
        // What keys' clocks cause in a step and what marks cause share one budget.
        let mut budget = of_keys.take_budget();
        let done = self.fire_events(&mut budget, out);
        if let Some(of_keys) = &mut self.clocks {
            of_keys.give_back(budget);
        }
        done
    }

    fn has_put_down(&self) -> bool {
        self.has_put_down_by_clocks()
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<P::Out>) {
        match mark {
            Mark::Watermark(_) => {
                let wants = self.call_for_none(out, |function, cx, out| {
                    cx.wants_watermarks(function, |function, cx| function.watermark(cx, out))
                });
                self.wants_watermarks = wants.unwrap_or(true);
            }
            Mark::Barrier(epoch) => {
                self.open();
                // What values weigh is known anew.
                self.fitting = 0;
                self.states.iter().for_each(|state| self.checkpoints.take(&**state, epoch));
                self.lists.iter().for_each(|list| self.checkpoints.take(list, epoch));
                self.timers.iter().for_each(|timers| self.checkpoints.take(&**timers, epoch));
            }
            Mark::End => {
                self.call_for_none(out, |function, cx, out| function.close(cx, out));
            }
            Mark::Idle | Mark::Active => {}
        }
        self.failures.mark(mark);
        self.sides.mark(mark);
        out.mark(mark);
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<P::Out>) -> Option<Timestamp> {
        self.processing_time = now.wall;
        self.open();
        if let Some(of_keys) = &mut self.clocks {
            of_keys.step_begins(now, self.work_max);
        }
        // The rest with the next step: after a jump of the clock, or of a timer that sets itself for now.
        let mut budget = Budget::of(self.work_max);
        while let Ok(Some(due)) = self.timers.pop_due(TimeDomain::ProcessingTime, now.wall, &budget)
        {
            self.fire_by_the_machine(due, &mut budget, out);
        }
        let silent_at = self.fire_by_clocks(now, out);
        let due_at = self.call_for_none(out, |function, cx, out| function.tick(cx, out)).flatten();
        for state in &self.states {
            state.borrow_mut().expire(self.reached, now.wall);
        }
        let timer_at = self.timers.earliest(TimeDomain::ProcessingTime).map(|(time, _)| time);
        [due_at, timer_at, silent_at].into_iter().flatten().min()
    }

    #[inline]
    fn settle(&mut self, out: &mut impl Collector<P::Out>) {
        self.release(out);
        // Between steps memory may be freed, and values be weighed.
        self.fitting = 0;
        let cache_bytes = self.cache_bytes;
        self.gathers = self.states.iter().any(|state| state.borrow().entries_bytes() > cache_bytes);
    }

    fn ready(&self) -> bool {
        self.sides.have_room() && self.failures.have_room()
    }

    fn due_at(&self) -> Timestamp {
        let expires = self.expires_by_events && !seeded(Defect::FlowExpiryIsNotDue);
        if self.wants_watermarks || expires {
            return Timestamp::MIN;
        }
        // Where keys have clocks, the stream's watermark fires timers of those that are silent.
        let by_stream = self.clocks.as_ref().is_none_or(|of_keys| of_keys.knows_silence());
        let next = by_stream.then(|| self.timers.earliest(TimeDomain::EventTime)).flatten();
        due_time(next.map(|(time, _)| time), self.watermark).min(self.sides.due_at())
    }
}
