//! [`Stream`]: a flow of records under construction.

use std::rc::Rc;

use thalweg_kernel::{Collector, PendingId, SinkSpec, StateKind};

use crate::checkpoint::Description;
use crate::exchange::inbox::Port;
use crate::exchange::local::LocalEdge;
use crate::flow::Flow;
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Closed, Operator, Terminal, Then};
use crate::sink::{Discard, SinkTerminal};

/// A stream of records of type `C::Out`, with the operators fused so far as its type.
///
/// A stream does nothing until it ends in a sink, a keyed operator, a union or a split. To name
/// one in a signature write `Stream<impl Chain<Out = Reading>>`.
#[must_use = "a stream runs only when it ends in a sink; use `.discard()` to run it for its effects"]
pub struct Stream<C: Chain> {
    pub(crate) flow: Flow,
    pub(crate) chain: C,
    pub(crate) at: At,
}

impl<C: Chain> Stream<C> {
    /// Names the operator that this stream comes out of, for the graph, logs and metrics.
    pub fn name(self, name: &str) -> Self {
        self.flow.rename(self.at.node, name);
        self
    }

    /// Gives the operator that this stream comes out of a stable name, by which its state is found again
    /// when the job has changed. (A source has its own: [`Flow::source_as`].)
    pub fn uid(self, uid: &str) -> Self {
        self.flow.set_uid(self.at.node, uid);
        self
    }

    /// The job this stream belongs to.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Ends the stream in `sink`. Its stable name is what it is and where.
    pub fn sink(self, sink: impl SinkSpec<C::Out>) {
        self.open_sink(None, sink);
    }

    /// Ends the stream in `sink`, with a stable name of your own.
    pub fn sink_as(self, uid: &str, sink: impl SinkSpec<C::Out>) {
        self.open_sink(Some(uid), sink);
    }

    fn open_sink(self, uid: Option<&str>, sink: impl SinkSpec<C::Out>) {
        let name = format!("Sink: {}", sink.describe());
        let node = self.flow.add_sink_node::<C::Out>(&name, self.at);
        let state = self.flow.fix_uid(node, uid, "pending");
        let describe = Description::of::<PendingId, Vec<u8>>(node, "pending", StateKind::Sink);
        self.flow.checkpoints().register(describe, None);
        // Also where no instance runs: all shards describe the same edges.
        let dead_letters = self.flow.dead_letters_from(node, self.at.producers);
        let Some(mut cx) = self.flow.open_context(node, self.at.producers) else {
            return self.flow.used(self.at.node);
        };
        let opened = self.flow.stored_notes(state, &cx).and_then(|pending| {
            cx.durability.pending = pending;
            sink.open(&cx)
        });
        match opened {
            Ok(writer) => {
                let records_in = self.flow.counter("numRecordsIn", node);
                let checkpoints = Rc::clone(self.flow.checkpoints());
                self.close(SinkTerminal::new(writer, records_in, dead_letters, checkpoints, state));
            }
            Err(error) => self.flow.fail(error),
        }
    }

    /// Ends the stream in nothing: it runs for the effects of its operators.
    pub fn discard(self) {
        let node = self.flow.add_sink_node::<C::Out>("Discard", self.at);
        let records_in = self.flow.counter("numRecordsIn", node);
        self.close(Discard::new(records_in));
    }

    /// Fuses an operator of your own to the chain; `name` is its name in the graph.
    pub fn then<O: Operator<C::Out>>(self, name: &str, operator: O) -> Stream<Then<C, O>> {
        let Self { flow, chain, at } = self;
        flow.used(at.node);
        let node = flow.add_node::<O::Out>(name, at.producers, vec![(at.node, Edge::Chained)]);
        Stream { flow, chain: Then::new(chain, operator), at: At { node, ..at } }
    }

    /// Ends the chain in `terminal`, on the shards where it runs.
    pub(crate) fn close(self, terminal: impl Terminal<C::Out>) {
        self.flow.used(self.at.node);
        if self.flow.runs_here(self.at.producers) {
            let checkpoints = self.flow.checkpoints().enabled();
            self.flow.add_pipeline(Box::new(Closed::new(self.chain, terminal, checkpoints)));
        }
    }

    /// Ends the chain in a queue within the shard, and returns the queue's other end, where the chain runs.
    pub(crate) fn local_ports(self) -> Vec<Port<C::Out>> {
        let here = self.flow.runs_here(self.at.producers);
        let (edge, inbox) = LocalEdge::new();
        self.close(edge);
        if here { vec![Port::Local(inbox)] } else { Vec::new() }
    }
}

/// Everything a terminal takes, for those that hand it on unchanged.
impl<T: 'static> Terminal<T> for LocalEdge<T> {
    fn ready(&mut self) -> Result<bool, thalweg_kernel::ConnectorError> {
        Ok(self.has_room())
    }

    fn flush(&mut self) -> Result<(), thalweg_kernel::ConnectorError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, thalweg_kernel::ConnectorError> {
        Ok(true)
    }

    fn due_at(&mut self) -> thalweg_kernel::Timestamp {
        LocalEdge::due_at(self)
    }
}

impl<T> Collector<T> for LocalEdge<T> {
    #[inline]
    fn record(&mut self, time: thalweg_kernel::Timestamp, value: T) {
        self.push(time, value);
    }

    #[inline]
    fn mark(&mut self, mark: thalweg_kernel::Mark) {
        self.push_mark(mark);
    }
}
