//! Routes between shards: who gets a record that leaves a chain.
//!
//! # Idea
//! A [`Route`] is a small value that puts a record into one lane or several. The terminal of the chain, the
//! [`Exchange`], is one for all routes: it gives every mark to every lane, flushes and pushes back. Each lane
//! carries a part of the sender's records, in order, and all of its watermarks. So a route changes nothing of what is
//! late.
//!
//! | route | a record goes to | stream method |
//! |---|---|---|
//! | [`ByKey`] | the shard that owns its key | with the first stateful operator behind `key_by` |
//! | [`Broadcast`] | every shard | [`Stream::broadcast`] |
//! | [`Rebalance`] | one shard after the other | [`Stream::rebalance`] |
//! | [`ToOne`] | shard 0 | [`Stream::global`] |
//!
//! Forward, from one chain to the next on its shard, needs no lane: that is a
//! [local queue](super::local).
//!
//! # Limits
//! A lane is known by the node and the number of the input that it leads to. So a node can have several inputs of
//! one type.

use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Collector, ConnectorError, KeyGroups, Mark, Timestamp};

use super::inbox::{Inbox, Port};
use super::lane::LaneSender;
use crate::flow::Flow;
use crate::graph::{At, Edge, InputId};
use crate::pipeline::{Chain, Terminal};
use crate::stream::Stream;

/// Who gets a record.
pub(crate) trait Route<T>: 'static {
    /// The edge in the graph.
    const EDGE: Edge;

    /// Puts a record into one of `lanes` or several. There is one to each shard that the edge leads to.
    fn send(&mut self, time: Timestamp, value: T, lanes: &mut [LaneSender<T>]);
}

/// What can be sent to the shard that owns its key: it carries the key's hash, so that a key is
/// hashed once.
pub(crate) trait Routed: 'static {
    /// The fixed hash of the key.
    fn hash(&self) -> u64;
}

/// To the shard that owns the record's key.
pub(crate) struct ByKey {
    groups: KeyGroups,
    /// The shard of each group: looked up, not divided.
    owners: Box<[usize]>,
}

impl ByKey {
    pub(crate) fn new(flow: &Flow) -> Self {
        let (groups, shards) = (flow.key_groups(), flow.shards());
        let owner = |group| match seeded(Defect::FlowPlacesNothing) {
            true => flow.shard(),
            false => groups.owner(group, shards),
        };
        Self { groups, owners: (0..groups.count()).map(owner).collect() }
    }
}

impl<T: Routed> Route<T> for ByKey {
    const EDGE: Edge = Edge::Hash;

    #[inline]
    fn send(&mut self, time: Timestamp, value: T, lanes: &mut [LaneSender<T>]) {
        let group = self.groups.group_of(value.hash());
        lanes[self.owners[usize::from(group)]].record(time, value);
    }
}

/// To every shard.
pub(crate) struct Broadcast;

impl<T: Clone + 'static> Route<T> for Broadcast {
    const EDGE: Edge = Edge::Broadcast;

    #[inline]
    fn send(&mut self, time: Timestamp, value: T, lanes: &mut [LaneSender<T>]) {
        let Some((last, others)) = lanes.split_last_mut() else { return };
        if seeded(Defect::FlowBroadcastForgetsLane) && !others.is_empty() {
            return others.iter_mut().for_each(|lane| lane.record(time, value.clone()));
        }
        others.iter_mut().for_each(|lane| lane.record(time, value.clone()));
        last.record(time, value);
    }
}

/// To one shard after the other.
pub(crate) struct Rebalance {
    /// The lane of the next record.
    next: usize,
}

impl<T: 'static> Route<T> for Rebalance {
    const EDGE: Edge = Edge::Rebalance;

    #[inline]
    fn send(&mut self, time: Timestamp, value: T, lanes: &mut [LaneSender<T>]) {
        // From the second record on it is below their number already.
        let lane = if self.next < lanes.len() { self.next } else { 0 };
        self.next = lane + 1;
        lanes[lane].record(time, value);
    }
}

/// To shard 0.
pub(crate) struct ToOne;

impl<T: 'static> Route<T> for ToOne {
    const EDGE: Edge = Edge::Global;

    #[inline]
    fn send(&mut self, time: Timestamp, value: T, lanes: &mut [LaneSender<T>]) {
        lanes[0].record(time, value);
    }
}

