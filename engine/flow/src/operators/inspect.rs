//! `inspect`: looks at the records as they pass.

use thalweg_kernel::{Collector, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// See [`Stream::inspect`].
pub struct Inspect<F>(F);

impl<C: Chain> Stream<C> {
    /// Calls `look` with each record and its event time, and passes it on.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new([1, 2]), Watermarks::monotonous())
    ///     .inspect(|time, n| println!("{n} at {time}"))
    ///     .discard();
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("inspect")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// ```
    pub fn inspect<F: FnMut(Timestamp, &C::Out) + 'static>(
        self,
        look: F,
    ) -> Stream<Then<C, Inspect<F>>> {
        self.then("Inspect", Inspect(look))
    }
}

impl<T: 'static, F: FnMut(Timestamp, &T) + 'static> Operator<T> for Inspect<F> {
    type Out = T;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<T>) {
        (self.0)(time, &value);
        out.record(time, value);
    }
}
