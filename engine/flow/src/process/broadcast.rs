//! Process functions of a keyed stream and one that every shard has: a [`CoProcess`] whose right records have no key.
//!
//! The left side is that of an ordinary function with keys, so records that wait to be looked up together, timers and bounds
//! are as there. A record of the right side comes behind the left ones that were there before it.

use std::marker::PhantomData;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::connected::CoProcess;
use super::context::{Context, NoKey};
use super::function::Process;
use super::keyed::KeyedProcessing;
use crate::exchange::connected::{Connected, Input, Inputs, TwoInputs};
use crate::exchange::key_by::{Keyed, Placement};
use crate::operators::connect::ConnectedBroadcast;
use crate::pipeline::{Budget, Chain, Now, Operator};
use crate::state::States;
use crate::stream::Stream;

/// The left side of a function of two streams.
pub struct LeftOf<F, R>(F, PhantomData<fn(R)>);

impl<K, L, R: 'static, F: CoProcess<K, L, R, NoKey>> Process<K, L> for LeftOf<F, R> {
    type Out = F::Out;

    fn open(&mut self) {
        self.0.open();
    }

    #[inline(always)]
    fn record(&mut self, record: L, cx: &mut Context<'_, K>, out: &mut impl Collector<F::Out>) {
        self.0.left(record, cx, out);
    }

    fn timer(&mut self, cx: &mut Context<'_, K>, out: &mut impl Collector<F::Out>) {
        self.0.timer(cx, out);
    }

    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<F::Out>) {
        self.0.watermark(cx, out);
    }

    fn tick(
        &mut self,
        cx: &mut Context<'_, NoKey>,
        out: &mut impl Collector<F::Out>,
    ) -> Option<Timestamp> {
        self.0.tick(cx, out)
    }

    fn close(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<F::Out>) {
        self.0.close(cx, out);
    }
}

/// The operator of a function of a keyed stream and one that every shard has.
pub struct OfBroadcast<K, L, R, F>(KeyedProcessing<K, L, LeftOf<F, R>>);

impl<K, L, R, F> TwoInputs<Keyed<K, L>, R> for OfBroadcast<K, L, R, F>
where
    K: Key,
    L: 'static,
    R: 'static,
    F: CoProcess<K, L, R, NoKey>,
{
    type Out = F::Out;

    const PUTS_DOWN: bool = true;

    #[inline]
    fn left(&mut self, time: Timestamp, keyed: Keyed<K, L>, out: &mut impl Collector<F::Out>) {
        self.0.record(time, keyed, out);
    }

    fn right(&mut self, time: Timestamp, value: R, out: &mut impl Collector<F::Out>) {
        self.0.call_behind(time, out, |function, cx, out| function.0.right(value, cx, out));
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<F::Out>) {
        self.0.mark(mark, out);
    }

    fn due(&mut self, mark: Mark, budget: &mut Budget, out: &mut impl Collector<F::Out>) -> bool {
        self.0.due(mark, budget, out)
    }

    #[inline]
    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        self.0.function().0.holds(inputs)
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<F::Out>) -> Option<Timestamp> {
        self.0.tick(now, out)
    }

    fn settle(&mut self, out: &mut impl Collector<F::Out>) {
        self.0.settle(out);
    }

    fn ready(&self) -> bool {
        self.0.ready()
    }
}

/// A chain that begins with a function of a keyed stream and one that every shard has.
type BroadcastProcessed<K, L, R, F> = Connected<Keyed<K, L>, R, OfBroadcast<K, L, R, F>>;

impl<C: Chain, P: Placement<C>, D: Chain<Out: Clone + Send>> ConnectedBroadcast<C, P, D> {
    /// Calls a process function with the records of both streams: those of the keyed one on the shard that owns their
    /// key, those of the other one on every shard. `make` makes it on every shard, from the states that it asks for.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// Counts readings above a limit, which may change.
    /// struct Above {
    ///     limits: BroadcastState<u8, i64>,
    ///     above: ValueState<&'static str, u32>,
    /// }
    ///
    /// impl CoProcess<&'static str, (&'static str, i64), i64, NoKey> for Above {
    ///     type Out = (&'static str, u32);
    ///
    ///     fn left(
    ///         &mut self,
    ///         (device, reading): (&'static str, i64),
    ///         cx: &mut Context<'_, &'static str>,
    ///         out: &mut impl Collector<Self::Out>,
    ///     ) {
    ///         if self.limits.get(&0).is_some_and(|limit| reading > limit) {
    ///             let above = self.above.update(cx, |above| {
    ///                 *above += 1;
    ///                 *above
    ///             });
    ///             out.record(cx.time(), (device, above));
    ///         }
    ///     }
    ///
    ///     fn right(&mut self, limit: i64, cx: &mut Context<'_, NoKey>, _: &mut impl Collector<Self::Out>) {
    ///         cx.attempt(|cx| Ok(self.limits.put(cx, 0, limit)?));
    ///     }
    ///
    ///     /// Readings wait until there are limits.
    ///     fn holds(&self, inputs: &Inputs) -> Option<Input> {
    ///         (!inputs.right.has_ended).then_some(Input::Left)
    ///     }
    /// }
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// # let readings = flow.source(Collection::new([("a", 5), ("b", 1), ("a", 7)]), Watermarks::monotonous());
    /// # let limits = flow.source(Collection::new([9, 3]), Watermarks::monotonous());
    /// readings
    ///     .key_by(|&(device, _)| device)
    ///     .connect_broadcast(limits)
    ///     .process(|states| Above {
    ///         limits: states.operator().broadcast("limits"),
    ///         above: states.value("above"),
    ///     })
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("above")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [("a", 1), ("a", 2)]);
    /// ```
    pub fn process<F: CoProcess<P::Key, P::Value, D::Out, NoKey>>(
        self,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> Stream<BroadcastProcessed<P::Key, P::Value, D::Out, F>> {
        self.make("Process", |flow, at, follower| {
            let make = |states: &mut States<'_, P::Key>| LeftOf(make(states), PhantomData);
            OfBroadcast(KeyedProcessing::new(flow, at, follower, make))
        })
    }
}