impl<C: Chain> Stream<C>
where
    C::Out: Send,
{
    /// Gives every record to every shard.
    ///
    /// The stream that comes out has each record once on each shard. It serves what every shard needs, such as rules
    /// or a small table.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let rules = flow.source(Collection::new(["a > 3"]), Watermarks::monotonous());
    /// rules
    ///     .broadcast()
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("broadcast")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), ["a > 3"]);
    /// ```
    pub fn broadcast(self) -> Stream<Inbox<C::Out>>
    where
        C::Out: Clone,
    {
        self.exchange::<C::Out, _>("Broadcast", "numRecordsIn", Broadcast)
    }

    /// Deals records out to all shards, one after the other: for expensive work behind a source that has fewer
    /// partitions than there are shards. Records that lay in order may overtake each other.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let images = flow.source(Collection::new([3, 4]), Watermarks::monotonous());
    /// images
    ///     .rebalance()
    ///     .map(|pixels| pixels * pixels)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("rebalance")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [9, 16]);
    /// ```
    pub fn rebalance(self) -> Stream<Inbox<C::Out>> {
        // Each sender begins elsewhere, or shard 0 would get all the single records.
        let next = self.flow.shard();
        self.exchange::<C::Out, _>("Rebalance", "numRecordsIn", Rebalance { next })
    }

    /// Sends every record to shard 0: for what needs all of them in one place. The operators behind run on that
    /// shard alone, until the stream is partitioned again.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let sums = flow.source(Collection::new([3, 4]), Watermarks::monotonous());
    /// let mut total = 0;
    /// sums
    ///     .global()
    ///     .map(move |sum| {
    ///         total += sum;
    ///         total
    ///     })
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("global")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [3, 7]);
    /// ```
    pub fn global(self) -> Stream<Inbox<C::Out>> {
        self.exchange::<C::Out, _>("Global", "numRecordsIn", ToOne)
    }

    /// Sends every record along `route`, and begins a new chain for an operator called `name`, which emits `Out` and
    /// where records are counted as `count`.
    pub(crate) fn exchange<Out: 'static, R: Route<C::Out>>(
        self,
        name: &str,
        count: &'static str,
        route: R,
    ) -> Stream<Inbox<C::Out>> {
        let flow = self.flow.clone();
        let producers = R::EDGE.shards(flow.shards());
        let node = flow.add_node::<Out>(name, producers, vec![(self.at.node, R::EDGE)]);
        let ports = self.send((node, 0), route);
        let chain = flow.counting_inbox(ports, node, count);
        Stream { flow, chain, at: At { node, producers } }
    }

    /// Ends the chain in lanes that lead to `input`, and returns those that end on this shard.
    pub(crate) fn send<R: Route<C::Out>>(self, input: InputId, route: R) -> Vec<Port<C::Out>> {
        let (flow, at) = (self.flow.clone(), self.at);
        flow.used(at.node);
        let shards = R::EDGE.shards(flow.shards());
        let Some(mesh) = flow.mesh::<C::Out>(input, at.producers, shards) else {
            return Vec::new();
        };
        let lanes = mesh.take_senders(flow.shard());
        let ports = mesh.take_receivers(flow.shard()).into_iter().map(Port::Lane).collect();
        self.close(Exchange { lanes, route });
        ports
    }
}

/// The end of a pipeline whose records go to other shards.
struct Exchange<T, R> {
    lanes: Vec<LaneSender<T>>,
    route: R,
}

impl<T, R: Route<T>> Collector<T> for Exchange<T, R> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        self.route.send(time, value, &mut self.lanes);
    }

    fn mark(&mut self, mark: Mark) {
        self.lanes.iter_mut().for_each(|lane| lane.mark(mark));
    }
}

impl<T: 'static, R: Route<T>> Terminal<T> for Exchange<T, R> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.finish()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.finish().map(|_| ())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        let blocked =
            self.lanes.iter_mut().filter_map(|lane| (!lane.flush()).then_some(())).count();
        Ok(blocked == 0)
    }

    fn due_at(&mut self) -> Timestamp {
        self.lanes.iter_mut().map(LaneSender::due_at).min().unwrap_or(Timestamp::MAX)
    }

    fn watch_due(&mut self) -> Timestamp {
        self.lanes.iter_mut().map(LaneSender::watch_due).min().unwrap_or(Timestamp::MAX)
    }

    fn forget_due(&mut self) {
        self.lanes.iter_mut().for_each(LaneSender::forget_due);
    }

    fn kept_until(&mut self, now: Duration) -> Option<Duration> {
        let until = self.lanes.iter_mut().filter_map(|lane| lane.kept_until(now)).min()?;
        if until > now {
            return Some(until);
        }
        // All of them, so that one timer does for all.
        self.lanes.iter_mut().for_each(LaneSender::send_kept);
        None
    }
}
