//! `map`: one record in, one record out.

use std::convert::Infallible;

use thalweg_kernel::{Collector, Mark, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::process::failure::{Failures, FunctionError};
use crate::stream::Stream;

/// See [`Stream::map`].
struct Map<F> {
    function: F,
    failures: Failures,
}

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
    pub fn map<U: 'static>(
        self,
        mut function: impl FnMut(C::Out) -> U + 'static,
    ) -> Stream<Then<C, impl Operator<C::Out, Out = U>>> {
        self.try_map(move |value| Ok::<_, Infallible>(function(value)))
    }

    /// Turns each record into another, or fails: [`on_error`](Self::on_error) says what becomes of the record then.
    pub fn try_map<U: 'static, E: Into<FunctionError> + 'static>(
        self,
        function: impl FnMut(C::Out) -> Result<U, E> + 'static,
    ) -> Stream<Then<C, impl Operator<C::Out, Out = U>>> {
        self.then_failing("Map", |failures| Map { function, failures })
    }
}

impl<T, U, E, F> Operator<T> for Map<F>
where
    U: 'static,
    E: Into<FunctionError>,
    F: FnMut(T) -> Result<U, E> + 'static,
{
    type Out = U;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<U>) {
        if let Some(value) = self.failures.call(time, || (self.function)(value)) {
            out.record(time, value);
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<U>) {
        self.failures.mark(mark);
        out.mark(mark);
    }

    fn ready(&self) -> bool {
        self.failures.have_room()
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}
