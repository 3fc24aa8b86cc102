//! Two inputs of different types in one operator: [`TwoInputs`], and the chain that begins with it.
//!
//! # Idea
//! The head drains the ports of both inputs and gives each record to the operator's method for its input. Nothing is boxed, and no type is made that could be either.
//! What the marks of the ports mean is the business of [`Ports`]. The operator is told of each input's own marks, and
//! passes the merged ones on.
//!
//! # Holding an input back
//! An operator may [hold](TwoInputs::holds) one input back until the other has come far enough. A join holds its
//! probe side until the build side is there, a temporal join its records until the versions are. What is held stays
//! where it is, so a lane fills up and pushes back. A hold is a wish, and has bounds. A held input is drained
//! nevertheless
//!
//! - while the other input is idle or has ended: nothing comes that would be worth waiting for;
//! - where one of its ports is full, by a batch of that port: both inputs may go back to one source, which waits for
//!   both;
//! - while a barrier is awaited: the other input waits at its barrier, so it would never come so far.
//!
//! Each batch that is taken so is counted (`numHoldsReleased`). So an operator sees a record now and then that it has
//! wished to see later, and keeps it, as it would without holding. To hold saves it most of that.
//!
//! # Putting work down
//! As in `pipeline/stage.rs`, no port is drained while a mark's work is not done. The rest of the batch at hand is
//! put aside, with its marks as they came in.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::swap;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, Mark, Timestamp};

use super::inbox::Port;
use super::ports::{InputProgress, Ports, Together, Whose};
use crate::counters::{Counter, WatermarkGauge};
use crate::pipeline::{Budget, Chain, Head, Now, Progress, StepContext};

/// One of the two inputs of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The stream on which `connect` was called.
    Left,
    /// The stream that it was given.
    Right,
}

impl Input {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// How far the inputs of an operator have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The left one.
    pub left: InputProgress,
    /// The right one.
    pub right: InputProgress,
}

impl Inputs {
    /// How far one of them has come.
    pub const fn of(&self, input: Input) -> InputProgress {
        match input {
            Input::Left => self.left,
            Input::Right => self.right,
        }
    }
}

/// An operator with two inputs, `L` and `R`: see [`Stream::connect`](crate::Stream::connect).
pub trait TwoInputs<L, R>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Whether a mark may cause more work than a step should do: see [`Operator::PUTS_DOWN`](crate::Operator::PUTS_DOWN).
    const PUTS_DOWN: bool = false;

    /// Takes a record of the left input.
    fn left(&mut self, time: Timestamp, value: L, out: &mut impl Collector<Self::Out>);

    /// Takes a record of the right input.
    fn right(&mut self, time: Timestamp, value: R, out: &mut impl Collector<Self::Out>);

    /// A mark of one input alone, never a barrier. It is not passed on; the merged ones are.
    #[inline]
    fn input_mark(&mut self, _from: Input, _mark: Mark, _out: &mut impl Collector<Self::Out>) {}

    /// Takes a mark of both inputs, merged; emits what is due because of it, then passes it on.
    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        out.mark(mark);
    }

    /// Does what is due because of a merged mark, as far as `budget` allows: see
    /// [`Operator::due`](crate::Operator::due).
    #[inline]
    fn due(
        &mut self,
        _mark: Mark,
        _budget: &mut Budget,
        _out: &mut impl Collector<Self::Out>,
    ) -> bool {
        true
    }

    /// Whether work of it waits that no mark has caused: see [`Operator::has_put_down`](crate::Operator::has_put_down).
    #[doc(hidden)]
    fn has_put_down(&self) -> bool {
        false
    }

    /// Which input the operator wishes to be held back, given how far both have come. The input comes nevertheless when
    /// the other one is idle or has ended, a queue is full, or a barrier has to pass. `numHoldsReleased` counts its
    /// batches.
    #[inline]
    fn holds(&self, _inputs: &Inputs) -> Option<Input> {
        None
    }

    /// Called with every step: see [`Operator::tick`](crate::Operator::tick).
    #[inline]
    fn tick(&mut self, _now: Now, _out: &mut impl Collector<Self::Out>) -> Option<Timestamp> {
        None
    }

    /// Called at the end of each step: emits what it has put off, if it puts anything off.
    #[inline]
    fn settle(&mut self, _out: &mut impl Collector<Self::Out>) {}

    /// Whether its side outputs have room.
    fn ready(&self) -> bool {
        true
    }

    /// Its due time, by the marks of both inputs, merged, and of each alone: see [`Operator::due_at`](crate::Operator::due_at).
    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MIN
    }
}

