//! `connect`: two streams of different types into one operator.
//!
//! | | what comes together | who is called |
//! |---|---|---|
//! | [`Stream::connect`] | what is on one shard | a [`CoProcess`](crate::CoProcess) without a key |
//! | [`KeyedStream::connect`] | what has one key | a [`CoProcess`](crate::CoProcess) with the key |
//! | [`KeyedStream::connect_broadcast`] | a key's records and all records of the other stream | a [`CoProcess`](crate::CoProcess) whose right records have no key |
//!
//! Each of them also takes an operator of your own, a [`TwoInputs`]. How the inputs are merged, and how one of them
//! can be held back, is in `exchange/connected.rs`.

use crate::exchange::connected::{Connected, TwoInputs};
use crate::exchange::inbox::Port;
use crate::exchange::key_by::{Follower, Keyed, KeyedStream, Placement};
use crate::exchange::ports::Together;
use crate::exchange::route::{Broadcast, Route};
use crate::flow::Flow;
use crate::graph::{At, Edge};
use crate::pipeline::Chain;
use crate::stream::Stream;

/// Two streams in front of an operator with two inputs.
#[must_use = "connected streams do nothing until an operator takes them"]
pub struct ConnectedStreams<C: Chain, D: Chain> {
    pub(crate) left: Stream<C>,
    pub(crate) right: Stream<D>,
}

/// Two streams, partitioned by keys of one type, in front of an operator with two inputs.
#[must_use = "connected streams do nothing until an operator takes them"]
pub struct ConnectedKeyed<C: Chain, P: Placement<C>, D: Chain, Q: Placement<D>> {
    pub(crate) left: KeyedStream<C, P>,
    pub(crate) right: KeyedStream<D, Q>,
}

/// A keyed stream, and one that every shard has, in front of an operator with two inputs.
#[must_use = "connected streams do nothing until an operator takes them"]
pub struct ConnectedBroadcast<C: Chain, P: Placement<C>, D: Chain> {
    pub(crate) left: KeyedStream<C, P>,
    pub(crate) right: Stream<D>,
}

/// A chain that begins with an operator over two keyed streams.
pub(crate) type KeyedHead<C, P, D, Q, O> = Connected<
    Keyed<<P as Placement<C>>::Key, <P as Placement<C>>::Value>,
    Keyed<<Q as Placement<D>>::Key, <Q as Placement<D>>::Value>,
    O,
>;

/// A chain that begins with an operator over a keyed stream and one that every shard has.
type BroadcastHead<C, P, D, O> =
    Connected<Keyed<<P as Placement<C>>::Key, <P as Placement<C>>::Value>, <D as Chain>::Out, O>;

