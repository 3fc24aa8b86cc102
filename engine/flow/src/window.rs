//! Windows over keyed streams.
//!
//! # State
//! One *pane* per open window, oldest first; a pane holds its keys densely in the order they came,
//! with a hash index beside them, and is recycled when it has fired. The hash comes with the record
//! from the exchange, so a key is hashed once.
//!
//! # Time
//! A window fires when the watermark reaches its last millisecond, and its rows carry that
//! millisecond as event time. A record whose window has fired is *late*: counted
//! (`numLateRecordsDropped`) and dropped, or sent to [`WindowedStream::late_output`].
//!
//! # Limits
//! At most [`WINDOW_KEYS_MAX`] (key, window) pairs are open on a shard, unless
//! [`WindowedStream::keys_max`] says otherwise; a record that would open one more is counted
//! (`numKeysOverLimitDropped`) and dropped, so that a hostile publisher cannot exhaust memory.

pub(crate) mod aggregate;
mod local;
mod operator;
mod pane;
pub(crate) mod tumbling;

use std::rc::Rc;

use serde::Serialize;
use thalweg_kernel::{Key, Timestamp};

use self::aggregate::Aggregate;
use self::local::{LocalAggregate, Slice};
use self::operator::WindowOperator;
use self::tumbling::Tumbling;
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::key_by::KeyedStream;
use crate::exchange::local::LocalEdge;
use crate::graph::Edge;
use crate::pipeline::{Chain, Then};
use crate::stream::{At, Stream};

/// The default bound on open (key, window) pairs of one operator on one shard.
pub const WINDOW_KEYS_MAX: usize = 1_000_000;

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

/// A keyed stream divided into windows: waits for an aggregate.
#[must_use = "a windowed stream does nothing until it is aggregated"]
pub struct WindowedStream<C: Chain, F> {
    keyed: KeyedStream<C, F>,
    windows: Tumbling,
    keys_max: usize,
    late: Option<LateOutput<C::Out>>,
}

/// The late output of a window that is still being described.
struct LateOutput<T> {
    edge: LocalEdge<T>,
    /// The graph node of the late stream, whose input is the window once that has a node.
    node: u32,
}

impl<C: Chain, F> WindowedStream<C, F> {
    pub(crate) fn new(keyed: KeyedStream<C, F>, windows: Tumbling) -> Self {
        Self { keyed, windows, keys_max: WINDOW_KEYS_MAX, late: None }
    }

    /// Bounds the open (key, window) pairs on each shard.
    pub fn keys_max(mut self, keys: usize) -> Self {
        self.keys_max = keys;
        self
    }

    /// Sends late records to a second stream instead of dropping them.
    pub fn late_output(mut self) -> (Self, Stream<Inbox<C::Out>>) {
        let flow = self.keyed.stream.flow.clone();
        let (edge, inbox) = LocalEdge::new();
        let producers = flow.shards();
        let node = flow.add_node("Late records", producers, vec![]);
        let chain = flow.inbox(vec![Port::Local(inbox)], node);
        self.late = Some(LateOutput { edge, node });
        (self, Stream { flow, chain, at: At { node, producers } })
    }
}

impl<C: Chain, K: Key + Send, F: Fn(&C::Out) -> K + 'static> WindowedStream<C, F>
where
    C::Out: Send,
{
    /// Aggregates each window's records as they come; emits one row per key when it fires.
    pub fn aggregate<A>(self, aggregate: A) -> Aggregated<C, K, F, A>
    where
        A: Aggregate<C::Out, Accumulator: Send>,
    {
        let Self { keyed, windows, keys_max, late } = self;
        let (aggregate, key) = (Rc::new(aggregate), Rc::new(keyed.key));
        let local = LocalAggregate::new(Rc::clone(&key), windows, Rc::clone(&aggregate));
        let Stream { flow, chain, at } = keyed.stream;
        // Part of the window, not an operator that the user knows of: no node of its own.
        let stream = Stream { flow, chain: Then::new(chain, local), at };
        let Stream { flow, chain, at } = stream.exchange(&windows.to_string());
        if let Some(late) = &late {
            flow.set_inputs(late.node, vec![(at.node, Edge::Local)]);
        }
        let late_dropped = flow.counter("numLateRecordsDropped", at.node);
        let over_limit = flow.counter("numKeysOverLimitDropped", at.node);
        let late = late.map(|late| late.edge);
        let operator =
            WindowOperator::new(key, windows, aggregate, keys_max, late, late_dropped, over_limit);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

/// The rows of a windowed stream.
type Aggregated<C, K, F, A> = Stream<
    Then<
        Inbox<Slice<<C as Chain>::Out, K, <A as Aggregate<<C as Chain>::Out>>::Accumulator>>,
        WindowOperator<K, <C as Chain>::Out, F, A>,
    >,
>;
