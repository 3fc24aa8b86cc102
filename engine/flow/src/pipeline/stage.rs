//! An operator in its place in a chain, and the work that it puts down there.
//!
//! # Work that does not fit into a step
//! One watermark may make a million timers due, or close a million windows. An operator that has work of that kind
//! [says so](Operator::PUTS_DOWN). It does a piece of the work in each step, as its [`Budget`] allows, and puts the rest
//! down. Then
//!
//! - the mark that caused the work waits, and goes on when the last of the work is done. So nothing that the
//!   operator emits because of a watermark is late behind it, and no barrier cuts the work in two;
//! - what still reaches the operator in the step is put aside in order, and follows the mark;
//! - the head of the chain is not stepped, so what is put aside is at most what one step brings. The next step goes on
//!   with the work instead. The last operator of the chain comes first, since what others emit would have to wait
//!   there. In such a step the operators in front do not see the clock.
//!
//! Where keys have clocks of their own, a record may cause such work, too. The operator itself lets the records behind it
//! wait then (`process/keyed/clocks.rs`); marks wait here.
//!
//! The rest of the shard goes on as if nothing had happened, and so does the clock of the operator. An operator without
//! such work pays nothing: the compiler leaves all of this out of its code.
//!
//! # Limits
//! An operator does at most [`Tuning::step_work_max`](crate::Tuning) units of work in a step. A timer that fires is one
//! unit, and so is a record that it emits. A single call of a function that emits more than that is not cut in two.

use std::mem::take;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, Mark, Timestamp};

use super::{Chain, Head, Operator, Progress, StepContext};

/// How much of its work an operator may still do in a step.
#[derive(Debug, Default)]
pub struct Budget {
    units: usize,
}

impl Budget {
    /// A budget of `units` of work.
    pub(crate) fn of(units: usize) -> Self {
        Self { units }
    }

    /// Whether nothing is left of it: the operator puts its work down.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.units == 0
    }

    /// Whether `units` of work fit into it.
    #[inline]
    pub(crate) fn allows(&self, units: usize) -> bool {
        units <= self.units
    }

    /// Takes `units` from it, or what is left.
    #[inline]
    pub fn spend(&mut self, units: usize) {
        self.units = self.units.saturating_sub(units);
    }

    /// `out`, where each record takes one unit.
    pub(crate) fn meter<'a, C>(&'a mut self, out: &'a mut C) -> Metered<'a, C> {
        Metered { budget: self, out }
    }
}

/// See [`Budget::meter`].
pub(crate) struct Metered<'a, C> {
    budget: &'a mut Budget,
    out: &'a mut C,
}

impl<T, C: Collector<T>> Collector<T> for Metered<'_, C> {
    const GATHERS: bool = C::GATHERS;

    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        self.budget.spend(1);
        self.out.record(time, value);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.out.mark(mark);
    }
}

/// See the module. The operator lies first: so its address is that of its stage, for every record.
#[repr(C)]
struct Stage<O, T> {
    operator: O,
    /// The mark whose work is not done yet.
    unfinished: Option<Mark>,
    /// What has come since, in order.
    aside: Batch<T>,
    /// What is left of the step's.
    budget: Budget,
}

impl<T, O: Operator<T>> Stage<O, T> {
    #[inline(always)]
    fn is_unfinished(&self) -> bool {
        O::PUTS_DOWN && self.unfinished.is_some()
    }

    /// Whether work waits, whatever has caused it.
    #[inline]
    fn has_put_down(&self) -> bool {
        O::PUTS_DOWN && (self.unfinished.is_some() || self.operator.has_put_down())
    }

    /// Whether a record has to wait behind a mark.
    #[inline(always)]
    fn puts_aside(&self) -> bool {
        self.is_unfinished() && !seeded(Defect::FlowRecordOvertakesWork)
    }

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<O::Out>) {
        if self.puts_aside() {
            return self.aside.record(time, value);
        }
        self.operator.record(time, value, out);
    }

    #[inline(always)]
    fn gather(&mut self, time: Timestamp, value: T, out: &mut impl Collector<O::Out>) {
        if self.puts_aside() {
            return self.aside.record(time, value);
        }
        self.operator.gather(time, value, out);
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<O::Out>) {
        if O::PUTS_DOWN {
            if self.unfinished.is_some() {
                return self.aside.mark(mark);
            }
            let done = self.operator.due(mark, &mut self.budget, out);
            if !done && !seeded(Defect::FlowMarkOvertakesWork) {
                self.unfinished = Some(mark);
                return;
            }
        }
        self.operator.mark(mark, out);
    }

    /// A step begins.
    #[inline]
    fn tick(&mut self, cx: &StepContext, out: &mut impl Collector<O::Out>) -> Option<Timestamp> {
        let due_at = self.operator.tick(cx.now, out);
        if O::PUTS_DOWN {
            self.budget = Budget::of(cx.work_max);
            if let Some(mark) = self.unfinished {
                self.go_on(mark, out);
            }
        }
        due_at
    }

    #[cold]
    fn go_on(&mut self, mark: Mark, out: &mut impl Collector<O::Out>) {
        if !self.operator.due(mark, &mut self.budget, out) {
            return;
        }
        self.unfinished = None;
        self.operator.mark(mark, out);
        let mut aside = take(&mut self.aside);
        aside.drain_into(&mut Via { stage: self, out: Lent(out) });
        // Its buffers are used again, unless a mark has put aside what stood behind it once more.
        if self.aside.is_empty() {
            self.aside = aside;
        }
    }
}

