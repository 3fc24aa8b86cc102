//! [`CoProcess`]: process functions of two streams, with keys or without.
//!
//! # Idea
//! Such a function is one of [`OneOf`] its two kinds of records, so it has state, timers, bounds and side outputs
//! like any other. Records come out of their ports as they are. The two kinds become one type here, in an inlined
//! call: records that are put aside stay in order across both inputs.

use std::marker::PhantomData;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::context::{Context, NoKey};
use super::function::Process;
use super::keyed::KeyedProcessing;
use super::unkeyed::Processing;
use crate::exchange::connected::{Connected, Input, Inputs, TwoInputs};
use crate::exchange::key_by::{Follower, Keyed, Placement};
use crate::operators::connect::{ConnectedKeyed, ConnectedStreams, KeyedHead, connect_keyed};
use crate::pipeline::{Budget, Chain, Now, Operator};
use crate::state::States;
use crate::state::operator::OperatorStates;
use crate::stream::Stream;

/// A function of the records of two streams, `L` and `R`. `K` is their key, or [`NoKey`] where they have none: see
/// [`Stream::connect`] and [`KeyedStream::connect`](crate::KeyedStream::connect). It has the calls of a [`Process`], with one for
/// the records of each stream. Where every shard has the right stream, its records have no key: `KR` is [`NoKey`] then, see
/// [`KeyedStream::connect_broadcast`](crate::KeyedStream::connect_broadcast).
pub trait CoProcess<K, L, R, KR = K>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Called once, before anything else: see [`Process::open`].
    fn open(&mut self) {}

    /// Takes a record of the left stream, of the key of `cx`.
    fn left(&mut self, record: L, cx: &mut Context<'_, K>, out: &mut impl Collector<Self::Out>);

    /// Takes a record of the right stream, of the key of `cx`.
    fn right(&mut self, record: R, cx: &mut Context<'_, KR>, out: &mut impl Collector<Self::Out>);

    /// A timer of the key of `cx` fires: see [`Process::timer`].
    fn timer(&mut self, _cx: &mut Context<'_, K>, _out: &mut impl Collector<Self::Out>) {}

    /// The watermark of both has moved, to that of `cx`: see [`Process::watermark`].
    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, _out: &mut impl Collector<Self::Out>) {
        cx.does_nothing::<Self>();
    }

    /// Called with every step: see [`Process::tick`].
    fn tick(
        &mut self,
        _cx: &mut Context<'_, NoKey>,
        _out: &mut impl Collector<Self::Out>,
    ) -> Option<Timestamp> {
        None
    }

    /// Called once, when both streams have ended: see [`Process::close`].
    fn close(&mut self, _cx: &mut Context<'_, NoKey>, _out: &mut impl Collector<Self::Out>) {}

    /// Which stream it wishes to be held back: see [`TwoInputs::holds`].
    fn holds(&self, _inputs: &Inputs) -> Option<Input> {
        None
    }
}

/// A record of one of two streams.
pub enum OneOf<L, R> {
    /// A record of the left stream.
    Left(L),
    /// A record of the right stream.
    Right(R),
}

/// A function of two streams as one of one.
pub struct Both<F>(F);

/// Passes the calls on to `self.0` that a [`Process`] and a [`CoProcess`] both have, under one name.
macro_rules! pass_on_calls {
    ($key:ty) => {
        fn open(&mut self) {
            self.0.open();
        }

        fn timer(&mut self, cx: &mut Context<'_, $key>, out: &mut impl Collector<F::Out>) {
            self.0.timer(cx, out);
        }

        fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<F::Out>) {
            cx.asks_instead::<Self, F>();
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
    };
}
pub(super) use pass_on_calls;

impl<K, L, R, F: CoProcess<K, L, R>> Process<K, OneOf<L, R>> for Both<F> {
    type Out = F::Out;

    #[inline(always)]
    fn record(
        &mut self,
        record: OneOf<L, R>,
        cx: &mut Context<'_, K>,
        out: &mut impl Collector<F::Out>,
    ) {
        match record {
            OneOf::Left(record) => self.0.left(record, cx, out),
            OneOf::Right(record) => self.0.right(record, cx, out),
        }
    }

    pass_on_calls!(K);
}

/// An operator over records `X`, as one with two inputs.
pub struct OfBoth<O, X>(O, PhantomData<fn(X)>);

impl<O, X> OfBoth<O, X> {
    pub(super) fn new(operator: O) -> Self {
        Self(operator, PhantomData)
    }
}

/// How an operator over records `X` takes those of two inputs.
pub trait TakesBoth<L, R, X>: Operator<X> {
    /// Takes a record of the left input.
    fn left(&mut self, time: Timestamp, value: L, out: &mut impl Collector<Self::Out>);

    /// Takes a record of the right input.
    fn right(&mut self, time: Timestamp, value: R, out: &mut impl Collector<Self::Out>);

    /// Which input its function wishes to be held back.
    fn holds(&self, inputs: &Inputs) -> Option<Input>;
}

impl<L: 'static, R: 'static, X: 'static, O: TakesBoth<L, R, X>> TwoInputs<L, R> for OfBoth<O, X> {
    type Out = O::Out;

    const PUTS_DOWN: bool = O::PUTS_DOWN;

    #[inline]
    fn left(&mut self, time: Timestamp, value: L, out: &mut impl Collector<O::Out>) {
        self.0.left(time, value, out);
    }

    #[inline]
    fn right(&mut self, time: Timestamp, value: R, out: &mut impl Collector<O::Out>) {
        self.0.right(time, value, out);
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<O::Out>) {
        self.0.mark(mark, out);
    }

    fn due(&mut self, mark: Mark, budget: &mut Budget, out: &mut impl Collector<O::Out>) -> bool {
        self.0.due(mark, budget, out)
    }

    fn has_put_down(&self) -> bool {
        self.0.has_put_down()
    }

    #[inline]
    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        self.0.holds(inputs)
    }

    fn tick(&mut self, now: Now, out: &mut impl Collector<O::Out>) -> Option<Timestamp> {
        self.0.tick(now, out)
    }

    fn settle(&mut self, out: &mut impl Collector<O::Out>) {
        self.0.settle(out);
    }

    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn due_at(&self) -> Timestamp {
        self.0.due_at()
    }
}

