//! The dead-letter output of a job. Its sources put there what could not become a record, its operators what they
//! cannot keep, and its sinks what they cannot pass on. A barrier passes when all of them have got it. What comes
//! once its operator's stream has ended is counted and logged, and not read.

mod stream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Cause, DeadLetter, Epoch, Mark, Timestamp};

use crate::counters::{Counter, MetricKind, Registry};
use crate::exchange::local::{LocalEdge, LocalInbox};
use crate::graph::{Edge, Graph};

/// An operator that has got a barrier is not stepped while this many letters wait for others to get it.
const HELD_LETTERS_MAX: usize = 4_096;

/// One shard's dead letters: counted by cause, and queued for whoever asked for them.
pub(crate) struct DeadLetters {
    counters: [Counter; Cause::ALL.len()],
    queue: RefCell<Option<LocalEdge<DeadLetter>>>,
    /// A late one, for the driver's log.
    latest: RefCell<Option<DeadLetter>>,
    watermark: Cell<Timestamp>,
    writers_open: Cell<usize>,
    /// The newest epoch whose barrier any operator has got, and the newest whose barrier has gone on. How many
    /// operators have got the next barrier, and what they wrote behind it.
    begun: Cell<Epoch>,
    aligned: Cell<Epoch>,
    waiting: Cell<usize>,
    held: RefCell<Vec<DeadLetter>>,
    /// The graph nodes of the operators that can write here, and of the stream that reads.
    writers: RefCell<Vec<u32>>,
    reader: Cell<Option<u32>>,
}

/// Where one operator writes its dead letters.
pub(crate) struct DeadLetterOutput {
    shared: Rc<DeadLetters>,
    /// The newest epoch whose barrier the operator has got.
    passed: Cell<Epoch>,
    state: Cell<OutputState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputState {
    Open,
    /// The operator has ended, or does not run here.
    Ended,
    /// The operator reads dead letters itself: its own are counted and logged, and not read again.
    Apart,
}

impl DeadLetterOutput {
    #[cold]
    pub(crate) fn push(&self, letter: DeadLetter) {
        self.shared.counters[letter.cause as usize].add(1);
        if self.state.get() != OutputState::Open {
            *self.shared.latest.borrow_mut() = Some(letter);
        } else if self.is_ahead() {
            self.shared.held.borrow_mut().push(letter);
        } else {
            self.shared.write(letter);
        }
    }

    /// Counts one of which another letter speaks.
    #[cold]
    pub(crate) fn count(&self, cause: Cause) {
        self.shared.counters[cause as usize].add(1);
    }

    /// Whether it has got a barrier that has not gone on, because others have not.
    fn is_ahead(&self) -> bool {
        self.passed.get() > self.shared.aligned.get() && !seeded(Defect::FlowLetterOvertakes)
    }

    /// Whether the operator may be stepped. One that reads dead letters makes the room itself. What is held waits for the
    /// operators that have not got the barrier, so it stops none of them.
    pub(crate) fn has_room(&self) -> bool {
        let holds_up = self.is_ahead() || seeded(Defect::FlowHeldLettersStopAll);
        self.state.get() == OutputState::Apart
            || self.shared.queue_has_room() && !(holds_up && self.shared.holds_many())
    }

    /// The operator has got the barrier of `epoch`.
    pub(crate) fn barrier(&self, epoch: Epoch) {
        if self.state.get() == OutputState::Open {
            self.passed.set(epoch);
            self.shared.begun.set(epoch);
            self.shared.waiting.set(self.shared.waiting.get() + 1);
            self.shared.align(epoch);
        }
    }

