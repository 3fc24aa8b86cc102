//! Process functions of a keyed stream and one that every shard has: a [`CoProcess`] whose right records have no key.
//!
//! The left side is that of an ordinary function with keys: it has timers and bounds, and its records wait to be looked
//! up together. A record of the right side comes behind the left ones that were there before it.

use std::marker::PhantomData;

use thalweg_kernel::{Collector, Key, Timestamp};

use super::connected::{CoProcess, OfBoth, TakesBoth, pass_on_calls};
use super::context::{Context, NoKey};
use super::function::Process;
use super::keyed::KeyedProcessing;
use crate::exchange::connected::{Connected, Input, Inputs};
use crate::exchange::key_by::{Keyed, Placement};
use crate::operators::connect::ConnectedBroadcast;
use crate::pipeline::{Chain, Operator};
use crate::state::States;
use crate::stream::Stream;

/// The left side of a function of two streams.
pub struct LeftOf<F, R>(F, PhantomData<fn(R)>);

impl<K, L, R: 'static, F: CoProcess<K, L, R, NoKey>> Process<K, L> for LeftOf<F, R> {
    type Out = F::Out;

    #[inline(always)]
    fn record(&mut self, record: L, cx: &mut Context<'_, K>, out: &mut impl Collector<F::Out>) {
        self.0.left(record, cx, out);
    }

    pass_on_calls!(K);
}

impl<K, L, R, F> TakesBoth<Keyed<K, L>, R, Keyed<K, L>> for KeyedProcessing<K, L, LeftOf<F, R>>
where
    K: Key,
    L: 'static,
    R: 'static,
    F: CoProcess<K, L, R, NoKey>,
{
    #[inline]
    fn left(&mut self, time: Timestamp, keyed: Keyed<K, L>, out: &mut impl Collector<F::Out>) {
        self.record(time, keyed, out);
    }

    fn right(&mut self, time: Timestamp, value: R, out: &mut impl Collector<F::Out>) {
        self.call_behind(time, out, |function, cx, out| function.0.right(value, cx, out));
    }

    #[inline]
    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        self.function().0.holds(inputs)
    }
}

/// A chain that begins with a function of a keyed stream and one that every shard has.
type BroadcastProcessed<K, L, R, F> =
    Connected<Keyed<K, L>, R, OfBoth<KeyedProcessing<K, L, LeftOf<F, R>>, Keyed<K, L>>>;

impl<C: Chain, P: Placement<C>, D: Chain<Out: Clone + Send>> ConnectedBroadcast<C, P, D> {
    /// Calls a process function with the records of both streams. It gets a keyed record on the shard that owns the
    /// key, and a record of the other stream on every shard. `make` makes the function on every shard, from the states
    /// that it asks for.
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
            OfBoth::new(KeyedProcessing::new(flow, at, follower, make).one_by_one())
        })
    }
}
