//! `boxed`: a stream whose type says nothing but what its records are.
//!
//! # Idea
//! A [`Stream`] carries its chain as a type. The type makes it fast, but no program can write it down. So the arms of a
//! `match` cannot yield different chains, and data cannot say which chain to build. [`Stream::boxed`] hides
//! the chain behind one pointer. The hidden chain is fused as before, and ends in a [`Batch`] whose buffers are used
//! again. The chain that follows takes the records from there. So an edge costs one dynamic call for a batch and a copy
//! of each record. Nothing waits in an edge: it is empty between two steps.
//!
//! # Limits
//! A batch is handed on when it has [`BOXED_RECORDS_MAX`] records or marks, or at the end of what the chain does at a time.

use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, Key, Mark, Timestamp};

use crate::exchange::key_by::{Keyed, KeyedStream, Placed};
use crate::pipeline::{Chain, Head, Progress, StepContext};
use crate::stream::Stream;

/// How many records or marks an edge hands on together: they stay in the first-level cache.
const BOXED_RECORDS_MAX: usize = 256;

/// A stream of which only the type of its records is known.
pub type BoxedStream<T> = Stream<Boxed<T>>;

/// A keyed stream, its records on the shards that own their keys, of which nothing more is known.
pub type BoxedKeyedStream<K, T> = KeyedStream<Boxed<Keyed<K, T>>, Placed>;

/// A chain behind a pointer.
pub struct Boxed<T> {
    chain: Box<dyn Erased<T>>,
    /// Empty, but within a call.
    batch: Batch<T>,
}

impl<C: Chain> Stream<C> {
    /// This stream as a type that can be named, so that streams of different origin are of one type.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// fn numbers(flow: &Flow, doubled: bool) -> BoxedStream<u32> {
    ///     let numbers = flow.source(Collection::new([1, 2, 3]), Watermarks::monotonous());
    ///     match doubled {
    ///         true => numbers.map(|n| 2 * n).boxed(),
    ///         false => numbers.boxed(),
    ///     }
    /// }
    /// # let job = move |flow: &Flow| {
    /// numbers(flow, true)
    ///     .filter(|&n| n > 2)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("boxed")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [4, 6]);
    /// ```
    pub fn boxed(self) -> BoxedStream<C::Out> {
        let Self { flow, chain, at } = self;
        Stream { flow, chain: Boxed { chain: Box::new(chain), batch: Batch::default() }, at }
    }
}

impl<C: Chain<Out = Keyed<K, T>>, K: Key, T: 'static> KeyedStream<C, Placed> {
    /// This stream as a type that can be named: see [`Stream::boxed`].
    pub fn boxed(self) -> BoxedKeyedStream<K, T> {
        let Self { stream, placement, follower } = self;
        KeyedStream { stream: stream.boxed(), placement, follower }
    }
}

/// A chain that pours what it emits out in batches.
trait Erased<T> {
    fn step(&mut self, cx: &StepContext, out: Pour<'_, T>) -> Result<Progress, ConnectorError>;
    fn ready(&self) -> bool;
    fn barrier(&mut self, epoch: Epoch, out: Pour<'_, T>);
    fn tick(&mut self, cx: &StepContext, out: Pour<'_, T>) -> Option<Timestamp>;
    fn has_put_down(&self) -> bool;
    fn settle(&mut self, out: Pour<'_, T>);
    fn source(&mut self) -> Option<&mut dyn Head>;
    fn due_at(&self) -> Timestamp;
    fn publish(&mut self, due: Timestamp) -> bool;
}

impl<C: Chain> Erased<C::Out> for C {
    fn step(
        &mut self,
        cx: &StepContext,
        out: Pour<'_, C::Out>,
    ) -> Result<Progress, ConnectorError> {
        Chain::step(self, cx, out)
    }

    fn ready(&self) -> bool {
        Chain::ready(self)
    }

    fn barrier(&mut self, epoch: Epoch, out: Pour<'_, C::Out>) {
        Chain::barrier(self, epoch, out);
    }

    fn tick(&mut self, cx: &StepContext, out: Pour<'_, C::Out>) -> Option<Timestamp> {
        Chain::tick(self, cx, out)
    }

    fn has_put_down(&self) -> bool {
        Chain::has_put_down(self)
    }

    fn settle(&mut self, out: Pour<'_, C::Out>) {
        Chain::settle(self, out);
    }

    fn source(&mut self) -> Option<&mut dyn Head> {
        Chain::source(self)
    }

    fn due_at(&self) -> Timestamp {
        Chain::due_at(self)
    }

    fn publish(&mut self, due: Timestamp) -> bool {
        Chain::publish(self, due)
    }
}

/// The batch of an edge, and who takes it when it is full.
struct Pour<'a, T> {
    batch: &'a mut Batch<T>,
    taker: &'a mut dyn FnMut(&mut Batch<T>),
}

impl<T> Collector<T> for Pour<'_, T> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        self.batch.record(time, value);
        if self.batch.len() >= BOXED_RECORDS_MAX {
            (self.taker)(self.batch);
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.batch.mark(mark);
        if self.batch.marks().len() >= BOXED_RECORDS_MAX {
            (self.taker)(self.batch);
        }
    }
}

impl<T> Boxed<T> {
    /// Lets the chain do something, and hands on all that it emits.
    fn pour<A>(
        &mut self,
        mut out: impl Collector<T>,
        act: impl FnOnce(&mut dyn Erased<T>, Pour<'_, T>) -> A,
    ) -> A {
        let Self { chain, batch } = self;
        let mut taker = |batch: &mut Batch<T>| batch.drain_into(&mut out);
        let done = act(&mut **chain, Pour { batch, taker: &mut taker });
        taker(batch);
        done
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<T: 'static> Chain for Boxed<T> {
    type Out = T;

    fn step<C: Collector<T>>(
        &mut self,
        cx: &StepContext,
        out: C,
    ) -> Result<Progress, ConnectorError> {
        self.pour(out, |chain, pour| chain.step(cx, pour))
    }

    fn ready(&self) -> bool {
        self.chain.ready()
    }

    fn barrier(&mut self, epoch: Epoch, out: impl Collector<T>) {
        self.pour(out, |chain, pour| chain.barrier(epoch, pour));
    }

    fn tick(&mut self, cx: &StepContext, out: impl Collector<T>) -> Option<Timestamp> {
        self.pour(out, |chain, pour| chain.tick(cx, pour))
    }

    fn has_put_down(&self) -> bool {
        self.chain.has_put_down()
    }

    fn settle(&mut self, out: impl Collector<T>) {
        self.pour(out, |chain, pour| chain.settle(pour));
    }

    fn source(&mut self) -> Option<&mut dyn Head> {
        self.chain.source()
    }

    fn due_at(&self) -> Timestamp {
        self.chain.due_at()
    }

    fn publish(&mut self, due: Timestamp) -> bool {
        self.chain.publish(due)
    }
}
