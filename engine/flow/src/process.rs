//! Process functions: user code per key, with state, timers and side outputs.
//!
//! Records of a key come in the order each sender had them. A timer fires for its key as if it were a
//! record: an event-time timer when the watermark reaches it, before the watermark goes on; a
//! processing-time timer when this machine's clock does. Timers that are due together fire in order of
//! their times, those of one millisecond in no particular order. The same timer registered twice is one. When
//! its stream ends, all event-time timers fire that are set by then; processing-time timers that are not due do not.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use thalweg_kernel::{
    Cause, Collector, DeadLetter, Epoch, Key, Mark, StateError, StateId, StateKind, Timestamp,
    ValueDamaged,
};

use crate::checkpoint::{Checkpoints, Description, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::key_by::{KeyedStream, Routed};
use crate::exchange::local::LocalEdge;
use crate::flow::dead_letters::DeadLetterOutput;
use crate::graph::Edge;
use crate::pipeline::{Chain, Now, Operator, Then};
use crate::state::keyed::AllKeyed;
use crate::state::table::table_hash;
use crate::state::timers::{Inserted, Timers};
use crate::state::{AtKey, Overflow, STATE_KEYS_MAX, States};
use crate::stream::{At, Stream};
use crate::window::table::table_hash_from;

/// An operator has at most so many timers of each kind on a shard; one more is counted
/// (`numTimersOverLimitDropped`) and not registered.
pub const TIMERS_MAX: usize = 10_000_000;

/// So many processing-time timers fire in a step at most.
const TIMERS_FIRED_MAX: usize = 4_096;

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

/// What a process function is told of the record or timer at hand.
pub struct Context<'a, K> {
    pub(crate) key: &'a K,
    /// The key's hash for tables.
    pub(crate) hash: u64,
    pub(crate) time: Timestamp,
    pub(crate) watermark: Timestamp,
    pub(crate) processing_time: Timestamp,
    timers: &'a mut BothTimers<K>,
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
        self.timers.event.borrow_mut().timers.delete(time, self.hash, self.key);
    }

    /// Sets a timer of this key by this machine's clock.
    pub fn processing_timer(&mut self, time: Timestamp) {
        self.timers.processing.borrow_mut().insert(time, self.hash, self.key);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_processing_timer(&mut self, time: Timestamp) {
        self.timers.processing.borrow_mut().timers.delete(time, self.hash, self.key);
    }
}

/// A second output of a process function. See [`KeyedStream::side_output`].
pub struct SideTag<E>(LocalEdge<E>);

impl<E> SideTag<E> {
    /// Emits to the side.
    pub fn emit(&self, time: Timestamp, value: E) {
        self.0.push(time, value);
    }
}

/// A side output as its operator sees it.
pub(crate) struct SideEdge {
    node: u32,
    mark: Box<dyn Fn(Mark)>,
    has_room: Box<dyn Fn() -> bool>,
}

/// How much state a process function may keep.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    keys_max: usize,
    overflow: Overflow,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keys_max: STATE_KEYS_MAX, overflow: Overflow::default() }
    }
}

impl<C: Chain, F> KeyedStream<C, F> {
    /// Bounds the keys of which a process function keeps state on each shard,
    /// [`STATE_KEYS_MAX`] by default, and says what happens to a record with one more.
    pub fn keys_max(mut self, keys: usize, overflow: Overflow) -> Self {
        self.bounds = Bounds { keys_max: keys, overflow };
        self
    }

    /// A second output of the process function that follows, with the same watermarks. Give the tag to the
    /// function.
    pub fn side_output<E: 'static>(mut self, name: &str) -> (Self, SideTag<E>, Stream<Inbox<E>>) {
        let flow = self.stream.flow.clone();
        let (edge, inbox) = LocalEdge::new();
        let producers = flow.shards();
        let node = flow.add_node::<E>(name, producers, vec![]);
        let chain = flow.inbox(vec![Port::Local(inbox)], node);
        let (mark, room) = (edge.clone(), edge.clone());
        self.sides.push(SideEdge {
            node,
            mark: Box::new(move |to| mark.push_mark(to)),
            has_room: Box::new(move || room.has_room()),
        });
        (self, SideTag(edge), Stream { flow, chain, at: At { node, producers } })
    }
}

/// A process function behind its exchange.
type Processed<K, C, F, P> =
    Stream<Then<Inbox<Addressed<<C as Chain>::Out>>, Process<K, <C as Chain>::Out, F, P>>>;

