#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
//! Lists of operators: over crashes and on other numbers of shards no item is lost or there twice. A union list
//! has all items everywhere, and only what has changed is stored.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::{
    Change, Changes, Collector, ConnectorError, KeyGroups, StateId, StateKind, Timestamp,
};

type Number = (u64, i64);

/// Passes every number on once, from one of three buffers: one that is looked through at each watermark, a queue,
/// and a batch. The numbers that it has passed on are in a union list, but for multiples of five, which are
/// dropped from it at watermarks.
struct Buffers {
    waiting: OperatorListState<Number>,
    queue: OperatorListState<Number>,
    batch: OperatorListState<Number>,
    passed: OperatorListState<u64>,
    table: Table,
    first: bool,
    /// The first instance takes the union list over when it opens.
    takes_over: bool,
}

impl Buffers {
    fn new(states: &mut OperatorStates<'_>, table: &Table, takes_over: bool) -> Self {
        Self {
            waiting: states.list("waiting"),
            queue: states.list("queue"),
            batch: states.list("batch"),
            passed: states.union_list("passed"),
            table: table.clone(),
            first: states.instance() == 0,
            takes_over,
        }
    }

    fn pass(&mut self, (number, time): Number, out: &mut impl Collector<u64>) {
        out.record(time.into(), number);
        self.passed.push(number).unwrap();
    }
}

impl Process<NoKey, Number> for Buffers {
    type Out = u64;

    fn open(&mut self) {
        // What was passed on is what the sink had committed then: none of the next epoch can be there yet.
        let rows = self.table.rows();
        let mut committed: Vec<u64> =
            rows.iter().map(|row| row.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        let mut passed = self.passed.get();
        committed.sort_unstable();
        passed.sort_unstable();
        assert!(passed.is_sorted_by(|a, b| a < b), "twice: {passed:?}");
        assert!(passed.iter().all(|number| committed.contains(number)), "made up: {passed:?}");
        committed.retain(|number| !passed.contains(number));
        assert!(committed.iter().all(|number| number % 5 == 0), "lost: {committed:?}");
        self.passed.retain(|number| number % 5 != 0);
        if self.takes_over {
            let all = self.passed.take();
            if self.first {
                all.into_iter().for_each(|number| self.passed.push(number).unwrap());
            }
        }
    }

    fn record(
        &mut self,
        record: Number,
        _: &mut Context<'_, NoKey>,
        out: &mut impl Collector<u64>,
    ) {
        match record.0 % 3 {
            0 => self.waiting.push(record).unwrap(),
            1 => {
                self.queue.push(record).unwrap();
                if self.queue.len() > 5 {
                    let first = self.queue.pop_front().unwrap();
                    self.pass(first, out);
                }
            }
            _ => {
                self.batch.push(record).unwrap();
                if self.batch.len() > 7 {
                    self.batch.take().into_iter().for_each(|record| self.pass(record, out));
                }
            }
        }
    }

    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<u64>) {
        let due = |&(_, time): &Number| time <= cx.watermark().as_millis();
        let mut ready: Vec<_> = self.waiting.with(|all| all.copied().filter(due).collect());
        self.waiting.retain(|record| !due(record));
        self.passed.retain(|number| number % 5 != 0);
        if cx.watermark() == Timestamp::MAX {
            ready.extend(self.queue.take());
            ready.extend(self.batch.get());
            self.batch.clear();
        }
        ready.into_iter().for_each(|record| self.pass(record, out));
    }
}

const CRASHES: Crashes = Crashes {
    lives_max: 12,
    moves_max: 40,
    epoch_every_max: 15,
    shards: &[1, 2, 3, 8],
    first_shards: None,
};

#[test]
fn over_crashes_and_on_other_numbers_of_shards_every_item_is_there_once() {
    let mut crashes = 0;
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let (numbers, mut partitions) = (0..random.below(800) as u64, Vec::new());
        partitions.resize_with(1 + random.below(8), Vec::new);
        for number in numbers {
            let time = number as i64 - random.below(20) as i64;
            let partition = random.below(partitions.len());
            partitions[partition].push((number, time));
        }
        let mut expected: Vec<_> =
            partitions.iter().flatten().map(|(number, time)| format!("{time} {number}")).collect();
        expected.sort();
        let (store, table) = (Store::default(), Table::default());
        let (at, sink, its_table) = (store.clone(), table.sink(), table.clone());
        let job = move |flow: &Flow| {
            let disorder = Watermarks::bounded_out_of_orderness(Duration::from_millis(20));
            let takes_over = mix(seed ^ at.epoch().number()).is_multiple_of(3);
            flow.source(
                Collection::partitioned(partitions.clone()),
                disorder.timestamps(|&(_, time): &Number| time),
            )
            .process(|states| Buffers::new(states, &its_table, takes_over))
            .uid("buffers")
            .sink_as("rows", sink.clone());
        };
        crashes += CRASHES.until_done(&mut random, &store, &job);
        assert_eq!(table.rows(), expected, "seed {seed}");
        let left = entries(&store);
        let more = left.iter().filter(|(state, _)| state != "passed");
        assert_eq!(more.count(), 0, "seed {seed}: {left:?}");
    }
    assert!(crashes > 200, "only {crashes} crashes");
}

