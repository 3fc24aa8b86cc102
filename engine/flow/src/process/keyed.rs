//! [`KeyedProcess`]: the function of records and timers, its bounds, and the operator that calls it.

use std::mem::take;
use std::rc::Rc;

use thalweg_kernel::{Cause, Collector, Key, Mark, Timestamp};

use super::context::Context;
use super::failure::Failures;
use super::side::Sides;
use super::timers::BothTimers;
use crate::checkpoint::Checkpoints;
use crate::counters::Counter;
use crate::exchange::key_by::{Keyed, KeyedStream, Placement};
use crate::flow::Flow;
use crate::pipeline::{Budget, Chain, Now, Operator, Then};
use crate::state::bounds::{Bounds, EVICTED_KEYS_MAX};
use crate::state::keyed::AllKeyed;
use crate::state::{AtKey, Overflow, States};
use crate::stream::{At, Stream};
use crate::table_hash::{table_hash, table_hash_from};

/// A record that finds no room looks for what has expired in so many pieces at most, of 64 buckets each.
const EXPIRED_PIECES_MAX: usize = 16;
/// Records that are put aside together, to look their keys up at once.
const GATHERED_MAX: usize = 128;

/// A function of records and timers, with state per key.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_flow::*;
/// # use thalweg_kernel::{Collector, Str};
/// /// Says which devices have been silent for ten seconds.
/// struct Silence {
///     deadline: ValueState<&'static str, i64>,
/// }
///
/// impl KeyedProcess<&'static str, (&'static str, i64)> for Silence {
///     type Out = &'static str;
///
///     fn record(
///         &mut self,
///         _: (&'static str, i64),
///         cx: &mut Context<'_, &'static str>,
///         _: &mut impl Collector<&'static str>,
///     ) {
///         if let Some(before) = self.deadline.get(cx) {
///             cx.delete_event_timer(before.into());
///         }
///         let deadline = cx.time().plus_ms(10_000);
///         self.deadline.set(cx, deadline.as_millis());
///         cx.event_timer(deadline);
///     }
///
///     fn timer(
///         &mut self,
///         cx: &mut Context<'_, &'static str>,
///         out: &mut impl Collector<&'static str>,
///     ) {
///         self.deadline.clear(cx);
///         out.record(cx.time(), *cx.key());
///     }
/// }
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let readings = flow.source(
/// #     Collection::new([("a", 0), ("b", 1_000), ("b", 9_000), ("b", 15_000)]),
/// #     Watermarks::monotonous().timestamps(|&(_, time)| time),
/// # );
/// readings.key_by(|&(device, _)| device).process(|states| Silence { deadline: states.value("deadline") })
/// # .sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("silence")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # assert_eq!(out.take_timed(), [(10_000.into(), "a"), (25_000.into(), "b")]);
/// ```
pub trait KeyedProcess<K, T>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Takes a record of the key of `cx`.
    fn record(&mut self, record: T, cx: &mut Context<'_, K>, out: &mut impl Collector<Self::Out>);

    /// A timer of the key of `cx` fires; its time is that of `cx`.
    fn timer(&mut self, _cx: &mut Context<'_, K>, _out: &mut impl Collector<Self::Out>) {}
}

/// A chain with a process function behind it, whose records are on the shards that own their keys.
pub(super) type Processed<C, P, F> = Then<
    <P as Placement<C>>::Placed,
    KeyedProcessing<<P as Placement<C>>::Key, <P as Placement<C>>::Value, F>,
>;

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// Calls a process function with each record of a key, on the shard that owns the key. `make` makes it
    /// on every shard, from the states that it asks for.
    pub fn process<F: KeyedProcess<P::Key, P::Value>>(
        self,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> Stream<Processed<C, P, F>> {
        let Self { stream, placement, bounds, sides } = self;
        let Stream { flow, chain, at } = placement.place::<F::Out>(stream, "Process");
        let operator = KeyedProcessing::new(&flow, at, bounds, sides, make);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

impl<K: Key, T: 'static, P: KeyedProcess<K, T>> KeyedProcessing<K, T, P> {
    /// The operator at `at`.
    pub(super) fn new(
        flow: &Flow,
        at: At,
        bounds: Bounds,
        sides: Sides,
        make: impl FnOnce(&mut States<'_, K>) -> P,
    ) -> Self {
        sides.come_out_of(flow, at.node);
        let mut states = States::new(flow, at.node);
        let function = make(&mut states);
        let states = states.into_keyed();
        let timers = BothTimers::new(flow, at.node, bounds.overflow);
        let failures = Failures::new(flow, at.node);
        failures.write_letters(flow.dead_letters_from(at.node, at.producers));
        Self {
            function,
            failures,
            states,
            timers,
            bounds,
            sides,
            watermark: Timestamp::MIN,
            reached: Timestamp::MIN,
            processing_time: Timestamp::MIN,
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
}

/// The operator of [`KeyedStream::process`].
pub struct KeyedProcessing<K, T, P> {
    function: P,
    failures: Failures,
    states: AllKeyed<K>,
    timers: BothTimers<K>,
    bounds: Bounds,
    sides: Sides,
    watermark: Timestamp,
    /// The event time that has been dealt with: the watermark, but while timers fire the time of the latest, and
    /// never the end of time. What lives until then is there for whoever comes.
    reached: Timestamp,
    processing_time: Timestamp,
    checkpoints: Rc<Checkpoints>,
    evicted: Counter,
    /// Whether its state is too large for the caches, as of the last step: then records are put aside, and what is
    /// kept of their keys is looked at in one go before they are processed. Those accesses to memory overlap, as they
    /// would not with the function's work in between.
    gathers: bool,
    cache_bytes: usize,
    /// Of processing-time timers in a step.
    work_max: usize,
    gathered: Vec<(Timestamp, K, T)>,
    /// Of their keys.
    hashes: Vec<u64>,
}

impl<K: Key, T: 'static, P: KeyedProcess<K, T>> KeyedProcessing<K, T, P> {
    #[inline]
    fn process(
        &mut self,
        (time, key, hash): (Timestamp, K, u64),
        record: T,
        out: &mut impl Collector<P::Out>,
    ) {
        if !self.admits(&key, hash) {
            return;
        }
        let Self { function, failures, timers, watermark, reached, processing_time, .. } = self;
        let (watermark, reached, processing_time) = (*watermark, *reached, *processing_time);
        let mut cx = Context { key: &key, hash, time, watermark, reached, processing_time, timers };
        let called = failures.emit(out, |out| function.record(record, &mut cx, out));
        if let Err(failure) = called {
            failures.failed(time, Some(&key), failure);
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
        self.bounds.full(&self.states, false).is_none() || self.makes_room(key, hash)
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
                // Where all of them are in the store alone, none was used of late.
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

    fn at<'a>(&self, key: &'a K, hash: u64) -> AtKey<'a, K> {
        let Self { reached, processing_time, .. } = *self;
        AtKey { key, hash, time: reached, reached, processing_time }
    }

    /// Drops all that is kept of a key, and its timers: they would find nothing.
    fn evict(&mut self, key: &K) {
        let hash = table_hash(key);
        let at = self.at(key, hash);
        self.states.iter().for_each(|state| state.borrow_mut().drop_key(&at));
        for timers in [&self.timers.event, &self.timers.processing] {
            timers.borrow_mut().delete_key(hash, key);
        }
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
        time: Timestamp,
        key: &K,
        budget: &mut Budget,
        out: &mut impl Collector<P::Out>,
    ) {
        budget.spend(1);
        let hash = table_hash(key);
        let Self { function, failures, timers, watermark, reached, processing_time, .. } = self;
        let (watermark, reached, processing_time) = (*watermark, *reached, *processing_time);
        let mut cx = Context { key, hash, time, watermark, reached, processing_time, timers };
        let mut out = budget.meter(out);
        let called = failures.emit(&mut out, |out| function.timer(&mut cx, out));
        if let Err(failure) = called {
            failures.failed(time, Some(key), failure);
        }
    }

    /// Event time has gone on to there.
    fn reach(&mut self, time: Timestamp) {
        if time < Timestamp::MAX {
            self.reached = self.reached.max(time);
        }
    }

    /// Fires timers that are due in event time; whether that was all of them.
    fn fire_events(&mut self, budget: &mut Budget, out: &mut impl Collector<P::Out>) -> bool {
        let (watermark, event) = (self.watermark, Rc::clone(&self.timers.event));
        if watermark == Timestamp::MAX {
            event.borrow_mut().begin_end();
        }
        loop {
            let due = event.borrow_mut().pop_due(watermark, budget);
            let Ok(due) = due else { return false };
            let Some((time, key)) = due else { break };
            self.reach(time);
            self.fire(time, &key, budget, out);
        }
        self.reach(watermark);
        true
    }
}

impl<K: Key, T: 'static, P: KeyedProcess<K, T>> Operator<Keyed<K, T>> for KeyedProcessing<K, T, P> {
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
        let Mark::Watermark(watermark) = mark else { return true };
        self.watermark = watermark;
        self.fire_events(budget, out)
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<P::Out>) {
        match mark {
            Mark::Barrier(epoch) => {
                for state in &self.states {
                    self.checkpoints.write(|out| state.borrow_mut().snapshot(epoch, out));
                }
                self.checkpoints.take(&*self.timers.event, epoch);
                self.checkpoints.take(&*self.timers.processing, epoch);
            }
            Mark::Watermark(_) | Mark::Idle | Mark::Active | Mark::End => {}
        }
        self.failures.mark(mark);
        self.sides.mark(mark);
        out.mark(mark);
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<P::Out>) -> Option<Timestamp> {
        self.processing_time = now.wall;
        // The rest with the next step: after a jump of the clock, or of a timer that sets itself for now.
        let mut budget = Budget::of(self.work_max);
        loop {
            let due = self.timers.processing.borrow_mut().pop_due(now.wall, &budget);
            let Ok(Some((time, key))) = due else { break };
            self.fire(time, &key, &mut budget, out);
        }
        for state in &self.states {
            state.borrow_mut().expire(self.reached, now.wall);
        }
        self.timers.processing.borrow_mut().timers.earliest()
    }

    #[inline]
    fn settle(&mut self, out: &mut impl Collector<P::Out>) {
        self.release(out);
        let cache_bytes = self.cache_bytes;
        self.gathers = self.states.iter().any(|state| state.borrow().entries_bytes() > cache_bytes);
    }

    fn ready(&self) -> bool {
        self.sides.have_room() && self.failures.have_room()
    }
}