impl<C: Chain, K: Key, F: Fn(&C::Out) -> K + 'static> KeyedStream<C, F>
where
    C::Out: Send,
{
    /// Calls a process function with each record of a key, on the shard that owns the key. `make` makes it
    /// on every shard, from the states that it asks for.
    pub fn process<P: KeyedProcess<K, C::Out>>(
        self,
        make: impl FnOnce(&mut States<'_, K>) -> P,
    ) -> Processed<K, C, F, P> {
        let Self { stream, key, bounds, sides } = self;
        let key = Rc::new(key);
        let Stream { flow, chain, at } = stream;
        let address = Address { key: Rc::clone(&key) };
        // Part of the exchange, not an operator that the user knows of: no node of its own.
        let stream = Stream { flow, chain: Then::new(chain, address), at };
        let Stream { flow, chain, at } = stream.exchange("Process", "numRecordsIn");
        for side in &sides {
            flow.set_inputs(side.node, vec![(at.node, Edge::Local)]);
        }
        let mut states = States::new(&flow, at.node);
        let function = make(&mut states);
        let states = states.into_keyed();
        let over_limit = flow.counter("numTimersOverLimitDropped", at.node);
        let timers = |name| {
            let timers = OneTimers::new(flow.checkpoints(), over_limit.clone());
            let timers = Rc::new(RefCell::new(timers));
            let describe = Description::of::<K, ()>(at.node, name, StateKind::Timers);
            flow.checkpoints().register(describe, Some(Rc::clone(&timers) as _));
            timers
        };
        let timers =
            BothTimers { event: timers("event timers"), processing: timers("processing timers") };
        let operator = Process {
            key,
            function,
            name: flow.name_of(at.node).clone(),
            states,
            timers,
            bounds,
            sides,
            watermark: Timestamp::MIN,
            processing_time: Timestamp::MIN,
            checkpoints: Rc::clone(flow.checkpoints()),
            dead_letters: flow.dead_letters_from(at.node, at.producers),
            evicted: flow.counter("numKeysEvicted", at.node),
            records: std::marker::PhantomData,
        };
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

/// A record on its way to the shard that owns its key.
pub struct Addressed<T> {
    hash: u64,
    value: T,
}

impl<T: 'static> Routed for Addressed<T> {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
}

/// Puts the hash of its key on each record.
pub(crate) struct Address<F> {
    key: Rc<F>,
}

impl<T: 'static, K: Key, F: Fn(&T) -> K + 'static> Operator<T> for Address<F> {
    type Out = Addressed<T>;

    #[inline]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Addressed<T>>) {
        let hash = (self.key)(&value).key_hash();
        out.record(time, Addressed { hash, value });
    }
}

/// The timers of one time domain.
struct OneTimers<K> {
    timers: Timers<K>,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    over_limit: Counter,
}

struct BothTimers<K> {
    event: Rc<RefCell<OneTimers<K>>>,
    processing: Rc<RefCell<OneTimers<K>>>,
}

impl<K: Key> OneTimers<K> {
    fn new(checkpoints: &Rc<Checkpoints>, over_limit: Counter) -> Self {
        let (timers, id) = (Timers::new(TIMERS_MAX), StateId::of("", ""));
        Self { timers, id, checkpoints: Rc::clone(checkpoints), over_limit }
    }

    fn insert(&mut self, time: Timestamp, hash: u64, key: &K) {
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

/// The operator of [`KeyedStream::process`].
pub struct Process<K, T, F, P> {
    key: Rc<F>,
    function: P,
    name: thalweg_kernel::Str,
    states: AllKeyed<K>,
    timers: BothTimers<K>,
    bounds: Bounds,
    sides: Vec<SideEdge>,
    watermark: Timestamp,
    processing_time: Timestamp,
    checkpoints: Rc<Checkpoints>,
    dead_letters: DeadLetterOutput,
    evicted: Counter,
    records: std::marker::PhantomData<fn(T)>,
}

impl<K: Key, T: 'static, F: Fn(&T) -> K + 'static, P: KeyedProcess<K, T>> Process<K, T, F, P> {
    /// Whether there is room for one more key, or the key is none.
    #[inline]
    fn admits(&mut self, key: &K, hash: u64) -> bool {
        let keys_max = self.bounds.keys_max;
        !self.states.iter().any(|state| state.borrow().keys() >= keys_max)
            || self.makes_room(key, hash)
    }

    #[cold]
    fn makes_room(&mut self, key: &K, hash: u64) -> bool {
        let Self { watermark, processing_time, .. } = *self;
        let time = watermark;
        let at = AtKey { key, hash, time, watermark, processing_time };
        if self.states.iter().any(|state| state.borrow_mut().has(&at)) {
            return true;
        }
        if self.bounds.overflow == Overflow::DeadLetter || self.bounds.keys_max == 0 {
            self.refuse(key);
            return false;
        }
        let keys_max = self.bounds.keys_max;
        let full = self.states.iter().find(|state| state.borrow().keys() >= keys_max);
        let oldest = full.and_then(|state| state.borrow_mut().least_recently_used());
        // Where all of them are in the store alone, none was used of late.
        let Some(oldest) = oldest else {
            self.refuse(key);
            return false;
        };
        let hash = table_hash(&oldest);
        let at = AtKey { key: &oldest, hash, time, watermark, processing_time };
        self.states.iter().for_each(|state| state.borrow_mut().drop_key(&at));
        self.evicted.add(1);
        true
    }

    fn refuse(&self, key: &K) {
        let mut payload = Vec::new();
        key.write_key(&mut payload);
        self.dead_letters.push(DeadLetter {
            topic: self.name.clone(),
            cause: Cause::StateFull,
            reason: format!("state of {} keys is kept, and no more may be", self.bounds.keys_max),
            position: None,
            offset: None,
            received: self.processing_time,
            payload_bytes: payload.len() as u64,
            payload: Bytes::from(payload),
        });
    }

    fn fire(&mut self, time: Timestamp, key: &K, out: &mut impl Collector<P::Out>) {
        let hash = table_hash(key);
        let Self { function, timers, watermark, processing_time, .. } = self;
        let (watermark, processing_time) = (*watermark, *processing_time);
        let mut cx = Context { key, hash, time, watermark, processing_time, timers };
        function.timer(&mut cx, out);
    }
}

impl<K, T, F, P> Operator<Addressed<T>> for Process<K, T, F, P>
where
    K: Key,
    T: 'static,
    F: Fn(&T) -> K + 'static,
    P: KeyedProcess<K, T>,
{
    type Out = P::Out;

    #[inline]
    fn record(&mut self, time: Timestamp, record: Addressed<T>, out: &mut impl Collector<P::Out>) {
        let key = (self.key)(&record.value);
        let hash = table_hash_from(&key, record.hash);
        if !self.admits(&key, hash) {
            return;
        }
        let Self { function, timers, watermark, processing_time, .. } = self;
        let (watermark, processing_time) = (*watermark, *processing_time);
        let mut cx = Context { key: &key, hash, time, watermark, processing_time, timers };
        function.record(record.value, &mut cx, out);
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<P::Out>) {
        match mark {
            Mark::Watermark(watermark) => {
                self.watermark = watermark;
                // At the end of time every timer is due, and a timer that sets the next one would go on for
                // ever: then only those fire that are set by now.
                let ended = watermark == Timestamp::MAX;
                let mut left =
                    if ended { self.timers.event.borrow().timers.len() } else { usize::MAX };
                while left > 0 {
                    let due = self.timers.event.borrow_mut().timers.pop_due(watermark);
                    let Some((time, key)) = due else { break };
                    self.fire(time, &key, out);
                    left -= 1;
                }
            }
            Mark::Barrier(epoch) => {
                for state in &self.states {
                    self.checkpoints.write(|out| state.borrow_mut().snapshot(epoch, out));
                }
                self.checkpoints.take(&*self.timers.event, epoch);
                self.checkpoints.take(&*self.timers.processing, epoch);
                self.dead_letters.barrier(epoch);
            }
            Mark::End => self.dead_letters.end(),
            Mark::Idle | Mark::Active => {}
        }
        self.sides.iter().for_each(|side| (side.mark)(mark));
        out.mark(mark);
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<P::Out>) -> Option<Timestamp> {
        self.processing_time = now.wall;
        // The rest with the next step: after a jump of the clock, or of a timer that sets itself for now.
        for _ in 0..TIMERS_FIRED_MAX {
            let due = self.timers.processing.borrow_mut().timers.pop_due(now.wall);
            let Some((time, key)) = due else { break };
            self.fire(time, &key, out);
        }
        for state in &self.states {
            state.borrow_mut().expire(self.watermark, now.wall);
        }
        self.timers.processing.borrow_mut().timers.earliest()
    }

    fn ready(&self) -> bool {
        self.sides.iter().all(|side| (side.has_room)()) && self.dead_letters.has_room()
    }
}
