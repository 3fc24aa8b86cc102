#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Stored state that does not fit a job is refused in words that say what can be done, and each way is open.

mod common;

use std::fmt::Debug;

use common::{Store, Table};
use thalweg_flow::*;
use thalweg_kernel::{Collector, ConnectorError, Durable, Epoch, Key, OrderedKey};

/// Remembers the last value of a key, made from a number, and counts the records of the key.
struct Last<K, V, M: OrderedKey> {
    last: ValueState<K, V>,
    all: MapState<K, M, u64>,
    count: ValueState<K, u64>,
    make: fn(u64) -> (V, M),
}

impl<K: Key + Debug, V: Durable + Debug, M: OrderedKey + Debug> Process<K, u64> for Last<K, V, M> {
    type Out = String;

    fn record(&mut self, n: u64, cx: &mut Context<'_, K>, out: &mut impl Collector<String>) {
        let last = self.last.with(cx, |last| format!("{last:?}"));
        let count = self.count.update(cx, |count| {
            *count += 1;
            *count
        });
        let (value, entry) = (self.make)(n);
        self.last.set(cx, value);
        self.all.put(cx, entry, n);
        let all = self.all.with(cx, |all| format!("{all:?}"));
        out.record(cx.time(), format!("{:?} {last} {count} {all}", cx.key()));
    }
}

/// A job that reads numbers up to `end`, with states of these types.
fn job<K: Key + Debug + Send, V: Durable + Debug, M: OrderedKey + Debug>(
    (table, end): (&Table, u64),
    key: fn(&u64) -> K,
    make: fn(u64) -> (V, M),
    options: impl Fn() -> StateOptions<V> + 'static,
) -> impl Fn(&Flow)
where
    Vec<(M, u64)>: Durable,
{
    let sink = table.sink();
    move |flow| {
        let watermarks = Watermarks::monotonous().timestamps(|&n: &u64| n as i64);
        flow.source_as("source", Collection::new(0..end), watermarks)
            .key_by(key)
            .process(|states| Last {
                last: states.value_with("last", options()),
                all: states.map("all"),
                count: states.value("count"),
                make,
            })
            .uid("numbers")
            .sink_as("sink", sink.clone());
    }
}

fn build(job: &dyn Fn(&Flow), storage: Storage) -> Result<Shard, ConnectorError> {
    Shard::build(job, &BuildContext { storage: Some(storage), ..BuildContext::single("layouts") })
}

/// Runs a job to its end.
fn run(job: &dyn Fn(&Flow), store: &Store, allowed: &Permissions) -> Result<(), ConnectorError> {
    let mut shard = build(job, Storage { allowed: allowed.clone(), ..store.storage() })?;
    let mut epoch = store.epoch().next();
    while shard.step(Now::default())? != Step::Done {
        if shard.awaits_epoch() {
            shard.begin(epoch);
        }
        if let Some(snapshot) = shard.snapshot()? {
            store.commit(epoch, &[snapshot]);
            shard.committed(epoch, Epoch::NONE)?;
            epoch = epoch.next();
        }
    }
    Ok(())
}

