//! What becomes of a function of the user's that fails: it returns an error, or it panics.
//!
//! | [`OnError`] | the record | the operator |
//! |---|---|---|
//! | `Fail`, the default | is processed again, as far as its source can replay it | fails the job, which starts again as its restart strategy says |
//! | `DeadLetter` | goes to the job's [dead letters](Flow::dead_letters), with its key | goes on with the next record |
//! | `Skip` | is dropped | goes on with the next record |
//!
//! Each failure is counted under the operator (`numFunctionErrors`), whatever the policy. What is said of it names the operator,
//! the event time of the record or timer, and its key, if it has one.
//!
//! # What a function leaves behind
//! Nothing is taken back. What a function has emitted, and what it has changed in its states, timers and fields before it
//! failed, stays. So a function whose failure is to be skipped decides first and changes then. A closure that changes a
//! value in place leaves the value as it was at that moment. With `Fail` none of that matters, since the job goes
//! on from the last epoch.
//!
//! # What it costs
//! Each call of a function has a landing pad of its own, and nothing else: what is here runs when a call fails. A panic
//! prints its message as any panic does, so a function that often fails should return its error instead.
//!
//! # Whose failure it is
//! A process function calls the operators behind its own when it emits. What panics there is not its failure: an [`Emits`]
//! notes on the way up that the panic came from behind it, and the panic goes on.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Cause, Collector, ConnectorError, DeadLetter, Key, Mark, Str, Timestamp, message_of_panic,
};

use crate::counters::Counter;
use crate::exchange::key_by::{Keyed, KeyedStream, Placed};
use crate::flow::Flow;
use crate::flow::dead_letters::DeadLetterOutput;
use crate::graph::Edge;
use crate::pipeline::{Chain, Operator, Then};
use crate::stream::{At, Stream};

/// An error of a function of the user's.
pub type FunctionError = Box<dyn Error + Send + Sync>;

/// What becomes of a record whose function fails. See [`Stream::on_error`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The job fails, and starts again as its restart strategy says.
    #[default]
    Fail,
    /// The record becomes a [dead letter](Flow::dead_letters) with the cause `function_failed`.
    DeadLetter,
    /// The record is dropped, and counted (`numFunctionErrors`).
    Skip,
}

/// The failures of one operator's functions.
#[derive(Clone, Default)]
pub(crate) struct Failures(Rc<Inner>);

#[derive(Default)]
pub(crate) struct Inner {
    policy: Cell<OnError>,
    operator: RefCell<Str>,
    errors: Counter,
    letters: RefCell<Option<DeadLetterOutput>>,
    /// A panic has come from an operator behind this one.
    beyond: Cell<bool>,
    clock: Rc<Cell<Timestamp>>,
}

/// What a call of a function came to, where it was no result.
pub(crate) enum Failure {
    /// It has returned an error.
    Error(FunctionError),
    /// It has panicked.
    Panic(Box<dyn Any + Send>),
}

/// How a call has failed that has panicked, or has said so.
#[inline]
pub(super) fn failure_of(panic: Option<Failure>, said: Option<FunctionError>) -> Option<Failure> {
    panic.or_else(|| said.map(Failure::Error))
}

/// What unwinds a step whose job is to fail with this error.
pub(crate) struct Failed(pub(crate) ConnectorError);

impl Failures {
    /// Of the operator at `node`.
    pub(crate) fn new(flow: &Flow, node: u32) -> Self {
        let failures = Self(Rc::new(Inner {
            policy: Cell::default(),
            operator: RefCell::new(flow.name_of(node).clone()),
            errors: flow.counter("numFunctionErrors", node),
            letters: RefCell::default(),
            beyond: Cell::new(false),
            clock: Rc::clone(flow.clock()),
        }));
        flow.knows_failures(node, &failures);
        failures
    }

    /// The operator has got another name while it was being described.
    pub(crate) fn rename(&self, name: &str) {
        *self.0.operator.borrow_mut() = name.into();
    }

    /// Where the operator writes its dead letters, if it has other reasons to write some.
    pub(crate) fn write_letters(&self, output: DeadLetterOutput) {
        *self.0.letters.borrow_mut() = Some(output);
    }

    /// Writes a dead letter of the operator's.
    #[cold]
    pub(crate) fn letter(&self, cause: Cause, reason: String, key: &[u8]) {
        if let Some(letters) = &*self.0.letters.borrow() {
            letters.push(DeadLetter {
                topic: self.0.operator.borrow().clone(),
                cause,
                reason,
                position: None,
                partition: None,
                offset: None,
                received: self.0.clock.get(),
                payload_bytes: key.len() as u64,
                payload: Bytes::copy_from_slice(key),
            });
        }
    }

