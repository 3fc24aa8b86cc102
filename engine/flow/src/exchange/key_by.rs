//! `key_by`: partitions a stream by key.
//!
//! # Idea
//! A [`KeyedStream`] is a stream whose records have a key. Its [`Placement`] says where they are:
//!
//! - [`Unplaced`]: where they came from. The exchange comes with the first stateful operator, so that windows
//!   can add up in front of it.
//! - [`Placed`]: on the shard that owns their key, each as a [`Keyed`] with its key and the key's hash. Every
//!   further stateful operator is fused to the chain, and nothing is exchanged again.
//!
//! The exchange turns the first into the second. So does a stateful operator that emits records of the key it was
//! called with: [`deduplicate`](KeyedStream::deduplicate), [`process_keyed`](KeyedStream::process_keyed). All
//! records of a key meet in one place, in the order in which each sender had them.
//!
//! # Limits
//! A key is computed and hashed once, on the shard that has the record, and travels with it. (Windows that add up in
//! front of the exchange compute the key on both sides and send none: that is cheaper.) A stream whose key is to
//! change is partitioned anew: [`values`](KeyedStream::values), then `key_by`.

use std::rc::Rc;

use thalweg_kernel::{Collector, ConnectorError, Key, Timestamp};

use super::inbox::{Inbox, Port};
use super::route::{ByKey, Routed};
use super::side::Sides;
use crate::graph::{At, Edge, InputId};
use crate::pipeline::{Chain, Operator, Then};
use crate::state::Overflow;
use crate::state::bounds::Bounds;
use crate::stream::Stream;
use crate::time::generator::WatermarkGenerator;
use crate::time::per_key::ClockPerKey;
use crate::time::watermarks::{Received, Watermarks};

/// A stream partitioned by key: what windows and keyed state work on. `P` is its [`Placement`].
#[must_use = "a keyed stream does nothing until an operator uses it"]
pub struct KeyedStream<C: Chain, P: Placement<C>> {
    pub(crate) stream: Stream<C>,
    pub(crate) placement: P,
    pub(crate) follower: Follower<P::Key, P::Value>,
}

/// What has been said of the operator that follows on a keyed stream.
pub(crate) struct Follower<K, T> {
    pub(crate) bounds: Bounds,
    pub(crate) sides: Sides,
    pub(crate) clock: Option<ClockPerKey<K, T>>,
}

impl<K, T> Default for Follower<K, T> {
    fn default() -> Self {
        Self { bounds: Bounds::default(), sides: Sides::default(), clock: None }
    }
}

/// A record with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed<K, T> {
    /// The fixed hash of the key, [`Key::key_hash`].
    pub hash: u64,
    /// The key.
    pub key: K,
    /// The record.
    pub value: T,
}

impl<K: 'static, T: 'static> Routed for Keyed<K, T> {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
}

/// Where the records of a keyed stream are: see [`Unplaced`] and [`Placed`].
#[allow(private_interfaces, reason = "sealed: see `Unplaced` and `Placed`")]
pub trait Placement<C: Chain>: Sized + 'static {
    /// The key.
    type Key: Key;
    /// The record without its key.
    type Value: 'static;
    /// The chain that has its records on the shard that owns their key.
    type Placed: Chain<Out = Keyed<Self::Key, Self::Value>>;

    /// Begins an operator called `name`, which emits `Out`, on the shard that owns each record's key.
    #[doc(hidden)]
    fn place<Out: 'static>(self, stream: Stream<C>, name: &str) -> Stream<Self::Placed>;

    /// The edge to an operator with several inputs.
    #[doc(hidden)]
    const EDGE: Edge;

    /// Ends the chain in front of one of them, on the shard that owns each record's key.
    #[doc(hidden)]
    fn ports(self, stream: Stream<C>, input: InputId) -> Vec<Port<Keyed<Self::Key, Self::Value>>>;
}

/// Records are where they came from, and this function reads their key.
pub struct Unplaced<F>(pub(crate) Rc<F>);

/// Records are on the shard that owns their key.
pub struct Placed(());

#[allow(private_interfaces, reason = "see the trait")]
impl<C: Chain, K: Key, F: Fn(&C::Out) -> K + 'static> Placement<C> for Unplaced<F>
where
    C::Out: Send,
{
    type Key = K;
    type Value = C::Out;
    type Placed = Inbox<Keyed<K, C::Out>>;

    fn place<Out: 'static>(self, stream: Stream<C>, name: &str) -> Stream<Self::Placed> {
        let route = ByKey::new(&stream.flow);
        self.address(stream).exchange::<Out, _>(name, "numRecordsIn", route)
    }

    const EDGE: Edge = Edge::Hash;

    fn ports(self, stream: Stream<C>, input: InputId) -> Vec<Port<Keyed<K, C::Out>>> {
        let route = ByKey::new(&stream.flow);
        self.address(stream).send(input, route)
    }
}

