//! What a stream says about failures of the operator that it comes out of: see [`failure`](super::failure).

use thalweg_kernel::Key;

use super::failure::{Failures, OnError};
use crate::exchange::key_by::{Keyed, KeyedStream, Placed};
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

impl<C: Chain> Stream<C> {
    /// Fuses an operator to the chain that calls functions of the user's.
    pub(crate) fn then_failing<O: Operator<C::Out>>(
        self,
        name: &str,
        make: impl FnOnce(Failures) -> O,
    ) -> Stream<Then<C, O>> {
        let Self { flow, chain, at } = self;
        flow.used(at.node);
        let node = flow.add_node::<O::Out>(name, at.producers, vec![(at.node, Edge::Chained)]);
        let operator = make(flow.failures_of(node));
        Stream { flow, chain: Then::new(chain, operator), at: At { node, ..at } }
    }

    /// Says what becomes of a record whose function fails, in the operator that this stream comes out of: its function
    /// returns an error or panics. What it has done until then is not taken back.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new(["1", "x", "3"]), Watermarks::monotonous())
    ///     .try_map(|text| text.parse::<i32>())
    ///     .on_error(OnError::Skip)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("on_error")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [1, 3]);
    /// ```
    pub fn on_error(self, policy: OnError) -> Self {
        self.flow.set_on_error(self.at, policy);
        self
    }
}

impl<C: Chain<Out = Keyed<K, T>>, K: Key, T: 'static> KeyedStream<C, Placed> {
    /// Says what becomes of a record whose function fails: see [`Stream::on_error`].
    pub fn on_error(self, policy: OnError) -> Self {
        Self { stream: self.stream.on_error(policy), ..self }
    }
}
