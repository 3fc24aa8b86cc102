//! Windows over keyed streams.
//!
//! # State
//! One *pane* per open window, the newest at hand; a pane is a table of keys and is recycled when it has
//! fired. Records are added up on the shard that has them before they are sent, or go straight into
//! the window where that is cheaper (`local.rs`). What crosses carries the key's hash, so that a record's
//! key is hashed once. `numRecordsIn` counts records before that, `numSlicesIn` what came through the
//! exchange. (Where records are on the shard that owns their key already, they go straight into the windows:
//! `placed.rs`.)
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
mod placed;
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
use self::operator::{WindowOperator, Windows};
use self::placed::PlacedWindows;
use self::state::{Dropped, WindowState};
use self::tumbling::Tumbling;
use crate::checkpoint::Description;
use crate::counters::Counter;
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::key_by::{Keyed, KeyedStream, Placed, Placement, Unplaced};
use crate::exchange::local::LocalEdge;
use crate::exchange::route::ByKey;
use crate::flow::Flow;
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
pub struct WindowedStream<C: Chain, P: Placement<C>> {
    keyed: KeyedStream<C, P>,
    windows: Tumbling,
    limits: Limits,
    late: Option<LateOutput<P::Value>>,
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

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// Groups each key's records into windows of event time.
    pub fn window(self, windows: Tumbling) -> WindowedStream<C, P> {
        WindowedStream::new(self, windows)
    }
}

impl<C: Chain, P: Placement<C>> WindowedStream<C, P> {
    fn new(keyed: KeyedStream<C, P>, windows: Tumbling) -> Self {
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
    pub fn late_output(mut self) -> (Self, Stream<Inbox<P::Value>>) {
        let flow = self.keyed.stream.flow.clone();
        if self.late.is_some() {
            flow.fail(ConnectorError::new(
                "job",
                "a window has late_output() twice; call it once and split() the stream",
            ));
        }
        let (edge, inbox) = LocalEdge::new();
        let producers = flow.shards();
        let node = flow.add_node::<P::Value>("Late records", producers, vec![]);
        let chain = flow.inbox(vec![Port::Local(inbox)], node);
        self.late = Some(LateOutput { edge, node });
        (self, Stream { flow, chain, at: At { node, producers } })
    }
}

impl<C: Chain, P: Placement<C>> WindowedStream<C, P> {
    /// Aggregates each window's records as they come; emits one row per key when it fires.
    pub fn aggregate<A>(self, aggregate: A) -> Stream<P::Windows>
    where
        A: Aggregate<P::Value>,
        P: Windowing<C, A>,
    {
        P::attach(self, aggregate)
    }
}

/// How windows with the aggregate `A` attach to a keyed stream.
pub trait Windowing<C: Chain, A: Aggregate<Self::Value>>: Placement<C> {
    /// The chain with the windows.
    type Windows: Chain<Out = Windowed<Self::Key, A::Output>>;

