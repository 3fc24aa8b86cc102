//! Side outputs: further streams out of one operator.
//!
//! # Idea
//! There is one mechanism. A side output is a [local queue](LocalEdge), a node of the graph, and the marks of the
//! operator that it comes out of. [`Sides`] has the side outputs of an operator, at first while it is being described.
//! The operator gives them its marks and asks them for room. A [`SideTag`] is the end to write to: the
//! operator's function has it.
//!
//! | side output | who writes to it |
//! |---|---|
//! | `side_tag` of a stream, with keys or without | the process function or window function that follows |
//! | `side_output` of a stream | a closure, which is such a function |
//! | `late_output` of windows | the windows, with what is late |
//!
//! The job's dead letters are none of these. They are one stream out of *many* operators, in the order in which all of them
//! write (`dead_letters.rs`). A barrier passes there when each of the operators has got it. A port for each writer would
//! merge barriers as well, but letters of two writers would overtake each other, and be late.
//!
//! # Limits
//! An operator is not stepped while a side output of it is full, so a side output that nobody drains stops its operator. A
//! side output that no operator takes over is refused when the job is described: it would never end.

use thalweg_kernel::{Mark, Timestamp};

use super::inbox::{Inbox, Port};
use super::local::LocalEdge;
use crate::flow::Flow;
use crate::graph::{At, Edge};
use crate::stream::Stream;

/// Where a function writes to a side output. See [`KeyedStream::side_tag`](crate::KeyedStream::side_tag) and
/// [`Stream::side_tag`].
pub struct SideTag<E>(LocalEdge<E>);

impl<E> SideTag<E> {
    /// Emits to the side.
    #[inline]
    pub fn emit(&self, time: Timestamp, value: E) {
        self.0.push(time, value);
    }
}

/// The side outputs of an operator. See the module.
#[derive(Default)]
pub(crate) struct Sides(Vec<Side>);

struct Side {
    node: u32,
    edge: Box<dyn AnyEdge>,
}

/// A queue, whatever its records are.
trait AnyEdge {
    fn mark(&self, mark: Mark);
    fn has_room(&self) -> bool;
    fn due_at(&self) -> Timestamp;
}

impl<T> AnyEdge for LocalEdge<T> {
    fn mark(&self, mark: Mark) {
        self.push_mark(mark);
    }

    fn has_room(&self) -> bool {
        self.has_room()
    }

    fn due_at(&self) -> Timestamp {
        self.due_at()
    }
}

impl Sides {
    /// Opens one more side output, called `name`. Its operator is to follow on `upstream`, and to run on shards
    /// `0..producers`.
    pub(crate) fn open<E: 'static>(
        &mut self,
        flow: &Flow,
        name: &str,
        upstream: u32,
        producers: usize,
    ) -> (SideTag<E>, Stream<Inbox<E>>) {
        let (edge, inbox) = LocalEdge::new();
        let node = flow.add_side_node::<E>(name, upstream, producers);
        let chain = flow.inbox(vec![Port::Local(inbox)], node);
        self.0.push(Side { node, edge: Box::new(edge.clone()) });
        (SideTag(edge), Stream { flow: flow.clone(), chain, at: At { node, producers } })
    }

    /// The operator has its place in the job, at `node`, and gives them its marks from now on.
    pub(crate) fn come_out_of(&self, flow: &Flow, node: u32) {
        for side in &self.0 {
            flow.set_inputs(side.node, vec![(node, Edge::Local)]);
        }
    }

    /// The operator passes a mark on.
    #[inline]
    pub(crate) fn mark(&self, mark: Mark) {
        self.0.iter().for_each(|side| side.edge.mark(mark));
    }

    /// Whether the operator may be stepped.
    pub(crate) fn have_room(&self) -> bool {
        self.0.iter().all(|side| side.edge.has_room())
    }

    /// The earliest due time of what reads them.
    pub(crate) fn due_at(&self) -> Timestamp {
        self.0.iter().map(|side| side.edge.due_at()).min().unwrap_or(Timestamp::MAX)
    }
}