/// Without keys.
impl<L: 'static, R: 'static, F: CoProcess<NoKey, L, R>> TakesBoth<L, R, OneOf<L, R>>
    for Processing<Both<F>>
{
    #[inline]
    fn left(&mut self, time: Timestamp, value: L, out: &mut impl Collector<F::Out>) {
        self.record(time, OneOf::<L, R>::Left(value), out);
    }

    #[inline]
    fn right(&mut self, time: Timestamp, value: R, out: &mut impl Collector<F::Out>) {
        self.record(time, OneOf::<L, R>::Right(value), out);
    }

    #[inline]
    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        self.function().0.holds(inputs)
    }
}

/// A record of one of two streams with the key of both.
type KeyedOneOf<K, L, R> = Keyed<K, OneOf<L, R>>;

/// With one key.
impl<K, L, R, F> TakesBoth<Keyed<K, L>, Keyed<K, R>, KeyedOneOf<K, L, R>>
    for KeyedProcessing<K, OneOf<L, R>, Both<F>>
where
    K: Key,
    L: 'static,
    R: 'static,
    F: CoProcess<K, L, R>,
{
    #[inline]
    fn left(&mut self, time: Timestamp, keyed: Keyed<K, L>, out: &mut impl Collector<F::Out>) {
        let Keyed { hash, key, value } = keyed;
        self.record(time, Keyed { hash, key, value: OneOf::Left(value) }, out);
    }

    #[inline]
    fn right(&mut self, time: Timestamp, keyed: Keyed<K, R>, out: &mut impl Collector<F::Out>) {
        let Keyed { hash, key, value } = keyed;
        self.record(time, Keyed { hash, key, value: OneOf::Right(value) }, out);
    }

    #[inline]
    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        self.function().0.holds(inputs)
    }
}

impl<C: Chain, D: Chain> ConnectedStreams<C, D> {
    /// Calls a process function with the records of both streams, on the shard where they are. `make` makes it on every
    /// shard, from the lists that it asks for.
    pub fn process<F: CoProcess<NoKey, C::Out, D::Out>>(
        self,
        make: impl FnOnce(&mut OperatorStates<'_>) -> F,
    ) -> Stream<Connected<C::Out, D::Out, OfBoth<Processing<Both<F>>, OneOf<C::Out, D::Out>>>> {
        self.make("Process", |flow, at| {
            OfBoth::new(Processing::new(flow, at, |states| Both(make(states))))
        })
    }
}

/// The operator of a function of two keyed streams.
type KeyedBoth<K, L, R, F> = OfBoth<KeyedProcessing<K, OneOf<L, R>, Both<F>>, KeyedOneOf<K, L, R>>;

/// A chain that begins with a function of two keyed streams.
type KeyedCoProcessed<C, P, D, Q, F> = KeyedHead<
    C,
    P,
    D,
    Q,
    KeyedBoth<<P as Placement<C>>::Key, <P as Placement<C>>::Value, <Q as Placement<D>>::Value, F>,
>;

impl<C: Chain, P: Placement<C>, D: Chain, Q: Placement<D, Key = P::Key>>
    ConnectedKeyed<C, P, D, Q>
{
    /// Calls a process function with the records of both streams, on the shard that owns their key. `make` makes it
    /// on every shard, from the states that it asks for.
    pub fn process<F: CoProcess<P::Key, P::Value, Q::Value>>(
        self,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> Stream<KeyedCoProcessed<C, P, D, Q, F>> {
        let Self { left, right } = self;
        let Follower { bounds, sides, .. } = left.follower;
        let follower = Follower { bounds, sides, clock: None };
        connect_keyed((left.stream, left.placement), right, "Process", |flow, at| {
            OfBoth::new(KeyedProcessing::new(flow, at, follower, |states| Both(make(states))))
        })
    }
}
