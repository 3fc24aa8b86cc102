//! Keyed state and timers: what a [process function](crate::KeyedStream::process) remembers of each key. ([`operator`]
//! has what a function without keys remembers.)
//!
//! A function asks for its states by name when it is made. It uses them through handles, always for
//! the key of the record or timer at hand. What lives in handles and timers is part of every checkpoint, without any
//! code in the function.
//!
//! | handle | for a key |
//! |---|---|
//! | [`ValueState`] | one value |
//! | [`ListState`] | values in the order they were added, each kept by itself |
//! | [`MapState`] | values by a key of its own, in order, each kept by itself ([`entries`]) |
//! | [`ReducingState`] | one value, into which others are reduced |
//! | [`AggregatingState`] | an [accumulator](crate::Aggregate) |
//!
//! # Bounds
//! An operator keeps at most [`STATE_KEYS_MAX`] keys and [`STATE_BYTES_MAX`] bytes on a shard, unless told
//! otherwise. [`Overflow`] says what happens to a record for which there is no room. Lists and maps have at most
//! [`STATE_ENTRIES_MAX`] entries for a key. A barrier costs the values, entries and items that have changed since
//! the last barrier, each by itself. A value is written whole when any of it has changed, so what grows belongs into a
//! map or a list.
//!
//! # Memory and the store
//! Entries that the store has need not stay in memory. When state takes more memory than
//! [`Tuning::state_memory_bytes_max`](crate::Tuning), entries leave it that were not used for long. They are
//! read from the store in place when their key comes again. What the store cannot give back yet has a bound of its
//! own, [`Tuning::state_pending_bytes_max`](crate::Tuning): over it, sources wait.
//!
//! # Time to live
//! [`StateOptions::ttl`] says how long an entry lives after it was written, or, as [`Refresh`] says,
//! read. After that nobody sees it, and its memory is freed while the stream goes on. In a job with checkpoints
//! each expiring state searches about ten thousand stored entries a second, and deletes what has expired in the store.

pub(crate) mod bounds;
mod cursor;
pub(crate) mod entries;
mod full;
mod handles;
pub(crate) mod keyed;
pub(crate) mod operator;
mod overflow;
pub(crate) mod table;
pub(crate) mod timers;

use std::any::type_name;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use thalweg_kernel::{
    Durable, Key, Layout, OrderedKey, StateError, StateKind, Str, Timestamp, ValueDamaged,
    time::millis,
};

pub use self::bounds::{STATE_BYTES_MAX, STATE_KEYS_MAX};
use self::entries::{Entries, EntryRules, ReadWhole, Whole};
pub use self::handles::{
    AggregatingState, ListItems, ListState, MapEntries, MapState, ReducingState, ValueState,
};
use self::keyed::{AllKeyed, AnyKeyed, Keyed};
use self::operator::OperatorStates;
pub use self::overflow::Overflow;
use crate::checkpoint::{Description, Reads, Stateful, types_of};
use crate::counters::{Counter, Gauge};
use crate::flow::Flow;
use crate::process::TimerSpace;
pub use crate::time::domain::TimeDomain;
use crate::window::aggregate::Aggregate;

/// A list or map of one key has at most this many entries; what would be one more is counted and not added.
pub const STATE_ENTRIES_MAX: usize = 1_048_576;

/// What begins an entry's time to live anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// Writing it.
    #[default]
    OnWrite,
    /// Writing or reading it.
    OnReadAndWrite,
}

/// How long an entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    pub(crate) lives_ms: i64,
    pub(crate) domain: TimeDomain,
    pub(crate) refresh: Refresh,
}

impl Ttl {
    /// `lives` after it was written, in event time.
    ///
    /// Any watermark may end a life that a later record would see. So each one goes at once to every shard with such a state, and
    /// wakes it, as with a [`Tuning::watermark_delay_max`](crate::Tuning) of zero. An event timer that clears the state, or
    /// [`processing_time`](Self::processing_time), costs no such wake-ups.
    pub fn event_time(lives: Duration) -> Self {
        let (domain, refresh) = (TimeDomain::EventTime, Refresh::OnWrite);
        Self { lives_ms: millis(lives), domain, refresh }
    }

