//! `flat_map`: one record in, any number of records out.

use thalweg_kernel::{Collector, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// See [`Stream::flat_map`].
pub struct FlatMap<F>(F);

impl<C: Chain> Stream<C> {
    /// Turns each record into any number of others, with its event time. An `Option` makes it a
    /// filter and a map in one.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new(["a b", "c"]), Watermarks::monotonous())
    ///     .flat_map(|line| line.split(' '))
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("flat_map")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), ["a", "b", "c"]);
    /// ```
    pub fn flat_map<I, F>(self, function: F) -> Stream<Then<C, FlatMap<F>>>
    where
        I: IntoIterator<Item: 'static>,
        F: FnMut(C::Out) -> I + 'static,
    {
        self.then("FlatMap", FlatMap(function))
    }
}

impl<T, I, F> Operator<T> for FlatMap<F>
where
    I: IntoIterator<Item: 'static>,
    F: FnMut(T) -> I + 'static,
{
    type Out = I::Item;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<I::Item>) {
        for value in (self.0)(value) {
            out.record(time, value);
        }
    }
}
