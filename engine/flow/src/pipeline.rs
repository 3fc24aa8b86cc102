//! Fused chains and the pipelines that run them.
//!
//! A *chain* is a head (a source, or an inbox of batches) followed by operators, all one type. A
//! *pipeline* is a chain with a terminal at its end (a sink, an exchange, a local queue), behind
//! one `dyn` call per step.

use std::time::Duration;

use thalweg_kernel::{Collector, ConnectorError, Mark, Timestamp};

/// The two clocks of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// This machine's clock. It may jump either way, as the clocks of gateways do.
    pub wall: Timestamp,
    /// Time since any fixed moment. It only grows: for timeouts.
    pub steady: Duration,
}

/// What the driver tells a step.
#[derive(Clone, Copy, Debug)]
pub struct StepContext {
    /// The shard's clocks.
    pub now: Now,
    /// How many records a source may emit in this step.
    pub records_max: usize,
}

/// What a chain or pipeline did in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It moved something; step again.
    Busy,
    /// Nothing to do until woken, or until this steady time.
    Idle(Option<Duration>),
    /// It has emitted its end.
    Done,
}

/// One step of processing in a chain. It takes records and marks and emits records and marks.
///
/// An operator is pure: what it does depends on what it was given and on its own state.
pub trait Operator<T>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Takes one record.
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Self::Out>);

    /// Takes a mark; emits what is due because of it, then passes it on.
    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        out.mark(mark);
    }

    /// Whether its side outputs have room.
    fn ready(&self) -> bool {
        true
    }
}

/// A head with the operators fused to it: what a [`Stream`](crate::Stream) is made of.
#[allow(private_interfaces, reason = "sealed: only heads and `Then` of this crate are chains")]
pub trait Chain: 'static {
    /// What it emits.
    type Out: 'static;

    /// Emits what is ready, up to the bound of `cx`.
    #[doc(hidden)]
    fn step(
        &mut self,
        cx: &StepContext,
        out: impl Collector<Self::Out>,
    ) -> Result<Progress, ConnectorError>;

    /// Whether it may be stepped: its side outputs have room.
    #[doc(hidden)]
    fn ready(&self) -> bool;

    /// Asks its source for an orderly end.
    #[doc(hidden)]
    fn stop(&mut self);
}

/// A chain with one more operator.
pub struct Then<C, O> {
    chain: C,
    operator: O,
}

impl<C, O> Then<C, O> {
    pub(crate) fn new(chain: C, operator: O) -> Self {
        Self { chain, operator }
    }
}

#[allow(private_interfaces, reason = "see the trait")]
impl<C: Chain, O: Operator<C::Out>> Chain for Then<C, O> {
    type Out = O::Out;

    #[inline]
    fn step(
        &mut self,
        cx: &StepContext,
        out: impl Collector<O::Out>,
    ) -> Result<Progress, ConnectorError> {
        self.chain.step(cx, Via { operator: &mut self.operator, out })
    }

    fn ready(&self) -> bool {
        self.operator.ready() && self.chain.ready()
    }

    fn stop(&mut self) {
        self.chain.stop();
    }
}

/// A collector that passes everything through an operator first. It owns the collector behind it: a
/// chain of references, one in the other, would cost a load for each operator, one after the other,
/// for every record.
struct Via<'a, O, C> {
    operator: &'a mut O,
    out: C,
}

impl<T, O: Operator<T>, C: Collector<O::Out>> Collector<T> for Via<'_, O, C> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        self.operator.record(time, value, &mut self.out);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.operator.mark(mark, &mut self.out);
    }
}

/// The terminal as a collector.
struct Into<'a, S>(&'a mut S);

impl<T, S: Collector<T>> Collector<T> for Into<'_, S> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        self.0.record(time, value);
    }

    #[inline(always)]
    fn mark(&mut self, mark: Mark) {
        self.0.mark(mark);
    }
}

/// The end of a pipeline.
pub(crate) trait Terminal<T>: Collector<T> + 'static {
    /// Whether it can take what one step yields.
    fn ready(&mut self) -> Result<bool, ConnectorError>;

    /// Sends on what it holds, without waiting. Called after each step.
    fn flush(&mut self) -> Result<(), ConnectorError>;

    /// After the end: whether everything has arrived.
    fn finish(&mut self) -> Result<bool, ConnectorError>;
}

/// A pipeline as its shard sees it.
pub(crate) trait Pipeline {
    fn step(&mut self, cx: &StepContext) -> Result<Progress, ConnectorError>;
    fn stop(&mut self);
}

/// A chain with its terminal.
pub(crate) struct Closed<C, S> {
    chain: C,
    terminal: S,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Finishing,
    Done,
}

impl<C, S> Closed<C, S> {
    pub(crate) fn new(chain: C, terminal: S) -> Self {
        Self { chain, terminal, state: State::Running }
    }
}

impl<C: Chain, S: Terminal<C::Out>> Pipeline for Closed<C, S> {
    fn step(&mut self, cx: &StepContext) -> Result<Progress, ConnectorError> {
        let mut progress = Progress::Idle(None);
        if self.state == State::Running {
            if !self.terminal.ready()? || !self.chain.ready() {
                return Ok(Progress::Idle(None));
            }
            progress = self.chain.step(cx, Into(&mut self.terminal))?;
            self.terminal.flush()?;
            if progress == Progress::Done {
                self.state = State::Finishing;
                progress = Progress::Busy;
            }
        }
        if self.state == State::Finishing && self.terminal.finish()? {
            self.state = State::Done;
        }
        Ok(if self.state == State::Done { Progress::Done } else { progress })
    }

    fn stop(&mut self) {
        self.chain.stop();
    }
}
