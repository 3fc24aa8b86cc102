//! What one process function can have at once: states of keys, lists, spaces of timers, counters, and calls for no key.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use thalweg_flow::*;
use thalweg_kernel::{Collector, Timestamp};

use self::common::*;

/// Key, time.
type Record = (u32, i64);

fn records() -> Vec<Record> {
    let mut random = Random::new(5);
    (0..200).map(|n| (random.below(7) as u32, n * 3 + random.below(3) as i64)).collect()
}

/// Two parts, each with timers of its own. One says after ten milliseconds that a key has been silent, the other closes
/// every 25 ms what was counted of it. Both set timers for the same times of the same keys.
struct Both {
    last: ValueState<u32, i64>,
    count: ValueState<u32, u64>,
    closes: TimerSpace,
    /// Of all keys, on this shard.
    seen: OperatorListState<Record>,
    silences: Counter,
    waiting: Gauge,
}

impl Both {
    fn new(states: &mut States<'_, u32>) -> Self {
        Self {
            last: states.value("last"),
            count: states.value("count"),
            closes: states.timers("closes"),
            seen: states.operator().list("seen"),
            silences: states.counter("numSilences"),
            waiting: states.gauge("waiting"),
        }
    }
}

impl Process<u32, Record> for Both {
    type Out = String;

    fn record(
        &mut self,
        record: Record,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<String>,
    ) {
        assert_eq!(cx.fired(), None);
        if let Some(last) = self.last.get(cx) {
            cx.delete_event_timer(Timestamp::from(last + 10));
        }
        self.last.set(cx, record.1);
        self.count.update(cx, |count| *count += 1);
        cx.event_timer(cx.time().plus_ms(10));
        let close = record.1 / 25 * 25 + 25;
        cx.set_timer(self.closes, TimeDomain::EventTime, Timestamp::from(close));
        self.seen.push(record).unwrap();
        self.waiting.set(self.seen.len() as i64);
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<String>) {
        let fired = cx.fired().unwrap();
        assert_eq!(fired.domain, TimeDomain::EventTime);
        if fired.space == self.closes {
            let count = self.count.get(cx).unwrap_or_default();
            self.count.clear(cx);
            out.record(cx.time(), format!("{} had {count}", cx.key()));
        } else {
            self.silences.add(1);
            out.record(cx.time(), format!("{} is silent", cx.key()));
        }
    }

    /// Lets go what the watermark has passed, of all keys.
    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<String>) {
        assert_eq!(cx.time(), cx.watermark());
        let due = |record: &Record| Timestamp::from(record.1) <= cx.watermark();
        let passed = self.seen.with(|all| all.copied().filter(due).collect::<Vec<_>>());
        self.seen.retain(|record| !due(record));
        self.waiting.set(self.seen.len() as i64);
        for record in passed {
            out.record(Timestamp::from(record.1), format!("{record:?} has passed"));
        }
    }

    fn close(&mut self, _: &mut Context<'_, NoKey>, _: &mut impl Collector<String>) {
        assert!(self.seen.is_empty(), "the end comes before the last watermark");
    }
}

/// The rows of [`Both`], by two plain sets of timers.
fn expected() -> Vec<String> {
    let mut rows = Vec::new();
    let (mut silences, mut closes) = (BTreeSet::new(), BTreeSet::new());
    let (mut last, mut counts) = (BTreeMap::new(), BTreeMap::<u32, u64>::new());
    let mut row = |time, text: String| rows.push(format!("{} {text:?}", Timestamp::from(time)));
    let end = (u32::MAX, i64::MAX);
    for (key, time) in records().into_iter().chain([end]) {
        if (key, time) != end {
            if let Some(before) = last.insert(key, time) {
                silences.remove(&(before + 10, key));
            }
            silences.insert((time + 10, key));
            closes.insert((time / 25 * 25 + 25, key));
            *counts.entry(key).or_default() += 1;
            row(time, format!("{:?} has passed", (key, time)));
        }
        // The watermark follows the record.
        let is_due = |timers: &BTreeSet<(i64, u32)>| timers.first().is_some_and(|due| due.0 < time);
        while is_due(&silences) {
            let (at, key) = silences.pop_first().unwrap();
            row(at, format!("{key} is silent"));
        }
        while is_due(&closes) {
            let (at, key) = closes.pop_first().unwrap();
            row(at, format!("{key} had {}", counts.remove(&key).unwrap_or_default()));
        }
    }
    rows.sort();
    rows
}

/// Goal: parts of one function keep their timers apart, beside lists and states, and all of that survives crashes on any
/// number of shards.
#[test]
fn spaces_of_timers_lists_and_states_live_together() {
    let expected = expected();
    for seed in 0..20 {
        let (store, table) = (Store::default(), Table::default());
        let (source, sink) = (Collection::new(records()), table.sink());
        let job = |flow: &Flow| {
            let by_time = Watermarks::monotonous().timestamps(|record: &Record| record.1);
            flow.source(source.clone(), by_time.without_clock_guard())
                .key_by(|record: &Record| record.0)
                .process(Both::new)
                .sink(sink.clone());
        };
        let mut random = Random::new(seed);
        let crashing = Crashes { epoch_every_max: 40, ..Crashes::default() };
        crashing.until_done(&mut random, &store, &job);
        let rows = table.rows();
        let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).collect();
        let more: Vec<_> = rows.iter().filter(|row| !expected.contains(row)).collect();
        assert!(rows == expected, "seed {seed}: without {missing:?}, with {more:?}");
    }
}

