#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Watermark generators against a naive reading of the records, on 1, 2, 3 and 8 shards, undisturbed and through
//! crashes. What is late depends on nothing else.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::each_third::EachThird;
use common::*;
use thalweg_flow::*;
use thalweg_kernel::Timestamp;

const WINDOW_MS: i64 = 30;

/// Key, time, and whether the record says how far time has come.
type Reading = (u32, i64, bool);

fn punctuated(&(_, time, says): &Reading, _: Timestamp) -> Option<Timestamp> {
    says.then(|| Timestamp::from(time - 15))
}

/// Readings that come up to 40 ms out of order.
fn readings(random: &mut Random) -> Vec<Reading> {
    let mut time = 0;
    let mut reading = |_| {
        time += random.below(8) as i64;
        let at = (time - random.below(40) as i64).max(0);
        (random.below(5) as u32, at, random.one_in(4))
    };
    (0..300).map(&mut reading).collect()
}

/// Counts each key's readings in windows, and gives what is late.
fn job<G: WatermarkGenerator<Reading>>(
    readings: &[Reading],
    strategy: &Watermarks<Received, G>,
    table: &Table,
) -> impl Fn(&Flow) + use<G> {
    let (readings, sink, strategy) = (readings.to_vec(), table.sink(), strategy.clone());
    move |flow| {
        let watermarks = strategy.clone().timestamps(|&(_, time, _): &Reading| time);
        let (windows, late) = flow
            .source(Collection::new(readings.clone()), watermarks)
            .key_by(|&(key, _, _)| key)
            .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
            .late_output();
        let counts = windows.aggregate(Count);
        counts
            .map(|row| format!("{} {} {}", row.key, row.start, row.value))
            .sink_as("counts", sink.clone());
        late.map(|(key, time, _)| format!("late {key} {time}")).sink_as("late", sink.clone());
    }
}

/// What the job computes, record by record.
fn naive(
    readings: &[Reading],
    mut watermark_behind: impl FnMut(&Reading) -> Option<i64>,
) -> Vec<String> {
    let (mut watermark, mut rows) = (i64::MIN, Vec::new());
    let mut counts = BTreeMap::<(u32, i64), u64>::new();
    for reading @ &(key, time, _) in readings {
        let start = time - time.rem_euclid(WINDOW_MS);
        if start + WINDOW_MS - 1 <= watermark {
            rows.push(format!("late {key} {time}"));
        } else {
            *counts.entry((key, start)).or_default() += 1;
        }
        watermark = watermark.max(watermark_behind(reading).unwrap_or(i64::MIN));
    }
    rows.extend(
        counts
            .iter()
            .map(|((key, start), count)| format!("{key} {} {count}", Timestamp::from(*start))),
    );
    rows.sort();
    rows
}

fn rows(table: &Table) -> Vec<String> {
    let mut rows: Vec<_> = table.rows().iter().map(|row| text(row).to_owned()).collect();
    rows.sort();
    rows
}

/// A row without the time that the table writes in front of it, and without its quotes.
fn text(row: &str) -> &str {
    row.split_once(' ').map_or(row, |(_, text)| text.trim_matches('"'))
}

fn check<G: WatermarkGenerator<Reading>>(
    strategy: &Watermarks<Received, G>,
    watermark_behind: impl Fn(&mut (u64, i64), &Reading) -> Option<i64>,
) {
    let (mut crashes, mut late) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let readings = readings(&mut random);
        let mut state = (0, 0);
        let expected = naive(&readings, |reading| watermark_behind(&mut state, reading));
        late += expected.iter().filter(|row| row.starts_with("late")).count();
        for shards in [1, 2, 3, 8] {
            let (store, table) = (Store::default(), Table::default());
            let job = job(&readings, strategy, &table);
            let first_shards = Some(shards);
            let crashing = Crashes { moves_max: 150, first_shards, ..Crashes::default() };
            crashes += crashing.until_done(&mut random, &store, &job);
            assert_eq!(rows(&table), expected, "seed {seed}, {shards} shards");
        }
    }
    assert!(crashes > 100 && late > 300, "only {crashes} crashes, and {late} are late");
}

#[test]
fn a_generator_of_ones_own_goes_on_where_it_was() {
    check(&Watermarks::generated_by(EachThird::default()), |(count, latest), &(_, time, _)| {
        *count += 1;
        *latest = (*latest).max(time);
        (*count % 3 == 0).then(|| *latest - 10)
    });
}

#[test]
fn punctuated_watermarks_follow_the_records_that_say_so() {
    check(&Watermarks::punctuated(punctuated), |_, &(_, time, says)| says.then(|| time - 15));
}

#[test]
fn a_periodic_watermark_comes_at_the_end_of_a_step() {
    let readings: [Reading; 3] = [(1, 5, false), (1, 40, false), (1, 6, false)];
    let table = Table::default();
    let sink = table.sink();
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::monotonous().every(Duration::from_millis(10));
        flow.source(
            Collection::new(readings),
            watermarks.timestamps(|&(_, time, _): &Reading| time).without_clock_guard(),
        )
        .key_by(|&(key, _, _)| key)
        .window(Tumbling::of(Duration::from_millis(30)))
        .aggregate(Count)
        .map(|row| row.value)
        .sink(sink.clone());
    };
    // All in one step: the third is not late, for the watermark comes behind it.
    let store = Store::default();
    let mut shard = build_from(&store, 1, &job);
    while !shard[0].awaits_epoch() {
        shard[0].step(at(0)).unwrap();
    }
    epoch(&mut shard, &store, at(0));
    assert_eq!(table.rows(), ["29 2", "59 1"]);
}
