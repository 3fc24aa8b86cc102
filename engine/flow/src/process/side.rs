//! How a function gets its [side outputs](crate::exchange::side): from the stream that it is put on.

use crate::exchange::inbox::Inbox;
use crate::exchange::key_by::{KeyedStream, Placement};
use crate::exchange::side::{SideTag, Sides};
use crate::pipeline::Chain;
use crate::stream::Stream;

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// A second output of the function that follows, a process function or that of a window, with the watermarks of its
    /// operator. Give the tag to the function.
    pub fn side_tag<E: 'static>(mut self, name: &str) -> (Self, SideTag<E>, Stream<Inbox<E>>) {
        let Stream { flow, at, .. } = &self.stream;
        let (tag, side) = self.follower.sides.open(flow, name, at.node, flow.shards());
        (self, tag, side)
    }
}

/// A stream in front of a process function that has side outputs.
#[must_use = "its side outputs come out of the process function that follows"]
pub struct Tagged<C: Chain> {
    pub(super) stream: Stream<C>,
    pub(super) sides: Sides,
}

impl<C: Chain> Stream<C> {
    /// A second output of the process function that follows, with the watermarks of its operator. Give the tag to the
    /// function.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// Passes numbers on, and what is no number aside.
    /// struct Numbers {
    ///     refused: SideTag<&'static str>,
    /// }
    ///
    /// impl Process<NoKey, &'static str> for Numbers {
    ///     type Out = i32;
    ///
    ///     fn record(
    ///         &mut self,
    ///         text: &'static str,
    ///         cx: &mut Context<'_, NoKey>,
    ///         out: &mut impl Collector<i32>,
    ///     ) {
    ///         match text.parse() {
    ///             Ok(number) => out.record(cx.time(), number),
    ///             Err(_) => cx.side(&self.refused, text),
    ///         }
    ///     }
    /// }
    /// # let (good, bad) = (Collected::new(), Collected::new());
    /// # let (good_sink, bad_sink) = (good.sink(), bad.sink());
    /// # let job = move |flow: &Flow| {
    /// # let texts = flow.source(Collection::new(["1", "x", "3"]), Watermarks::monotonous());
    /// let (texts, refused, side) = texts.side_tag("refused");
    /// let numbers = texts.process(|_states| Numbers { refused });
    /// # numbers.sink(good_sink.clone());
    /// # side.sink(bad_sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("side")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!((good.take(), bad.take()), (vec![1, 3], vec!["x"]));
    /// ```
    pub fn side_tag<E: 'static>(self, name: &str) -> (Tagged<C>, SideTag<E>, Stream<Inbox<E>>) {
        Tagged { stream: self, sides: Sides::default() }.side_tag(name)
    }
}

impl<C: Chain> Tagged<C> {
    /// One more side output of the function: see [`Stream::side_tag`].
    pub fn side_tag<E: 'static>(mut self, name: &str) -> (Self, SideTag<E>, Stream<Inbox<E>>) {
        let Stream { flow, at, .. } = &self.stream;
        let (tag, side) = self.sides.open(flow, name, at.node, at.producers);
        (self, tag, side)
    }
}