/// The entries in a store, as (state, number of the group).
fn entries(store: &Store) -> Vec<(String, u16)> {
    let reader = (store.storage().reader)().unwrap();
    let mut found = Vec::new();
    for state in reader.states() {
        if state.kind != StateKind::Operator {
            continue;
        }
        let (from, to) = state.id.range(0..u16::MAX);
        reader
            .scan(&from, &to, &mut |key, _| {
                let (group, _) = StateId::split_key(key).unwrap();
                found.push((state.name.to_string(), group));
                Ok(())
            })
            .unwrap();
    }
    found
}

/// Some shards of a job, stepped in turn.
struct Job {
    shards: Vec<Shard>,
    store: Store,
}

impl Job {
    fn try_start(
        store: &Store,
        shards: usize,
        job: &dyn Fn(&Flow),
    ) -> Result<Self, ConnectorError> {
        Self::start_with(store.storage(), store, shards, job)
    }

    fn start_with(
        storage: Storage,
        store: &Store,
        shards: usize,
        job: &dyn Fn(&Flow),
    ) -> Result<Self, ConnectorError> {
        let shards = try_build(shards, Tuning::default(), Some(storage), job)?;
        Ok(Self { shards, store: store.clone() })
    }

    fn start(store: &Store, shards: usize, job: &dyn Fn(&Flow)) -> Self {
        Self::try_start(store, shards, job).unwrap()
    }

    fn run(&mut self) -> &mut Self {
        step_all(&mut self.shards, Now::default());
        self
    }

    /// Takes an epoch; its changes.
    fn epoch(&mut self) -> Vec<String> {
        let snapshots = epoch(&mut self.shards, &self.store, Now::default());
        let info = snapshots[0].states.iter().filter(|state| state.name != "positions");
        let ours: Vec<_> = info.map(|state| state.id.number().to_be_bytes()).collect();
        let mut told = Vec::new();
        for change in snapshots.iter().flat_map(|snapshot| Changes::read(&snapshot.changes)) {
            let (what, key) = match change.unwrap() {
                Change::Put { key, .. } => ("put", key),
                Change::Delete { key } => ("delete", key),
                Change::DeleteRange { from, .. } => ("delete range", from),
            };
            if ours.iter().any(|id| key.starts_with(id)) {
                told.push(what.to_owned());
            }
        }
        told
    }
}

/// What the instances of an operator had when they opened.
type Seen = Arc<Mutex<Vec<(usize, Vec<u64>)>>>;

fn take(seen: &Seen) -> Vec<(usize, Vec<u64>)> {
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort();
    seen
}

/// Does with its list what the records say: adds `n`, or takes out the first, every second or all.
struct Told {
    list: OperatorListState<u64>,
    instance: usize,
    seen: Seen,
}

#[derive(Clone, Copy, Debug)]
enum Do {
    Push(u64),
    PopFront,
    DropOdd,
    Clear,
}

impl Process<NoKey, Do> for Told {
    type Out = u64;

    fn open(&mut self) {
        self.seen.lock().unwrap().push((self.instance, self.list.get()));
    }

    fn record(&mut self, what: Do, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<u64>) {
        match what {
            Do::Push(n) => match self.list.push(n) {
                Ok(()) => {}
                Err(ListFull(n)) => out.record(cx.time(), n),
            },
            Do::PopFront => drop(self.list.pop_front()),
            Do::DropOdd => self.list.retain(|n| n % 2 == 0),
            Do::Clear => self.list.clear(),
        }
    }
}

