//! [`Process`]: the function of a stream without keys, and the operator that calls it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use thalweg_kernel::{Collector, Mark, Timestamp};

use super::failure::{Emits, Failures};
use super::side::{Sides, Tagged};
use crate::checkpoint::{Checkpoints, Stateful};
use crate::flow::Flow;
use crate::graph::Edge;
use crate::pipeline::{Chain, Now, Operator, Then};
use crate::state::operator::OperatorStates;
use crate::stream::{At, Stream};

/// A function of a stream's records, on each shard by itself, with [lists](OperatorStates) that are part of
/// every checkpoint.
///
/// ```
/// # use thalweg_flow::*;
/// # use thalweg_kernel::Collector;
/// /// Passes records on in order of their times, once no earlier one is expected.
/// struct Sorted {
///     waiting: OperatorListState<(i64, char)>,
/// }
///
/// impl Process<(i64, char)> for Sorted {
///     type Out = (i64, char);
///
///     fn record(
///         &mut self,
///         record: (i64, char),
///         cx: &ProcessContext,
///         out: &mut impl Collector<(i64, char)>,
///     ) {
///         // Where it is full, order matters less than the record.
///         if let Err(ListFull(record)) = self.waiting.push(record) {
///             out.record(cx.time(), record);
///         }
///     }
///
///     fn watermark(&mut self, cx: &ProcessContext, out: &mut impl Collector<(i64, char)>) {
///         let due = |&(time, _): &(i64, char)| time <= cx.watermark().as_millis();
///         let mut ready: Vec<_> = self.waiting.with(|all| all.copied().filter(due).collect());
///         self.waiting.retain(|record| !due(record));
///         ready.sort_unstable();
///         ready.into_iter().for_each(|record| out.record(record.0.into(), record));
///     }
/// }
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let records = flow.source(
/// #     Collection::new([(1, 'b'), (0, 'a'), (9, 'd'), (8, 'c')]),
/// #     Watermarks::bounded_out_of_orderness(std::time::Duration::from_millis(2)).timestamps(|&(time, _)| time),
/// # );
/// records.process(|states| Sorted { waiting: states.list("waiting") })
/// # .map(|(_, letter)| letter).sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("sorted")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # assert_eq!(out.take(), ['a', 'b', 'c', 'd']);
/// ```
pub trait Process<T>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Called once, before anything else: its lists hold what they held at the epoch from which the job
    /// goes on. What it changes in them is in the next epoch, on every shard.
    fn open(&mut self) {}

    /// Takes a record.
    fn record(&mut self, record: T, cx: &ProcessContext, out: &mut impl Collector<Self::Out>);

    /// The watermark has moved, to that of `cx`: the last chance to emit what is not to be late behind it. At
    /// the end of the stream it is [`Timestamp::MAX`].
    fn watermark(&mut self, _cx: &ProcessContext, _out: &mut impl Collector<Self::Out>) {}

    /// Called with every step: emits what is due because of this machine's clock. The time on that clock at
    /// which more will be due, if any is known.
    fn tick(
        &mut self,
        _cx: &ProcessContext,
        _out: &mut impl Collector<Self::Out>,
    ) -> Option<Timestamp> {
        None
    }
}

/// What a process function without keys is told.
#[derive(Clone, Copy, Debug)]
pub struct ProcessContext {
    time: Timestamp,
    watermark: Timestamp,
    processing_time: Timestamp,
}

impl ProcessContext {
    /// The record's event time; without a record the watermark.
    #[inline]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The watermark: no record of this time or an earlier one is expected any more.
    #[inline]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// This machine's clock, as of the step.
    #[inline]
    pub fn processing_time(&self) -> Timestamp {
        self.processing_time
    }
}

