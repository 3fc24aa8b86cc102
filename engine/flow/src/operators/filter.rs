//! `filter`: keeps the records that satisfy a predicate.

use thalweg_kernel::{Collector, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// See [`Stream::filter`].
pub struct Filter<F>(F);

impl<C: Chain> Stream<C> {
    /// Keeps the records for which `predicate` holds.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new([1, 2, 3, 4]), Watermarks::monotonous())
    ///     .filter(|n| n % 2 == 0)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("filter")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [2, 4]);
    /// ```
    pub fn filter<F: FnMut(&C::Out) -> bool + 'static>(
        self,
        predicate: F,
    ) -> Stream<Then<C, Filter<F>>> {
        self.then("Filter", Filter(predicate))
    }
}

impl<T: 'static, F: FnMut(&T) -> bool + 'static> Operator<T> for Filter<F> {
    type Out = T;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<T>) {
        if (self.0)(&value) {
            out.record(time, value);
        }
    }
}