    /// Calls a function with a record of no key, of this event time; nothing if it fails and the job goes on.
    #[inline(always)]
    pub(crate) fn call<R, E: Into<FunctionError>>(
        &self,
        time: Timestamp,
        call: impl FnOnce() -> Result<R, E>,
    ) -> Option<R> {
        if seeded(Defect::FlowSkipsAfterFailure) && self.0.beyond.replace(false) {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(result)) => Some(result),
            Ok(Err(error)) => {
                self.failed::<()>(time, None, Failure::Error(error.into()));
                None
            }
            Err(panic) => {
                self.failed::<()>(time, None, Failure::Panic(panic));
                None
            }
        }
    }

    /// Calls a function that emits to `out`; its failure, if it has failed.
    #[inline(always)]
    pub(crate) fn emit<C, R>(
        &self,
        out: &mut C,
        call: impl FnOnce(&mut Emits<'_, C>) -> R,
    ) -> Result<R, Failure> {
        let mut out = Emits { out, beyond: &self.0.beyond };
        catch_unwind(AssertUnwindSafe(|| call(&mut out))).map_err(Failure::Panic)
    }

    /// Calls a function that neither takes nor emits anything.
    pub(super) fn guard(&self, time: Timestamp, call: impl FnOnce()) {
        let _called = self.call(time, || {
            call();
            Ok::<_, Infallible>(())
        });
    }

    /// A function has failed with a record or timer of this event time and key. Returns if the job goes on.
    #[cold]
    #[inline(never)]
    pub(crate) fn failed<K: Key>(&self, time: Timestamp, key: Option<&K>, failure: Failure) {
        let Inner { policy, operator, errors, beyond, .. } = &*self.0;
        let failure = match failure {
            Failure::Panic(panic) if beyond.replace(false) || panic.is::<Failed>() => {
                resume_unwind(panic)
            }
            failure => failure,
        };
        errors.add(1);
        let of = key.map_or_else(String::new, |key| format!(" of key {}", key.describe()));
        let at = format!("at event time {time}{of}");
        let what = match &failure {
            Failure::Error(error) => format!("its function failed {at}: {error}"),
            Failure::Panic(panic) => {
                format!("its function panicked {at}: {}", message_of_panic(&**panic))
            }
        };
        match (policy.get(), failure) {
            (OnError::Skip, _) => {}
            (OnError::DeadLetter, _) => {
                let mut bytes = Vec::new();
                if let Some(key) = key {
                    key.write_key(&mut bytes);
                }
                self.letter(Cause::FunctionFailed, what, &bytes);
            }
            (OnError::Fail, Failure::Error(_)) => {
                let what =
                    format!("{what}; let the job go on without such records with .on_error(..)");
                let error = ConnectorError::new(operator.borrow().as_str(), what);
                resume_unwind(Box::new(Failed(error)))
            }
            (OnError::Fail, Failure::Panic(_)) => {
                resume_unwind(Box::new(format!("{}: {what}", operator.borrow())))
            }
        }
        beyond.set(seeded(Defect::FlowSkipsAfterFailure));
    }

    /// The operator has got a mark.
    #[inline]
    pub(crate) fn mark(&self, mark: Mark) {
        if let Mark::Barrier(_) | Mark::End = mark
            && let Some(letters) = &*self.0.letters.borrow()
        {
            match mark {
                Mark::Barrier(epoch) => letters.barrier(epoch),
                _ => letters.end(),
            }
        }
    }

    /// Whether there is room for dead letters.
    pub(crate) fn have_room(&self) -> bool {
        self.0.letters.borrow().as_ref().is_none_or(DeadLetterOutput::has_room)
    }

    pub(crate) fn set_policy(&self, flow: &Flow, at: At, policy: OnError) {
        self.0.policy.set(policy);
        let mut letters = self.0.letters.borrow_mut();
        if policy == OnError::DeadLetter && letters.is_none() {
            *letters = Some(flow.dead_letters_from(at.node, at.producers));
        }
    }
}

/// Where a function of the user's emits: see the module.
pub(crate) struct Emits<'a, C> {
    out: &'a mut C,
    beyond: &'a Cell<bool>,
}

/// Notes that it was dropped, which happens only when a panic comes by.
struct Noted<'a>(&'a Cell<bool>);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

impl<T, C: Collector<T>> Collector<T> for Emits<'_, C> {
    const GATHERS: bool = C::GATHERS;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        let noted = Noted(self.beyond);
        self.out.record(time, value);
        forget(noted);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        let noted = Noted(self.beyond);
        self.out.mark(mark);
        forget(noted);
    }
}

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
        let operator = make(Failures::new(&flow, node));
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
