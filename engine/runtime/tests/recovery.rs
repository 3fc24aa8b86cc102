//! Jobs with stored state on real threads: they fail, are suspended, and go on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../flow/tests/common/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::{
    Collector, ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Source,
    SourceSpec, SourceStatus, Timestamp,
};
use thalweg_runtime::*;
use world::{Store, Table};

/// The world of the flow's own tests as a backend.
struct InMemory {
    store: Store,
    newest: Option<EpochRecord>,
    full: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

impl EpochStore for InMemory {
    fn newest(&self) -> Option<&EpochRecord> {
        self.newest.as_ref()
    }

    fn oldest(&self) -> Epoch {
        self.store.epoch()
    }

    fn commit(&mut self, record: EpochRecord, blocks: &[Vec<u8>]) -> Result<(), StoreError> {
        if self.full.load(SeqCst) {
            self.refused.fetch_add(1, SeqCst);
            return Err(StoreError::Full("the test's disk is full".into()));
        }
        let snapshot = |changes: &Vec<u8>| ShardSnapshot {
            epoch: record.epoch,
            shard: 0,
            changes: changes.clone(),
            crowded: false,
            moved: true,
            states: record.states.clone().into(),
        };
        self.store.commit(record.epoch, &blocks.iter().map(snapshot).collect::<Vec<_>>());
        self.newest = Some(record);
        Ok(())
    }

    fn next(&self) -> Epoch {
        self.store.epoch().next()
    }

    fn readers(&mut self, _shards: usize) -> Result<OpenReader, StoreError> {
        Ok(self.store.storage().reader)
    }

