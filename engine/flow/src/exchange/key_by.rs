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

use thalweg_kernel::{Collector, Key, Timestamp};

use super::inbox::{Inbox, Port};
use super::route::{ByKey, InputId, Routed};
use super::side::Sides;
use crate::graph::Edge;
use crate::pipeline::{Chain, Operator, Then};
use crate::state::bounds::Bounds;
use crate::stream::{At, Stream};

/// A stream partitioned by key: what windows and keyed state work on. `P` is its [`Placement`].
#[must_use = "a keyed stream does nothing until an operator uses it"]
pub struct KeyedStream<C: Chain, P> {
    pub(crate) stream: Stream<C>,
    pub(crate) placement: P,
    /// For the operator that follows.
    pub(crate) bounds: Bounds,
    pub(crate) sides: Sides,
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
    ) -> KeyedStream<C, Unplaced<F>> {
        KeyedStream::new(self, Unplaced(Rc::new(key)))
    }
}

impl<C: Chain, P> KeyedStream<C, P> {
    fn new(stream: Stream<C>, placement: P) -> Self {
        Self { stream, placement, bounds: Bounds::default(), sides: Sides::default() }
    }
}

impl<C: Chain<Out = Keyed<K, T>>, K: Key, T: 'static> KeyedStream<C, Placed> {
    /// The records of `stream` are on the shards that own their keys.
    pub(crate) fn placed(stream: Stream<C>) -> Self {
        Self::new(stream, Placed(()))
    }

    /// The records without their keys, where they are.
    pub fn values(self) -> Stream<Then<C, Values>> {
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
}

/// Takes its key off each record: see [`KeyedStream::values`].
pub struct Values(());

impl<K: 'static, T: 'static> Operator<Keyed<K, T>> for Values {
    type Out = T;

    #[inline]
    fn record(&mut self, time: Timestamp, keyed: Keyed<K, T>, out: &mut impl Collector<T>) {
        out.record(time, keyed.value);
    }
}
