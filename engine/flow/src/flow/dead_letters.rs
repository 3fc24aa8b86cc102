//! The dead-letter output of a job: where its sources put what could not become a record.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use thalweg_kernel::{Cause, DeadLetter, Epoch, Mark, Timestamp};

use super::Flow;
use crate::counters::{Counter, MetricKind};
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::local::LocalEdge;
use crate::graph::{Edge, Graph};
use crate::stream::{At, Stream};

/// One shard's dead letters: counted by cause, and queued for whoever asked for them.
pub(crate) struct DeadLetters {
    counters: [Counter; Cause::ALL.len()],
    queue: RefCell<Option<LocalEdge<DeadLetter>>>,
    /// The latest one, for the driver's log.
    latest: RefCell<Option<DeadLetter>>,
    watermark: Cell<Timestamp>,
    sources_open: Cell<usize>,
    /// The graph nodes of the sources that can write here, and of the stream that reads.
    sources: RefCell<Vec<u32>>,
    reader: Cell<Option<u32>>,
}

impl DeadLetters {
    #[cold]
    pub(crate) fn push(&self, letter: DeadLetter) {
        self.counters[letter.cause as usize].add(1);
        let Some(queue) = &*self.queue.borrow() else {
            *self.latest.borrow_mut() = Some(letter);
            return;
        };
        // Idle between letters, so that the stream holds nobody back.
        let time = letter.received;
        queue.push_mark(Mark::Active);
        queue.push(time, letter);
        if time.minus_ms(1) > self.watermark.get() {
            self.watermark.set(time.minus_ms(1));
            queue.push_mark(Mark::Watermark(time.minus_ms(1)));
        }
        queue.push_mark(Mark::Idle);
    }

    /// Takes the latest dead letter that no stream of the job reads.
    pub(crate) fn take_latest(&self) -> Option<DeadLetter> {
        self.latest.borrow_mut().take()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.queue.borrow().as_ref().is_none_or(LocalEdge::has_room)
    }

    /// Every source of the shard has emitted the barrier of `epoch`.
    pub(crate) fn barrier(&self, epoch: Epoch) {
        if self.sources_open.get() > 0
            && let Some(queue) = &*self.queue.borrow()
        {
            queue.push_mark(Mark::Barrier(epoch));
        }
    }

    /// One of the sources has ended.
    pub(crate) fn end(&self) {
        self.sources_open.set(self.sources_open.get() - 1);
        self.seal();
    }

    /// The description is complete: draws the stream's edges, and ends it where no source writes.
    pub(super) fn complete(&self, graph: &mut Graph) {
        if let Some(reader) = self.reader.get() {
            let edges = self.sources.borrow().iter().map(|&node| (node, Edge::Local)).collect();
            graph.nodes[reader as usize].inputs = edges;
        }
        self.seal();
    }

    /// Ends the stream of dead letters if no source is left to write any.
    fn seal(&self) {
        if self.sources_open.get() == 0
            && let Some(queue) = &*self.queue.borrow()
        {
            queue.push_mark(Mark::Active);
            queue.push_mark(Mark::Watermark(Timestamp::MAX));
            queue.push_mark(Mark::End);
        }
    }
}

impl Flow {
    /// The dead letters of every source of this job, with their time of arrival as event time.
    ///
    /// Without this, dead letters are only counted, by cause (`numDeadLetters`), and the latest one
    /// is logged about once a second. There is one such stream in a job: a second call fails the job.
    pub fn dead_letters(&self) -> Stream<Inbox<DeadLetter>> {
        let shared = self.shared_dead_letters();
        let (edge, inbox) = LocalEdge::new();
        edge.push_mark(Mark::Idle);
        if shared.queue.borrow_mut().replace(edge).is_some() {
            self.fail(thalweg_kernel::ConnectorError::new(
                "dead letters",
                "the job calls dead_letters() twice; call it once and split() the stream",
            ));
        }
        let node = self.add_node::<DeadLetter>("Dead letters", self.shards(), vec![]);
        shared.reader.set(Some(node));
        let inbox = self.inbox(vec![Port::Local(inbox)], node);
        Stream { flow: self.clone(), chain: inbox, at: At { node, producers: self.shards() } }
    }

    /// The dead letters, for the source at `node`.
    pub(crate) fn dead_letters_from(&self, node: u32, producers: usize) -> Rc<DeadLetters> {
        let shared = self.shared_dead_letters();
        shared.sources.borrow_mut().push(node);
        if self.runs_here(producers) {
            shared.sources_open.set(shared.sources_open.get() + 1);
        }
        shared
    }

    fn shared_dead_letters(&self) -> Rc<DeadLetters> {
        let mut slot = self.0.dead_letters.borrow_mut();
        let shared = slot.get_or_insert_with(|| {
            let counter = |cause: Cause| {
                let operator = (u32::MAX, "Dead letters".into());
                let label = Some(("cause", cause.name()));
                let counter = Counter::default();
                let (kind, value) = (MetricKind::Counter, Rc::clone(&counter.0));
                let mut metrics = self.0.metrics.borrow_mut();
                metrics.register("numDeadLetters", kind, operator, label, value);
                counter
            };
            Rc::new(DeadLetters {
                counters: Cause::ALL.map(counter),
                queue: RefCell::default(),
                latest: RefCell::default(),
                watermark: Cell::new(Timestamp::MIN),
                sources_open: Cell::new(0),
                sources: RefCell::default(),
                reader: Cell::new(None),
            })
        });
        Rc::clone(shared)
    }
}