/// A chain with one more operator.
pub struct Then<C: Chain, O> {
    chain: C,
    stage: Stage<O, C::Out>,
}

impl<C: Chain, O: Operator<C::Out>> Then<C, O> {
    pub(crate) fn new(chain: C, operator: O) -> Self {
        let (aside, budget) = (Batch::default(), Budget::default());
        Self { chain, stage: Stage { operator, unfinished: None, aside, budget } }
    }
}

#[allow(private_interfaces, reason = "see the trait")]
impl<C: Chain, O: Operator<C::Out>> Chain for Then<C, O> {
    type Out = O::Out;

    #[inline]
    fn step<S: Collector<O::Out>>(
        &mut self,
        cx: &StepContext,
        out: S,
    ) -> Result<Progress, ConnectorError> {
        // Decided here, for a whole step: the two ways of a record want different code also in front of them.
        if O::GATHERS && !S::GATHERS && self.stage.operator.gathers() {
            return self.chain.step(cx, Gathering(Via { stage: &mut self.stage, out }));
        }
        self.chain.step(cx, Via { stage: &mut self.stage, out })
    }

    fn ready(&self) -> bool {
        self.stage.operator.ready() && self.chain.ready()
    }

    fn barrier(&mut self, epoch: Epoch, out: impl Collector<O::Out>) {
        self.chain.barrier(epoch, Via { stage: &mut self.stage, out });
    }

    fn tick(&mut self, cx: &StepContext, mut out: impl Collector<O::Out>) -> Option<Timestamp> {
        let goes_on = self.stage.has_put_down();
        let here = self.stage.tick(cx, &mut out);
        // Also where that was the last of it: what had been put aside may have been the end, and whoever stands in front
        // of it has nothing more to say.
        if goes_on || self.stage.has_put_down() {
            return here;
        }
        let before = self.chain.tick(cx, Via { stage: &mut self.stage, out });
        [before, here].into_iter().flatten().min()
    }

    #[inline]
    fn has_put_down(&self) -> bool {
        self.stage.has_put_down() || self.chain.has_put_down()
    }

    fn settle(&mut self, mut out: impl Collector<O::Out>) {
        self.chain.settle(Via { stage: &mut self.stage, out: Lent(&mut out) });
        self.stage.operator.settle(&mut out);
    }

    fn source(&mut self) -> Option<&mut dyn Head> {
        self.chain.source()
    }

    fn due_at(&self) -> Timestamp {
        // What waits behind unfinished work is counted when that is done.
        self.stage.operator.due_at().min(self.chain.due_at())
    }

    fn publish(&mut self, due: Timestamp) -> bool {
        self.chain.publish(due)
    }
}

/// A collector that passes everything through an operator first. It owns the collector behind it. With a
/// reference to it instead, every record would wait for one load after the other, as many as there are operators. (And
/// it lies first, as the operator does in its stage.)
#[repr(C)]
struct Via<'a, O, T, C> {
    out: C,
    stage: &'a mut Stage<O, T>,
}

impl<T, O: Operator<T>, C: Collector<O::Out>> Collector<T> for Via<'_, O, T, C> {
    const GATHERS: bool = O::GATHERS || C::GATHERS;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        self.stage.record(time, value, &mut self.out);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.stage.mark(mark, &mut self.out);
    }
}

/// A [`Via`] whose operator puts the records aside.
struct Gathering<'a, O, T, C>(Via<'a, O, T, C>);

impl<T, O: Operator<T>, C: Collector<O::Out>> Collector<T> for Gathering<'_, O, T, C> {
    const GATHERS: bool = true;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        self.0.stage.gather(time, value, &mut self.0.out);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.0.mark(mark);
    }
}

/// A collector for one call more.
struct Lent<'a, C>(&'a mut C);

impl<T, C: Collector<T>> Collector<T> for Lent<'_, C> {
    const GATHERS: bool = C::GATHERS;

    fn record(&mut self, time: Timestamp, value: T) {
        self.0.record(time, value);
    }

    fn mark(&mut self, mark: Mark) {
        self.0.mark(mark);
    }
}