fn run<P: Process<u32, Record, Out = String>>(
    make: impl Fn(&mut States<'_, u32>) -> P,
) -> (Vec<String>, Vec<Shard>) {
    let (out, source) = (Collected::new(), Collection::new(records()));
    let sink = out.sink();
    let job = |flow: &Flow| {
        let by_time = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        flow.source(source.clone(), by_time.without_clock_guard())
            .key_by(|record: &Record| record.0)
            .process(&make)
            .on_error(OnError::Skip)
            .sink(sink.clone());
    };
    let mut shards = build(1, Tuning::default(), &job);
    run_to_end(&mut shards, Now { wall: Timestamp::from(50), ..Now::default() });
    (out.take(), shards)
}

#[test]
fn counters_and_gauges_are_among_the_metrics() {
    let (out, shards) = run(Both::new);
    let value = |name| metric(&shards, name);
    let silences = out.iter().filter(|row| row.ends_with("silent")).count();
    assert_eq!((value("numSilences"), value("waiting")), (silences as i64, 0));
}

/// Says every call that it gets for no key, and fails records of one key without a panic.
#[derive(Default)]
struct Calls {
    opened: bool,
    ticked: bool,
}

impl Process<u32, Record> for Calls {
    type Out = String;

    fn open(&mut self) {
        assert!(!std::mem::replace(&mut self.opened, true), "opened twice");
    }

    fn record(
        &mut self,
        (key, _): Record,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<String>,
    ) {
        assert!(self.opened, "a record before it was opened");
        let one_more = cx.attempt(|_| match key {
            3 => Err("threes are not wanted".into()),
            key => Ok(key + 1),
        });
        assert_eq!(one_more, (key != 3).then_some(key + 1));
    }

    fn tick(
        &mut self,
        cx: &mut Context<'_, NoKey>,
        out: &mut impl Collector<String>,
    ) -> Option<Timestamp> {
        if !std::mem::replace(&mut self.ticked, true) {
            out.record(cx.time(), format!("it is {}", cx.processing_time().as_millis()));
        }
        None
    }

    fn close(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<String>) {
        out.record(cx.time(), "closed".into());
        cx.attempt::<()>(|_| Err("it is over anyway".into()));
    }
}

#[test]
fn calls_for_no_key_come_once_and_may_fail() {
    let (out, shards) = run(|_| Calls::default());
    assert_eq!(out, ["it is 50", "closed"]);
    let threes = records().iter().filter(|record| record.0 == 3).count() as i64;
    assert_eq!(metric(&shards, "numFunctionErrors"), threes + 1);
}

#[test]
fn two_spaces_of_one_name_are_refused() {
    struct Nothing;
    impl Process<u32, Record> for Nothing {
        type Out = String;
        fn record(&mut self, _: Record, _: &mut Context<'_, u32>, _: &mut impl Collector<String>) {}
    }
    let job = |flow: &Flow| {
        let records = flow.source(Collection::new(records()), Watermarks::monotonous());
        let keyed = records.key_by(|record: &Record| record.0);
        let twice = |states: &mut States<'_, u32>| {
            states.timers("alarms");
            states.timers("alarms");
            Nothing
        };
        keyed.process(twice).discard();
    };
    let error = refusal(&job);
    assert!(error.contains("event timers of alarms"), "{error}");
}

/// Passes on how many records a window had, and says aside of which keys that were more than four.
struct Many(SideTag<u32>);

impl WindowFunction<u32, u64> for Many {
    type Out = u64;

    fn fire(&mut self, key: u32, window: TimeWindow, count: u64, out: &mut impl Collector<u64>) {
        out.record(window.last, count);
        if count > 4 {
            self.0.emit(window.last, key);
        }
    }
}

/// Goal: the function of a window writes to the side as any other does, and a late output is another side of it.
#[test]
fn a_window_has_side_outputs_like_any_function() {
    let (counts, many, late) = (Collected::new(), Collected::new(), Collected::new());
    let sinks = (counts.sink(), many.sink(), late.sink());
    let job = move |flow: &Flow| {
        let all = [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 12), (2, 3)];
        let all = flow.source(
            Collection::new(all),
            Watermarks::monotonous().timestamps(|record: &Record| record.1).without_clock_guard(),
        );
        let (keyed, tag, many) = all.key_by(|record| record.0).side_tag("many");
        let (windows, late) =
            keyed.window(Tumbling::of(std::time::Duration::from_millis(10))).late_output();
        windows.aggregate_with(Count, Many(tag)).sink(sinks.0.clone());
        many.sink(sinks.1.clone());
        late.sink(sinks.2.clone());
    };
    common::run(1, Tuning::default(), &job);
    let mut counts = counts.take();
    counts.sort_unstable();
    assert_eq!((counts, many.take(), late.take()), (vec![1, 1, 5], vec![1], vec![(2, 3)]));
}
