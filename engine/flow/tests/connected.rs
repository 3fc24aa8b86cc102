#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Operators with two inputs, in jobs that crash anywhere and go on, against what a list says. Inputs are keyed or
//! not, held back, from one source, or on one shard alone.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::{Collector, Mark, Timestamp};

/// Key, time, number.
type Reading = (u32, i64, u64);

/// Partitions of readings that are up to 20 ms out of order, no two of a key at one time.
fn readings(random: &mut Random) -> Vec<Vec<Reading>> {
    let partitions = 1 + random.below(3);
    (0..partitions)
        .map(|partition| {
            let mut time = 0;
            let count = [0, 1, 150][random.below(3)];
            (0..count)
                .map(|n| {
                    time += 1 + random.below(5) as i64;
                    let at = (time - random.below(20) as i64).max(0);
                    (random.below(9) as u32, at * 8 + partition as i64, n)
                })
                .collect()
        })
        .collect()
}

fn source(flow: &Flow, name: &str, readings: &[Vec<Reading>]) -> BoxedStream<Reading> {
    let watermarks = Watermarks::bounded_out_of_orderness(Duration::from_millis(20 * 8))
        .timestamps(|&(_, time, _): &Reading| time);
    flow.source_as(name, Collection::partitioned(readings.to_vec()), watermarks).boxed()
}

/// Runs the job through crashes to its end, and returns its rows.
fn rows(job: &dyn Fn(&Flow), table: &Table, random: &mut Random) -> Vec<String> {
    Crashes::default().until_done(random, &Store::default(), job);
    table.rows()
}

fn sorted(rows: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort();
    rows
}

/// Keeps every record as it is.
struct Pass;

impl Process<u32, Reading> for Pass {
    type Out = Reading;

    fn record(
        &mut self,
        reading: Reading,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Reading>,
    ) {
        out.record(cx.time(), reading);
    }
}

/// Puts on each reading the number of the latest version of its key that is not later: a temporal join.
struct Versioned {
    readings: MapState<u32, i64, u64>,
    versions: MapState<u32, i64, u64>,
    holds: bool,
}

impl CoProcess<u32, Reading, Reading> for Versioned {
    type Out = (u32, u64, Option<u64>);

    fn left(
        &mut self,
        (_, time, number): Reading,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<Self::Out>,
    ) {
        // Several of one time are one here: the largest.
        let known = self.readings.get(cx, &time).unwrap_or_default();
        self.readings.put(cx, time, known.max(number));
        cx.event_timer(time.into());
    }

    fn right(
        &mut self,
        (_, time, number): Reading,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<Self::Out>,
    ) {
        let known = self.versions.get(cx, &time).unwrap_or_default();
        self.versions.put(cx, time, known.max(number));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Self::Out>) {
        let time = cx.time().as_millis();
        let reading = self.readings.get(cx, &time).unwrap();
        let version = self.versions.with(cx, |versions| {
            let until = versions.filter(|&(at, _)| *at <= time);
            until.max_by_key(|&(at, _)| *at).map(|(_, number)| *number)
        });
        out.record(cx.time(), (*cx.key(), reading, version));
        self.readings.remove(cx, &time);
    }

    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        (self.holds && inputs.right.watermark < inputs.left.watermark).then_some(Input::Left)
    }
}

fn versioned(left: &[Vec<Reading>], right: &[Vec<Reading>]) -> Vec<String> {
    let latest = |all: &[Vec<Reading>]| {
        let mut of = BTreeMap::new();
        for &(key, time, number) in all.iter().flatten() {
            let known = of.entry((key, time)).or_insert(number);
            *known = number.max(*known);
        }
        of
    };
    let versions = latest(right);
    sorted(latest(left).iter().map(|(&(key, time), &number)| {
        let version = versions.range((key, i64::MIN)..=(key, time)).next_back();
        format!("{time} {:?}", (key, number, version.map(|(_, number)| *number)))
    }))
}

#[test]
fn a_temporal_join_is_that_of_lists_whether_it_holds_or_not() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (left, right) = (readings(&mut random), readings(&mut random));
        let expected = versioned(&left, &right);
        let table = Table::default();
        let sink = table.sink();
        let (holds, placed) = (seed % 2 == 0, seed % 3 == 0);
        let job = move |flow: &Flow| {
            let readings = source(flow, "left", &left).key_by(|&(key, _, _)| key);
            let versions = source(flow, "right", &right).key_by(|&(key, _, _)| key);
            let make = |states: &mut States<'_, u32>| Versioned {
                readings: states.map("readings"),
                versions: states.map("versions"),
                holds,
            };
            let joined = if placed {
                let readings = readings.process_keyed(|_| Pass).boxed();
                readings.connect(versions.process_keyed(|_| Pass)).process(make).boxed()
            } else {
                readings.connect(versions).process(make).boxed()
            };
            joined.uid("join").sink_as("sink", sink.clone());
        };
        assert_eq!(rows(&job, &table, &mut random), expected, "seed {seed}");
    }
}

