//! `map`: one record in, one record out.

use thalweg_kernel::{Collector, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// See [`Stream::map`].
pub struct Map<F>(F);

impl<C: Chain> Stream<C> {
    /// Turns each record into another.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new([1, 2, 3]), Watermarks::monotonous())
    ///     .map(|n| n * 10)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("map")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [10, 20, 30]);
    /// ```
    pub fn map<U: 'static, F: FnMut(C::Out) -> U + 'static>(
        self,
        function: F,
    ) -> Stream<Then<C, Map<F>>> {
        self.then("Map", Map(function))
    }
}

impl<T, U: 'static, F: FnMut(T) -> U + 'static> Operator<T> for Map<F> {
    type Out = U;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<U>) {
        out.record(time, (self.0)(value));
    }
}