/// Eight partitions, of which the first says `what`. What was read of them is not read again.
fn told<M: Fn(&mut OperatorStates<'_>) -> OperatorListState<u64> + 'static>(
    what: Vec<Vec<Do>>,
    seen: &Seen,
    make: M,
) -> impl Fn(&Flow) + use<M> {
    let seen = Arc::clone(seen);
    move |flow| {
        flow.source_as("told", Collection::partitioned(what.clone()), Watermarks::monotonous())
            .process(|states| Told {
                list: make(states),
                instance: states.instance(),
                seen: Arc::clone(&seen),
            })
            .uid("list")
            .discard();
    }
}

fn pushes(numbers: std::ops::Range<u64>) -> Vec<Vec<Do>> {
    let mut what = vec![numbers.map(Do::Push).collect()];
    what.resize(8, Vec::new());
    what
}

#[test]
fn a_list_is_dealt_out_evenly_and_stays_where_it_is_on_as_many_shards() {
    for items in [1_u64, 10, 1_000] {
        let (store, seen) = (Store::default(), Seen::default());
        let job = |what| told(what, &seen, |states| states.list("list"));
        Job::start(&store, 1, &job(pushes(0..items))).run().epoch();
        take(&seen);
        let after = |shards| {
            // No epoch: the next life finds what this one has found.
            Job::start(&store, shards, &job(pushes(0..items))).run();
            take(&seen)
        };
        assert_eq!(after(1), [(0, (0..items).collect::<Vec<_>>())]);
        for shards in [2_usize, 3, 8] {
            let found = after(shards);
            assert_eq!(after(shards), found, "the same again");
            let mut all: Vec<_> = found.iter().flat_map(|(_, list)| list.clone()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..items).collect::<Vec<_>>());
            let most = items.div_ceil(shards as u64) as usize + 2;
            for (instance, list) in &found {
                assert!(list.len() <= most, "{instance} of {shards} has {} of {items}", list.len());
                assert!(list.is_sorted(), "{list:?}");
            }
            // On as many shards everything stays, also what comes meanwhile.
            let (store, more) = (Store::default(), Seen::default());
            let mut what = pushes(0..0);
            for (n, part) in what.iter_mut().enumerate() {
                part.extend((0..items).map(|i| Do::Push(n as u64 * 10_000 + i)));
            }
            let job = told(what, &more, |states| states.list("list"));
            let mut first = Job::start(&store, shards, &job);
            first.run().epoch();
            take(&more);
            Job::start(&store, shards, &job).run();
            for (instance, list) in take(&more) {
                let ours = (instance..8).step_by(shards);
                let mut expected: Vec<_> =
                    ours.flat_map(|n| (0..items).map(move |i| n as u64 * 10_000 + i)).collect();
                let mut sorted = list.clone();
                expected.sort_unstable();
                sorted.sort_unstable();
                assert_eq!(sorted, expected);
                for n in 0..8 {
                    let of_one = list.iter().filter(|&&item| item / 10_000 == n);
                    assert!(of_one.is_sorted(), "{list:?}");
                }
            }
        }
    }
}

#[test]
fn every_shard_sees_a_union_list_whole_and_in_the_same_order() {
    let (store, seen) = (Store::default(), Seen::default());
    let mut what = pushes(0..0);
    for (n, part) in what.iter_mut().enumerate() {
        part.extend((0..20).map(|i| Do::Push(n as u64 * 100 + i)));
    }
    let job = told(what.clone(), &seen, |states| states.union_list("list"));
    Job::start(&store, 3, &job).run().epoch();
    take(&seen);
    // Again and again, stored each time: it does not grow.
    for shards in [3, 8, 1, 2, 8] {
        let mut running = Job::start(&store, shards, &job);
        assert_eq!(running.run().epoch(), Vec::<String>::new());
        let found = take(&seen);
        assert_eq!(found.len(), shards);
        assert!(found.iter().all(|(_, list)| *list == found[0].1));
        let mut all = found[0].1.clone();
        all.sort_unstable();
        let expected: Vec<_> = (0..8).flat_map(|n| (0..20).map(move |i| n * 100 + i)).collect();
        assert_eq!(all, expected);
        assert_eq!(entries(&store).len(), 160);
    }
    // What one shard removes of those that others own is gone from its sight alone.
    let first = KeyGroups::default().groups_of(0, 3);
    let of_others = || entries(&store).iter().filter(|(_, group)| !first.contains(group)).count();
    let before = of_others();
    what[0].push(Do::DropOdd);
    let job = told(what, &seen, |states| states.union_list("list"));
    Job::start(&store, 3, &job).run().epoch();
    assert_eq!(of_others(), before);
    assert!(entries(&store).len() < 160);
}

/// The same job with more to do in each life.
struct Lives {
    store: Store,
    done: Vec<Do>,
}

impl Lives {
    /// Does this, takes an epoch, does the rest and takes another: their changes, and how many entries there are.
    fn live(&mut self, what: &[Do]) -> (Vec<String>, usize) {
        self.done.extend(what);
        let seen = Seen::default();
        let job = told(vec![self.done.clone()], &seen, |states| states.list("list"));
        let changes = Job::start(&self.store, 1, &job).run().epoch();
        (changes, entries(&self.store).len())
    }
}