#[test]
fn both_inputs_may_come_from_one_source_with_a_key_of_one_type() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let all = readings(&mut random);
        let expected = versioned(&all, &all);
        let table = Table::default();
        let sink = table.sink();
        let job = move |flow: &Flow| {
            let [readings, versions] = source(flow, "source", &all).split();
            readings
                .key_by(|&(key, _, _)| key)
                .connect(versions.key_by(|&(key, _, _)| key))
                .process(|states| Versioned {
                    readings: states.map("readings"),
                    versions: states.map("versions"),
                    holds: seed % 2 == 0,
                })
                .uid("join")
                .sink_as("sink", sink.clone());
        };
        assert_eq!(rows(&job, &table, &mut random), expected, "seed {seed}");
    }
}

/// Passes all records on in order of their times.
struct Sorted {
    waiting: OperatorListState<(i64, String)>,
}

impl Sorted {
    fn wait(&mut self, cx: &mut Context<'_, NoKey>, row: String) {
        assert!(self.waiting.push((cx.time().as_millis(), row)).is_ok());
    }
}

impl CoProcess<NoKey, Reading, String> for Sorted {
    type Out = String;

    fn left(
        &mut self,
        reading: Reading,
        cx: &mut Context<'_, NoKey>,
        _: &mut impl Collector<String>,
    ) {
        self.wait(cx, format!("left {reading:?}"));
    }

    fn right(&mut self, row: String, cx: &mut Context<'_, NoKey>, _: &mut impl Collector<String>) {
        self.wait(cx, row);
    }

    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<String>) {
        let due = |row: &(i64, String)| row.0 <= cx.watermark().as_millis();
        let mut ready: Vec<_> =
            self.waiting.with(|all| all.filter(|&row| due(row)).cloned().collect());
        self.waiting.retain(|row| !due(row));
        ready.sort();
        ready.into_iter().for_each(|(time, row)| out.record(time.into(), row));
    }
}

#[test]
fn streams_of_different_types_meet_on_each_shard_also_where_one_of_them_is_not() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let (left, right) = (readings(&mut random), readings(&mut random));
        let lefts = left.iter().flatten().map(|r| format!("{} {:?}", r.1, format!("left {r:?}")));
        let rights =
            right.iter().flatten().map(|r| format!("{} {:?}", r.1, format!("right {r:?}")));
        let expected = sorted(lefts.chain(rights));
        let table = Table::default();
        let sink = table.sink();
        let global = seed % 2 == 0;
        let job = move |flow: &Flow| {
            let rows = source(flow, "right", &right).map(|reading| format!("right {reading:?}"));
            // On one shard alone, or wherever its partitions are.
            let rows = if global { rows.global().boxed() } else { rows.boxed() };
            source(flow, "left", &left)
                .connect(rows)
                .process(|states| Sorted { waiting: states.list("waiting") })
                .uid("sorted")
                .sink_as("sink", sink.clone());
        };
        assert_eq!(rows(&job, &table, &mut random), expected, "seed {seed}");
    }
}

/// The sum of all rules for each reading of a key, once all rules are there.
#[derive(Default)]
struct Ruled {
    rules: u64,
    ended: bool,
    early: Vec<(Timestamp, u64)>,
    seen_early: Arc<AtomicUsize>,
    holds: bool,
}

impl TwoInputs<Keyed<u32, Reading>, u64> for Ruled {
    type Out = (u64, u64);

    fn left(
        &mut self,
        time: Timestamp,
        keyed: Keyed<u32, Reading>,
        out: &mut impl Collector<(u64, u64)>,
    ) {
        let number = keyed.value.2;
        if self.ended {
            return out.record(time, (number, self.rules));
        }
        self.seen_early.fetch_add(1, Ordering::Relaxed);
        self.early.push((time, number));
    }

    fn right(&mut self, _: Timestamp, rule: u64, _: &mut impl Collector<(u64, u64)>) {
        self.rules += rule;
    }

    fn input_mark(&mut self, from: Input, mark: Mark, out: &mut impl Collector<(u64, u64)>) {
        if (from, mark) == (Input::Right, Mark::End) {
            self.ended = true;
            let early = self.early.drain(..);
            early.for_each(|(time, number)| out.record(time, (number, self.rules)));
        }
    }

