//! Windows over keyed streams. An [assigner] says which windows a record is in, a [trigger] when a window yields
//! results, and its [content] what it keeps and yields.
//!
//! What follows is about aligned windows with the default trigger. All others are in [`per_key`].
//!
//! # State
//! Windows that overlap are put together of *slices* (`slicing.rs`, `running.rs`). A window that overlaps with no other
//! is one slice. Each open slice has a *pane*, which is a table of keys, and the newest pane is at hand. A pane is
//! recycled when no window needs it any more.
//!
//! Records are added up on the shard that has them before they are sent, or go straight into the window where that is
//! cheaper (`local.rs`). What crosses carries the key's hash, so that a record's key is hashed once. `numRecordsIn`
//! counts records before they are added up, and `numSlicesIn` what came through the exchange. (Records that are already
//! on the shard that owns their key go straight into the windows: `placed.rs`.)
//!
//! # Time
//! A window fires when the watermark reaches its last millisecond, and its rows carry that
//! millisecond as event time. A record whose window has fired is *late*: counted
//! (`numLateRecordsDropped`) and dropped, or sent to [`WindowedStream::late_output`]. Where windows overlap, a record
//! counts in those that have not fired, and is late if all have.
//!
//! # Limits
//! At most [`WINDOW_KEYS_MAX`] (key, slice) pairs are open on a shard, unless [`WindowedStream::keys_max`] says
//! otherwise. A record that would open one more is counted (`numKeysOverLimitDropped`) and dropped, so that a hostile
//! publisher cannot exhaust memory. Likewise at most [`WINDOWS_MAX`] slices are open (`numWindowsOverLimitDropped`), which
//! stops a publisher that sends timestamps at random. The rows of a window come in no particular order, and in pieces
//! where they are many (`firing.rs`).

pub(crate) mod aggregate;
pub(crate) mod assigner;
mod attach;
mod cold;
pub(crate) mod content;
mod few;
mod firing;
pub(crate) mod float_sum;
mod growing;
mod in_window;
mod lent;
mod local;
mod operator;
mod pane;
mod parts;
mod per_key;
mod phase;
mod placed;
mod reached;
mod running;
pub(crate) mod session;
mod sessions;
mod slice;
mod slicing;
pub(crate) mod sliding;
mod snapshot;
mod state;
mod storage;
pub(crate) mod table;
pub(crate) mod time_window;
mod timers;
pub(crate) mod trigger;
pub(crate) mod tumbling;
pub(crate) mod variance;

use thalweg_kernel::{ConnectorError, Durable};

use self::aggregate::Aggregate;
use self::assigner::{Aligned, Assigner, Layout, PerKey, Slices};
use self::attach::{AttachPerKey, AttachSlices};
use self::content::{Rows, ToList, WindowFunction};
use self::trigger::Trigger;
use crate::exchange::inbox::Inbox;
use crate::exchange::key_by::{KeyedStream, Placement};
use crate::exchange::side::SideTag;
use crate::pipeline::Chain;
use crate::stream::Stream;

/// The default bound on open (key, window) pairs of one operator on one shard; of overlapping windows, on (key, slice) pairs.
pub const WINDOW_KEYS_MAX: usize = 1_000_000;

/// The default bound on windows of one operator that are open at a time on one shard. It has room for windows of a
/// second with records up to an hour out of order.
pub const WINDOWS_MAX: usize = 4_096;

/// A keyed stream divided into windows, which waits for what is to be made of them. `W` is the assigner, and `L` says how
/// the windows are kept: see [`Assigner`].
#[must_use = "a windowed stream does nothing until it is aggregated"]
pub struct WindowedStream<C: Chain, P: Placement<C>, W, L> {
    keyed: KeyedStream<C, P>,
    windows: W,
    layout: L,
    limits: Limits,
    late: Option<SideTag<P::Value>>,
}

/// How much state a window operator may keep on a shard.
#[derive(Clone, Copy, Debug)]
struct Limits {
    keys_max: usize,
    windows_max: usize,
}

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// Groups each key's records into windows of event time: [`Tumbling`](crate::Tumbling), [`Sliding`](crate::Sliding),
    /// [`Session`](crate::Session), or windows of an [`Assigner`] of your own.
    pub fn window<W: Assigner>(self, windows: W) -> WindowedStream<C, P, W, W::Layout> {
        let flow = &self.stream.flow;
        if let Some(problem) = windows.problem() {
            flow.fail(ConnectorError::new("job", format!("{windows} is not allowed; {problem}")));
        }
        let limits = Limits { keys_max: WINDOW_KEYS_MAX, windows_max: WINDOWS_MAX };
        let keyed = self.without_clock("a window");
        WindowedStream { keyed, windows, layout: W::Layout::new(), limits, late: None }
    }
}