    /// The operator has ended.
    pub(crate) fn end(&self) {
        if self.state.get() != OutputState::Open {
            return;
        }
        self.state.set(OutputState::Ended);
        let shared = &self.shared;
        shared.writers_open.set(shared.writers_open.get() - 1);
        if self.is_ahead() {
            shared.waiting.set(shared.waiting.get() - 1);
        }
        // Whoever is left may have got the barrier already; and what was held belongs behind it.
        if shared.begun.get() > shared.aligned.get() {
            shared.align(shared.begun.get());
        }
        shared.seal();
    }
}

impl DeadLetters {
    pub(crate) fn new(metrics: &mut Registry) -> Self {
        let counter = |cause: Cause| {
            let operator = (u32::MAX, "Dead letters".into());
            let label = Some(("cause", cause.name()));
            let counter = Counter::default();
            let (kind, value) = (MetricKind::Counter, Rc::clone(&counter.0));
            metrics.register("numDeadLetters", kind, operator, label, value);
            counter
        };
        Self {
            counters: Cause::ALL.map(counter),
            queue: RefCell::default(),
            latest: RefCell::default(),
            watermark: Cell::new(Timestamp::MIN),
            writers_open: Cell::new(0),
            begun: Cell::default(),
            aligned: Cell::default(),
            waiting: Cell::new(0),
            held: RefCell::default(),
            writers: RefCell::default(),
            reader: Cell::new(None),
        }
    }

    /// Begins the stream that reads them; nothing if there is one already.
    fn open(&self) -> Option<LocalInbox<DeadLetter>> {
        let (edge, inbox) = LocalEdge::new();
        edge.push_mark(Mark::Idle);
        self.queue.borrow_mut().replace(edge).is_none().then_some(inbox)
    }

    /// Where the operator at `node` writes, if it `runs` on this shard.
    pub(crate) fn output(
        self: &Rc<Self>,
        graph: &Graph,
        node: u32,
        runs: bool,
    ) -> DeadLetterOutput {
        let state = if !runs {
            OutputState::Ended
        } else if self.are_read_by(graph, node) {
            // Its barrier would wait for itself.
            OutputState::Apart
        } else {
            self.writers_open.set(self.writers_open.get() + 1);
            OutputState::Open
        };
        if state != OutputState::Apart {
            self.writers.borrow_mut().push(node);
        }
        DeadLetterOutput {
            shared: Rc::clone(self),
            passed: Cell::default(),
            state: Cell::new(state),
        }
    }

    /// Whether they are among what `node` reads.
    fn are_read_by(&self, graph: &Graph, node: u32) -> bool {
        let Some(reader) = self.reader.get() else { return false };
        let (mut open, mut seen) = (vec![node], BTreeSet::new());
        while let Some(next) = open.pop() {
            if next == reader {
                return true;
            }
            if seen.insert(next) {
                open.extend(graph.nodes[next as usize].inputs.iter().map(|&(input, _)| input));
            }
        }
        false
    }

    fn write(&self, letter: DeadLetter) {
        let Some(queue) = &*self.queue.borrow() else {
            *self.latest.borrow_mut() = Some(letter);
            return;
        };
        // For the log, which speaks of few: the others are not copied.
        self.latest.borrow_mut().get_or_insert_with(|| letter.clone());
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

    /// Takes a dead letter that has come since this was asked last: the latest, where no stream of the job reads them.
    pub(crate) fn take_latest(&self) -> Option<DeadLetter> {
        self.latest.borrow_mut().take()
    }

    fn queue_has_room(&self) -> bool {
        self.queue.borrow().as_ref().is_none_or(LocalEdge::has_room)
    }

    fn holds_many(&self) -> bool {
        self.held.borrow().len() >= HELD_LETTERS_MAX
    }

    /// Passes the barrier on if every operator has got it.
    fn align(&self, epoch: Epoch) {
        if self.waiting.get() < self.writers_open.get() {
            return;
        }
        self.waiting.set(0);
        self.aligned.set(epoch);
        if let Some(queue) = &*self.queue.borrow() {
            queue.push_mark(Mark::Barrier(epoch));
        }
        self.held.take().into_iter().for_each(|letter| self.write(letter));
    }

    /// The description is complete: draws the stream's edges, and ends it where nobody writes.
    pub(crate) fn complete(&self, graph: &mut Graph) {
        if let Some(reader) = self.reader.get() {
            let edges = self.writers.borrow().iter().map(|&node| (node, Edge::Local)).collect();
            graph.nodes[reader as usize].inputs = edges;
        }
        self.seal();
    }

    /// Ends the stream of dead letters if no operator is left to write any.
    fn seal(&self) {
        if self.writers_open.get() == 0
            && let Some(queue) = &*self.queue.borrow()
        {
            queue.push_mark(Mark::Active);
            queue.push_mark(Mark::Watermark(Timestamp::MAX));
            queue.push_mark(Mark::End);
        }
    }
}
