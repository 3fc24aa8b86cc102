//! `split`: the same stream several times over.

use std::array;

use thalweg_kernel::{Collector, ConnectorError, Mark, Timestamp};

use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::local::LocalEdge;
use crate::flow::Flow;
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Terminal};
use crate::stream::Stream;

impl<C: Chain> Stream<C>
where
    C::Out: Clone,
{
    /// Gives every record to each of `N` streams.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let (a, b) = (Collected::new(), Collected::new());
    /// # let (a_sink, b_sink) = (a.sink(), b.sink());
    /// # let job = move |flow: &Flow| {
    /// let [all, large] = flow
    ///     .source(Collection::new([1, 20, 3]), Watermarks::monotonous())
    ///     .split();
    /// let large = large.filter(|&n| n > 10);
    /// # all.sink(a_sink.clone());
    /// # large.sink(b_sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("split")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!((a.take(), b.take()), (vec![1, 20, 3], vec![20]));
    /// ```
    pub fn split<const N: usize>(self) -> [Stream<Inbox<C::Out>>; N] {
        let (flow, at) = (self.flow.clone(), self.at);
        let mut edges = Vec::with_capacity(N);
        let streams = array::from_fn(|_| branch(&flow, at, &mut edges));
        self.close(Fanout(edges));
        streams
    }

    /// Gives every record to each of as many streams, where only the running program knows how many.
    pub fn split_into(self, streams: usize) -> Vec<Stream<Inbox<C::Out>>> {
        let (flow, at) = (self.flow.clone(), self.at);
        let mut edges = Vec::with_capacity(streams);
        let streams = (0..streams).map(|_| branch(&flow, at, &mut edges)).collect();
        self.close(Fanout(edges));
        streams
    }
}

/// One more stream of the records that come out of a node.
fn branch<T: Clone + 'static>(
    flow: &Flow,
    at: At,
    edges: &mut Vec<LocalEdge<T>>,
) -> Stream<Inbox<T>> {
    let (edge, inbox) = LocalEdge::new();
    edges.push(edge);
    let node = flow.add_node::<T>("Split", at.producers, vec![(at.node, Edge::Local)]);
    let chain = flow.inbox(vec![Port::Local(inbox)], node);
    Stream { flow: flow.clone(), chain, at: At { node, ..at } }
}

/// The end of a pipeline whose records go to several queues.
struct Fanout<T>(Vec<LocalEdge<T>>);

impl<T: Clone> Collector<T> for Fanout<T> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        let Some((last, others)) = self.0.split_last() else { return };
        for edge in others {
            edge.push(time, value.clone());
        }
        last.push(time, value);
    }

    fn mark(&mut self, mark: Mark) {
        self.0.iter().for_each(|edge| edge.push_mark(mark));
    }
}

impl<T: Clone + 'static> Terminal<T> for Fanout<T> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(self.0.iter().all(LocalEdge::has_room))
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn due_at(&mut self) -> Timestamp {
        self.0.iter().map(LocalEdge::due_at).min().unwrap_or(Timestamp::MAX)
    }
}