#[test]
fn a_barrier_costs_what_has_changed() {
    let mut lives = Lives { store: Store::default(), done: Vec::new() };
    let push = |n: std::ops::Range<u64>| n.map(Do::Push).collect::<Vec<_>>();
    assert_eq!(lives.live(&push(0..3)), (vec!["put".to_owned(); 3], 3));
    assert_eq!(lives.live(&[]), (vec![], 3));
    assert_eq!(lives.live(&push(3..4)), (vec!["put".into()], 4));
    assert_eq!(lives.live(&[Do::PopFront]), (vec!["delete".into()], 3));
    assert_eq!(lives.live(&[Do::DropOdd]), (vec!["delete".into(); 2], 1));
    // What came and went was never there.
    assert_eq!(lives.live(&[Do::Push(5), Do::Push(7), Do::DropOdd]), (vec![], 1));
    assert_eq!(lives.live(&push(8..20)), (vec!["put".into(); 12], 13));
    let emptied = [Do::Clear, Do::Push(30)];
    assert_eq!(lives.live(&emptied), (vec!["delete range".into(), "put".into()], 1));
    assert_eq!(lives.live(&[Do::Clear]), (vec!["delete".into()], 0));
}

#[test]
fn a_list_that_is_full_gives_back_what_it_has_no_room_for() {
    let run = |options: fn() -> ListOptions<u64>, store: &Store, shards, what: Vec<Vec<Do>>| {
        let seen = Seen::default();
        let make = move |states: &mut OperatorStates<'_>| states.list_with("list", options());
        let job = told(what, &seen, make);
        let mut job = Job::start(store, shards, &job);
        job.run().epoch();
        (metric(&job.shards, "numItemsOverLimitRefused"), entries(store).len())
    };
    let ten = || ListOptions::new().items_max(10);
    assert_eq!(run(ten, &Store::default(), 1, pushes(0..25)), (15, 10));
    // A number takes eight bytes.
    let bytes = || ListOptions::new().bytes_max(83);
    assert_eq!(run(bytes, &Store::default(), 1, pushes(0..25)), (15, 10));
    let room = [pushes(0..10)[0].clone(), vec![Do::PopFront, Do::Push(10), Do::Push(11)]].concat();
    assert_eq!(run(ten, &Store::default(), 1, vec![room]), (1, 10));

    // On fewer shards there may be more: all of it stays, and nothing is added to it.
    let store = Store::default();
    let mut what = pushes(0..0);
    what.iter_mut().for_each(|part| part.extend((0..10).map(Do::Push)));
    assert_eq!(run(ten, &store, 8, what.clone()), (0, 80));
    what[0].push(Do::Push(99));
    assert_eq!(run(ten, &store, 1, what), (1, 80));
    assert!(ListFull(0).to_string().contains("ListOptions::items_max"));
}

/// Shows what it finds when it opens, and drops the first item.
struct Shows {
    list: OperatorListState<String>,
    shown: Arc<Mutex<Vec<String>>>,
}

impl Process<NoKey, u64> for Shows {
    type Out = u64;

    fn open(&mut self) {
        self.shown.lock().unwrap().extend(self.list.get());
        self.list.pop_front();
    }