    fn holds(&self, inputs: &Inputs) -> Option<Input> {
        (self.holds && !inputs.right.has_ended).then_some(Input::Left)
    }
}

#[test]
fn readings_wait_for_rules_that_every_shard_has_and_nothing_is_early_where_they_are_held() {
    let mut early_without = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let all = readings(&mut random);
        let rules: Vec<u64> = (0..random.below(400) as u64).collect();
        let sum = rules.iter().sum::<u64>();
        let mut expected: Vec<_> = all.iter().flatten().map(|r| (r.2, sum)).collect();
        expected.sort_unstable();
        for (shards, holds) in [1, 2, 3, 8].into_iter().zip([true, false].into_iter().cycle()) {
            let (out, seen_early) = (Collected::new(), Arc::<AtomicUsize>::default());
            let (sink, early) = (out.sink(), Arc::clone(&seen_early));
            let (all, rules) = (all.clone(), rules.clone());
            let job = move |flow: &Flow| {
                let rules = flow.source(Collection::new(rules.clone()), Watermarks::monotonous());
                let ruled = Ruled { seen_early: Arc::clone(&early), holds, ..Ruled::default() };
                source(flow, "readings", &all)
                    .key_by(|&(key, _, _)| key)
                    .connect_broadcast(rules)
                    .then("Ruled", ruled)
                    .sink(sink.clone());
            };
            let tuning = Tuning { step_records_max: 20, ..Tuning::default() };
            let shards = run(shards, tuning, &job);
            let mut rows = out.take();
            rows.sort_unstable();
            assert_eq!(rows, expected, "seed {seed}");
            let early = seen_early.load(Ordering::Relaxed);
            if holds {
                assert_eq!(early > 0, metric(&shards, "numHoldsReleased") > 0, "seed {seed}");
            } else {
                early_without += early;
            }
        }
    }
    assert!(early_without > 1_000, "nothing was early without holding: {early_without}");
}

/// Holds the left input back for ever.
struct Never(u64);

impl CoProcess<NoKey, Reading, Reading> for Never {
    type Out = u64;

    fn left(
        &mut self,
        reading: Reading,
        cx: &mut Context<'_, NoKey>,
        out: &mut impl Collector<u64>,
    ) {
        out.record(cx.time(), reading.2);
    }

    fn right(&mut self, _: Reading, _: &mut Context<'_, NoKey>, _: &mut impl Collector<u64>) {
        self.0 += 1;
    }

    fn holds(&self, _: &Inputs) -> Option<Input> {
        Some(Input::Left)
    }
}

#[test]
fn a_hold_ends_where_a_queue_is_full_since_both_inputs_go_back_to_one_source() {
    for shards in [1, 2, 3, 8] {
        let all: Vec<Vec<Reading>> = (0..2)
            .map(|p| (0..20_000).map(|n| (n as u32, n * 2 + p, n as u64)).collect())
            .collect();
        let out = Collected::new();
        let sink = out.sink();
        let count = all.iter().flatten().count();
        let job = move |flow: &Flow| {
            let [left, right] = source(flow, "source", &all).split();
            let (left, right) = (left.rebalance(), right.rebalance());
            left.connect(right).process(|_| Never(0)).sink(sink.clone());
        };
        let tuning = Tuning { batch_records: 8, lane_batches: 2, ..Tuning::default() };
        let shards = run(shards, tuning, &job);
        assert_eq!(out.take().len(), count);
        assert!(metric(&shards, "numHoldsReleased") > 0);
    }
}

#[test]
fn an_input_that_is_silent_holds_nobody_back() {
    let (out, gone_idle) = (Collected::new(), Duration::from_secs(1));
    let sink = out.sink();
    let job = move |flow: &Flow| {
        let idle = Watermarks::monotonous().idle_after(gone_idle);
        let silent = flow.source(Scripted::without_end([vec![]]), idle);
        source(flow, "left", &[vec![(1, 1, 7)]])
            .connect(silent)
            .process(|_| Never(0))
            .sink(sink.clone());
    };
    let mut shard = build(1, Tuning::default(), &job);
    for second in 0..5 {
        let now = Now { steady: Duration::from_secs(second), ..Now::default() };
        settle(&mut shard, now);
        assert_eq!(out.take(), if second == 1 { vec![7] } else { vec![] }, "second {second}");
    }
    assert_eq!(metric(&shard, "numHoldsReleased"), 1);
}