    /// `lives` after it was written, by this machine's clock.
    pub fn processing_time(lives: Duration) -> Self {
        Self { domain: TimeDomain::ProcessingTime, ..Self::event_time(lives) }
    }

    /// What begins it anew.
    #[must_use]
    pub fn refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }
}

/// Reads a value that was written with an earlier schema.
pub(crate) type Migrate<V> = Rc<dyn Fn(&[u8]) -> Result<V, ValueDamaged>>;

/// How a state is kept: time to live, and how earlier versions of it are read.
pub struct StateOptions<V> {
    pub(crate) ttl: Option<Ttl>,
    pub(crate) schema: u32,
    migrations: Vec<Migration<V>>,
}

/// How an earlier schema is read.
struct Migration<V> {
    schema: u32,
    migrate: Migrate<V>,
    /// The type of the values then, as [`Durable::archived`] says.
    reads: (&'static str, usize),
    /// Its name in Rust.
    old: &'static str,
}

impl<V> Default for StateOptions<V> {
    fn default() -> Self {
        Self { ttl: None, schema: 1, migrations: Vec::new() }
    }
}

impl<V: 'static> StateOptions<V> {
    /// Entries live for ever; the first schema.
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries expire.
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The number of the schema, 1 by default. A job whose value type has changed says another, higher one, and
    /// [how](Self::migrate) the earlier ones are read.
    #[must_use]
    pub fn schema(mut self, number: u32) -> Self {
        self.schema = number;
        self
    }

    /// Reads entries of the earlier schema `number`, whose values were of type `Old`. They are written
    /// anew with the next checkpoint.
    #[must_use]
    pub fn migrate<Old: Durable>(
        mut self,
        number: u32,
        migrate: impl Fn(Old) -> V + 'static,
    ) -> Self {
        let migrate = Rc::new(move |bytes: &_| Old::read(bytes).map(&migrate));
        self.migrations.push(Migration {
            schema: number,
            migrate,
            reads: Old::archived(),
            old: type_name::<Old>(),
        });
        self
    }

    /// How to read what was stored with schema `stored`; `None` if it is of the job's own.
    pub(crate) fn migration(&self, stored: Option<u32>) -> Result<Option<Migrate<V>>, StateError> {
        let Some(stored) = stored.filter(|&stored| stored != self.schema) else { return Ok(None) };
        let known = self.migrations.iter().find(|migration| migration.schema == stored);
        let known = known.ok_or_else(|| {
            let own = self.schema;
            StateError::Other(format!(
                "it was stored with schema {stored}, and the job has schema {own}"
            ))
        })?;
        Ok(Some(Rc::clone(&known.migrate)))
    }

    /// Adds schema and migrations to a state's description.
    pub(crate) fn describe(&self, describe: &mut Description) {
        describe.schema = self.schema;
        let reads = |migration: &Migration<V>| {
            let layout = describe.layout.with_values_of(migration.reads);
            let types = Some(Layout::types_with_values_of(&describe.types, migration.old));
            Reads { schema: migration.schema, layout, types }
        };
        describe.migrations = self.migrations.iter().map(reads).collect();
    }
}

/// Where a process function asks for its states, when it is made.
pub struct States<'a, K> {
    flow: &'a Flow,
    node: u32,
    keyed: Vec<Rc<RefCell<dyn AnyKeyed<K>>>>,
    timer_spaces: Vec<Str>,
    lists: Option<OperatorStates<'a>>,
}

/// What a function with keys has asked for beside states of its keys.
pub(crate) struct Parts {
    pub(crate) timer_spaces: Vec<Str>,
    pub(crate) lists: Vec<Rc<RefCell<dyn Stateful>>>,
}

impl<'a, K: Key> States<'a, K> {
    pub(crate) fn new(flow: &'a Flow, node: u32) -> Self {
        Self { flow, node, keyed: Vec::new(), timer_spaces: Vec::new(), lists: None }
    }

