#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Jobs that crash anywhere and go on, on other numbers of shards, have the results of one that did not.

mod common;

use std::time::Duration;

use common::*;
use thalweg_flow::{
    AggregatingState, Average, Collection, Context, Count, Flow, ListState, MapState, Process,
    ReducingState, SideTag, States, Sum, Tumbling, ValueState, Watermarks, Windowed,
};
use thalweg_kernel::Collector;

type Reading = (u32, i64, i64);

/// A key, and a window of 50 ms.
type Cell = (u32, i64);

/// A window of 50 ms by hand: every kind of state, timers that are set, taken back and set again, and a side
/// output.
struct ByHand<F> {
    due: ValueState<Cell, i64>,
    values: ListState<Cell, i64>,
    thirds: MapState<Cell, u8, u32>,
    sum: ReducingState<Cell, i64, F>,
    count: AggregatingState<Cell, i64, Count>,
    side: SideTag<(u32, i64)>,
}

fn by_hand(
    states: &mut States<'_, Cell>,
    side: SideTag<(u32, i64)>,
) -> ByHand<impl Fn(i64, i64) -> i64 + use<>> {
    ByHand {
        due: states.value("due"),
        values: states.list("values"),
        thirds: states.map("thirds"),
        sum: states.reducing("sum", |a, b| a + b),
        count: states.aggregating("count", Count),
        side,
    }
}

impl<F: Fn(i64, i64) -> i64 + 'static> Process<Cell, Reading> for ByHand<F> {
    type Out = String;

    fn record(
        &mut self,
        (key, time, value): Reading,
        cx: &mut Context<'_, Cell>,
        _: &mut impl Collector<String>,
    ) {
        assert_eq!((*cx.key(), cx.time()), ((key, time / 50), time.into()));
        if value % 10 == 0 {
            self.side.emit(cx.time(), (key, value));
        }
        let end = (time / 50 + 1) * 50;
        cx.event_timer((end + 1).into());
        cx.delete_event_timer((end + 1).into());
        cx.event_timer(end.into());
        self.due.set(cx, end);
        self.values.push(cx, value);
        let thirds = self.thirds.get(cx, &(value as u8 % 3)).unwrap_or_default();
        self.thirds.put(cx, value as u8 % 3, thirds + 1);
        self.sum.add(cx, value);
        self.count.add(cx, value);
    }

    fn timer(&mut self, cx: &mut Context<'_, Cell>, out: &mut impl Collector<String>) {
        assert_eq!(self.due.get(cx), Some(cx.time().as_millis()));
        let (mut values, sum) = (self.values.get(cx), self.sum.get(cx).unwrap());
        values.sort();
        assert_eq!(values.iter().sum::<i64>(), sum);
        assert_eq!(self.count.get(cx), Some(values.len() as u64));
        let thirds = self.thirds.with(cx, |thirds| format!("{thirds:?}"));
        out.record(cx.time(), format!("{:?} {values:?} {thirds}", cx.key()));
        self.due.clear(cx);
        self.values.clear(cx);
        self.thirds.clear(cx);
        self.sum.clear(cx);
        self.count.clear(cx);
    }
}

/// Partitions of readings that are up to 20 ms out of order, with `late` beyond that.
fn readings(random: &mut Random, late: bool) -> Vec<Vec<Reading>> {
    let partitions = if late { 1 } else { 1 + random.below(4) };
    let keys = [3, 40, 700][random.below(3)];
    (0..partitions)
        .map(|_| {
            let mut time = 0;
            (0..random.below(400))
                .map(|n| {
                    time += random.below(5) as i64;
                    let back = if late && random.one_in(4) { 60 } else { 20 };
                    let time = (time - random.below(back) as i64).max(0);
                    (random.below(keys) as u32, time, n as i64)
                })
                .collect()
        })
        .collect()
}

/// Windows, windows of windows, a late output, a split and a union.
fn job(readings: Vec<Vec<Reading>>, late: bool, table: &Table) -> impl Fn(&Flow) + use<> {
    let sink = table.sink();
    move |flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(Duration::from_millis(20))
            .timestamps(|&(_, time, _): &Reading| time);
        let source = flow.source(Collection::partitioned(readings.clone()), watermarks);
        let [all, copy, by_key] = source.filter(|&(key, _, _)| key % 7 != 6).split();
        let (by_key, side, tens) =
            by_key.key_by(|&(key, time, _)| (key, time / 50)).side_tag("tens");
        let by_hand = by_key.process(|states| by_hand(states, side)).uid("by hand");
        tens.map(|(key, value)| ("ten", key, value)).sink_as("tens", sink.clone());
        if !late {
            by_hand.sink_as("by hand sink", sink.clone());
        } else {
            by_hand.discard();
        }
        let (windows, late) = all
            .key_by(|&(key, _, _)| key)
            .window(Tumbling::of(Duration::from_millis(30)))
            .late_output();
        let sums = windows.aggregate(Sum::of(|&(_, _, value): &Reading| value));
        let [first, second] = sums.split();
        first.map(|row| ("sum", row.key, row.value)).sink_as("sums", sink.clone());
        second
            .key_by(|row: &Windowed<u32, i64>| row.key % 5)
            .window(Tumbling::of(Duration::from_millis(90)))
            .aggregate(Average::of(|row: &Windowed<u32, i64>| row.value as f64))
            .map(|row| ("average", row.key, row.value as i64))
            .sink_as("averages", sink.clone());
        let late = late.map(|(key, _, value)| ("late", key, value));
        let copy = copy.map(|(key, _, value)| ("copy", key, value));
        late.union(copy)
            .key_by(|&(_, key, _)| key)
            // So long that what is late does not depend on the order in which a union merges.
            .window(Tumbling::of(Duration::from_secs(10_000)))
            .aggregate(Count)
            .sink_as("counts", sink.clone());
    }
}

fn expected(readings: &[Vec<Reading>], late: bool) -> Vec<String> {
    let (store, table) = (Store::default(), Table::default());
    let job = job(readings.to_vec(), late, &table);
    common::undisturbed(&store, &job);
    table.rows()
}

fn assert_same(rows: &[String], expected: &[String], seed: u64) {
    if rows == expected {
        return;
    }
    let only = |these: &[String], those: &[String]| {
        let mut those = those.to_vec();
        let mut only = these.to_vec();
        only.retain(|row| match those.iter().position(|other| other == row) {
            Some(at) => {
                those.swap_remove(at);
                false
            }
            None => true,
        });
        only
    };
    let (repeated, lost) = (only(rows, expected), only(expected, rows));
    assert!(
        lost.is_empty() && repeated.is_empty(),
        "seed {seed}: lost {lost:?}, repeated or wrong {repeated:?}"
    );
}

const CRASHES: Crashes = Crashes {
    lives_max: 8,
    moves_max: 150,
    epoch_every_max: 60,
    shards: &[1, 2, 3, 4],
    first_shards: None,
};

#[test]
fn a_job_that_crashes_anywhere_has_the_results_of_one_that_did_not() {
    let mut crashes = 0;
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let late = random.one_in(3);
        let readings = readings(&mut random, late);
        let expected = expected(&readings, late);
        let (store, table) = (Store::default(), Table::default());
        let job = job(readings.clone(), late, &table);
        crashes += CRASHES.until_done(&mut random, &store, &job);
        assert_same(&table.rows(), &expected, seed);
        // A job that has ended and is started again has nothing more to say.
        Crashes::none(3).until_done(&mut random, &store, &job);
        assert_same(&table.rows(), &expected, seed);
    }
    assert!(crashes > 200, "only {crashes} crashes");
}
