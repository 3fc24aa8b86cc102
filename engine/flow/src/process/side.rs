//! Side outputs of process functions: further streams out of the same operator, with its watermarks.

use thalweg_kernel::{Mark, Timestamp};

use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::key_by::KeyedStream;
use crate::exchange::local::LocalEdge;
use crate::flow::Flow;
use crate::graph::{At, Edge};
use crate::pipeline::Chain;
use crate::stream::Stream;

/// A second output of a process function. See [`KeyedStream::side_output`] and [`Stream::side_tag`].
pub struct SideTag<E>(LocalEdge<E>);

impl<E> SideTag<E> {
    /// Emits to the side.
    pub fn emit(&self, time: Timestamp, value: E) {
        self.0.push(time, value);
    }
}

/// The side outputs of an operator, as it sees them.
#[derive(Default)]
pub(crate) struct Sides(Vec<SideEdge>);

struct SideEdge {
    node: u32,
    mark: Box<dyn Fn(Mark)>,
    has_room: Box<dyn Fn() -> bool>,
}

impl Sides {
    /// One more, called `name`, of an operator that runs on shards `0..producers`.
    fn open<E: 'static>(
        &mut self,
        flow: &Flow,
        name: &str,
        producers: usize,
    ) -> (SideTag<E>, Stream<Inbox<E>>) {
        let (edge, inbox) = LocalEdge::new();
        let node = flow.add_node::<E>(name, producers, vec![]);
        let chain = flow.inbox(vec![Port::Local(inbox)], node);
        let (mark, room) = (edge.clone(), edge.clone());
        self.0.push(SideEdge {
            node,
            mark: Box::new(move |to| mark.push_mark(to)),
            has_room: Box::new(move || room.has_room()),
        });
        (SideTag(edge), Stream { flow: flow.clone(), chain, at: At { node, producers } })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The operator has its place in the job: draws the edges.
    pub(super) fn come_out_of(&self, flow: &Flow, node: u32) {
        for side in &self.0 {
            flow.set_inputs(side.node, vec![(node, Edge::Local)]);
        }
    }

    pub(super) fn mark(&self, mark: Mark) {
        self.0.iter().for_each(|side| (side.mark)(mark));
    }

    pub(super) fn have_room(&self) -> bool {
        self.0.iter().all(|side| (side.has_room)())
    }
}

impl<C: Chain, P> KeyedStream<C, P> {
    /// A second output of the process function that follows, with the same watermarks. Give the tag to the
    /// function.
    pub fn side_output<E: 'static>(mut self, name: &str) -> (Self, SideTag<E>, Stream<Inbox<E>>) {
        let flow = &self.stream.flow;
        let (tag, side) = self.sides.open(flow, name, flow.shards());
        (self, tag, side)
    }
}

/// A stream in front of a process function that has side outputs.
#[must_use = "its side outputs come out of the process function that follows"]
pub struct Tagged<C: Chain> {
    pub(super) stream: Stream<C>,
    pub(super) sides: Sides,
}

impl<C: Chain> Stream<C> {
    /// A second output of the process function that follows, with the same watermarks. Give the tag to the
    /// function.
    pub fn side_tag<E: 'static>(self, name: &str) -> (Tagged<C>, SideTag<E>, Stream<Inbox<E>>) {
        Tagged { stream: self, sides: Sides::default() }.side_tag(name)
    }
}

impl<C: Chain> Tagged<C> {
    /// One more. See [`Stream::side_tag`].
    pub fn side_tag<E: 'static>(mut self, name: &str) -> (Self, SideTag<E>, Stream<Inbox<E>>) {
        let Stream { flow, at, .. } = &self.stream;
        let (tag, side) = self.sides.open(flow, name, at.producers);
        (self, tag, side)
    }
}
