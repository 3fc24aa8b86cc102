//! Operator state: lists that belong to an instance of an operator, not to a key.
//!
//! A [process function](crate::Process) asks for its lists by name when it is made.
//! What is in them is part of every checkpoint, without any code in the function.
//!
//! | list | what a shard finds in it after a restart |
//! |---|---|
//! | [`list`](OperatorStates::list) | its share: each item is on one shard |
//! | [`union_list`](OperatorStates::union_list) | the items of all shards |
//!
//! Beside lists there is a map that is the same on every shard: [`broadcast`].
//!
//! # Whose an item is
//! An item belongs to the shard that has added it. It is stored under one of that shard's key groups, chosen such
//! that any stretch of items is spread evenly over the groups. After a restart it belongs to the shard that owns the
//! group then. So items follow the rule that keys follow. On as many shards as before, every item stays where it was. On
//! more or fewer shards each item is on exactly one, and a shard knows without asking which items are its own. (An
//! operator directly behind a source of few partitions has fewer instances than the job has shards. Then the
//! instances divide the groups among them.)
//!
//! A **union list** is a list of which every shard can see all. An item still has one owner, who alone
//! stores it and deletes it. A shard sees what there was at the restart, with its own changes since, and nothing of
//! what the others change. An item of another shard that it removes is gone from its sight alone. The next restart
//! brings the item back, unless its owner removes it too. So remove by a rule that decides alike on every shard. To hand
//! all items to one shard, let this shard [take](OperatorListState::take) them and add them again, and let all others
//! clear theirs. [`Process::open`](crate::Process::open) is the place for that, since it runs in one epoch everywhere.
//!
//! # Order
//! Items are in the order in which they were added. When items of several shards come together after a restart, they
//! interleave, and the items of each shard keep their order. Every shard sees a union list in one order.
//!
//! # What it costs
//! Each item is an entry in the store. It is written at the first barrier after it was added and never again.
//! An item that came and went between two barriers is not written. A list that was emptied is deleted as one range.
//!
//! # Bounds
//! A list holds at most [`LIST_ITEMS_MAX`] items and [`LIST_BYTES_MAX`] bytes on a shard, as
//! [`ListOptions`] say. One more item is counted (`numItemsOverLimitRefused`) and given back: the
//! function decides. A restart on fewer shards may bring more items. A shard keeps them all, and adds none
//! before there is room. Lists are always in memory.
//!
//! # Sources and sinks
//! They need none of this. A source goes on from its position, any bytes, which is kept by partition
//! ([`Source::snapshot`](thalweg_kernel::Source::snapshot)). A sink notes what it has still to do, and each note
//! is there until the sink deletes it ([`Pending`](thalweg_kernel::Pending)). Positions and notes follow when the number
//! of shards changes. What is to be held back in front of a sink belongs into a process function there.
//!
//! # What Flink's users ran into
//! - There every instance writes the restored union list again as its own, so it grows with the parallelism at each
//!   restart unless the function remembers to clear it (apache/paimon issue 1732 is a case of it). Here an item
//!   has one owner.
//! - There each checkpoint holds an offset of every item in its metadata, which must fit one message: union
//!   lists are to be given up for that (Flink's dev list, 2020). Here items are entries like any others.
//! - There a function copies its buffer into the list at every checkpoint. Here the list is the buffer.
//! - There order and bounds are nobody's business.

pub(crate) mod broadcast;
mod list;

use std::cell::RefCell;
use std::collections::vec_deque;
use std::fmt;
use std::rc::Rc;

use thalweg_kernel::{Durable, Key, StateKind};

use self::broadcast::{Broadcast, BroadcastState};
use self::list::{Held, List};
use super::StateOptions;
use crate::checkpoint::{Description, Stateful};
use crate::counters::{Counter, Gauge};
use crate::flow::Flow;

/// An operator's list has at most this many items on a shard, unless [`ListOptions`] say otherwise.
pub const LIST_ITEMS_MAX: usize = 65_536;

