#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! A map of 100,000 entries under one key, on a shard and the store that a job really has.

#[allow(dead_code, reason = "only its table is used here")]
#[path = "../../flow/tests/common/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::{Collector, Epoch, StateError, StateReader, Timestamp};
use thalweg_store::{EpochRecord, Folding, Resume, Store, StoreOptions};
use thalweg_testing::Feed;
use world::Table;

const ENTRIES: u64 = 100_000;
/// One entry that changes may cost a checkpoint this much, with all that every checkpoint holds.
const CHANGE_BYTES_MAX: usize = 256;

/// What is to be done with an entry of the map.
#[derive(Clone, Copy)]
enum Command {
    Put(u64, u64),
    Tell(u64),
}

/// Keeps one large map, and tells of it.
struct Keeps(MapState<u64, u64, u64>);

impl Process<u64, Command> for Keeps {
    type Out = String;

    fn record(
        &mut self,
        command: Command,
        cx: &mut Context<'_, u64>,
        out: &mut impl Collector<String>,
    ) {
        match command {
            Command::Put(entry, value) => self.0.put(cx, entry, value),
            Command::Tell(entry) => {
                let (value, len) = (self.0.get(cx, &entry), self.0.len(cx));
                out.record(cx.time(), format!("{entry} {value:?} of {len}"));
            }
        }
    }
}

/// A job's life, with its store.
struct Life {
    store: Store,
    shard: Shard,
    commands: Feed<Command>,
    table: Table,
    now: Now,
}

impl Life {
    fn begin(dir: &Path, tuning: Tuning) -> Self {
        let options = StoreOptions { map_bytes: 1 << 28, ..StoreOptions::default() };
        let store = Store::open(dir, options, Resume::Newest).unwrap();
        let reader = Mutex::new(Some(store.reader()));
        let reader = move || -> Result<Box<dyn StateReader>, StateError> {
            Ok(reader.lock().unwrap().take().unwrap())
        };
        let storage = Storage {
            reader: Arc::new(reader),
            journals: None,
            lineage: Default::default(),
            allowed: Default::default(),
        };
        let cx =
            BuildContext { tuning, storage: Some(storage), ..BuildContext::single("large map") };
        let (commands, table) = (Feed::default(), Table::default());
        let (from, sink) = (commands.clone(), table.sink());
        let job = move |flow: &Flow| {
            flow.source_as("commands", from.clone(), Watermarks::monotonous())
                .key_by(|_| 7_u64)
                .process(|states| Keeps(states.map("map")))
                .uid("keeps")
                .sink_as("told", sink.clone());
        };
        let shard = Shard::build(&job, &cx).unwrap();
        Self { store, shard, commands, table, now: Now::default() }
    }

    fn step(&mut self) {
        self.now.steady += Duration::from_millis(1);
        self.shard.step(self.now).unwrap();
    }

    /// Lets the job do all of this, with the checkpoints that it asks for.
    fn run(&mut self, commands: impl IntoIterator<Item = Command>) {
        self.commands.extend(commands);
        while !self.commands.is_empty() {
            self.step();
            if self.shard.wants_epoch() {
                self.checkpoint();
            }
        }
        self.step();
    }

    /// Takes a checkpoint and makes it readable; the bytes of its block.
    fn checkpoint(&mut self) -> usize {
        let epoch = self.store.next();
        self.shard.begin(epoch);
        let snapshot = loop {
            self.step();
            if let Some(snapshot) = self.shard.snapshot().unwrap() {
                break snapshot;
            }
        };
        let record = EpochRecord {
            epoch,
            job: "large map".into(),
            key_groups: 128,
            shards: 1,
            at: Timestamp::from_millis(0),
            states: snapshot.states.to_vec(),
            counts: BTreeMap::new(),
            oldest: Epoch::NONE,
            directory: Default::default(),
        };
        self.store.commit(record, &[&snapshot.changes]).unwrap();
        while matches!(self.store.fold(true).unwrap(), Folding::More) {}
        self.shard.committed(epoch, self.store.oldest()).unwrap();
        self.step();
        snapshot.changes.len()
    }

    /// What the job tells of these entries.
    fn told(&mut self, entries: &[u64]) -> Vec<String> {
        let before = self.table.rows();
        self.run(entries.iter().map(|&entry| Command::Tell(entry)));
        self.checkpoint();
        let mut told = self.table.rows();
        for row in before {
            told.remove(told.iter().position(|it| *it == row).unwrap());
        }
        // Without their event time.
        told.iter().map(|row| row.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn over_limit_bytes(&self) -> i64 {
        let is = |metric: &&Metric| metric.name == "stateBytesOverLimit";
        self.shard.metrics().iter().find(is).unwrap().value()
    }
}

/// Goal: a checkpoint holds what has changed, not the map; and a restart finds both the change and all other entries.
#[test]
fn one_entry_of_a_large_map_costs_a_checkpoint_itself_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Tuning::default());
    life.run((0..ENTRIES).map(|entry| Command::Put(entry, entry * 3)));
    let all = life.checkpoint();
    assert!(all > ENTRIES as usize * 16, "all of it was new: {all} bytes");
    life.run([Command::Put(77_777, 5)]);
    let one = life.checkpoint();
    assert!(one <= CHANGE_BYTES_MAX, "{one} bytes for an entry that changes");
    let none = life.checkpoint();
    assert!(none < one, "{none} bytes for nothing, {one} for an entry");
    drop(life);

    let mut life = Life::begin(dir.path(), Tuning::default());
    let told = life.told(&[0, 77_776, 77_777, 99_999, 100_000]);
    let expected = [
        "0 Some(0) of 100000",
        "100000 None of 100000",
        "77776 Some(233328) of 100000",
        "77777 Some(5) of 100000",
        "99999 Some(299997) of 100000",
    ];
    assert_eq!(told, expected.map(|row| format!("{row:?}")));
    life.run([Command::Put(4, 4)]);
    let one = life.checkpoint();
    assert!(one <= CHANGE_BYTES_MAX, "{one} bytes for an entry that changes after a restart");
}

/// Goal: a large map leaves memory, and its entries come back one by one.
#[test]
fn a_large_map_leaves_memory_and_comes_back() {
    const PENDING_BYTES: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning {
        state_memory_bytes_max: 0,
        state_pending_bytes_max: PENDING_BYTES,
        ..Tuning::default()
    };
    // Where memory may hold all of it, it does.
    let mut life = Life::begin(&dir.path().join("kept"), Tuning::default());
    life.run((0..ENTRIES).map(|entry| Command::Put(entry, entry * 3)));
    assert_eq!(life.over_limit_bytes(), 0);

    let mut life = Life::begin(&dir.path().join("dropped"), tuning);
    life.run((0..ENTRIES).map(|entry| Command::Put(entry, entry * 3)));
    for _ in 0..3 {
        life.checkpoint();
    }
    assert_eq!(life.over_limit_bytes(), 0, "all but what there is to know of the key has left");
    life.run([Command::Put(77_777, 5)]);
    let one = life.checkpoint();
    assert!(one <= CHANGE_BYTES_MAX, "{one} bytes for an entry that was in the store alone");
    let told = life.told(&[3, 77_777, 100_000]);
    let expected = ["100000 None of 100000", "3 Some(9) of 100000", "77777 Some(5) of 100000"];
    assert_eq!(told, expected.map(|row| format!("{row:?}")));
}