    pub(crate) fn into_parts(self) -> (AllKeyed<K>, Parts) {
        let lists = self.lists.map_or_else(Vec::new, OperatorStates::into_kept);
        (self.keyed, Parts { timer_spaces: self.timer_spaces, lists })
    }

    /// A space of timers called `name`, apart from those that the function sets without naming one. Two spaces of one
    /// name fail the job.
    pub fn timers(&mut self, name: &str) -> TimerSpace {
        self.timer_spaces.push(name.into());
        TimerSpace::asked_for(self.timer_spaces.len() - 1)
    }

    /// What belongs to this instance of the operator and to no key: lists, for whichever key the function is called.
    pub fn operator(&mut self) -> &mut OperatorStates<'a> {
        let (flow, node) = (self.flow, self.node);
        self.lists.get_or_insert_with(|| OperatorStates::new(flow, node, flow.shards()))
    }

    /// A counter of the operator's, for the metrics.
    pub fn counter(&mut self, name: &'static str) -> Counter {
        self.flow.counter(name, self.node)
    }

    /// A gauge of the operator's, for the metrics.
    pub fn gauge(&mut self, name: &'static str) -> Gauge {
        self.flow.gauge(name, self.node)
    }

    /// One value for each key.
    pub fn value<V: Durable>(&mut self, name: &str) -> ValueState<K, V> {
        self.value_with(name, StateOptions::new())
    }

    /// One value for each key, kept as `options` say.
    pub fn value_with<V: Durable>(
        &mut self,
        name: &str,
        options: StateOptions<V>,
    ) -> ValueState<K, V> {
        ValueState(self.keep(name, options, None))
    }

    /// A list of values for each key.
    pub fn list<V: Durable>(&mut self, name: &str) -> ListState<K, V>
    where
        Vec<V>: Durable,
    {
        self.list_with(name, StateOptions::new())
    }

    /// A list of values for each key, whose items are kept as `options` say.
    pub fn list_with<V: Durable>(&mut self, name: &str, options: StateOptions<V>) -> ListState<K, V>
    where
        Vec<V>: Durable,
    {
        // Up to release 0.1 a list was one value.
        let read: ReadWhole<u64, V> = |bytes| Ok((0..).zip(Vec::<V>::read(bytes)?).collect());
        let rules = self.entry_rules(options, Some(Whole { read, types: types_of::<K, Vec<V>>() }));
        ListState(self.parts(name, StateKind::List, rules))
    }

    /// A map for each key.
    pub fn map<M: OrderedKey, V: Durable>(&mut self, name: &str) -> MapState<K, M, V>
    where
        Vec<(M, V)>: Durable,
    {
        self.map_with(name, StateOptions::new())
    }

    /// A map for each key, whose values are kept as `options` say.
    pub fn map_with<M: OrderedKey, V: Durable>(
        &mut self,
        name: &str,
        options: StateOptions<V>,
    ) -> MapState<K, M, V>
    where
        Vec<(M, V)>: Durable,
    {
        // Up to release 0.1 a map was one value.
        let (read, types) = (Vec::<(M, V)>::read, types_of::<K, Vec<(M, V)>>());
        let rules = self.entry_rules(options, Some(Whole { read, types }));
        MapState(self.parts(name, StateKind::Map, rules))
    }

    fn entry_rules<N, V>(
        &self,
        options: StateOptions<V>,
        whole: Option<Whole<N, V>>,
    ) -> EntryRules<N, V> {
        let over_limit = self.flow.counter("numEntriesOverLimitDropped", self.node);
        EntryRules { options, entries_max: STATE_ENTRIES_MAX, over_limit, whole }
    }

    /// Entries for each key, each under a key of its own: what lists and maps are made of.
    pub(crate) fn parts<N: OrderedKey, V: Durable>(
        &mut self,
        name: &str,
        kind: StateKind,
        rules: EntryRules<N, V>,
    ) -> Rc<RefCell<Entries<K, N, V>>> {
        let mut describe = Description::of::<(K, N), V>(self.node, name, kind);
        rules.options.describe(&mut describe);
        describe.whole_types = rules.whole.as_ref().map(|whole| whole.types.clone());
        let (reader, own) = (self.flow.reader().cloned(), self.own_groups());
        let entries = Entries::new(rules, self.flow.checkpoints(), reader, own);
        let entries = Rc::new(RefCell::new(entries));
        self.register(describe, &entries);
        entries
    }

    fn own_groups(&self) -> Range<u16> {
        self.flow.key_groups().groups_of(self.flow.shard(), self.flow.shards())
    }

    fn register<S: AnyKeyed<K> + 'static>(
        &mut self,
        describe: Description,
        state: &Rc<RefCell<S>>,
    ) {
        let here = self.flow.runs_here(self.flow.shards());
        self.flow.checkpoints().register(describe, here.then(|| Rc::clone(state) as _));
        self.keyed.push(Rc::clone(state) as _);
    }

    /// One value for each key, into which others are reduced by `reduce`.
    pub fn reducing<V: Durable, F: Fn(V, V) -> V>(
        &mut self,
        name: &str,
        reduce: F,
    ) -> ReducingState<K, V, F>
    where
        Option<V>: Durable,
    {
        ReducingState { kept: self.keep(name, StateOptions::new(), None), reduce }
    }

    /// What `aggregate` has made of the records that were added for each key.
    pub fn aggregating<T, A: Aggregate<T>>(
        &mut self,
        name: &str,
        aggregate: A,
    ) -> AggregatingState<K, T, A> {
        AggregatingState { kept: self.keep(name, StateOptions::new(), None), aggregate }
    }

    /// A value for each key, for an operator of the engine.
    pub(crate) fn entries<V: Durable>(&mut self, name: &str) -> Rc<RefCell<Keyed<K, V>>> {
        self.keep(name, StateOptions::new(), None)
    }

    /// [`entries`](Self::entries) of values that hold memory elsewhere: `weigh` says how many bytes.
    pub(crate) fn weighed_entries<V: Durable>(
        &mut self,
        name: &str,
        weigh: fn(&K, &V) -> usize,
    ) -> Rc<RefCell<Keyed<K, V>>> {
        self.keep(name, StateOptions::new(), Some(weigh))
    }

    /// Entries of an operator of the engine, kept as `options` say.
    pub(crate) fn entries_with<V: Durable>(
        &mut self,
        name: &str,
        options: StateOptions<V>,
        weigh: fn(&K, &V) -> usize,
    ) -> Rc<RefCell<Keyed<K, V>>> {
        self.keep(name, options, Some(weigh))
    }

    /// How long the entries of each state live that has been asked for.
    pub(crate) fn ttls(&self) -> impl Iterator<Item = Option<Ttl>> {
        self.keyed.iter().map(|state| state.borrow().ttl())
    }

    fn keep<V: Durable>(
        &mut self,
        name: &str,
        options: StateOptions<V>,
        weigh: Option<fn(&K, &V) -> usize>,
    ) -> Rc<RefCell<Keyed<K, V>>> {
        let mut describe = Description::of::<K, V>(self.node, name, StateKind::Keyed);
        options.describe(&mut describe);
        let (reader, own) = (self.flow.reader().cloned(), self.own_groups());
        let keyed = Keyed::new(options, self.flow.checkpoints(), reader, own, weigh);
        let keyed = Rc::new(RefCell::new(keyed));
        self.register(describe, &keyed);
        keyed
    }
}

/// The key at hand, with what handles need beside it.
#[derive(Clone, Copy)]
pub(crate) struct AtKey<'a, K> {
    pub(crate) key: &'a K,
    /// The key's hash for tables.
    pub(crate) hash: u64,
    /// The time of the record or timer at hand.
    pub(crate) time: Timestamp,
    /// The event time that has been dealt with: see [`Context`](crate::Context).
    pub(crate) reached: Timestamp,
    pub(crate) processing_time: Timestamp,
}
