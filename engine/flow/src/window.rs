//! Windows over keyed streams.
//!
//! # State
//! One *pane* per open window, the newest at hand; a pane is a table of keys and is recycled when it has
//! fired. Records are added up on the shard that has them before they are sent, or go straight into
//! the window where that is cheaper (`local.rs`). What crosses carries the key's hash, so that a record's
//! key is hashed once. `numRecordsIn` counts records before that, `numSlicesIn` what came through the
//! exchange.
//!
//! # Time
//! A window fires when the watermark reaches its last millisecond, and its rows carry that
//! millisecond as event time. A record whose window has fired is *late*: counted
//! (`numLateRecordsDropped`) and dropped, or sent to [`WindowedStream::late_output`].
//!
//! # Limits
//! At most [`WINDOW_KEYS_MAX`] (key, window) pairs are open on a shard, unless
//! [`WindowedStream::keys_max`] says otherwise; a record that would open one more is counted
//! (`numKeysOverLimitDropped`) and dropped, so that a hostile publisher cannot exhaust memory. Likewise
//! [`WINDOWS_MAX`] windows (`numWindowsOverLimitDropped`), for one that sends timestamps at random.
//! When a window fires, all its rows leave in one step, in no particular order.

pub(crate) mod aggregate;
mod kept;
mod local;
mod operator;
mod pane;
mod state;
pub(crate) mod table;
pub(crate) mod tumbling;

use std::cell::RefCell;
use std::rc::Rc;

use serde::Serialize;
use thalweg_kernel::{ConnectorError, Key, StateKind, Timestamp};

use self::aggregate::Aggregate;
use self::kept::Kepts;
use self::local::{LocalAggregate, Slice};
use self::operator::WindowOperator;
use self::state::{Dropped, WindowState};
use self::tumbling::Tumbling;
use crate::checkpoint::Description;
use crate::counters::Counter;
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::key_by::KeyedStream;
use crate::exchange::local::LocalEdge;
use crate::graph::Edge;
use crate::pipeline::{Chain, Then};
use crate::stream::{At, Stream};

/// The default bound on open (key, window) pairs of one operator on one shard.
pub const WINDOW_KEYS_MAX: usize = 1_000_000;

/// The default bound on windows of one operator that are open at a time on one shard: with windows of
/// a second and records up to an hour out of order, all of them.
pub const WINDOWS_MAX: usize = 4_096;

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
    limits: Limits,
    late: Option<LateOutput<C::Out>>,
}

/// How much state a window operator may keep on a shard.
#[derive(Clone, Copy, Debug)]
struct Limits {
    keys_max: usize,
    windows_max: usize,
}

/// The late output of a window that is still being described.
struct LateOutput<T> {
    edge: LocalEdge<T>,
    /// The graph node of the late stream, whose input is the window once that has a node.
    node: u32,
}

impl<C: Chain, F> WindowedStream<C, F> {
    pub(crate) fn new(keyed: KeyedStream<C, F>, windows: Tumbling) -> Self {
        if !keyed.sides.is_empty() {
            let what = "a keyed stream with side_output() needs process(), which can write to it; a window \
                        has late_output()";
            keyed.stream.flow.fail(ConnectorError::new("job", what));
        }
        let limits = Limits { keys_max: WINDOW_KEYS_MAX, windows_max: WINDOWS_MAX };
        Self { keyed, windows, limits, late: None }
    }

    /// Bounds the open (key, window) pairs on each shard; [`WINDOW_KEYS_MAX`] by default.
    pub fn keys_max(mut self, keys: usize) -> Self {
        self.limits.keys_max = keys;
        self
    }

    /// Bounds the windows that are open at a time on each shard; [`WINDOWS_MAX`] by default.
    pub fn windows_max(mut self, windows: usize) -> Self {
        self.limits.windows_max = windows;
        self
    }

    /// Sends late records to a second stream instead of dropping them.
    pub fn late_output(mut self) -> (Self, Stream<Inbox<C::Out>>) {
        let flow = self.keyed.stream.flow.clone();
        if self.late.is_some() {
            flow.fail(ConnectorError::new(
                "job",
                "a window has late_output() twice; call it once and split() the stream",
            ));
        }
        let (edge, inbox) = LocalEdge::new();
        let producers = flow.shards();
        let node = flow.add_node::<C::Out>("Late records", producers, vec![]);
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
        let Self { keyed, windows, limits, late } = self;
        let (aggregate, key) = (Rc::new(aggregate), Rc::new(keyed.key));
        let records_in = Counter::default();
        let counted = records_in.clone();
        let Stream { flow, chain, at } = keyed.stream;
        let dropped = Dropped::default();
        let checkpoints = Rc::clone(flow.checkpoints());
        let kept = Kepts::new(&checkpoints, flow.shards());
        let state = WindowState::new(Rc::clone(&aggregate), windows, limits, dropped.clone(), kept);
        let state = Rc::new(RefCell::new(state));
        let functions = (Rc::clone(&key), Rc::clone(&aggregate));
        let own = flow.key_groups().owned_by(flow.shard(), flow.shards());
        let own = (own, flow.shards() == 1, late.is_some());
        let local = LocalAggregate::new(functions, windows, own, Rc::clone(&state), counted);
        // Part of the window, not an operator that the user knows of: no node of its own.
        let stream = Stream { flow, chain: Then::new(chain, local), at };
        let Stream { flow, chain, at } = stream.exchange(&windows.to_string(), "numSlicesIn");
        flow.adopt_counter("numRecordsIn", at.node, &records_in);
        if let Some(late) = &late {
            flow.set_inputs(late.node, vec![(at.node, Edge::Local)]);
        }
        if windows.is_empty() {
            let what = format!("{windows} is not allowed; allowed: 1 ms or more");
            flow.fail(ConnectorError::new("job", what));
        }
        flow.adopt_counter("numKeysOverLimitDropped", at.node, &dropped.keys_over_limit);
        flow.adopt_counter("numWindowsOverLimitDropped", at.node, &dropped.windows_over_limit);
        flow.adopt_counter("numLateRecordsDropped", at.node, &dropped.late);
        let late = late.map(|late| late.edge);
        let kind = StateKind::Windows;
        let mut describe = Description::of::<K, A::Accumulator>(at.node, "windows", kind);
        // Windows of another length are others.
        describe.types = format!("{windows}: {}", describe.types);
        checkpoints.register(describe, Some(Rc::clone(&state) as _));
        let operator = WindowOperator::new(key, aggregate, state, late, checkpoints);
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