impl<F> Unplaced<F> {
    fn address<C: Chain>(self, stream: Stream<C>) -> Stream<Then<C, Address<F>>>
    where
        Address<F>: Operator<C::Out>,
    {
        let Stream { flow, chain, at } = stream;
        // Part of the exchange, not an operator that the user knows of: no node of its own.
        Stream { flow, chain: Then::new(chain, Address(self.0)), at }
    }
}

#[allow(private_interfaces, reason = "see the trait")]
impl<C: Chain<Out = Keyed<K, T>>, K: Key, T: 'static> Placement<C> for Placed {
    type Key = K;
    type Value = T;
    type Placed = C;

    fn place<Out: 'static>(self, stream: Stream<C>, name: &str) -> Stream<C> {
        let Stream { flow, chain, at } = stream;
        flow.used(at.node);
        let node = flow.add_node::<Out>(name, at.producers, vec![(at.node, Edge::Chained)]);
        Stream { flow, chain, at: At { node, ..at } }
    }

    const EDGE: Edge = Edge::Local;

    fn ports(self, stream: Stream<C>, _input: InputId) -> Vec<Port<Keyed<K, T>>> {
        stream.local_ports()
    }
}

impl<C: Chain> Stream<C> {
    /// Partitions the stream by what `key` returns. It is called on the shard that has the record. Short strings
    /// should be [`Str`](thalweg_kernel::Str), whose clones up to 24 bytes do not allocate.
    pub fn key_by<K: Key, F: Fn(&C::Out) -> K + 'static>(
        self,
        key: F,
    ) -> KeyedStream<C, Unplaced<F>>
    where
        C::Out: Send,
    {
        KeyedStream::new(self, Unplaced(Rc::new(key)))
    }
}

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    fn new(stream: Stream<C>, placement: P) -> Self {
        Self { stream, placement, follower: Follower::default() }
    }

    /// Bounds the keys of which a process function keeps state on each shard, and says what happens to a record with one
    /// more. By default these are [`STATE_KEYS_MAX`](crate::STATE_KEYS_MAX).
    pub fn keys_max(mut self, keys: usize, overflow: Overflow) -> Self {
        let bounds = &mut self.follower.bounds;
        (bounds.keys_max, bounds.overflow) = (keys, overflow);
        self
    }

    /// Bounds the bytes of the state that a process function keeps on each shard, in memory or not, all its
    /// states together; [`STATE_BYTES_MAX`](crate::STATE_BYTES_MAX) by default. Entries and the buffers of lists and maps
    /// count as they are, what lies inside of other values as recent ones were written, on average. Both bounds have one
    /// policy: the one that was named last.
    pub fn bytes_max(mut self, bytes: usize, overflow: Overflow) -> Self {
        let bounds = &mut self.follower.bounds;
        (bounds.bytes_max, bounds.overflow) = (bytes, overflow);
        self
    }

    /// Gives each key a clock of its own in the process function that follows. The watermark of a key follows from the
    /// records of that key alone, as `strategy` says. By it records are [late](crate::Context::is_late) and event timers
    /// fire. So a device that was offline for hours brings its backlog, and nothing of it is late, while the others go on.
    /// (The event time of a record and the clock guard are a matter of the source.)
    ///
    /// The timers of a silent key wait until it speaks or the stream ends. With [`idle_after`](Watermarks::idle_after) they
    /// wait no longer than that: those fire that the watermark of the stream has passed.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// How many readings each device has in each minute.
    /// struct PerMinute {
    ///     counts: MapState<&'static str, i64, u32>,
    /// }
    ///
    /// impl Process<&'static str, (&'static str, i64)> for PerMinute {
    ///     type Out = (&'static str, i64, u32);
    ///
    ///     fn record(
    ///         &mut self,
    ///         (_, second): (&'static str, i64),
    ///         cx: &mut Context<'_, &'static str>,
    ///         _: &mut impl Collector<Self::Out>,
    ///     ) {
    ///         if !cx.is_late() {
    ///             let minute = second / 60;
    ///             let count = self.counts.get(cx, &minute).unwrap_or_default();
    ///             self.counts.put(cx, minute, count + 1);
    ///             cx.event_timer(((minute + 1) * 60_000).into());
    ///         }
    ///     }
    ///
    ///     fn timer(&mut self, cx: &mut Context<'_, &'static str>, out: &mut impl Collector<Self::Out>) {
    ///         let minute = cx.time().as_millis() / 60_000 - 1;
    ///         let count = self.counts.get(cx, &minute).unwrap_or_default();
    ///         out.record(cx.time(), (cx.key(), minute, count));
    ///         self.counts.remove(cx, &minute);
    ///     }
    /// }
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// # // "b" was offline for four minutes.
    /// # let readings = [("a", 5), ("b", 7), ("a", 65), ("a", 250), ("b", 9), ("b", 70), ("b", 130)];
    /// # let watermarks = Watermarks::monotonous().timestamps(|&(_, second)| second * 1_000);
    /// # let readings = flow.source(Collection::new(readings), watermarks);
    /// readings
    ///     .key_by(|&(device, _)| device)
    ///     .clock_per_key(Watermarks::bounded_out_of_orderness(Duration::from_secs(2)))
    ///     .process(|states| PerMinute { counts: states.map("counts") })
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("per_key")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # let rows = [("a", 0, 1), ("a", 1, 1), ("b", 0, 2), ("b", 1, 1), ("b", 2, 1), ("a", 4, 1)];
    /// # assert_eq!(out.take(), rows);
    /// ```
    pub fn clock_per_key<G: WatermarkGenerator<P::Value>>(
        mut self,
        strategy: Watermarks<Received, G>,
    ) -> Self {
        strategy.refused("a key").into_iter().for_each(|error| self.stream.flow.fail(error));
        if strategy.close_after.is_some() {
            let what = "close_after() is for sources, and a key with a clock of its own has none; use idle_after(), by which \
                        the timers of a silent key fire when the stream's watermark has passed them";
            self.stream.flow.fail(ConnectorError::new("job", what));
        }
        self.follower.clock = Some(ClockPerKey::new(strategy));
        self
    }

    /// Refuses a clock per key in front of an operator that goes by the stream's watermark alone.
    pub(crate) fn without_clock(mut self, operator: &str) -> Self {
        if self.follower.clock.take().is_some() {
            let what = format!(
                "{operator} goes by the watermark of the stream, and a stream with clock_per_key() has one for each key; put \
                 a process function on it, whose timers go by the clock of their key"
            );
            self.stream.flow.fail(ConnectorError::new("job", what));
        }
        self
    }
}

