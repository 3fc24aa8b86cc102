//! `flat_map`: one record in, any number of records out.

use std::convert::Infallible;

use thalweg_kernel::{Collector, Mark, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::process::failure::{Failures, FunctionError};
use crate::stream::Stream;

/// See [`Stream::flat_map`].
struct FlatMap<F> {
    function: F,
    failures: Failures,
}

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
    pub fn flat_map<I: IntoIterator<Item: 'static> + 'static>(
        self,
        mut function: impl FnMut(C::Out) -> I + 'static,
    ) -> Stream<Then<C, impl Operator<C::Out, Out = I::Item>>> {
        self.try_flat_map(move |value| Ok::<_, Infallible>(function(value)))
    }

    /// Turns each record into any number of others, or fails: [`on_error`](Self::on_error) says what becomes of the
    /// record then. What its iterator has yielded before it panics stays.
    pub fn try_flat_map<I, E>(
        self,
        function: impl FnMut(C::Out) -> Result<I, E> + 'static,
    ) -> Stream<Then<C, impl Operator<C::Out, Out = I::Item>>>
    where
        I: IntoIterator<Item: 'static> + 'static,
        E: Into<FunctionError> + 'static,
    {
        self.then_failing("FlatMap", |failures| FlatMap { function, failures })
    }
}

impl<T, I, E, F> Operator<T> for FlatMap<F>
where
    I: IntoIterator<Item: 'static>,
    E: Into<FunctionError>,
    F: FnMut(T) -> Result<I, E> + 'static,
{
    type Out = I::Item;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<I::Item>) {
        let Self { function, failures } = self;
        let values = failures.call(time, || function(value).map(I::into_iter));
        let Some(mut values) = values else { return };
        while let Some(Some(value)) = failures.call(time, || Ok::<_, Infallible>(values.next())) {
            out.record(time, value);
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<I::Item>) {
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