/// One input on this shard.
struct Drain<T> {
    sources: Vec<Port<T>>,
    /// What is drained: empty between two batches.
    batch: Batch<T>,
    /// The rest of a batch that waits behind work which is not done yet, as it came in.
    aside: Batch<T>,
}

impl<T> Drain<T> {
    fn new(sources: Vec<Port<T>>) -> Self {
        Self { sources, batch: Batch::default(), aside: Batch::default() }
    }

    /// Takes the next batch of a port, and notes that: how many records that are.
    fn take(&mut self, port: usize, hold: Hold, progress: &mut Progress) -> Option<usize> {
        let source = &mut self.sources[port];
        let held = hold == Hold::UntilFull && !source.is_full();
        (!held && source.take(&mut self.batch)).then(|| {
            progress.took(&self.batch);
            self.batch.len()
        })
    }
}

/// Whether an input is held back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The operator does not wish it.
    No,
    /// A port of it is drained when it is full.
    UntilFull,
    /// The operator wishes it, and the input is drained nevertheless.
    Released,
}

/// A chain that begins with an operator of two inputs.
pub struct Connected<L, R, O> {
    left: Drain<L>,
    right: Drain<R>,
    core: Core<O>,
    /// The port to begin with, so that none is favoured.
    first: usize,
    /// The port whose batch has been put aside.
    interrupted: usize,
    records_in: Counter,
    released: Counter,
    watermark: WatermarkGauge,
}

/// The operator, and what its marks go through.
struct Core<O> {
    operator: O,
    ports: Ports,
    /// The merged mark whose work is not done yet.
    unfinished: Option<Mark>,
    /// Marks that came out of the ports and have not been given to the operator.
    marks: VecDeque<(Whose, Mark)>,
    /// What is left of the step's.
    budget: Budget,
    /// It has held an input back before: what holds may end with any mark.
    has_held: bool,
}

impl<L, R, O> Connected<L, R, O> {
    /// An operator with these ports; its counters of records, and of batches that came although they were held.
    pub(crate) fn new(
        (left, right): (Vec<Port<L>>, Vec<Port<R>>),
        together: Together,
        operator: O,
        (records_in, released, watermark): (Counter, Counter, WatermarkGauge),
    ) -> Self {
        let ports = Ports::two([left.len(), right.len()], together.within, together.all);
        Self {
            left: Drain::new(left),
            right: Drain::new(right),
            core: Core {
                operator,
                ports,
                unfinished: None,
                marks: VecDeque::new(),
                budget: Budget::default(),
                has_held: false,
            },
            first: 0,
            interrupted: 0,
            records_in,
            released,
            watermark,
        }
    }
}

impl<L: 'static, R: 'static, O: TwoInputs<L, R>> Connected<L, R, O> {
    /// The input of a port, and the port's number within it.
    fn place(&self, port: usize) -> (Input, usize) {
        match port.checked_sub(self.left.sources.len()) {
            None => (Input::Left, port),
            Some(own) => (Input::Right, own),
        }
    }