impl<C: Chain> Stream<C> {
    /// Calls a process function with each record, on the shard where it is. `make` makes it on every shard, from
    /// the lists that it asks for.
    pub fn process<P: Process<C::Out>>(
        self,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Stream<Then<C, Processing<P>>> {
        Tagged { stream: self, sides: Sides::default() }.process(make)
    }
}

impl<C: Chain> Tagged<C> {
    /// See [`Stream::process`].
    pub fn process<P: Process<C::Out>>(
        self,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Stream<Then<C, Processing<P>>> {
        let Self { stream: Stream { flow, chain, at }, sides } = self;
        flow.used(at.node);
        let node = flow.add_node::<P::Out>("Process", at.producers, vec![(at.node, Edge::Chained)]);
        sides.come_out_of(&flow, node);
        let at = At { node, ..at };
        let operator = Processing { sides, ..Processing::new(&flow, at, make) };
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

impl<P> Processing<P> {
    /// The operator at `at`, without side outputs.
    pub(super) fn new(
        flow: &Flow,
        at: At,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Self {
        let mut states = OperatorStates::new(flow, at.node, at.producers);
        let function = make(&mut states);
        Self {
            function,
            failures: Failures::new(flow, at.node),
            states: states.into_kept(),
            opened: false,
            sides: Sides::default(),
            watermark: Timestamp::MIN,
            processing_time: Timestamp::MIN,
            checkpoints: Rc::clone(flow.checkpoints()),
        }
    }

    pub(super) fn function(&self) -> &P {
        &self.function
    }
}

/// The operator of [`Stream::process`].
pub struct Processing<P> {
    function: P,
    failures: Failures,
    states: Vec<Rc<RefCell<dyn Stateful>>>,
    opened: bool,
    sides: Sides,
    watermark: Timestamp,
    processing_time: Timestamp,
    checkpoints: Rc<Checkpoints>,
}

impl<P> Processing<P> {
    #[inline]
    fn context(&self, time: Timestamp) -> ProcessContext {
        let Self { watermark, processing_time, .. } = *self;
        ProcessContext { time, watermark, processing_time }
    }

    /// Opens the function with whatever comes first: the first step, or a barrier before it.
    #[inline]
    fn open<T>(&mut self)
    where
        P: Process<T>,
    {
        if !self.opened {
            self.opened = true;
            let _opened = self.failures.call(self.watermark, || {
                self.function.open();
                Ok::<_, Infallible>(())
            });
        }
    }

    /// Calls the function at this event time; what it returns, unless it has failed.
    #[inline]
    fn call<C, R>(
        &mut self,
        time: Timestamp,
        out: &mut C,
        call: impl FnOnce(&mut P, &ProcessContext, &mut Emits<'_, C>) -> R,
    ) -> Option<R> {
        let cx = self.context(time);
        let Self { function, failures, .. } = self;
        let called = failures.emit(out, |out| call(function, &cx, out));
        called.map_err(|failure| failures.failed::<()>(time, None, failure)).ok()
    }
}

impl<T: 'static, P: Process<T>> Operator<T> for Processing<P> {
    type Out = P::Out;

    #[inline]
    fn record(&mut self, time: Timestamp, record: T, out: &mut impl Collector<P::Out>) {
        debug_assert!(self.opened, "a record before the first step");
        self.call(time, out, |function, cx, out| function.record(record, cx, out));
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<P::Out>) {
        match mark {
            Mark::Watermark(watermark) => {
                self.watermark = watermark;
                self.call(watermark, out, |function, cx, out| function.watermark(cx, out));
            }
            Mark::Barrier(epoch) => {
                self.open();
                self.states.iter().for_each(|state| self.checkpoints.take(state, epoch));
            }
            Mark::Idle | Mark::Active | Mark::End => {}
        }
        self.failures.mark(mark);
        self.sides.mark(mark);
        out.mark(mark);
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<P::Out>) -> Option<Timestamp> {
        self.open();
        self.processing_time = now.wall;
        self.call(self.watermark, out, |function, cx, out| function.tick(cx, out)).flatten()
    }

    fn ready(&self) -> bool {
        self.sides.have_room() && self.failures.have_room()
    }
}
