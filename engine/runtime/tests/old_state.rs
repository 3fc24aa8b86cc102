#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! State that earlier releases wrote: a state directory and a savepoint, which a job of today opens and goes on from.
//!
//! `golden/0.1` was written by the commit `e3ffbcb`, the last one whose lists and maps were one value each. It holds
//! every kind of state as of [`WRITTEN`] numbers. `writes_state_for_later_releases` writes what a release leaves for
//! the next ones.

#[allow(dead_code, reason = "only its table is used here")]
#[path = "../../flow/tests/common/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::Collector;
use thalweg_runtime::*;
use thalweg_testing::{Act, Scripted};
use world::Table;

/// How many numbers had been processed when the fixture was written.
const WRITTEN: u64 = 200;
/// The job of today goes on to here.
const END: u64 = 400;

/// Every kind of keyed state, and timers.
struct Everything<F> {
    last: ValueState<String, (u64, f64)>,
    list: ListState<String, u64>,
    map: MapState<String, i32, String>,
    sum: ReducingState<String, u64, F>,
    count: AggregatingState<String, u64, Count>,
}

fn everything(states: &mut States<'_, String>) -> Everything<impl Fn(u64, u64) -> u64 + use<>> {
    Everything {
        last: states.value("last"),
        list: states.list("list"),
        map: states.map("map"),
        sum: states.reducing("sum", |a, b| a + b),
        count: states.aggregating("count", Count),
    }
}

impl<F: Fn(u64, u64) -> u64 + 'static> Process<String, u64> for Everything<F> {
    type Out = String;

    fn record(&mut self, n: u64, cx: &mut Context<'_, String>, out: &mut impl Collector<String>) {
        let last = self.last.get(cx);
        self.last.set(cx, (n, n as f64 / 2.0));
        self.list.push(cx, n);
        // Below zero and above, some again and again.
        let entry = (n % 23) as i32 - 11;
        let before = self.map.get(cx, &entry).unwrap_or_default();
        self.map.put(cx, entry, format!("{before}{n} "));
        if n.is_multiple_of(13) {
            self.map.remove(cx, &(entry - 1));
        }
        self.sum.add(cx, n);
        self.count.add(cx, n);
        cx.event_timer((n as i64 + 40).into());
        let (list, sum, count) = (self.list.get(cx), self.sum.get(cx), self.count.get(cx));
        let map: Vec<_> = (-12..12).filter_map(|entry| self.map.get(cx, &entry)).collect();
        let key = cx.key();
        out.record(cx.time(), format!("{key} {last:?} {list:?} {map:?} {sum:?} {count:?}"));
    }

    fn timer(&mut self, cx: &mut Context<'_, String>, out: &mut impl Collector<String>) {
        let due = cx.time().as_millis() as u64;
        self.list.retain(cx, |&n| n + 40 > due);
        out.record(cx.time(), format!("{} timer {:?}", cx.key(), self.list.get(cx)));
    }
}

/// Holds seven numbers back, and counts in a union list.
struct Holds {
    held: OperatorListState<u64>,
    passed: OperatorListState<u64>,
}

impl Process<NoKey, u64> for Holds {
    type Out = String;

    fn record(&mut self, n: u64, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<String>) {
        self.held.push(n).unwrap();
        if self.held.len() > 7 {
            let n = self.held.pop_front().unwrap();
            let passed: u64 = self.passed.take().into_iter().sum();
            self.passed.push(passed + 1).unwrap();
            out.record(cx.time(), format!("held {n} {passed}"));
        }
    }
}

/// Numbers up to this one.
fn numbers(end: u64) -> Vec<Act<u64>> {
    (0..end).map(Act::Record).collect()
}

/// `reached` is how many numbers the job has had.
fn job(table: &Table, numbers: Scripted<u64>, reached: &Arc<AtomicU64>) -> Job {
    let (sink, reached) = (table.sink(), Arc::clone(reached));
    Job::new("old state", move |flow| {
        let watermarks = Watermarks::monotonous().timestamps(|&n: &u64| n as i64);
        let reached = Arc::clone(&reached);
        let numbers = flow.source_as("numbers", numbers.clone(), watermarks);
        let count = move |_, &n: &u64| _ = reached.fetch_max(n + 1, SeqCst);
        let [process, windows, held] = numbers.inspect(count).split();
        process
            .key_by(|n| format!("key {}", n % 5))
            .process(everything)
            .uid("everything")
            .sink_as("everything sink", sink.clone());
        windows
            .key_by(|n| n % 3)
            .window(Tumbling::of(Duration::from_millis(150)))
            .aggregate(Sum::of(|&n: &u64| n))
            .uid("sums")
            .sink_as("sums sink", sink.clone());
        held.process(|states| Holds {
            held: states.list("held"),
            passed: states.union_list("passed"),
        })
        .uid("holds")
        .sink_as("holds sink", sink.clone());
    })
}