    /// Gives the batch at hand, of this port, to the operator.
    fn drain(&mut self, port: usize, out: &mut impl Collector<O::Out>) {
        let input = self.place(port).0;
        let Self { left, right, core, .. } = self;
        match input {
            Input::Left => {
                let Drain { batch, aside, .. } = left;
                batch.drain_into(&mut Leftwards {
                    port,
                    core,
                    aside,
                    out,
                    other: PhantomData::<R>,
                });
            }
            Input::Right => {
                let Drain { batch, aside, .. } = right;
                batch.drain_into(&mut Rightwards {
                    port,
                    core,
                    aside,
                    out,
                    other: PhantomData::<L>,
                });
            }
        }
        self.interrupted = port;
    }

    #[cold]
    fn go_on(&mut self, mark: Mark, out: &mut impl Collector<O::Out>) {
        let core = &mut self.core;
        if !core.operator.due(mark, &mut core.budget, out) {
            return;
        }
        core.unfinished = None;
        core.operator.mark(mark, out);
        core.pass_on::<L, R>(out);
        let port = self.interrupted;
        match self.place(port).0 {
            Input::Left => swap(&mut self.left.batch, &mut self.left.aside),
            Input::Right => swap(&mut self.right.batch, &mut self.right.aside),
        }
        self.drain(port, out);
    }
}

impl<O> Core<O> {
    /// Whether the operator wishes that an input is held back, and whether it is.
    fn hold<L, R>(&self, input: Input) -> Hold
    where
        O: TwoInputs<L, R>,
    {
        let inputs = Inputs { left: self.ports.progress(0), right: self.ports.progress(1) };
        if self.operator.holds(&inputs) != Some(input) {
            return Hold::No;
        }
        let other = inputs.of(input.other());
        let barrier = self.ports.awaits_barrier() && !seeded(Defect::FlowHoldIgnoresBarrier);
        if other.is_idle || other.has_ended || barrier { Hold::Released } else { Hold::UntilFull }
    }

    fn due_at<L, R>(&self) -> Timestamp
    where
        O: TwoInputs<L, R>,
    {
        // Nobody is held where one of them has ended.
        let may_hold = (0..2).all(|input| !self.ports.progress(input).has_ended);
        if self.has_held && may_hold { Timestamp::MIN } else { self.operator.due_at() }
    }

    /// A port has brought a mark.
    fn mark<L, R>(&mut self, port: usize, mark: Mark, out: &mut impl Collector<O::Out>)
    where
        O: TwoInputs<L, R>,
    {
        let Self { ports, marks, .. } = self;
        ports.mark(port, mark, |whose, mark| marks.push_back((whose, mark)));
        self.pass_on(out);
    }