    fn savepoint(&mut self, _path: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct World {
    store: Store,
    table: Table,
    full: Arc<AtomicBool>,
    /// How often a full store was asked in vain.
    refused: Arc<AtomicU64>,
    /// What the source was told: the newest epoch, and the oldest that may be needed.
    told: Arc<Mutex<Vec<(Epoch, Epoch)>>>,
}

impl World {
    fn config(&self, shards: usize, driver: DriverKind) -> RuntimeConfig {
        let (store, full) = (self.store.clone(), Arc::clone(&self.full));
        let refused = Arc::clone(&self.refused);
        let backend = StateBackend::new(move |opening| {
            let newest = (store.epoch() > Epoch::NONE).then(|| EpochRecord {
                epoch: store.epoch(),
                job: opening.job.clone(),
                key_groups: opening.key_groups,
                shards: 0,
                at: Timestamp::default(),
                states: Vec::new(),
                counts: BTreeMap::new(),
                oldest: Epoch::NONE,
                directory: Default::default(),
            });
            let (full, refused) = (Arc::clone(&full), Arc::clone(&refused));
            let store = InMemory { store: store.clone(), newest, full, refused };
            Ok(OpenedStore { store: Box::new(store), journals: None })
        });
        let mut state = StateConfig::new(backend);
        state.checkpoints.interval = Duration::from_millis(3);
        let delay = Duration::from_millis(1);
        let restart = RestartStrategy::FixedDelay { delay, restarts_max: 1_000 };
        RuntimeConfig { shards, driver, state: Some(state), restart, ..RuntimeConfig::default() }
    }

    /// The same with a real directory.
    fn config_in(&self, directory: StateDirectory, shards: usize) -> RuntimeConfig {
        let mut config = self.config(shards, DriverKind::Auto);
        config.state = config.state.map(|rules| {
            let mut state = StateConfig::new(directory.backend());
            state.checkpoints = rules.checkpoints;
            state
        });
        config
    }
}

/// Counts from where it was to `end`, a few at a time.
#[derive(Clone)]
struct Counter {
    end: u64,
    reached: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<(Epoch, Epoch)>>>,
}

struct Counting {
    spec: Counter,
    next: u64,
}

impl SourceSpec for Counter {
    type Item = u64;
    type Partition = Counting;

    fn describe(&self) -> String {
        "counter".into()
    }

    fn open(&self, _: &PartitionId, cx: &OpenContext) -> Result<Counting, ConnectorError> {
        let position = cx.durability.position.as_deref();
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        Ok(Counting { spec: self.clone(), next })
    }
}

impl Source for Counting {
    type Item = u64;

    fn poll(
        &mut self,
        now: Timestamp,
        _: usize,
        out: &mut impl Emit<u64>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..20 {
            if self.next == self.spec.end {
                return Ok(SourceStatus::Ended);
            }
            out.record(self.next, now, &Generated);
            self.next += 1;
        }
        self.spec.reached.fetch_max(self.next, SeqCst);
        Ok(SourceStatus::Waiting(Some(Duration::from_micros(200))))
    }

    fn stop(&mut self) {
        self.spec.end = self.next;
    }

    fn snapshot(&mut self, _: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.next.to_le_bytes());
    }

    fn committed(&mut self, epoch: Epoch, oldest: Epoch) {
        self.spec.told.lock().unwrap().push((epoch, oldest));
    }
}

const END: u64 = 20_000;

/// Windows of 100 ms over a count in milliseconds, by ten keys; `fail` is called with each record.
fn job(
    world: &World,
    end: u64,
    reached: &Arc<AtomicU64>,
    fail: impl Fn(u64) + Send + Sync + Clone + 'static,
) -> Job {
    let (reached, told) = (Arc::clone(reached), Arc::clone(&world.told));
    let (sink, counter) = (world.table.sink(), Counter { end, reached, told });
    Job::new("recovery", move |flow| {
        let fail = fail.clone();
        flow.source(counter.clone(), Watermarks::monotonous().timestamps(|&n: &u64| n as i64))
            .inspect(move |_, &n| fail(n))
            .key_by(|n| n % 10)
            .window(Tumbling::of(Duration::from_millis(100)))
            .aggregate(Sum::of(|&n: &u64| n))
            .sink(sink.clone());
    })
}

fn expected(end: u64) -> Vec<String> {
    let mut rows = Vec::new();
    for start in (0..end).step_by(100) {
        for key in 0..10 {
            let value = (start..start + 100).filter(|n| n % 10 == key).sum::<u64>();
            let (first, last) = (start as i64, start as i64 + 100);
            let row = Windowed { key, start: first.into(), end: last.into(), value };
            rows.push(format!("{} {row:?}", last - 1));
        }
    }
    rows.sort();
    rows
}

const DRIVERS: [DriverKind; 2] = [DriverKind::Glommio, DriverKind::Threads];

#[test]
fn a_job_that_panics_again_and_again_has_every_result_once() {
    for driver in DRIVERS {
        for shards in [1, 2] {
            let world = World::default();
            let panics = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&panics);
            // Fails at a dozen places, and at each but once.
            let fail = move |n: u64| {
                let due = count.load(SeqCst) * 1_600 + 777;
                if n == due {
                    count.fetch_add(1, SeqCst);
                    panic!("as the test wants it");
                }
            };
            let reached = Arc::default();
            let running = job(&world, END, &reached, fail).start(&world.config(shards, driver));
            let running = running.unwrap();
            while !running.is_finished() {
                thread::sleep(Duration::from_millis(5));
            }
            let stats = running.checkpoints();
            running.wait().unwrap();
            assert_eq!(stats.restarts, panics.load(SeqCst), "{driver}, {shards}");
            assert!(stats.restarts >= 12 && stats.completed > 0, "{stats:?}");
            assert_eq!(world.table.rows(), expected(END), "{driver}, {shards}");
        }
    }
}

#[test]
fn a_suspended_job_goes_on_with_its_windows_open_on_another_number_of_shards() {
    for driver in DRIVERS {
        let world = World::default();
        let reached = Arc::new(AtomicU64::new(0));
        for (life, shards) in [1, 2, 3, 1].into_iter().enumerate() {
            let job = job(&world, END, &reached, |_| {});
            let running = job.start(&world.config(shards, driver)).unwrap();
            let mark = 3_000 * (life as u64 + 1) + 50;
            while reached.load(SeqCst) < mark {
                thread::sleep(Duration::from_millis(1));
            }
            running.suspend();
            running.wait().unwrap();
            // Nothing of a window that is open has come out.
            assert!(world.table.rows().len() as u64 <= reached.load(SeqCst) / 100 * 10);
        }
        let last = job(&world, END, &reached, |_| {});
        last.run_with(&world.config(2, driver)).unwrap();
        assert_eq!(world.table.rows(), expected(END), "{driver}");
    }
}

#[test]
fn a_full_store_holds_results_back_until_there_is_room() {
    let world = World::default();
    world.full.store(true, SeqCst);
    let reached = Arc::new(AtomicU64::new(0));
    let config = world.config(2, DriverKind::Threads);
    let running = job(&world, 4_000, &reached, |_| {}).start(&config).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(running.checkpoints().completed, 0);
    assert!(world.table.rows().is_empty() && !running.is_finished());
    world.full.store(false, SeqCst);
    running.wait().unwrap();
    assert_eq!(world.table.rows(), expected(4_000));
}

#[test]
fn a_strategy_without_restarts_ends_with_the_error() {
    let world = World::default();
    let mut config = world.config(2, DriverKind::Threads);
    config.restart = RestartStrategy::Never;
    let job = job(&world, END, &Arc::default(), |n| assert_ne!(n, 500, "as the test wants it"));
    let error = job.run_with(&config).unwrap_err();
    assert!(matches!(error, JobError::Panicked { .. }), "{error}");
}

#[test]
fn a_savepoint_is_an_epoch_of_its_own() {
    let world = World::default();
    let mut config = world.config(2, DriverKind::Threads);
    config.state.as_mut().unwrap().checkpoints.interval = Duration::from_secs(3_600);
    let running = job(&world, u64::MAX, &Arc::default(), |_| {}).start(&config).unwrap();
    for epoch in 1..4 {
        assert_eq!(running.savepoint(Path::new("unused")).unwrap(), Epoch::new(epoch));
    }
    running.suspend();
    running.wait().unwrap();
    assert_eq!(world.store.epoch(), Epoch::new(4));
}

/// Goal: a savepoint holds what was taken in before it was asked for.
/// Method: it is asked for while an epoch that began before waits for room.
#[test]
fn a_savepoint_is_of_no_epoch_that_began_before_it() {
    let world = World::default();
    world.full.store(true, SeqCst);
    let config = world.config(1, DriverKind::Threads);
    let running = job(&world, u64::MAX, &Arc::default(), |_| {}).start(&config).unwrap();
    while world.refused.load(SeqCst) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let epoch = thread::scope(|scope| {
        let asked = scope.spawn(|| running.savepoint(Path::new("unused")).unwrap());
        // It is asked again in a second; should that come first, the next epoch is right nevertheless.
        thread::sleep(Duration::from_millis(100));
        world.full.store(false, SeqCst);
        asked.join().unwrap()
    });
    assert!(epoch >= Epoch::new(2), "{epoch}");
    running.suspend();
    running.wait().unwrap();
}

/// Goal: as long as an older epoch may be resumed, sources keep what it needs.
#[test]
fn sources_are_told_the_oldest_epoch_that_is_kept() {
    let (dir, world) = (tempfile::tempdir().unwrap(), World::default());
    let mut config = world.config(1, DriverKind::Threads);
    let rules = config.state.as_ref().unwrap().checkpoints;
    let keeps = StoreOptions { retained: 3, ..StoreOptions::default() };
    let state = StateDirectory::new(dir.path()).store(keeps);
    let state = StateConfig { checkpoints: rules, ..StateConfig::new(state.backend()) };
    config.state = Some(state);
    let running = job(&world, u64::MAX, &Arc::default(), |_| {}).start(&config).unwrap();
    while running.checkpoints().completed < 5 {
        thread::sleep(Duration::from_millis(1));
    }
    running.suspend();
    running.wait().unwrap();
    // Of the last one nothing can have changed while it was told.
    let (newest, oldest) = *world.told.lock().unwrap().last().unwrap();
    assert!(newest >= Epoch::new(6), "{newest}");
    assert_eq!(oldest.number(), newest.number() - 2);
}

/// A real directory: the job fails, is suspended, goes on, and is started from a savepoint.
#[test]
fn a_state_directory_outlives_failures_and_lives() {
    let dir = tempfile::tempdir().unwrap();
    let (table, reached) = (Table::default(), Arc::new(AtomicU64::new(0)));
    let world = World { table, ..World::default() };
    let savepoint = dir.path().join("savepoint");
    let (panics, due) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(777)));
    let state = || StateDirectory::new(dir.path().join("job"));
    for (life, shards) in [2, 1, 3].into_iter().enumerate() {
        let (count, due) = (Arc::clone(&panics), Arc::clone(&due));
        let fail = move |n: u64| {
            if life < 2 && n >= due.load(SeqCst) {
                due.store(n + 900, SeqCst);
                count.fetch_add(1, SeqCst);
                panic!("as the test wants it");
            }
        };
        let running =
            job(&world, u64::MAX, &reached, fail).start(&world.config_in(state(), shards)).unwrap();
        while reached.load(SeqCst) < 4_000 * (life as u64 + 1) + 50 {
            thread::sleep(Duration::from_millis(1));
        }
        if life == 2 {
            running.savepoint(&savepoint).unwrap();
        }
        running.suspend();
        // It may have failed once more instead: what is stored is as good.
        let ended = running.wait();
        assert!(matches!(ended, Ok(_) | Err(JobError::Panicked { .. })), "{ended:?}");
    }
    assert!(panics.load(SeqCst) >= 4);
    let end = (reached.load(SeqCst) / 100 + 20) * 100;
    job(&world, end, &reached, |_| {}).run_with(&world.config_in(state(), 1)).unwrap();
    assert_eq!(world.table.rows(), expected(end));

    // What came after the savepoint is worked out again, elsewhere.
    let again = World::default();
    let elsewhere = StateDirectory::new(dir.path().join("elsewhere")).from_savepoint(&savepoint);
    job(&again, end, &reached, |_| {}).run_with(&world.config_in(elsewhere, 3)).unwrap();
    let rows = again.table.rows();
    let expected: BTreeSet<_> = expected(end).into_iter().collect();
    let wrong: Vec<_> = rows.iter().filter(|row| !expected.contains(*row)).collect();
    assert!(rows.len() >= 100 && wrong.is_empty(), "{} rows, wrong: {wrong:?}", rows.len());
}