impl<C: Chain, P: Placement<C>, W: Assigner, L> WindowedStream<C, P, W, L> {
    /// Bounds the open (key, window) pairs on each shard, or (key, slice) pairs where windows overlap;
    /// [`WINDOW_KEYS_MAX`] by default.
    pub fn keys_max(mut self, keys: usize) -> Self {
        self.limits.keys_max = keys;
        self
    }

    /// Sends late records to a second stream instead of dropping them.
    pub fn late_output(mut self) -> (Self, Stream<Inbox<P::Value>>) {
        let flow = self.keyed.stream.flow.clone();
        if self.late.is_some() {
            flow.fail(ConnectorError::new(
                "job",
                "a window has late_output() twice; call it once and split() the stream",
            ));
        }
        let (upstream, sides) = (self.keyed.stream.at.node, &mut self.keyed.follower.sides);
        let (tag, late) = sides.open(&flow, "Late records", upstream, flow.shards());
        self.late = Some(tag);
        (self, late)
    }

    /// Has windows yield results when `trigger` says so. The windows are entries of keyed state then.
    pub fn trigger<R: Trigger<P::Value>>(self, trigger: R) -> WindowedStream<C, P, W, PerKey<R>> {
        let Self { keyed, windows, limits, late, .. } = self;
        WindowedStream { keyed, windows, layout: PerKey(trigger), limits, late }
    }
}

/// Aligned windows with the default trigger.
impl<C: Chain, P: Placement<C>, W: Aligned> WindowedStream<C, P, W, Slices> {
    /// Bounds the windows that are open at a time on each shard, or the slices where windows overlap; [`WINDOWS_MAX`] by
    /// default.
    pub fn windows_max(mut self, windows: usize) -> Self {
        self.limits.windows_max = windows;
        self
    }

    /// Aggregates each window's records as they come; emits one row per key when it fires.
    pub fn aggregate<A>(self, aggregate: A) -> Stream<P::Windows>
    where
        A: Aggregate<P::Value>,
        P: AttachSlices<C, A, Rows>,
    {
        self.aggregate_with(aggregate, Rows)
    }

    /// Aggregates each window's records as they come, and calls `function` with the result of each key when it fires.
    pub fn aggregate_with<A, F>(self, aggregate: A, function: F) -> Stream<P::Windows>
    where
        A: Aggregate<P::Value>,
        F: WindowFunction<P::Key, A::Output>,
        P: AttachSlices<C, A, F>,
    {
        P::attach(self, aggregate, function)
    }

    /// Keeps each window's records, and calls `function` with those of each key when it fires.
    pub fn process<T, F>(self, function: F) -> Stream<P::Windows>
    where
        T: Clone + 'static,
        Vec<T>: Durable,
        F: WindowFunction<P::Key, Vec<T>>,
        P: AttachSlices<C, ToList<T>, F, Value = T>,
    {
        self.aggregate_with(ToList::default(), function)
    }
}

/// Windows in keyed state.
impl<C: Chain, P, W: Assigner, R: Trigger<P::Value>> WindowedStream<C, P, W, PerKey<R>>
where
    P: Placement<C, Value: Clone>,
{
    /// Aggregates each window's records as they come; emits a row of a key each time that the trigger says so.
    pub fn aggregate<A: Aggregate<P::Value>>(
        self,
        aggregate: A,
    ) -> Stream<AttachPerKey<C, P, W, R, A, Rows>> {
        self.aggregate_with(aggregate, Rows)
    }

    /// Aggregates each window's records as they come, and calls `function` with the result of a key each time that the
    /// trigger says so.
    pub fn aggregate_with<A: Aggregate<P::Value>, F: WindowFunction<P::Key, A::Output>>(
        self,
        aggregate: A,
        function: F,
    ) -> Stream<AttachPerKey<C, P, W, R, A, F>> {
        self.attach(aggregate, function)
    }

    /// Keeps each window's records, and calls `function` with those of a key each time that the trigger says so.
    pub fn process<F: WindowFunction<P::Key, Vec<P::Value>>>(
        self,
        function: F,
    ) -> Stream<AttachPerKey<C, P, W, R, ToList<P::Value>, F>>
    where
        Vec<P::Value>: Durable,
    {
        self.aggregate_with(ToList::default(), function)
    }
}
