//! `side_output`: a second stream out of one operator.

use std::convert::Infallible;

use thalweg_kernel::{Collector, Mark, Timestamp};

use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::local::LocalEdge;
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Operator, Then};
use crate::process::failure::Failures;
use crate::stream::Stream;

/// See [`Stream::side_output`].
pub struct SideOutput<F, E> {
    function: F,
    side: LocalEdge<E>,
    failures: Failures,
}

/// Where an operator puts the records of its side output; they get the event time of the record
/// that caused them.
pub struct Side<'a, E> {
    edge: &'a LocalEdge<E>,
    time: Timestamp,
}

impl<E> Side<'_, E> {
    /// Emits to the side.
    pub fn emit(&mut self, value: E) {
        self.edge.push(self.time, value);
    }
}

impl<C: Chain> Stream<C> {
    /// Turns each record into at most one other, and may emit anything to a second stream, which
    /// has the same watermarks.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let (good, bad) = (Collected::new(), Collected::new());
    /// # let (good_sink, bad_sink) = (good.sink(), bad.sink());
    /// # let job = move |flow: &Flow| {
    /// let (numbers, refused) = flow
    ///     .source(Collection::new(["1", "x", "3"]), Watermarks::monotonous())
    ///     .side_output(|text, side| {
    ///         let parsed = text.parse::<i32>();
    ///         if parsed.is_err() {
    ///             side.emit(text);
    ///         }
    ///         parsed.ok()
    ///     });
    /// # numbers.sink(good_sink.clone());
    /// # refused.sink(bad_sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("side")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!((good.take(), bad.take()), (vec![1, 3], vec!["x"]));
    /// ```
    pub fn side_output<U, E, F>(
        self,
        function: F,
    ) -> (Stream<Then<C, SideOutput<F, E>>>, Stream<Inbox<E>>)
    where
        U: 'static,
        E: 'static,
        F: FnMut(C::Out, &mut Side<'_, E>) -> Option<U> + 'static,
    {
        let (side, inbox) = LocalEdge::new();
        let main =
            self.then_failing("SideOutput", |failures| SideOutput { function, side, failures });
        let At { node, producers } = main.at;
        let flow = main.flow.clone();
        let node = flow.add_node::<E>("Side", producers, vec![(node, Edge::Local)]);
        let inbox = flow.inbox(vec![Port::Local(inbox)], node);
        (main, Stream { flow, chain: inbox, at: At { node, producers } })
    }
}

impl<T, U, E, F> Operator<T> for SideOutput<F, E>
where
    U: 'static,
    E: 'static,
    F: FnMut(T, &mut Side<'_, E>) -> Option<U> + 'static,
{
    type Out = U;

    #[inline]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<U>) {
        let mut side = Side { edge: &self.side, time };
        let call = || Ok::<_, Infallible>((self.function)(value, &mut side));
        if let Some(Some(value)) = self.failures.call(time, call) {
            out.record(time, value);
        }
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<U>) {
        self.failures.mark(mark);
        self.side.push_mark(mark);
        out.mark(mark);
    }

    fn ready(&self) -> bool {
        self.side.has_room() && self.failures.have_room()
    }
}