fn config(directory: StateDirectory, shards: usize) -> RuntimeConfig {
    let mut state = StateConfig::new(directory.backend());
    state.checkpoints.interval = Duration::from_millis(5);
    RuntimeConfig { shards, state: Some(state), ..RuntimeConfig::default() }
}

/// The rows of a job that was never interrupted, and those of its first part.
fn undisturbed(end: u64) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let (table, numbers) = (Table::default(), Scripted::new([numbers(end)]));
    job(&table, numbers, &Arc::default())
        .run_with(&config(StateDirectory::new(dir.path()), 1))
        .unwrap();
    table.rows().into_iter().collect()
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/0.1")
}

/// Writes a state directory and a savepoint of its last epoch to the directory that `THALWEG_GOLDEN` names.
#[test]
#[ignore = "writes a fixture"]
fn writes_state_for_later_releases() {
    let to = std::env::var_os("THALWEG_GOLDEN").unwrap();
    let to = Path::new(&to);
    let (table, reached) = (Table::default(), Arc::new(AtomicU64::new(0)));
    let numbers = Scripted::without_end([numbers(WRITTEN)]);
    let running =
        job(&table, numbers, &reached).start(&config(StateDirectory::new(to.join("directory")), 2));
    let running = running.unwrap();
    while reached.load(SeqCst) < WRITTEN || running.checkpoints().completed < 3 {
        thread::sleep(Duration::from_millis(1));
    }
    running.suspend_with_savepoint(&to.join("savepoint")).unwrap();
    running.wait().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Goal: a job of today goes on from what an earlier release wrote, on other numbers of shards, as if nothing had been.
#[test]
fn what_an_earlier_release_wrote_is_opened_and_goes_on() {
    let (first, all) = (undisturbed(WRITTEN), undisturbed(END));
    let golden = golden();
    for shards in [1, 2, 3] {
        for from_savepoint in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut directory = StateDirectory::new(dir.path());
            if from_savepoint {
                directory = directory.from_savepoint(golden.join("savepoint"));
            } else {
                copy(&golden.join("directory"), dir.path());
            }
            let (table, mut end) = (Table::default(), WRITTEN + 50);
            // Twice, so that what was written anew is read again.
            for _ in 0..2 {
                let (ends, reached) = (end == END, Arc::new(AtomicU64::new(0)));
                let acts = [numbers(end)];
                let numbers = if ends { Scripted::new(acts) } else { Scripted::without_end(acts) };
                let running =
                    job(&table, numbers, &reached).start(&config(directory, shards)).unwrap();
                while !ends && reached.load(SeqCst) < end {
                    thread::sleep(Duration::from_millis(1));
                }
                if !ends {
                    running.suspend();
                }
                running.wait().unwrap();
                (directory, end) = (StateDirectory::new(dir.path()), END);
            }
            let rows: BTreeSet<_> = table.rows().into_iter().collect();
            let kinds = |rows: &BTreeSet<String>| -> BTreeMap<bool, Vec<String>> {
                let mut kinds = BTreeMap::<_, Vec<_>>::new();
                for row in rows {
                    // At the end of a stream timers and windows fire that had more time in a longer one.
                    kinds.entry(all.contains(row)).or_default().push(row.clone());
                }
                kinds
            };
            assert_eq!(kinds(&rows).get(&false), None, "{shards} {from_savepoint}");
            let missing: Vec<_> = all.iter().filter(|row| !rows.contains(*row)).collect();
            let strange: Vec<_> = missing.iter().filter(|row| !first.contains(**row)).collect();
            assert!(strange.is_empty(), "{shards} {from_savepoint}: lost {strange:?}");
            assert!(rows.len() * 2 > all.len() - first.len(), "too few rows: {}", rows.len());
        }
    }
}