impl<C: Chain<Out = Keyed<K, T>>, K: Key, T: 'static> KeyedStream<C, Placed> {
    /// The records of `stream` are on the shards that own their keys.
    pub(crate) fn placed(stream: Stream<C>) -> Self {
        Self::new(stream, Placed(()))
    }

    /// The records without their keys, where they are.
    pub fn values(self) -> Stream<Then<C, Values>> {
        if self.follower.clock.is_some() {
            let what = "values() takes the keys off a stream with clock_per_key(), and no function is left to go by their clocks; \
                        put a process function in front of it, or leave clock_per_key() out";
            self.stream.flow.fail(ConnectorError::new("job", what));
        }
        let Stream { flow, chain, at } = self.stream;
        // What was part of the operator is taken off again: no node of its own.
        Stream { flow, chain: Then::new(chain, Values(())), at }
    }

    /// Names the operator that this stream comes out of, for the graph, logs and metrics.
    pub fn name(self, name: &str) -> Self {
        Self { stream: self.stream.name(name), ..self }
    }

    /// Gives the operator that this stream comes out of a stable name: see [`Stream::uid`].
    pub fn uid(self, uid: &str) -> Self {
        Self { stream: self.stream.uid(uid), ..self }
    }
}

/// Puts its key on each record.
pub(crate) struct Address<F>(Rc<F>);

impl<T: 'static, K: Key, F: Fn(&T) -> K + 'static> Operator<T> for Address<F> {
    type Out = Keyed<K, T>;

    #[inline]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Keyed<K, T>>) {
        let key = (self.0)(&value);
        out.record(time, Keyed { hash: key.key_hash(), key, value });
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}

/// Takes its key off each record: see [`KeyedStream::values`].
pub struct Values(());

impl<K: 'static, T: 'static> Operator<Keyed<K, T>> for Values {
    type Out = T;

    #[inline]
    fn record(&mut self, time: Timestamp, keyed: Keyed<K, T>, out: &mut impl Collector<T>) {
        out.record(time, keyed.value);
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}