    /// Gives the operator the marks that are there, up to one whose work does not fit into the step.
    fn pass_on<L, R>(&mut self, out: &mut impl Collector<O::Out>)
    where
        O: TwoInputs<L, R>,
    {
        while let Some((whose, mark)) = self.marks.pop_front() {
            match whose {
                Whose::Input(0) => self.operator.input_mark(Input::Left, mark, out),
                Whose::Input(_) => self.operator.input_mark(Input::Right, mark, out),
                Whose::All => {
                    if O::PUTS_DOWN && !self.operator.due(mark, &mut self.budget, out) {
                        self.unfinished = Some(mark);
                        return;
                    }
                    self.operator.mark(mark, out);
                }
            }
        }
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<L: 'static, R: 'static, O: TwoInputs<L, R>> Chain for Connected<L, R, O> {
    type Out = O::Out;

    fn step<C: Collector<O::Out>>(
        &mut self,
        _cx: &StepContext,
        mut out: C,
    ) -> Result<Progress, ConnectorError> {
        let count = self.left.sources.len() + self.right.sources.len();
        let mut progress = Progress::Idle(None);
        for n in 0..count {
            let port = (self.first + n) % count;
            if self.core.ports.is_blocked(port) {
                continue;
            }
            let (input, own) = self.place(port);
            let hold = self.core.hold::<L, R>(input);
            self.core.has_held |= hold != Hold::No;
            let taken = match input {
                Input::Left => self.left.take(own, hold, &mut progress),
                Input::Right => self.right.take(own, hold, &mut progress),
            };
            let Some(records) = taken else { continue };
            self.records_in.add(records);
            if hold != Hold::No {
                self.released.add(1);
            }
            self.drain(port, &mut out);
            if self.has_put_down() {
                break;
            }
        }
        self.first = (self.first + 1) % count.max(1);
        if progress != Progress::Idle(None) {
            self.watermark.set(self.core.ports.watermark());
        }
        Ok(if self.core.ports.ended() { Progress::Done } else { progress })
    }

    fn ready(&self) -> bool {
        self.core.operator.ready()
    }

    fn barrier(&mut self, epoch: Epoch, mut out: impl Collector<O::Out>) {
        self.core.operator.mark(Mark::Barrier(epoch), &mut out);
    }

    fn tick(&mut self, cx: &StepContext, mut out: impl Collector<O::Out>) -> Option<Timestamp> {
        let due_at = self.core.operator.tick(cx.now, &mut out);
        if O::PUTS_DOWN {
            self.core.budget = Budget::of(cx.work_max);
            if let Some(mark) = self.core.unfinished {
                self.go_on(mark, &mut out);
            }
        }
        due_at
    }

    fn has_put_down(&self) -> bool {
        O::PUTS_DOWN && (self.core.unfinished.is_some() || self.core.operator.has_put_down())
    }

    fn settle(&mut self, mut out: impl Collector<O::Out>) {
        self.core.operator.settle(&mut out);
    }

    fn source(&mut self) -> Option<&mut dyn Head> {
        None
    }

    fn due_at(&self) -> Timestamp {
        self.core.due_at::<L, R>()
    }

    fn publish(&mut self, due: Timestamp) -> bool {
        let Self { left: Drain { sources: left, .. }, right: Drain { sources: right, .. }, .. } =
            self;
        let (ports, lefts) = (&self.core.ports, left.len());
        let mut news = false;
        for (n, port) in left.iter_mut().enumerate() {
            news |= port.publish(due, ports.told(n));
        }
        for (n, port) in right.iter_mut().enumerate() {
            news |= port.publish(due, ports.told(lefts + n));
        }
        news
    }
}

/// Gives what a port of the left input brings to the operator.
struct Leftwards<'a, L, R, O, C> {
    port: usize,
    core: &'a mut Core<O>,
    aside: &'a mut Batch<L>,
    out: &'a mut C,
    other: PhantomData<R>,
}

impl<L, R, O: TwoInputs<L, R>, C: Collector<O::Out>> Collector<L> for Leftwards<'_, L, R, O, C> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: L) {
        if O::PUTS_DOWN && self.core.unfinished.is_some() {
            return self.aside.record(time, value);
        }
        debug_assert!(self.core.ports.may_send_records(self.port), "a record after idle or end");
        self.core.operator.left(time, value, self.out);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        if O::PUTS_DOWN && self.core.unfinished.is_some() {
            return self.aside.mark(mark);
        }
        self.core.mark(self.port, mark, self.out);
    }
}

/// Gives what a port of the right input brings to the operator.
struct Rightwards<'a, L, R, O, C> {
    port: usize,
    core: &'a mut Core<O>,
    aside: &'a mut Batch<R>,
    out: &'a mut C,
    other: PhantomData<L>,
}

impl<L, R, O: TwoInputs<L, R>, C: Collector<O::Out>> Collector<R> for Rightwards<'_, L, R, O, C> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: R) {
        if O::PUTS_DOWN && self.core.unfinished.is_some() {
            return self.aside.record(time, value);
        }
        debug_assert!(self.core.ports.may_send_records(self.port), "a record after idle or end");
        self.core.operator.right(time, value, self.out);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        if O::PUTS_DOWN && self.core.unfinished.is_some() {
            return self.aside.mark(mark);
        }
        self.core.mark(self.port, mark, self.out);
    }
}
