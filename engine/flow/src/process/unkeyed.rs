//! The operator of a process function without keys.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Collector, Mark, Timestamp};

use super::context::{Context, NoKey};
use super::failure::{Emits, Failures, failure_of};
use super::function::Process;
use super::side::Tagged;
use crate::checkpoint::{Checkpoints, Stateful};
use crate::exchange::side::Sides;
use crate::flow::Flow;
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Now, Operator, Then};
use crate::state::operator::OperatorStates;
use crate::stream::Stream;

impl<C: Chain> Stream<C> {
    /// Calls a process function with each record, on the shard where it is. `make` makes it on every shard, from
    /// the lists that it asks for.
    pub fn process<P: Process<NoKey, C::Out>>(
        self,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Stream<Then<C, Processing<P>>> {
        self.process_as("Process", make)
    }

    /// [`process`](Self::process) as an operator of the engine called `name`.
    pub(crate) fn process_as<P: Process<NoKey, C::Out>>(
        self,
        name: &str,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Stream<Then<C, Processing<P>>> {
        Tagged { stream: self, sides: Sides::default() }.process_as(name, make)
    }
}

impl<C: Chain> Tagged<C> {
    /// See [`Stream::process`].
    pub fn process<P: Process<NoKey, C::Out>>(
        self,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Stream<Then<C, Processing<P>>> {
        self.process_as("Process", make)
    }

    /// See [`Stream::process_as`].
    pub(crate) fn process_as<P: Process<NoKey, C::Out>>(
        self,
        name: &str,
        make: impl FnOnce(&mut OperatorStates<'_>) -> P,
    ) -> Stream<Then<C, Processing<P>>> {
        let Self { stream: Stream { flow, chain, at }, sides } = self;
        flow.used(at.node);
        let node = flow.add_node::<P::Out>(name, at.producers, vec![(at.node, Edge::Chained)]);
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
            failures: flow.failures_of(at.node),
            states: states.into_kept(),
            opened: false,
            sides: Sides::default(),
            watermark: Timestamp::MIN,
            processing_time: Timestamp::MIN,
            wants_watermarks: true,
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
    /// Whether the function does anything with a watermark, so far as is known.
    wants_watermarks: bool,
    checkpoints: Rc<Checkpoints>,
}

/// Calls a function for no key, and returns its result, unless it has failed.
#[inline]
pub(super) fn call_for_none<P, C, R>(
    function: &mut P,
    failures: &Failures,
    mut cx: Context<'_, NoKey>,
    out: &mut C,
    call: impl FnOnce(&mut P, &mut Context<'_, NoKey>, &mut Emits<'_, C>) -> R,
) -> Option<R> {
    let time = cx.time;
    match failures.emit(out, |out| call(function, &mut cx, out)) {
        Ok(returned) if cx.failure.is_none() => Some(returned),
        called => {
            if let Some(failure) = failure_of(called.err(), cx.failure) {
                failures.failed::<()>(time, None, failure);
            }
            None
        }
    }
}

impl<P> Processing<P> {
    /// Opens the function with whatever comes first: the first step, or a barrier before it.
    #[inline]
    fn open<T>(&mut self)
    where
        P: Process<NoKey, T>,
    {
        if !self.opened {
            self.opened = true;
            self.failures.guard(self.watermark, || self.function.open());
        }
    }

    /// Calls the function at this event time.
    #[inline]
    fn call<C, R>(
        &mut self,
        time: Timestamp,
        out: &mut C,
        call: impl FnOnce(&mut P, &mut Context<'_, NoKey>, &mut Emits<'_, C>) -> R,
    ) -> Option<R> {
        let cx = Context::of_none(time, self.watermark, self.processing_time);
        call_for_none(&mut self.function, &self.failures, cx, out, call)
    }
}

impl<T: 'static, P: Process<NoKey, T>> Operator<T> for Processing<P> {
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
                let wants = self.call(watermark, out, |function, cx, out| {
                    cx.wants_watermarks(function, |function, cx| function.watermark(cx, out))
                });
                self.wants_watermarks = wants.unwrap_or(true);
            }
            Mark::Barrier(epoch) => {
                self.open();
                self.states.iter().for_each(|state| self.checkpoints.take(state, epoch));
            }
            Mark::End => {
                self.call(self.watermark, out, |function, cx, out| function.close(cx, out));
            }
            Mark::Idle | Mark::Active => {}
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

    fn due_at(&self) -> Timestamp {
        if self.wants_watermarks { Timestamp::MIN } else { self.sides.due_at() }
    }
}