#[test]
fn a_state_directory_has_one_job_at_a_time() {
    let (dir, world) = (tempfile::tempdir().unwrap(), World::default());
    let config = || world.config_in(StateDirectory::new(dir.path()), 1);
    let endless = job(&world, u64::MAX, &Arc::default(), |_| {});
    let first = endless.start(&config()).unwrap();
    let error = endless.run_with(&config()).unwrap_err();
    assert!(error.to_string().contains("is in use by this process"), "{error}");
    first.suspend();
    first.wait().unwrap();
}

/// Goal: what is stored in a directory that is nobody's any more is told to nobody. A job that is started
/// again by itself does not begin anew in an empty one.
#[test]
fn a_state_directory_that_is_removed_or_replaced_ends_the_job() {
    type Harm = fn(&Path);
    let harms: [Harm; 3] = [
        |dir| std::fs::remove_dir_all(dir).unwrap(),
        |dir| std::fs::rename(dir, dir.with_extension("moved")).unwrap(),
        |dir| {
            std::fs::remove_dir_all(dir.join("journal")).unwrap();
            std::fs::create_dir(dir.join("journal")).unwrap();
        },
    ];
    for harm in harms {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("job");
        let world = World::default();
        let config = world.config_in(StateDirectory::new(&dir), 1);
        let running = job(&world, u64::MAX, &Arc::default(), |_| {}).start(&config).unwrap();
        while running.checkpoints().completed < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        harm(&dir);
        let error = running.wait().unwrap_err();
        assert!(matches!(error, JobError::Storage(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("must not be removed, moved or restored"), "{text}");
    }
}

/// Goal: errors that stay end the job at once, however patient the strategy; others do not.
#[test]
fn what_another_attempt_cannot_mend_is_not_tried_again() {
    for (lasting, attempts) in [(true, 1), (false, 3)] {
        let (world, opened) = (World::default(), Arc::new(AtomicU64::new(0)));
        let delay = Duration::from_millis(1);
        let restart = RestartStrategy::FixedDelay { delay, restarts_max: 2 };
        let config = RuntimeConfig { restart, ..world.config(1, DriverKind::Threads) };
        let failing = Failing { opened: Arc::clone(&opened), lasting };
        let sink = world.table.sink();
        let job = Job::new("recovery", move |flow| {
            let stream = flow.source(failing.clone(), Watermarks::monotonous());
            stream.map(|()| unreachable!("nothing is read")).sink(sink.clone());
        });
        let error = job.run_with(&config).unwrap_err();
        assert!(matches!(error, JobError::Connector(_)), "{error}");
        assert_eq!(opened.load(SeqCst), attempts, "lasting: {lasting}");
    }
}

/// A source that opens, and then fails.
#[derive(Clone)]
struct Failing {
    opened: Arc<AtomicU64>,
    lasting: bool,
}

impl SourceSpec for Failing {
    type Item = ();
    type Partition = Self;

    fn describe(&self) -> String {
        "failing".into()
    }

    fn open(&self, _: &PartitionId, _: &OpenContext) -> Result<Self, ConnectorError> {
        self.opened.fetch_add(1, SeqCst);
        Ok(self.clone())
    }
}

impl Source for Failing {
    type Item = ();

    fn poll(
        &mut self,
        _: Timestamp,
        _: usize,
        _: &mut impl Emit<()>,
    ) -> Result<SourceStatus, ConnectorError> {
        let error = ConnectorError::new("failing", "as the test wants it");
        Err(if self.lasting { error.lasting() } else { error })
    }

    fn stop(&mut self) {}
}

/// Holds numbers back until a dozen more have come. How many it has passed on is in a union list: the first
/// instance goes on with the sum of all.
struct Holds {
    held: OperatorListState<u64>,
    passed: OperatorListState<u64>,
    first: bool,
    /// What the instances found passed on when they opened, and how many they have passed on.
    found: Arc<Mutex<Vec<u64>>>,
    count: Arc<AtomicU64>,
}

impl Holds {
    fn pass(&mut self, n: u64, out: &mut impl Collector<u64>) {
        let passed: u64 = self.passed.take().into_iter().sum();
        self.passed.push(passed + 1).unwrap();
        self.count.fetch_add(1, SeqCst);
        out.record(Timestamp::from(n as i64), n);
    }
}

impl Process<NoKey, u64> for Holds {
    type Out = u64;

    fn open(&mut self) {
        let passed: u64 = self.passed.take().into_iter().sum();
        self.found.lock().unwrap().push(passed);
        if self.first {
            self.passed.push(passed).unwrap();
        }
    }

    fn record(&mut self, n: u64, _: &mut Context<'_, NoKey>, out: &mut impl Collector<u64>) {
        self.held.push(n).unwrap();
        if self.held.len() > 12 {
            let n = self.held.pop_front().unwrap();
            self.pass(n, out);
        }
    }

    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<u64>) {
        if cx.watermark() == Timestamp::MAX {
            self.held.take().into_iter().for_each(|n| self.pass(n, out));
        }
    }
}

/// A real directory: what an operator holds in lists outlives failures, lives on other numbers of shards, and a
/// savepoint.
#[test]
fn lists_of_operators_outlive_failures_and_lives() {
    let dir = tempfile::tempdir().unwrap();
    let (world, again) = (World::default(), World::default());
    let (reached, panics) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (due, passed) = (Arc::new(AtomicU64::new(777)), Arc::new(AtomicU64::new(0)));
    // It fails now and then below `until`.
    let job = |world: &World, until: u64, end: u64| {
        let (sink, found) = (world.table.sink(), Arc::new(Mutex::new(Vec::new())));
        let counter = Counter { end, reached: Arc::clone(&reached), told: Arc::default() };
        let (count, due, seen) = (Arc::clone(&panics), Arc::clone(&due), Arc::clone(&found));
        let passed = Arc::clone(&passed);
        let job = Job::new("lists", move |flow| {
            let (count, due) = (Arc::clone(&count), Arc::clone(&due));
            let (found, passed) = (Arc::clone(&found), Arc::clone(&passed));
            flow.source(counter.clone(), Watermarks::monotonous().timestamps(|&n: &u64| n as i64))
                .inspect(move |_, &n| {
                    if (due.load(SeqCst)..until).contains(&n) {
                        due.store(n + 900, SeqCst);
                        count.fetch_add(1, SeqCst);
                        panic!("as the test wants it");
                    }
                })
                // On every shard from here on.
                .key_by(|n| n % 10)
                .deduplicate(|n| *n)
                .values()
                .process(|states| Holds {
                    held: states.list("held"),
                    passed: states.union_list("passed"),
                    first: states.instance() == 0,
                    found,
                    count: Arc::clone(&passed),
                })
                .sink(sink.clone());
        });
        (job, seen)
    };
    let rows = |world: &World| -> BTreeSet<u64> {
        let rows = world.table.rows();
        let numbers: BTreeSet<u64> =
            rows.iter().map(|row| row.split(' ').next_back().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers.len(), rows.len(), "passed on twice");
        numbers
    };
    let (state, savepoint) = (dir.path().join("job"), dir.path().join("savepoint"));
    let mut saved = (BTreeSet::new(), BTreeSet::new());
    for (life, shards) in [2, 1, 3].into_iter().enumerate() {
        let config = world.config_in(StateDirectory::new(&state), shards);
        let mark = 4_000 * (life as u64 + 1) + 50;
        let running = job(&world, mark, u64::MAX).0.start(&config).unwrap();
        while reached.load(SeqCst) < mark {
            thread::sleep(Duration::from_millis(1));
        }
        if life == 2 {
            saved.0 = rows(&world);
            running.savepoint(&savepoint).unwrap();
        }
        running.suspend();
        let ended = running.wait();
        assert!(matches!(ended, Ok(_) | Err(JobError::Panicked { .. })), "{ended:?}");
    }
    assert!(panics.load(SeqCst) >= 4);
    saved.1 = rows(&world);
    let config = world.config_in(StateDirectory::new(&state), 2);
    let end = reached.load(SeqCst) + 1_000;
    job(&world, 0, end).0.run_with(&config).unwrap();
    assert!(rows(&world).into_iter().eq(0..end));

    let elsewhere = StateDirectory::new(dir.path().join("elsewhere")).from_savepoint(&savepoint);
    let (job, found) = job(&again, 0, end);
    passed.store(0, SeqCst);
    job.run_with(&again.config_in(elsewhere, 8)).unwrap();
    // Its rows are what the savepoint's sink had still to commit, and what was passed on since.
    let rows = rows(&again);
    assert!((0..end).all(|n| rows.contains(&n) || saved.1.contains(&n)), "lost");
    let found = std::mem::take(&mut *found.lock().unwrap());
    assert_eq!(found, vec![found[0]; 8]);
    assert!((saved.0.len()..=saved.1.len()).contains(&(found[0] as usize)), "{found:?}");
    assert_eq!(passed.load(SeqCst), end - found[0], "every number is passed on once");
}