impl<C: Chain> Stream<C> {
    /// Brings this stream, the left one, and `other`, the right one, together on each shard, as they are there.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// Passes on what is above the latest limit.
    /// struct Above {
    ///     limit: f64,
    /// }
    ///
    /// impl CoProcess<NoKey, f64, f64> for Above {
    ///     type Out = f64;
    ///
    ///     fn left(&mut self, reading: f64, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<f64>) {
    ///         if reading > self.limit {
    ///             out.record(cx.time(), reading);
    ///         }
    ///     }
    ///
    ///     fn right(&mut self, limit: f64, _: &mut Context<'_, NoKey>, _: &mut impl Collector<f64>) {
    ///         self.limit = limit;
    ///     }
    ///
    ///     /// Readings wait until all limits are there.
    ///     fn holds(&self, inputs: &Inputs) -> Option<Input> {
    ///         (!inputs.right.has_ended).then_some(Input::Left)
    ///     }
    /// }
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let readings = flow.source(Collection::new([19.0, 21.0, 23.0]), Watermarks::monotonous());
    /// let limits = flow.source(Collection::new([18.0, 20.0]), Watermarks::monotonous());
    /// readings
    ///     .connect(limits)
    ///     .process(|_states| Above { limit: f64::MIN })
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("above")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [21.0, 23.0]);
    /// ```
    pub fn connect<D: Chain>(self, other: Stream<D>) -> ConnectedStreams<C, D> {
        ConnectedStreams { left: self, right: other }
    }
}

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// Brings the records of this stream, the left one, and of `other`, the right one, together that have one key. A
    /// stream that is placed already is not exchanged again. Bounds and side outputs are the left one's.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// Puts the name of its device on each reading, whichever of them comes first.
    /// struct Named {
    ///     name: ValueState<u32, String>,
    ///     waiting: ListState<u32, f64>,
    /// }
    ///
    /// impl CoProcess<u32, (u32, f64), (u32, &'static str)> for Named {
    ///     type Out = (String, f64);
    ///
    ///     fn left(
    ///         &mut self,
    ///         (_, reading): (u32, f64),
    ///         cx: &mut Context<'_, u32>,
    ///         out: &mut impl Collector<(String, f64)>,
    ///     ) {
    ///         match self.name.get(cx) {
    ///             Some(name) => out.record(cx.time(), (name, reading)),
    ///             None => self.waiting.push(cx, reading),
    ///         }
    ///     }
    ///
    ///     fn right(
    ///         &mut self,
    ///         (_, name): (u32, &'static str),
    ///         cx: &mut Context<'_, u32>,
    ///         out: &mut impl Collector<(String, f64)>,
    ///     ) {
    ///         self.name.set(cx, name.to_owned());
    ///         for reading in self.waiting.get(cx) {
    ///             out.record(cx.time(), (name.to_owned(), reading));
    ///         }
    ///         self.waiting.clear(cx);
    ///     }
    /// }
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let readings = flow.source(Collection::new([(7, 20.5), (9, 3.0)]), Watermarks::monotonous());
    /// let devices = flow.source(Collection::new([(7, "kiln"), (9, "pump")]), Watermarks::monotonous());
    /// readings
    ///     .key_by(|&(device, _)| device)
    ///     .connect(devices.key_by(|&(device, _)| device))
    ///     .process(|states| Named { name: states.value("name"), waiting: states.list("waiting") })
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("named")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # let mut rows = out.take();
    /// # rows.sort_by(|a, b| a.0.cmp(&b.0));
    /// # assert_eq!(rows, [("kiln".to_owned(), 20.5), ("pump".to_owned(), 3.0)]);
    /// ```
    pub fn connect<D: Chain, Q: Placement<D, Key = P::Key>>(
        self,
        other: KeyedStream<D, Q>,
    ) -> ConnectedKeyed<C, P, D, Q> {
        let operator = "an operator with two keyed inputs";
        ConnectedKeyed { left: self.without_clock(operator), right: other.without_clock(operator) }
    }

    /// Gives every record of `other`, the right one, to all shards of this stream, the left one: rules, say, that
    /// hold for all keys.
    pub fn connect_broadcast<D: Chain<Out: Clone + Send>>(
        self,
        other: Stream<D>,
    ) -> ConnectedBroadcast<C, P, D> {
        ConnectedBroadcast { left: self, right: other }
    }
}

impl<C: Chain, D: Chain> ConnectedStreams<C, D> {
    /// Begins a new chain with an operator of your own; `name` is its name in the graph.
    pub fn then<O: TwoInputs<C::Out, D::Out>>(
        self,
        name: &str,
        operator: O,
    ) -> Stream<Connected<C::Out, D::Out, O>> {
        self.make(name, |_, _| operator)
    }

    pub(crate) fn make<O: TwoInputs<C::Out, D::Out>>(
        self,
        name: &str,
        make: impl FnOnce(&Flow, At) -> O,
    ) -> Stream<Connected<C::Out, D::Out, O>> {
        let Self { left, right } = self;
        let flow = left.flow.clone();
        let (lefts, rights) = (left.at.producers, right.at.producers);
        let inputs = vec![(left.at.node, Edge::Local), (right.at.node, Edge::Local)];
        let producers = lefts.max(rights);
        let at = At { node: flow.add_node::<O::Out>(name, producers, inputs), producers };
        let ports = (left.local_ports(), right.local_ports());
        let operator = make(&flow, at);
        flow.connected(ports, operator, at)
    }
}