/// The items of an operator's list take at most this many bytes on a shard, as they are stored, unless
/// [`ListOptions`] say otherwise: 16 MiB.
pub const LIST_BYTES_MAX: usize = 16 << 20;

/// How a list is kept: its bounds, and how items of earlier versions are read.
pub struct ListOptions<V> {
    state: StateOptions<V>,
    items_max: usize,
    bytes_max: usize,
}

impl<V> Default for ListOptions<V> {
    fn default() -> Self {
        let state = StateOptions::default();
        Self { state, items_max: LIST_ITEMS_MAX, bytes_max: LIST_BYTES_MAX }
    }
}

impl<V: 'static> ListOptions<V> {
    /// The default bounds; the first schema.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many items it has on a shard at the most.
    #[must_use]
    pub fn items_max(mut self, items: usize) -> Self {
        self.items_max = items;
        self
    }

    /// How many bytes its items take on a shard at the most, as they are stored.
    #[must_use]
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// The number of the schema. See [`StateOptions::schema`].
    #[must_use]
    pub fn schema(mut self, number: u32) -> Self {
        self.state = self.state.schema(number);
        self
    }

    /// Reads items of the earlier schema `number`. See [`StateOptions::migrate`].
    #[must_use]
    pub fn migrate<Old: Durable>(
        mut self,
        number: u32,
        migrate: impl Fn(Old) -> V + 'static,
    ) -> Self {
        self.state = self.state.migrate(number, migrate);
        self
    }
}

/// Where a process function asks for what belongs to its instance and to no key, when it is made.
pub struct OperatorStates<'a> {
    flow: &'a Flow,
    node: u32,
    instances: usize,
    kept: Vec<Rc<RefCell<dyn Stateful>>>,
    /// Counts the items that its lists and maps have refused.
    refused: Counter,
}

impl<'a> OperatorStates<'a> {
    /// The states of the operator at `node`, which runs on shards `0..instances`.
    pub(crate) fn new(flow: &'a Flow, node: u32, instances: usize) -> Self {
        let refused = flow.counter("numItemsOverLimitRefused", node);
        Self { flow, node, instances, kept: Vec::new(), refused }
    }

    pub(crate) fn into_kept(self) -> Vec<Rc<RefCell<dyn Stateful>>> {
        self.kept
    }

    /// A counter of the operator's, for the metrics.
    pub fn counter(&mut self, name: &'static str) -> Counter {
        self.flow.counter(name, self.node)
    }

    /// A gauge of the operator's, for the metrics.
    pub fn gauge(&mut self, name: &'static str) -> Gauge {
        self.flow.gauge(name, self.node)
    }

    /// Which of the operator's instances this is: the number of its shard.
    pub fn instance(&self) -> usize {
        self.flow.shard()
    }

    /// On how many shards the operator runs.
    pub fn instances(&self) -> usize {
        self.instances
    }

    /// A list whose items are dealt out over the shards after a restart.
    pub fn list<V: Durable>(&mut self, name: &str) -> OperatorListState<V> {
        self.list_with(name, ListOptions::new())
    }

    /// A [`list`](Self::list) that is kept as `options` say.
    pub fn list_with<V: Durable>(
        &mut self,
        name: &str,
        options: ListOptions<V>,
    ) -> OperatorListState<V> {
        self.keep(name, options, false)
    }

    /// A list of which every shard sees the items of all shards after a restart. A function need not clear it then, since
    /// each item is stored once.
    pub fn union_list<V: Durable>(&mut self, name: &str) -> OperatorListState<V> {
        self.union_list_with(name, ListOptions::new())
    }

    /// A [`union_list`](Self::union_list) that is kept as `options` say.
    pub fn union_list_with<V: Durable>(
        &mut self,
        name: &str,
        options: ListOptions<V>,
    ) -> OperatorListState<V> {
        self.keep(name, options, true)
    }