    /// Attaches them.
    #[doc(hidden)]
    fn attach(windowed: WindowedStream<C, Self>, aggregate: A) -> Stream<Self::Windows>;
}

/// Where records have not been exchanged, they are added up in front of the exchange.
impl<C, K, F, A> Windowing<C, A> for Unplaced<F>
where
    C: Chain<Out: Send>,
    K: Key,
    F: Fn(&C::Out) -> K + 'static,
    A: Aggregate<C::Out, Accumulator: Send>,
{
    type Windows = Then<Inbox<Slice<C::Out, K, A::Accumulator>>, WindowOperator<K, C::Out, F, A>>;

    fn attach(windowed: WindowedStream<C, Self>, aggregate: A) -> Stream<Self::Windows> {
        let WindowedStream { keyed, windows, limits, late } = windowed;
        let Stream { flow, chain, at } = keyed.stream;
        let (aggregate, key, records_in) =
            (Rc::new(aggregate), keyed.placement.0, Counter::default());
        let (state, dropped) = open(&flow, &aggregate, windows, limits);
        let functions = (Rc::clone(&key), Rc::clone(&aggregate));
        let own = flow.key_groups().owned_by(flow.shard(), flow.shards());
        let own = (own, flow.shards() == 1, late.is_some());
        let local =
            LocalAggregate::new(functions, windows, own, Rc::clone(&state), records_in.clone());
        // Part of the window, not an operator that the user knows of: no node of its own.
        let route = ByKey::new(&flow);
        let stream = Stream { flow, chain: Then::new(chain, local), at };
        let Stream { flow, chain, at } = stream.exchange::<Windowed<K, A::Output>, _>(
            &windows.to_string(),
            "numSlicesIn",
            route,
        );
        flow.adopt_counter("numRecordsIn", at.node, &records_in);
        let late = describe::<K, C::Out, A>(&flow, at.node, windows, &state, &dropped, late);
        let windows = Windows::new(aggregate, state, late, Rc::clone(flow.checkpoints()));
        let operator = WindowOperator::new(key, windows);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

/// Where records are on the shard that owns their key, they go straight into the windows.
impl<C, K, T, A> Windowing<C, A> for Placed
where
    C: Chain<Out = Keyed<K, T>>,
    K: Key,
    T: 'static,
    A: Aggregate<T>,
{
    type Windows = Then<C, PlacedWindows<K, T, A>>;

    fn attach(windowed: WindowedStream<C, Self>, aggregate: A) -> Stream<Self::Windows> {
        let WindowedStream { keyed, windows, limits, late } = windowed;
        let aggregate = Rc::new(aggregate);
        let name = windows.to_string();
        let Stream { flow, chain, at } =
            keyed.placement.place::<Windowed<K, A::Output>>(keyed.stream, &name);
        let (state, dropped) = open(&flow, &aggregate, windows, limits);
        let late = describe::<K, T, A>(&flow, at.node, windows, &state, &dropped, late);
        let records_in = flow.counter("numRecordsIn", at.node);
        let windows = Windows::new(aggregate, state, late, Rc::clone(flow.checkpoints()));
        let operator = PlacedWindows::new(windows, records_in);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

/// The windows of one operator on one shard.
type OpenWindows<K, T, A> = (Rc<RefCell<WindowState<K, T, A>>>, Dropped);

fn open<K: Key, T: 'static, A: Aggregate<T>>(
    flow: &Flow,
    aggregate: &Rc<A>,
    windows: Tumbling,
    limits: Limits,
) -> OpenWindows<K, T, A> {
    if windows.is_empty() {
        let what = format!("{windows} is not allowed; allowed: 1 ms or more");
        flow.fail(ConnectorError::new("job", what));
    }
    let (dropped, kept) = (Dropped::default(), Kepts::new(flow.checkpoints(), flow.shards()));
    let state = WindowState::new(Rc::clone(aggregate), windows, limits, dropped.clone(), kept);
    (Rc::new(RefCell::new(state)), dropped)
}

/// Gives the windows their place in the job, at `node`; their late output, if there is one.
fn describe<K: Key, T: 'static, A: Aggregate<T>>(
    flow: &Flow,
    node: u32,
    windows: Tumbling,
    state: &Rc<RefCell<WindowState<K, T, A>>>,
    dropped: &Dropped,
    late: Option<LateOutput<T>>,
) -> Option<LocalEdge<T>> {
    flow.adopt_counter("numKeysOverLimitDropped", node, &dropped.keys_over_limit);
    flow.adopt_counter("numWindowsOverLimitDropped", node, &dropped.windows_over_limit);
    flow.adopt_counter("numLateRecordsDropped", node, &dropped.late);
    let kind = StateKind::Windows;
    let mut describe = Description::of::<K, A::Accumulator>(node, "windows", kind);
    // Windows of another length are others.
    describe.types = format!("{windows}: {}", describe.types);
    flow.checkpoints().register(describe, Some(Rc::clone(state) as _));
    late.map(|late| {
        flow.set_inputs(late.node, vec![(node, Edge::Local)]);
        late.edge
    })
}