impl<C: Chain, P: Placement<C>, D: Chain, Q: Placement<D, Key = P::Key>>
    ConnectedKeyed<C, P, D, Q>
{
    /// Begins a new chain with an operator of your own; `name` is its name in the graph.
    pub fn then<O: TwoInputs<Keyed<P::Key, P::Value>, Keyed<Q::Key, Q::Value>>>(
        self,
        name: &str,
        operator: O,
    ) -> Stream<KeyedHead<C, P, D, Q, O>> {
        let Self { left, right } = self;
        connect_keyed((left.stream, left.placement), right, name, |_, _| operator)
    }
}

/// Connects two keyed streams in front of what `make` makes.
pub(crate) fn connect_keyed<C, P, D, Q, O>(
    (left, placement): (Stream<C>, P),
    right: KeyedStream<D, Q>,
    name: &str,
    make: impl FnOnce(&Flow, At) -> O,
) -> Stream<KeyedHead<C, P, D, Q, O>>
where
    C: Chain,
    P: Placement<C>,
    D: Chain,
    Q: Placement<D, Key = P::Key>,
    O: TwoInputs<Keyed<P::Key, P::Value>, Keyed<Q::Key, Q::Value>>,
{
    let (flow, producers) = (left.flow.clone(), left.flow.shards());
    let inputs = vec![(left.at.node, P::EDGE), (right.stream.at.node, Q::EDGE)];
    let at = At { node: flow.add_node::<O::Out>(name, producers, inputs), producers };
    let left = placement.ports(left, (at.node, 0));
    let right = right.placement.ports(right.stream, (at.node, 1));
    let operator = make(&flow, at);
    flow.connected((left, right), operator, at)
}

impl<C: Chain, P: Placement<C>, D: Chain<Out: Clone + Send>> ConnectedBroadcast<C, P, D> {
    /// Begins a new chain with an operator of your own; `name` is its name in the graph.
    pub fn then<O: TwoInputs<Keyed<P::Key, P::Value>, D::Out>>(
        self,
        name: &str,
        operator: O,
    ) -> Stream<BroadcastHead<C, P, D, O>> {
        let left = self.left.without_clock(name);
        Self { left, ..self }.make(name, |_, _, _| operator)
    }

    pub(crate) fn make<O: TwoInputs<Keyed<P::Key, P::Value>, D::Out>>(
        self,
        name: &str,
        make: impl FnOnce(&Flow, At, Follower<P::Key, P::Value>) -> O,
    ) -> Stream<BroadcastHead<C, P, D, O>> {
        let Self { left: KeyedStream { stream: left, placement, follower }, right } = self;
        let (flow, producers) = (left.flow.clone(), left.flow.shards());
        let broadcast = <Broadcast as Route<D::Out>>::EDGE;
        let inputs = vec![(left.at.node, P::EDGE), (right.at.node, broadcast)];
        let at = At { node: flow.add_node::<O::Out>(name, producers, inputs), producers };
        let left = placement.ports(left, (at.node, 0));
        let right = right.send((at.node, 1), Broadcast);
        let operator = make(&flow, at, follower);
        flow.connected((left, right), operator, at)
    }
}

impl Flow {
    /// The chain at `at` that begins with `operator`, which has these ports.
    fn connected<L: 'static, R: 'static, O: TwoInputs<L, R>>(
        &self,
        ports: (Vec<Port<L>>, Vec<Port<R>>),
        operator: O,
        at: At,
    ) -> Stream<Connected<L, R, O>> {
        let counters = (
            self.counter("numRecordsIn", at.node),
            self.counter("numHoldsReleased", at.node),
            self.watermark("currentInputWatermark", at.node),
        );
        let together: Together = self.inputs_together(at.node);
        let chain = Connected::new(ports, together, operator, counters);
        Stream { flow: self.clone(), chain, at }
    }
}
