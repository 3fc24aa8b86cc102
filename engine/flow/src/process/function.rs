//! [`Process`]: the function that a user writes, with or without keys.

use thalweg_kernel::{Collector, Timestamp};

use super::context::{Context, NoKey};

/// A function of a stream's records `T`. `K` is their key, or [`NoKey`] where the stream is not partitioned.
///
/// With a key it has state and timers for each key, and is called on the shard that owns the key:
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_flow::*;
/// # use thalweg_kernel::{Collector, Str};
/// /// Says which devices have been silent for ten seconds.
/// struct Silence {
///     deadline: ValueState<&'static str, i64>,
/// }
///
/// impl Process<&'static str, (&'static str, i64)> for Silence {
///     type Out = &'static str;
///
///     fn record(
///         &mut self,
///         _: (&'static str, i64),
///         cx: &mut Context<'_, &'static str>,
///         _: &mut impl Collector<&'static str>,
///     ) {
///         if let Some(before) = self.deadline.get(cx) {
///             cx.delete_event_timer(before.into());
///         }
///         let deadline = cx.time().plus_ms(10_000);
///         self.deadline.set(cx, deadline.as_millis());
///         cx.event_timer(deadline);
///     }
///
///     fn timer(
///         &mut self,
///         cx: &mut Context<'_, &'static str>,
///         out: &mut impl Collector<&'static str>,
///     ) {
///         self.deadline.clear(cx);
///         out.record(cx.time(), *cx.key());
///     }
/// }
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let readings = flow.source(
/// #     Collection::new([("a", 0), ("b", 1_000), ("b", 9_000), ("b", 15_000)]),
/// #     Watermarks::monotonous().timestamps(|&(_, time)| time),
/// # );
/// readings.key_by(|&(device, _)| device).process(|states| Silence { deadline: states.value("deadline") })
/// # .sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("silence")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # assert_eq!(out.take_timed(), [(10_000.into(), "a"), (25_000.into(), "b")]);
/// ```
///
/// Without a key it is called on each shard by itself, with [lists](crate::OperatorStates) that are part of every
/// checkpoint:
///
/// ```
/// # use thalweg_flow::*;
/// # use thalweg_kernel::Collector;
/// /// Passes records on in order of their times, once no earlier one is expected.
/// struct Sorted {
///     waiting: OperatorListState<(i64, char)>,
/// }
///
/// impl Process<NoKey, (i64, char)> for Sorted {
///     type Out = (i64, char);
///
///     fn record(
///         &mut self,
///         record: (i64, char),
///         cx: &mut Context<'_, NoKey>,
///         out: &mut impl Collector<(i64, char)>,
///     ) {
///         // Where it is full, order matters less than the record.
///         if let Err(ListFull(record)) = self.waiting.push(record) {
///             out.record(cx.time(), record);
///         }
///     }
///
///     fn watermark(
///         &mut self,
///         cx: &mut Context<'_, NoKey>,
///         out: &mut impl Collector<(i64, char)>,
///     ) {
///         let due = |&(time, _): &(i64, char)| time <= cx.watermark().as_millis();
///         let mut ready: Vec<_> = self.waiting.with(|all| all.copied().filter(due).collect());
///         self.waiting.retain(|record| !due(record));
///         ready.sort_unstable();
///         ready.into_iter().for_each(|record| out.record(record.0.into(), record));
///     }
/// }
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let records = flow.source(
/// #     Collection::new([(1, 'b'), (0, 'a'), (9, 'd'), (8, 'c')]),
/// #     Watermarks::bounded_out_of_orderness(std::time::Duration::from_millis(2)).timestamps(|&(time, _)| time),
/// # );
/// records.process(|states| Sorted { waiting: states.list("waiting") })
/// # .map(|(_, letter)| letter).sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("sorted")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # assert_eq!(out.take(), ['a', 'b', 'c', 'd']);
/// ```
pub trait Process<K, T>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Called once, before anything else. The function's lists hold what they held at the epoch from which the job
    /// goes on. What the function changes in them now is in the next epoch, on every shard.
    fn open(&mut self) {}

    /// Takes a record, of the key of `cx`.
    fn record(&mut self, record: T, cx: &mut Context<'_, K>, out: &mut impl Collector<Self::Out>);

    /// A timer of the key of `cx` fires; its time is that of `cx`. [`Context::fired`] says which one.
    fn timer(&mut self, _cx: &mut Context<'_, K>, _out: &mut impl Collector<Self::Out>) {}

    /// The watermark has moved, to the one that `cx` says. What the function emits now is not late behind it; what it
    /// emits afterwards may be. At the end of the stream the watermark is [`Timestamp::MAX`].
    ///
    /// Other shards keep watermarks back that change nothing on this one, at most for
    /// [`Tuning::watermark_delay_max`](crate::Tuning). A function with this call gets each of them at once, and so does
    /// one with a state that [expires in event time](crate::Ttl::event_time). Otherwise what matters is the next event timer, and
    /// what a record sees as the watermark may be behind by as much.
    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, _out: &mut impl Collector<Self::Out>) {
        cx.does_nothing::<Self>();
    }

    /// Called with every step: emits what is due because of this machine's clock. Returns the time on that clock at
    /// which more will be due, if any is known.
    fn tick(
        &mut self,
        _cx: &mut Context<'_, NoKey>,
        _out: &mut impl Collector<Self::Out>,
    ) -> Option<Timestamp> {
        None
    }

    /// Called once, when the stream ends: nothing comes after this. (A job that stops in order to go on later does not
    /// end its streams.)
    fn close(&mut self, _cx: &mut Context<'_, NoKey>, _out: &mut impl Collector<Self::Out>) {}
}