fn refusal(job: &dyn Fn(&Flow), store: &Store) -> String {
    let error = build(job, store.storage()).err().unwrap();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn none<V>() -> StateOptions<V>
where
    V: 'static,
{
    StateOptions::new()
}

type Pair = (i64, f64);

fn pair(n: u64) -> (Pair, u8) {
    ((n as i64, n as f64 / 2.0), n as u8)
}

fn nothing() -> Permissions {
    Permissions::default()
}

/// A store in which a job has left its states after three numbers.
fn left() -> (Store, Table) {
    let (store, table) = (Store::default(), Table::default());
    run(&job((&table, 3), |n| n % 2, pair, none), &store, &nothing()).unwrap();
    assert_eq!(table.rows()[2], "2 \"0 Some((0, 0.0)) 2 [(0, 0), (2, 2)]\"");
    (store, table)
}

fn swapped(n: u64) -> ((f64, i64), u8) {
    ((n as f64 / 2.0, n as i64), n as u8)
}

fn wider(n: u64) -> (Pair, u16) {
    ((n as i64, n as f64 / 2.0), u16::from(n as u8))
}

/// Goal: values, keys and a map's keys that would be read as something else are refused, with the types and with what can
/// be done. A catalogue of release 0.1 is enough for that.
#[test]
fn what_does_not_fit_is_refused_in_words() {
    let (store, table) = left();
    for old in [false, true] {
        if old {
            store.describe(|state| state.layout = None);
        }
        let error = refusal(&job((&table, 4), |n| n % 2, swapped, none), &store);
        for part in
            ["\"last\"", "(i64, f64)", "(f64, i64)", "migrate", "begin_anew = [\"numbers/last\"]"]
        {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        let error = refusal(&job((&table, 4), |n| (n % 2) as u32, pair, none), &store);
        assert!(error.contains("u64") && error.contains("u32"), "{error}");
        let error = refusal(&job((&table, 4), |n| n % 2, wider, none), &store);
        assert!(
            error.contains("\"all\"") && error.contains("u8") && error.contains("u16"),
            "{error}"
        );
        let same = job((&table, 3), |n| n % 2, pair, none);
        assert!(build(&same, store.storage()).is_ok());
    }
}

/// Goal: one state begins anew and the others are kept; once, though the permission stays.
#[test]
fn a_state_begins_anew_and_the_rest_is_kept() {
    let (store, table) = left();
    let begin_anew = vec!["numbers/last".to_owned(), "nobody/nothing".to_owned()];
    let allowed = Permissions { begin_anew, ..nothing() };
    run(&job((&table, 5), |n| n % 2, swapped, none), &store, &allowed).unwrap();
    assert_eq!(table.rows()[3], "3 \"1 None 2 [(1, 1), (3, 3)]\"");
    run(&job((&table, 7), |n| n % 2, swapped, none), &store, &allowed).unwrap();
    assert_eq!(table.rows()[5], "5 \"1 Some((1.5, 3)) 3 [(1, 1), (3, 3), (5, 5)]\"");
}

/// Goal: a migration reads what was stored in another layout, and none that reads yet another one.
#[test]
fn a_migration_reads_another_layout() {
    let (store, table) = left();
    let wrong = || none().schema(2).migrate(1, |(a, b): (f64, i64)| (a, b));
    // A catalogue of release 0.1 has no layouts.
    for old in [false, true] {
        if old {
            store.describe(|state| state.layout = None);
        }
        let error = refusal(&job((&table, 5), |n| n % 2, swapped, wrong), &store);
        assert!(error.contains("migrate it from the type that it had"), "{error}");
    }
    let unknown = || none().schema(3).migrate(2, |(a, b): (i64, f64)| (b, a));
    let error = refusal(&job((&table, 5), |n| n % 2, swapped, unknown), &store);
    assert!(error.contains("StateOptions::migrate(1, ..)"), "{error}");
    let right = || none().schema(2).migrate(1, |(a, b): Pair| (b, a));
    run(&job((&table, 5), |n| n % 2, swapped, right), &store, &nothing()).unwrap();
    assert_eq!(table.rows()[3], "3 \"1 Some((0.5, 1)) 2 [(1, 1), (3, 3)]\"");
    run(&job((&table, 7), |n| n % 2, swapped, right), &store, &nothing()).unwrap();
    assert_eq!(table.rows()[5], "5 \"1 Some((1.5, 3)) 3 [(1, 1), (3, 3), (5, 5)]\"");
    let error = refusal(&job((&table, 9), |n| n % 2, swapped, none), &store);
    assert!(error.contains("an earlier one"), "{error}");
}

/// Holds some state of its operator, to which `add` adds a number.
struct Holds<S> {
    state: S,
    add: fn(&S, u64, &Context<'_, NoKey>),
}

impl<S: 'static> Process<NoKey, u64> for Holds<S> {
    type Out = u64;

    fn record(&mut self, n: u64, cx: &mut Context<'_, NoKey>, _: &mut impl Collector<u64>) {
        (self.add)(&self.state, n, cx);
    }
}

fn holds<S: 'static>(
    make: fn(&mut OperatorStates<'_>) -> S,
    add: fn(&S, u64, &Context<'_, NoKey>),
) -> impl Fn(&Flow) {
    move |flow| {
        let watermarks = Watermarks::monotonous().timestamps(|&n: &u64| n as i64);
        flow.source_as("source", Collection::new(0..3), watermarks)
            .process(move |states| Holds { state: make(states), add })
            .uid("holder")
            .discard();
    }
}

/// Goal: a list of an operator's is not taken for a broadcast state with numbers for keys, nor the other way round.
/// Their stored forms are unlike. A list may become a union list.
#[test]
fn a_list_is_not_read_as_a_broadcast_state() {
    let add = |list: &OperatorListState<u64>, n, _: &Context<'_, NoKey>| list.push(n).unwrap();
    let list = holds(|states| states.list("held"), add);
    let union_list = holds(|states| states.union_list("held"), add);
    let broadcast = holds(
        |states| states.broadcast::<u64, u64>("held"),
        |map, n, cx| map.put(cx, n, n).unwrap(),
    );
    let (lists, maps) = (Store::default(), Store::default());
    run(&list, &lists, &nothing()).unwrap();
    run(&broadcast, &maps, &nothing()).unwrap();
    for error in [refusal(&broadcast, &lists), refusal(&list, &maps)] {
        assert!(error.contains("\"held\"") && error.contains("broadcast"), "{error}");
    }
    assert!(build(&union_list, lists.storage()).is_ok());
    assert!(build(&broadcast, maps.storage()).is_ok());
}

/// Goal: a state that the job does not have any more is dropped by name, and others are not.
#[test]
fn a_state_that_nobody_has_is_dropped_by_name() {
    let (store, table) = left();
    let sink = table.sink();
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|&n: &u64| n as i64);
        flow.source_as("source", Collection::new(0..5), watermarks).sink_as("sink", sink.clone());
    };
    let error = refusal(&job, &store);
    assert!(error.contains("numbers/") && error.contains("state.drop_unknown"), "{error}");
    let names = ["last", "all", "count", "event timers"].map(|name| format!("numbers/{name}"));
    let allowed = Permissions { begin_anew: names.to_vec(), ..nothing() };
    let storage = Storage { allowed: allowed.clone(), ..store.storage() };
    let error = build(&job, storage).err().unwrap().to_string();
    assert!(error.contains("numbers/processing timers"), "{error}");
    let allowed = Permissions { drop_unknown: true, ..allowed };
    run(&job, &store, &allowed).unwrap();
}
