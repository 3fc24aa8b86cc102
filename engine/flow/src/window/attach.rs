//! How windows become part of a job: their operators, states, counters and late output at a node of the graph.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{ConnectorError, Key, StateKind, Timestamp};

use super::aggregate::Aggregate;
use super::assigner::{Aligned, Assigner, PerKey, Slices};
use super::content::WindowFunction;
use super::local::LocalAggregate;
use super::operator::{Late, WindowOperator, Windows};
use super::per_key::{Clock, WindowsPerKey};
use super::placed::PlacedWindows;
use super::reached::Reached;
use super::sessions::{Sessions, outside_bytes};
use super::slice::Slice;
use super::state::{Dropped, WindowState};
use super::storage::Storage;
use super::timers::WindowTimers;
use super::trigger::Trigger;
use super::{Limits, WindowedStream};
use crate::checkpoint::Description;
use crate::counters::Counter;
use crate::exchange::inbox::Inbox;
use crate::exchange::key_by::{Keyed, Placed, Placement, Unplaced};
use crate::exchange::route::ByKey;
use crate::flow::Flow;
use crate::notices::LateRecord;
use crate::pipeline::{Chain, Then};
use crate::state::States;
use crate::stream::Stream;

/// How aligned windows with the aggregate `A` and the function `F` attach to a keyed stream.
pub trait AttachSlices<C: Chain, A: Aggregate<Self::Value>, F>: Placement<C> {
    /// The chain with the windows.
    type Windows: Chain;

    /// Attaches them.
    #[doc(hidden)]
    fn attach<W: Aligned>(
        windowed: WindowedStream<C, Self, W, Slices>,
        aggregate: A,
        function: F,
    ) -> Stream<Self::Windows>;
}

/// Where records have not been exchanged, they are added up in front of the exchange.
impl<C, K, Q, A, F> AttachSlices<C, A, F> for Unplaced<Q>
where
    C: Chain<Out: Send>,
    K: Key,
    Q: Fn(&C::Out) -> K + 'static,
    A: Aggregate<C::Out, Accumulator: Send>,
    F: WindowFunction<K, A::Output>,
{
    type Windows =
        Then<Inbox<Slice<C::Out, K, A::Accumulator>>, WindowOperator<K, C::Out, Q, A, F>>;

    fn attach<W: Aligned>(
        windowed: WindowedStream<C, Self, W, Slices>,
        aggregate: A,
        function: F,
    ) -> Stream<Self::Windows> {
        let WindowedStream { keyed, windows, limits, late: tag, .. } = windowed;
        let late = Late { tag, sides: keyed.follower.sides };
        let Stream { flow, chain, at } = keyed.stream;
        let (aggregate, key, records_in) =
            (Rc::new(aggregate), keyed.placement.0, Counter::default());
        let (state, dropped) = open(&flow, &aggregate, &windows, limits);
        let functions = (Rc::clone(&key), Rc::clone(&aggregate));
        let own = flow.key_groups().owned_by(flow.shard(), flow.shards());
        let own = (own, flow.shards() == 1, late.tag.is_some());
        let slicing = windows.slicing();
        let is_resumed = flow.reader().is_some_and(|reader| reader.restored().is_some());
        let (state_too, counter) = (Rc::clone(&state), records_in.clone());
        let local = LocalAggregate::new(functions, slicing, own, is_resumed, state_too, counter);
        // Part of the window, not an operator that the user knows of: no node of its own.
        let route = ByKey::new(&flow);
        let stream = Stream { flow, chain: Then::new(chain, local), at };
        let Stream { flow, chain, at } =
            stream.exchange::<F::Out, _>(&windows.to_string(), "numSlicesIn", route);
        flow.adopt_counter("numRecordsIn", at.node, &records_in);
        let late = describe::<K, C::Out, A>(&flow, at.node, &windows, &state, &dropped, late);
        let windows = Windows::new(function, state, late, Rc::clone(flow.checkpoints()));
        let operator = WindowOperator::new(key, windows);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

/// Where records are on the shard that owns their key, they go straight into the windows.
impl<C, K, T, A, F> AttachSlices<C, A, F> for Placed
where
    C: Chain<Out = Keyed<K, T>>,
    K: Key,
    T: 'static,
    A: Aggregate<T>,
    F: WindowFunction<K, A::Output>,
{
    type Windows = Then<C, PlacedWindows<K, T, A, F>>;

    fn attach<W: Aligned>(
        windowed: WindowedStream<C, Self, W, Slices>,
        aggregate: A,
        function: F,
    ) -> Stream<Self::Windows> {
        let WindowedStream { keyed, windows, limits, late: tag, .. } = windowed;
        let late = Late { tag, sides: keyed.follower.sides };
        let aggregate = Rc::new(aggregate);
        let name = windows.to_string();
        let Stream { flow, chain, at } = keyed.placement.place::<F::Out>(keyed.stream, &name);
        let (state, dropped) = open(&flow, &aggregate, &windows, limits);
        let late = describe::<K, T, A>(&flow, at.node, &windows, &state, &dropped, late);
        let records_in = flow.counter("numRecordsIn", at.node);
        let windows = Windows::new(function, state, late, Rc::clone(flow.checkpoints()));
        let operator = PlacedWindows::new(windows, records_in);
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}

/// The windows of one operator on one shard.
type OpenWindows<K, T, A> = (Rc<RefCell<WindowState<K, T, A>>>, Dropped);

fn open<K: Key, T: 'static, A: Aggregate<T>>(
    flow: &Flow,
    aggregate: &Rc<A>,
    windows: &impl Aligned,
    limits: Limits,
) -> OpenWindows<K, T, A> {
    let (slicing, windows_max) = (windows.slicing(), limits.windows_max as u64);
    let slices = slicing.slices_per_window();
    if slices > 1 && slices > windows_max {
        let what = format!(
            "{windows} has {slices} slices of time, and {windows_max} may be open at a time; choose a slide that divides \
             the size into fewer, or allow more with windows_max(..)"
        );
        flow.fail(ConnectorError::new("job", what));
    }
    let (dropped, reader) = (Dropped::default(), flow.reader().cloned());
    let storage = Storage::new(flow.checkpoints(), reader, flow.shards());
    let state = WindowState::new(Rc::clone(aggregate), slicing, limits, dropped.clone(), storage);
    (Rc::new(RefCell::new(state)), dropped)
}

/// Gives the windows their place in the job, at `node`; their late output, if there is one.
fn describe<K: Key, T: 'static, A: Aggregate<T>>(
    flow: &Flow,
    node: u32,
    windows: &impl Assigner,
    state: &Rc<RefCell<WindowState<K, T, A>>>,
    dropped: &Dropped,
    late: Late<T>,
) -> Late<T> {
    let kind = StateKind::Windows;
    let describe = Description::of::<K, A::Accumulator>(node, "windows", kind);
    // Windows of another length are others.
    let describe = describe.with_keys_of(&windows.to_string());
    flow.checkpoints().register(describe, Some(Rc::clone(state) as _));
    // It lives as long as its operator.
    let noticed = Rc::downgrade(state);
    flow.notices().drops_late(move || noticed.upgrade()?.borrow_mut().take_late());
    adopt(flow, node, dropped, late)
}

fn adopt<T: 'static>(flow: &Flow, node: u32, dropped: &Dropped, late: Late<T>) -> Late<T> {
    flow.adopt_counter("numKeysOverLimitDropped", node, &dropped.keys_over_limit);
    flow.adopt_counter("numWindowsOverLimitDropped", node, &dropped.windows_over_limit);
    flow.adopt_counter("numLateRecordsDropped", node, &dropped.late);
    late.sides.come_out_of(flow, node);
    late
}

