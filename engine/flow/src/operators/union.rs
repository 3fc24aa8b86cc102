//! `union`: two streams of one type as one.

use crate::exchange::inbox::Inbox;
use crate::graph::{At, Edge};
use crate::pipeline::Chain;
use crate::stream::Stream;

impl<C: Chain> Stream<C> {
    /// Merges with `other`, record by record as they come. The watermark is the lower of the two.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let left = flow.source(Collection::new([1, 2]), Watermarks::monotonous());
    /// let right = flow.source(Collection::new([10]), Watermarks::monotonous());
    /// left.union(right)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("union")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take().iter().sum::<i32>(), 13);
    /// ```
    pub fn union<D: Chain<Out = C::Out>>(self, other: Stream<D>) -> Stream<Inbox<C::Out>> {
        let flow = self.flow.clone();
        let inputs = vec![(self.at.node, Edge::Local), (other.at.node, Edge::Local)];
        let producers = self.at.producers.max(other.at.producers);
        let node = flow.add_node::<C::Out>("Union", producers, inputs);
        let mut ports = self.local_ports();
        ports.extend(other.local_ports());
        let inbox = flow.inbox(ports, node);
        Stream { flow, chain: inbox, at: At { node, producers } }
    }
}
