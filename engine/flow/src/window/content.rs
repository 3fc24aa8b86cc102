//! The content of windows: what a window keeps of its records, and what it yields.
//!
//! | | keeps | yields |
//! |---|---|---|
//! | [`aggregate`](super::WindowedStream::aggregate) | an accumulator | a [`Windowed`] row |
//! | [`aggregate_with`](super::WindowedStream::aggregate_with) | an accumulator | what a [`WindowFunction`] makes of the result |
//! | [`process`](super::WindowedStream::process) | all records | what a [`WindowFunction`] makes of them |
//!
//! So a content is always an [`Aggregate`] and a [`WindowFunction`]: the first one of `process` is [`ToList`], the second one
//! of `aggregate` is [`Rows`].

use std::marker::PhantomData;

use serde::Serialize;
use thalweg_kernel::{Collector, Durable, Timestamp};

use super::aggregate::Aggregate;
use super::time_window::TimeWindow;

/// The result of one window of one key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Windowed<K, A> {
    /// The key.
    pub key: K,
    /// The first millisecond of the window.
    pub start: Timestamp,
    /// The first millisecond after the window.
    pub end: Timestamp,
    /// What the aggregate made of the window's records.
    pub value: A,
}

/// Called with what a window of a key has come to, each time that the window yields a result.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_flow::*;
/// # use thalweg_kernel::Collector;
/// /// The middle one of each window's values.
/// struct Median;
///
/// impl WindowFunction<u32, Vec<(u32, i64)>> for Median {
///     type Out = (u32, i64);
///
///     fn fire(
///         &mut self,
///         key: u32,
///         window: TimeWindow,
///         mut records: Vec<(u32, i64)>,
///         out: &mut impl Collector<Self::Out>,
///     ) {
///         records.sort_by_key(|&(_, value)| value);
///         out.record(window.last, (key, records[records.len() / 2].1));
///     }
/// }
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let readings = flow.source(
/// #     Collection::new([(1, 1), (1, 7), (1, 3), (1, 15)]),
/// #     Watermarks::bounded_out_of_orderness(Duration::from_millis(9)).timestamps(|&(_, time)| time),
/// # );
/// readings
///     .key_by(|&(device, _)| device)
///     .window(Tumbling::of(Duration::from_millis(10)))
///     .process(Median)
/// # .sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("median")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # assert_eq!(out.take(), [(1, 3), (1, 15)]);
/// ```
pub trait WindowFunction<K, V>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Takes what a window has come to. Rows of a window usually carry its last millisecond as event time: an earlier
    /// time may be late behind it.
    fn fire(&mut self, key: K, window: TimeWindow, value: V, out: &mut impl Collector<Self::Out>);
}

/// Yields a [`Windowed`] row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows;

impl<K: 'static, V: 'static> WindowFunction<K, V> for Rows {
    type Out = Windowed<K, V>;

    #[inline]
    fn fire(
        &mut self,
        key: K,
        window: TimeWindow,
        value: V,
        out: &mut impl Collector<Windowed<K, V>>,
    ) {
        let TimeWindow { start, last } = window;
        out.record(last, Windowed { key, start, end: window.end(), value });
    }
}

/// The records themselves, in the order in which they came from each sender.
#[derive(Clone, Copy, Debug)]
pub struct ToList<T>(PhantomData<fn(T)>);

impl<T> Default for ToList<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Clone + 'static> Aggregate<T> for ToList<T>
where
    Vec<T>: Durable,
{
    type Accumulator = Vec<T>;
    type Output = Vec<T>;

    const GROWS: bool = true;

    fn create(&self) -> Vec<T> {
        Vec::new()
    }

    fn add(&self, records: &mut Vec<T>, record: T) {
        records.push(record);
    }

    fn merge(&self, into: &mut Vec<T>, other: &Vec<T>) {
        into.extend_from_slice(other);
    }

    fn result(&self, records: &Vec<T>) -> Vec<T> {
        records.clone()
    }

    fn finish(&self, records: Vec<T>) -> Vec<T> {
        records
    }
}
