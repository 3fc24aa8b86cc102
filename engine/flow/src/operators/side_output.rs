//! `side_output`: a closure that turns each record into at most one other, and may write to a second stream.

use thalweg_kernel::{Collector, Timestamp};

use crate::exchange::inbox::Inbox;
use crate::exchange::side::SideTag;
use crate::pipeline::{Chain, Then};
use crate::process::{Context, NoKey, Process, Processing};
use crate::stream::Stream;

/// See [`Stream::side_output`].
pub struct SideOutput<F, E> {
    function: F,
    tag: SideTag<E>,
}

/// Where the closure of a side output puts records; they get the event time of the record that caused them.
pub struct Side<'a, E> {
    tag: &'a SideTag<E>,
    time: Timestamp,
}

impl<E> Side<'_, E> {
    /// Emits to the side.
    pub fn emit(&mut self, value: E) {
        self.tag.emit(self.time, value);
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
    ) -> (Stream<Then<C, Processing<SideOutput<F, E>>>>, Stream<Inbox<E>>)
    where
        U: 'static,
        E: 'static,
        F: FnMut(C::Out, &mut Side<'_, E>) -> Option<U> + 'static,
    {
        let (tagged, tag, side) = self.side_tag("Side");
        (tagged.process_as("SideOutput", |_| SideOutput { function, tag }), side)
    }
}

impl<T, U, E, F> Process<NoKey, T> for SideOutput<F, E>
where
    U: 'static,
    E: 'static,
    F: FnMut(T, &mut Side<'_, E>) -> Option<U> + 'static,
{
    type Out = U;

    #[inline(always)]
    fn record(&mut self, value: T, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<U>) {
        let mut side = Side { tag: &self.tag, time: cx.time() };
        if let Some(value) = (self.function)(value, &mut side) {
            out.record(cx.time(), value);
        }
    }
}
