//! `process_keyed`: a process function whose output stays partitioned.
//!
//! A function is called with one key at a time, on the shard that owns it. So what it emits can keep that key, and
//! the next stateful operator by it needs no exchange. The key is cloned for each record that is emitted.
//!
//! # Limits
//! What a function emits for no key has none to keep. So the function is told of records and timers, and of neither
//! watermarks, the clock nor the end of its stream.

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::context::Context;
use super::function::Process;
use super::keyed::Processed;
use crate::exchange::key_by::{Keyed, KeyedStream, Placed, Placement};
use crate::pipeline::Chain;
use crate::state::States;

/// A function whose records keep the key that it was called with.
pub struct KeepKey<F>(F);

impl<K: Key, T, F: Process<K, T>> Process<K, T> for KeepKey<F> {
    type Out = Keyed<K, F::Out>;

    fn open(&mut self) {
        self.0.open();
    }

    #[inline]
    fn record(&mut self, record: T, cx: &mut Context<'_, K>, out: &mut impl Collector<Self::Out>) {
        let key = cx.key;
        self.0.record(record, cx, &mut WithKey { key, out });
    }

    #[inline]
    fn timer(&mut self, cx: &mut Context<'_, K>, out: &mut impl Collector<Self::Out>) {
        let key = cx.key;
        self.0.timer(cx, &mut WithKey { key, out });
    }
}

/// Puts one key on all records.
struct WithKey<'a, K, C> {
    key: &'a K,
    out: &'a mut C,
}

impl<K: Key, T, C: Collector<Keyed<K, T>>> Collector<T> for WithKey<'_, K, C> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        let key = self.key.clone();
        self.out.record(time, Keyed { hash: key.key_hash(), key, value });
    }

    fn mark(&mut self, mark: Mark) {
        self.out.mark(mark);
    }
}

/// The stream of a function that keeps keys.
pub(crate) type ProcessedKeyed<C, P, F> = KeyedStream<Processed<C, P, KeepKey<F>>, Placed>;

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// [`process`](Self::process) with a function whose output stays partitioned by this key: stateful operators
    /// behind it need no exchange.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// By how much a meter has gone on.
    /// struct Difference {
    ///     last: ValueState<&'static str, u32>,
    /// }
    ///
    /// impl Process<&'static str, u32> for Difference {
    ///     type Out = u32;
    ///
    ///     fn record(
    ///         &mut self,
    ///         meter: u32,
    ///         cx: &mut Context<'_, &'static str>,
    ///         out: &mut impl Collector<u32>,
    ///     ) {
    ///         if let Some(last) = self.last.get(cx) {
    ///             out.record(cx.time(), meter - last);
    ///         }
    ///         self.last.set(cx, meter);
    ///     }
    /// }
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// # let readings = flow.source(
    /// #     Collection::new([("a", 10), ("b", 7), ("a", 13), ("a", 14)]),
    /// #     Watermarks::monotonous(),
    /// # );
    /// readings
    ///     .key_by(|&(device, _)| device)
    ///     .process_keyed(|states| Reading)
    ///     .process_keyed(|states| Difference { last: states.value("last") })
    ///     .values()
    /// #   .sink(sink.clone());
    /// # };
    /// # struct Reading;
    /// # impl Process<&'static str, (&'static str, u32)> for Reading {
    /// #     type Out = u32;
    /// #     fn record(
    /// #         &mut self,
    /// #         record: (&'static str, u32),
    /// #         cx: &mut Context<'_, &'static str>,
    /// #         out: &mut impl Collector<u32>,
    /// #     ) {
    /// #         out.record(cx.time(), record.1);
    /// #     }
    /// # }
    /// # let mut shard = Shard::build(&job, &BuildContext::single("difference")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [3, 1]);
    /// ```
    pub fn process_keyed<F: Process<P::Key, P::Value>>(
        self,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> ProcessedKeyed<C, P, F> {
        self.process_keyed_as("Process", make)
    }

    /// [`process_keyed`](Self::process_keyed) as an operator of the engine called `name`.
    pub(crate) fn process_keyed_as<F: Process<P::Key, P::Value>>(
        self,
        name: &str,
        make: impl FnOnce(&mut States<'_, P::Key>) -> F,
    ) -> ProcessedKeyed<C, P, F> {
        KeyedStream::placed(self.process_as(name, |states| KeepKey(make(states))))
    }
}