    /// A map that is the same on every shard, changed by the records of a broadcast stream: see
    /// [`connect_broadcast`](crate::KeyedStream::connect_broadcast).
    pub fn broadcast<M: Key + Ord, V: Durable>(&mut self, name: &str) -> BroadcastState<M, V> {
        let mut describe = Description::of::<M, V>(self.node, name, StateKind::Operator);
        describe.types = format!("broadcast of {}", describe.types);
        // Else it would be taken for a list of the operator's where its keys are numbers, which lists store otherwise.
        describe.layout = describe.layout.with_keys_of("broadcast");
        let checkpoints = self.flow.checkpoints();
        let map = Broadcast::new(checkpoints, self.instances, self.refused.clone());
        let map = Rc::new(RefCell::new(map));
        let here = self.flow.runs_here(self.instances);
        checkpoints.register(describe, here.then(|| Rc::clone(&map) as _));
        self.kept.push(Rc::clone(&map) as _);
        BroadcastState(map)
    }

    fn keep<V: Durable>(
        &mut self,
        name: &str,
        options: ListOptions<V>,
        union: bool,
    ) -> OperatorListState<V> {
        let mut describe = Description::of::<u64, V>(self.node, name, StateKind::Operator);
        let of = std::any::type_name::<V>();
        describe.types = format!("{} of {of}", if union { "union list" } else { "list" });
        options.state.describe(&mut describe);
        let (checkpoints, instances) = (self.flow.checkpoints(), self.instances);
        let list = List::new(options, union, checkpoints, instances, self.refused.clone());
        let list = Rc::new(RefCell::new(list));
        let here = self.flow.runs_here(instances);
        checkpoints.register(describe, here.then(|| Rc::clone(&list) as _));
        self.kept.push(Rc::clone(&list) as _);
        OperatorListState(list)
    }
}

/// A list of an operator's instance, and the items of the other instances if it is a union list.
pub struct OperatorListState<V>(Rc<RefCell<List<V>>>);

impl<V: Durable> OperatorListState<V> {
    /// Adds an item at the end.
    ///
    /// # Errors
    /// Gives it back, and counts that (`numItemsOverLimitRefused`), if the list is full.
    pub fn push(&self, item: V) -> Result<(), ListFull<V>> {
        self.0.borrow_mut().push(item).map_err(ListFull)
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.0.borrow().held().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What `look` makes of the items.
    pub fn with<R>(&self, look: impl FnOnce(Items<'_, V>) -> R) -> R {
        look(Items(self.0.borrow().held().iter()))
    }

    /// The items.
    pub fn get(&self) -> Vec<V>
    where
        V: Clone,
    {
        self.with(|items| items.cloned().collect())
    }

    /// Takes the first item out.
    pub fn pop_front(&self) -> Option<V> {
        self.0.borrow_mut().pop_front()
    }

    /// Takes all items out.
    pub fn take(&self) -> Vec<V> {
        self.0.borrow_mut().take().into_iter().map(|held| held.value).collect()
    }

    /// Keeps the items for which `keep` holds.
    pub fn retain(&self, keep: impl FnMut(&V) -> bool) {
        self.0.borrow_mut().retain(keep);
    }

    /// Drops all items.
    pub fn clear(&self) {
        drop(self.0.borrow_mut().take());
    }
}

/// The items of a list, in order.
pub struct Items<'a, V>(vec_deque::Iter<'a, Held<V>>);

impl<'a, V> Iterator for Items<'a, V> {
    type Item = &'a V;

    fn next(&mut self) -> Option<&'a V> {
        self.0.next().map(|held| &held.value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<V> DoubleEndedIterator for Items<'_, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|held| &held.value)
    }
}

impl<V> ExactSizeIterator for Items<'_, V> {}

/// An item that a list has no room for.
pub struct ListFull<V>(pub V);

impl<V> fmt::Debug for ListFull<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListFull")
    }
}

impl<V> fmt::Display for ListFull<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the list of the operator is full; make room, or give it more with \
             ListOptions::items_max or bytes_max",
        )
    }
}

impl<V> std::error::Error for ListFull<V> {}
