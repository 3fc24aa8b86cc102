//! The input of a job ends, and goes on in the next run: no row takes the place of one that knew more.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use thalweg_flow::*;

type Counted = Collected<Windowed<u32, u64>>;
type Rows = Vec<(u32, i64, u64)>;

const KEYS: u32 = 7;

/// Runs the job over the first `length` records of each partition, from what the store has. As under a driver, an epoch
/// begins where one is wanted or awaited. Returns the rows, and how many records were late.
fn run_over(store: &Store, at_end: AtEnd, shards: usize, length: usize) -> (Rows, i64) {
    let out = Counted::new();
    let sink = out.sink();
    // Ten records a second of each key, in two partitions that differ by what they have.
    let of = |part: i64| {
        (0..length as i64).flat_map(move |n| {
            (0..KEYS).map(move |key| Act::Record((key, n * 100 + part, n as u64)))
        })
    };
    let source = Scripted::new([of(0).collect::<Vec<_>>(), of(1).collect()]);
    let job = move |flow: &Flow| {
        flow.at_end(at_end);
        let keyed = flow.source_as("in", source.clone(), wm(0)).key_by(|record: &Rec| record.0);
        let windows = keyed.window(Tumbling::of(ms(1_000))).aggregate(Count).uid("windows");
        windows.sink(sink.clone());
    };
    let mut shards = build_from(store, shards, &job);
    for _ in 0..100 {
        let mut steps = Vec::new();
        for _ in 0..200 {
            steps = shards.iter_mut().map(|shard| shard.step(at(0)).unwrap()).collect();
        }
        if steps.iter().all(|step| *step == Step::Done) {
            let rows = out.take().into_iter().map(|w| (w.key, w.start.as_millis(), w.value));
            let mut rows: Rows = rows.collect();
            rows.sort_unstable();
            return (rows, metric(&shards, "numLateRecordsDropped"));
        }
        assert!(
            shards.iter().any(Shard::wants_epoch) || shards.iter().any(Shard::awaits_epoch),
            "nobody asks for an epoch: {steps:?}"
        );
        epoch(&mut shards, store, at(0));
    }
    panic!("it comes to no end");
}

/// A row for each key: of the window that begins there, with this many records.
fn rows(windows: &[(i64, u64)]) -> Rows {
    (0..KEYS)
        .flat_map(|key| windows.iter().map(move |&(start, count)| (key, start, count)))
        .collect()
}

#[test]
fn windows_that_go_on_give_rows_that_know_more() {
    for shards in [1, 2, 3] {
        let store = Store::default();
        let run = |length| run_over(&store, AtEnd::GoOn, shards, length);
        assert_eq!(run(4), (rows(&[(0, 8)]), 0));
        assert_eq!(run(6), (rows(&[(0, 12)]), 0));
        assert_eq!(run(23), (rows(&[(0, 20), (1_000, 20), (2_000, 6)]), 0), "{shards} shards");
        assert_eq!(
            run(23),
            (rows(&[(2_000, 6)]), 0),
            "only the row of the open window comes again"
        );
    }
}

#[test]
fn windows_that_are_suspended_give_one_row_each_when_they_are_over() {
    for shards in [1, 2, 3] {
        let store = Store::default();
        let run = |length| run_over(&store, AtEnd::Suspend, shards, length);
        assert_eq!(run(4), (vec![], 0));
        assert_eq!(run(6), (vec![], 0));
        assert_eq!(run(23), (rows(&[(0, 20), (1_000, 20)]), 0), "{shards} shards");
    }
}

#[test]
fn what_comes_for_a_window_that_has_finished_is_late() {
    for shards in [1, 2] {
        let store = Store::default();
        let run = |length| run_over(&store, AtEnd::Finish, shards, length);
        assert_eq!(run(4), (rows(&[(0, 8)]), 0));
        assert_eq!(run(6), (vec![], 4 * i64::from(KEYS)), "{shards} shards");
        let (found, late) = run(23);
        assert_eq!(found, rows(&[(1_000, 20), (2_000, 6)]));
        assert_eq!(late, 8 * i64::from(KEYS));
    }
}
