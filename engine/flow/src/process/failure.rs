//! What becomes of a function of the user's that fails: it returns an error, or it panics.
//!
//! | [`OnError`] | the record | the operator |
//! |---|---|---|
//! | `Fail`, the default | is processed again, as far as its source can replay it | fails the job, which starts again as its restart strategy says |
//! | `DeadLetter` | goes to the job's [dead letters](crate::Flow::dead_letters), with its key | goes on with the next record |
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
//! A process function calls the operators behind its own when it emits. A panic of such an operator is not the
//! function's failure. So an [`Emits`] notes on the way up that the panic came from behind it, and the panic goes on.

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
    Cause, Collector, ConnectorError, DeadLetter, DecodeError, Generated, Key, Mark, Origin, Str,
    Timestamp, message_of_panic,
};

use crate::counters::Counter;
use crate::dead_letters::DeadLetterOutput;

/// An error of a function of the user's.
pub type FunctionError = Box<dyn Error + Send + Sync>;

/// What becomes of a record whose function fails. See [`Stream::on_error`](crate::Stream::on_error).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The job fails, and starts again as its restart strategy says.
    #[default]
    Fail,
    /// The record becomes a [dead letter](crate::Flow::dead_letters) with the cause `function_failed`.
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

/// How a call has failed that has panicked, or that has said it failed.
#[inline]
pub(super) fn failure_of(panic: Option<Failure>, said: Option<FunctionError>) -> Option<Failure> {
    panic.or_else(|| said.map(Failure::Error))
}

/// What unwinds a step whose job is to fail with this error.
pub(crate) struct Failed(pub(crate) ConnectorError);

impl Failures {
    /// The failures of the operator called `operator`, counted in `errors`.
    pub(crate) fn new(operator: Str, errors: Counter, clock: Rc<Cell<Timestamp>>) -> Self {
        Self(Rc::new(Inner {
            policy: Cell::default(),
            operator: RefCell::new(operator),
            errors,
            letters: RefCell::default(),
            beyond: Cell::new(false),
            clock,
        }))
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
                received: self.0.clock.get(),
                payload_bytes: key.len() as u64,
                payload: Bytes::copy_from_slice(key),
                ..Generated.dead_letter(DecodeError::new(cause, reason, None))
            });
        }
    }

    /// Calls a function with a record of no key, of this event time. Returns `None` if it fails and the job goes on.
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

    /// Calls a function that emits to `out`, and returns its result, or its failure.
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

    /// Says what becomes of failures; `open` makes the operator's place for dead letters.
    pub(crate) fn set_policy(&self, policy: OnError, open: impl FnOnce() -> DeadLetterOutput) {
        self.0.policy.set(policy);
        let mut letters = self.0.letters.borrow_mut();
        if policy == OnError::DeadLetter && letters.is_none() {
            *letters = Some(open());
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