    fn record(&mut self, _: u64, _: &mut Context<'_, NoKey>, _: &mut impl Collector<u64>) {}
}

#[test]
fn items_of_an_earlier_schema_are_read_and_written_anew() {
    let (store, shown) = (Store::default(), Arc::<Mutex<Vec<String>>>::default());
    let first = told(pushes(0..5), &Seen::default(), |states| states.list("list"));
    Job::start(&store, 1, &first).run().epoch();
    let newer = |options: fn() -> ListOptions<String>| {
        let shown = Arc::clone(&shown);
        move |flow: &Flow| {
            // Another operator of the kind in front of it: it is found by its stable name.
            let source = Collection::partitioned(pushes(0..5));
            let list = |states: &mut OperatorStates<'_>| states.list("list");
            flow.source_as("told", source, Watermarks::monotonous())
                .process(|states| Told { list: list(states), instance: 0, seen: Seen::default() })
                .process(|states| Shows {
                    list: states.list_with("list", options()),
                    shown: Arc::clone(&shown),
                })
                .uid("list")
                .discard();
        }
    };
    let second = || ListOptions::<String>::new().schema(2);
    let error = Job::try_start(&store, 1, &newer(second)).err().expect("an unknown schema");
    let why = error.to_string();
    assert!(
        why.contains("schema 1 (u64 -> u64") && why.contains("schema 2 (u64 -> String"),
        "{why}"
    );
    let third = || ListOptions::new().schema(3).migrate(1, |old: u64| format!("item {old}"));
    assert_eq!(
        Job::start(&store, 1, &newer(third)).epoch(),
        ["delete", "put", "put", "put", "put"]
    );
    assert_eq!(std::mem::take(&mut *shown.lock().unwrap()).len(), 5);
    // Of the earlier schema nothing is left, not even of the item that was dropped at once.
    let third = || ListOptions::new().schema(3);
    Job::start(&store, 2, &newer(third)).run();
    let mut found = std::mem::take(&mut *shown.lock().unwrap());
    found.sort();
    assert_eq!(found, ["item 1", "item 2", "item 3", "item 4"]);
}

#[test]
fn a_list_without_its_operator_stops_the_start_unless_that_is_allowed() {
    let (store, seen) = (Store::default(), Seen::default());
    Job::start(&store, 2, &told(pushes(0..5), &seen, |states| states.list("list"))).run().epoch();
    let without = |flow: &Flow| {
        let source = Collection::partitioned(pushes(0..5));
        flow.source_as("told", source, Watermarks::monotonous()).discard();
    };
    let error = Job::try_start(&store, 2, &without).err().expect("state without an operator");
    assert!(error.to_string().contains(r#"stored state "list" of an operator "list""#), "{error}");
    let storage = Storage {
        allowed: Permissions { drop_unknown: true, ..Permissions::default() },
        ..store.storage()
    };
    assert_eq!(entries(&store).len(), 5);
    let mut job = Job::start_with(storage, &store, 2, &without).unwrap();
    job.run().epoch();
    take(&seen);
    Job::start(&store, 1, &told(pushes(0..5), &seen, |states| states.list("list"))).run();
    assert_eq!(take(&seen), [(0, vec![])]);
}

/// Passes records on in batches, 100 ms after the first one of a batch at the latest, and their number to the side.
struct Batches {
    waiting: OperatorListState<(i64, u64)>,
    counts: SideTag<usize>,
}

impl Process<NoKey, Do> for Batches {
    type Out = u64;

    fn record(&mut self, what: Do, cx: &mut Context<'_, NoKey>, _: &mut impl Collector<u64>) {
        if let Do::Push(n) = what {
            self.waiting.push((cx.processing_time().as_millis() + 100, n)).unwrap();
        }
    }

    fn tick(
        &mut self,
        cx: &mut Context<'_, NoKey>,
        out: &mut impl Collector<u64>,
    ) -> Option<Timestamp> {
        let due = self.waiting.with(|mut waiting| waiting.next().copied());
        let due = Timestamp::from(due?.0);
        if due > cx.processing_time() {
            return Some(due);
        }
        let batch = self.waiting.take();
        self.counts.emit(cx.time(), batch.len());
        batch.into_iter().for_each(|(_, n)| out.record(cx.time(), n));
        None
    }
}

#[test]
fn a_function_can_wait_for_the_clock_and_write_to_the_side() {
    let (store, told): (Store, Feed<Do>) = Default::default();
    let (rows, counts) = (Collected::new(), Collected::new());
    let (row_sink, count_sink, source) = (rows.sink(), counts.sink(), told.clone());
    let job = move |flow: &Flow| {
        let source = flow.source_as("told", source.clone(), Watermarks::monotonous());
        let (source, counts, side) = source.side_tag("counts");
        let batches = source.process(|states| Batches { waiting: states.list("waiting"), counts });
        batches.sink(row_sink.clone());
        side.sink(count_sink.clone());
    };
    let step = |job: &mut Job, ms: u64| {
        (0..9).map(|_| job.shards[0].step(at(ms)).unwrap()).last().unwrap()
    };
    let mut first = Job::start(&store, 1, &job);
    told.extend((0..3).map(Do::Push));
    assert_eq!(step(&mut first, 1_000), Step::Idle(Some(Duration::from_millis(1_100))));
    told.push(Do::Push(3));
    assert_eq!(step(&mut first, 1_050), Step::Idle(Some(Duration::from_millis(1_100))));
    assert!(rows.take().is_empty());
    assert_eq!(first.epoch().len(), 4);
    // After a restart it is still due.
    let mut second = Job::start(&store, 1, &job);
    assert_eq!(step(&mut second, 1_099), Step::Idle(Some(Duration::from_millis(1_100))));
    assert_eq!(step(&mut second, 1_100), Step::Idle(None));
    assert_eq!((rows.take(), counts.take()), (vec![0, 1, 2, 3], vec![4]));
}