/// The chain with windows in keyed state.
pub(super) type AttachPerKey<C, P, W, R, A, F> = Then<
    <P as Placement<C>>::Placed,
    WindowsPerKey<<P as Placement<C>>::Key, <P as Placement<C>>::Value, W, R, A, F>,
>;

impl<C: Chain, P, W: Assigner, R: Trigger<P::Value>> WindowedStream<C, P, W, PerKey<R>>
where
    P: Placement<C, Value: Clone>,
{
    /// Attaches windows in keyed state.
    pub(super) fn attach<A: Aggregate<P::Value>, F: WindowFunction<P::Key, A::Output>>(
        self,
        aggregate: A,
        function: F,
    ) -> Stream<AttachPerKey<C, P, W, R, A, F>> {
        let Self { keyed, windows, layout, limits, late: tag } = self;
        let late = Late { tag, sides: keyed.follower.sides };
        let name = windows.to_string();
        let Stream { flow, chain, at } = keyed.placement.place::<F::Out>(keyed.stream, &name);
        let node = at.node;
        let dropped = Dropped::default();
        let late = adopt(&flow, node, &dropped, late);
        let mut states = States::new(&flow, node);
        let contents = states.entries("window contents");
        let trigger_states = states.entries("trigger states");
        let sessions = W::MERGES.then(|| {
            let sets = States::new(&flow, node).weighed_entries("open windows", outside_bytes);
            Sessions(sets)
        });
        let timers = WindowTimers::new(&flow, node);
        let checkpoints = Rc::clone(flow.checkpoints());
        let reached = Rc::new(RefCell::new(Reached::new(&checkpoints, flow.shards())));
        let describe = Description::of::<P::Key, ()>(node, "windows", StateKind::Windows);
        // Windows of another length are others.
        let describe = describe.with_keys_of(&windows.to_string());
        checkpoints.register(describe, Some(Rc::clone(&reached) as _));
        let late_record = Rc::<RefCell<Option<(P::Key, Timestamp)>>>::default();
        let (noticed, watermark) = (Rc::clone(&late_record), Rc::downgrade(&reached));
        flow.notices().drops_late(move || {
            let (key, time) = noticed.take()?;
            let watermark = watermark.upgrade()?.borrow().watermark();
            Some(LateRecord { key: key.describe(), time, watermark })
        });
        let operator = WindowsPerKey {
            assigner: windows,
            trigger: layout.0,
            aggregate,
            function,
            contents,
            trigger_states,
            sessions,
            timers,
            reached,
            keys_max: limits.keys_max,
            dropped,
            late,
            late_record,
            checkpoints,
            work_max: flow.tuning().step_work_max.max(1),
            clock: Clock::BEGINNING,
            windows: Vec::new(),
            others: Vec::new(),
        };
        Stream { flow, chain: Then::new(chain, operator), at }
    }
}
