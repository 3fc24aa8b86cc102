//! Whole jobs on hand-stepped shards, against naive computations of the same thing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use thalweg_flow::*;

type Reading = (&'static str, i64, f64);

fn by_event_time(bound_ms: u64) -> Watermarks<impl EventTime<Reading>> {
    Watermarks::bounded_out_of_orderness(Duration::from_millis(bound_ms))
        .timestamps(|&(_, ts, _): &Reading| ts)
        .without_clock_guard()
}

/// A seeded stream of readings, out of order by up to `disorder_ms`.
fn readings(seed: u64, count: usize, disorder_ms: u64) -> Vec<Reading> {
    const DEVICES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut random = Random::new(seed);
    (0..count)
        .map(|n| {
            let ts = n as i64 - random.below(disorder_ms + 1) as i64;
            (random.one_of(DEVICES), ts, random.below(100) as f64)
        })
        .collect()
}

/// What Flink would answer: lateness by record, then a plain group-by.
fn naive(
    input: &[Reading],
    size: i64,
    bound: i64,
) -> (BTreeMap<(i64, &'static str), (u64, f64)>, u64) {
    let (mut rows, mut late, mut latest) = (BTreeMap::new(), 0, i64::MIN);
    for &(device, ts, value) in input {
        let start = ts - ts.rem_euclid(size);
        let watermark = latest.saturating_sub(bound).saturating_sub(1);
        if latest != i64::MIN && start + size - 1 <= watermark {
            late += 1;
        } else {
            let row: &mut (u64, f64) = rows.entry((start, device)).or_default();
            *row = (row.0 + 1, row.1 + value);
        }
        latest = latest.max(ts);
    }
    (rows, late)
}

#[test]
fn windows_agree_with_a_naive_group_by_on_any_shards_and_batch_sizes() {
    for seed in 0..20 {
        let input = readings(seed, 2_000, 40);
        let (expected, expected_late) = naive(&input, 50, 15);
        assert!(expected_late > 0, "the input must be disordered enough to matter");
        for (shards, tuning) in
            [(1, Tuning::default()), (1, TINY), (2, TINY), (8, TINY), (3, Tuning::default())]
        {
            let (out, late) = (Collected::new(), Collected::new());
            let (sink, late_sink, input) = (out.sink(), late.sink(), input.clone());
            run(shards, tuning, &move |flow| {
                let (windows, late) = flow
                    .source(Collection::new(input.clone()), by_event_time(15))
                    .key_by(|&(device, _, _)| device)
                    .window(Tumbling::of(Duration::from_millis(50)))
                    .late_output();
                windows
                    .aggregate(Fold::new(
                        || (0, 0.0),
                        |sum: &mut (u64, f64), (_, _, value)| *sum = (sum.0 + 1, sum.1 + value),
                        |into, from| *into = (into.0 + from.0, into.1 + from.1),
                    ))
                    .sink(sink.clone());
                late.sink(late_sink.clone());
            });
            let rows: BTreeMap<_, _> =
                out.take().into_iter().map(|w| ((w.start.as_millis(), w.key), w.value)).collect();
            assert_eq!(rows, expected, "seed {seed}, {shards} shards");
            assert_eq!(late.take().len() as u64, expected_late, "seed {seed}, {shards} shards");
        }
    }
}

/// More keys than a cache holds: records are put off, and each crosses the exchange by itself.
/// Nothing may show of it, least of all the order of a key's records.
#[test]
fn many_keys_keep_their_counts_and_the_order_of_their_records() {
    const KEYS: u64 = 60_000;
    let input: Vec<(u64, i64)> = (0..400_000)
        .map(|n: u64| {
            let key = mix(n);
            (key % KEYS, n as i64 / 100 - (key % 300) as i64)
        })
        .collect();
    // What the records of a key were, in their order; joining two does not keep it.
    let push = |sum: &mut (u64, u64), (_, ts): (u64, i64)| {
        *sum = (sum.0 + 1, sum.1.wrapping_mul(31).wrapping_add(ts as u64));
    };
    let mut expected = BTreeMap::new();
    let mut latest = i64::MIN;
    for &(key, ts) in &input {
        let start = ts - ts.rem_euclid(500);
        if latest == i64::MIN || start + 499 > latest - 101 {
            push(expected.entry((start, key)).or_default(), (key, ts));
        }
        latest = latest.max(ts);
    }
    for (shards, tuning) in [(1, Tuning::default()), (1, TINY), (2, Tuning::default())] {
        let out = Collected::new();
        let (sink, input) = (out.sink(), input.clone());
        run(shards, tuning, &move |flow| {
            let watermarks = Watermarks::bounded_out_of_orderness(Duration::from_millis(100))
                .timestamps(|&(_, ts): &(u64, i64)| ts)
                .without_clock_guard();
            flow.source(Collection::new(input.clone()), watermarks)
                .key_by(|&(key, _)| key)
                .window(Tumbling::of(Duration::from_millis(500)))
                .aggregate(Fold::new(
                    || (0, 0),
                    push,
                    |into, from| *into = (into.0 + from.0, into.1 ^ from.1),
                ))
                .sink(sink.clone());
        });
        let rows = out.take().into_iter().map(|w| ((w.start.as_millis(), w.key), w.value));
        if shards == 1 {
            assert_eq!(rows.collect::<BTreeMap<_, _>>(), expected);
        } else {
            let counts = |((start, key), (count, _))| ((start, key), count);
            let expected: BTreeMap<_, _> = expected.clone().into_iter().map(counts).collect();
            assert_eq!(rows.map(counts).collect::<BTreeMap<_, _>>(), expected);
        }
    }
}

#[test]
fn rows_come_before_the_watermark_that_fired_them_so_a_second_window_loses_nothing() {
    let input = readings(7, 5_000, 30);
    let (first, _) = naive(&input, 20, 30);
    let expected: u64 = first.values().map(|(count, _)| count).sum();
    for shards in [1, 2, 8] {
        let out = Collected::new();
        let (sink, input) = (out.sink(), input.clone());
        run(shards, TINY, &move |flow| {
            flow.source(Collection::new(input.clone()), by_event_time(30))
                .key_by(|&(device, _, _)| device)
                .window(Tumbling::of(Duration::from_millis(20)))
                .aggregate(Count)
                .key_by(|row| row.end.as_millis() as u64 % 3)
                .window(Tumbling::of(Duration::from_millis(100)))
                .aggregate(Sum::of(|row: &Windowed<&str, u64>| row.value))
                .sink(sink.clone());
        });
        let total: u64 = out.take().into_iter().map(|row| row.value).sum();
        assert_eq!(total, expected, "{shards} shards");
    }
}

#[test]
fn partitions_union_split_and_side_output_lose_nothing() {
    for shards in [1, 2, 5] {
        let (evens, odds, copies) = (Collected::new(), Collected::new(), Collected::new());
        let (even_sink, odd_sink, copy_sink) = (evens.sink(), odds.sink(), copies.sink());
        run(shards, TINY, &move |flow| {
            let plain = Watermarks::monotonous();
            let three = flow.source(Collection::partitioned([0..300, 300..600, 600..900]), plain);
            let one = flow.source(Collection::new(900..1_000), plain);
            let [all, copy] = three.union(one).split();
            let (evens, odds) = all.side_output(|n, side| {
                if n % 2 == 1 {
                    side.emit(n);
                }
                (n % 2 == 0).then_some(n)
            });
            odds.sink(odd_sink.clone());
            copy.map(|n| n + 1).flat_map(|n| [n; 2]).sink(copy_sink.clone());
            evens.sink(even_sink.clone());
        });
        let sorted = |collected: Collected<i32>| {
            let mut values = collected.take();
            values.sort_unstable();
            values
        };
        assert_eq!(sorted(evens), (0..1_000).step_by(2).collect::<Vec<_>>());
        assert_eq!(sorted(odds), (1..1_000).step_by(2).collect::<Vec<_>>());
        assert_eq!(sorted(copies), (1..=1_000).flat_map(|n| [n, n]).collect::<Vec<_>>());
    }
}

#[test]
fn a_clock_far_ahead_becomes_a_dead_letter_and_moves_no_watermark() {
    let (out, dead) = (Collected::new(), Collected::new());
    let (sink, dead_sink) = (out.sink(), dead.sink());
    let hour = 3_600_000;
    run(2, TINY, &move |flow| {
        flow.dead_letters().sink(dead_sink.clone());
        flow.source(
            Collection::new([("a", 1_000, 1.0), ("b", hour, 2.0), ("a", 1_500, 3.0)]),
            Watermarks::monotonous().timestamps(|&(_, ts, _): &Reading| ts),
        )
        .key_by(|&(device, _, _)| device)
        .window(Tumbling::of(Duration::from_secs(1)))
        .aggregate(Count)
        .sink(sink.clone());
    });
    let rows: Vec<_> = out.take().into_iter().map(|w| (w.key, w.value)).collect();
    assert_eq!(rows, [("a", 2)]);
    let dead = dead.take();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].cause, thalweg_kernel::Cause::ClockAhead);
    assert!(dead[0].reason.contains("1h ahead of this machine's clock"), "{}", dead[0].reason);
}

#[test]
fn keys_over_the_limit_are_counted_not_stored() {
    let job = |flow: &Flow| {
        flow.source(Collection::new(0..100_u64), Watermarks::monotonous())
            .key_by(|&n| n)
            .window(Tumbling::of(Duration::from_secs(1)))
            .keys_max(10)
            .aggregate(Count)
            .discard();
    };
    let shards = run(1, Tuning::default(), &job);
    assert_eq!(metric(&shards, "numKeysOverLimitDropped"), 90);
    assert_eq!(metric(&shards, "numLateRecordsDropped"), 0);
}

#[test]
fn the_graph_tells_names_parallelism_and_edges() {
    let job = |flow: &Flow| {
        flow.source(Collection::new([("a", 1, 1.0)]), by_event_time(0))
            .name("readings")
            .filter(|_| true)
            .key_by(|&(device, _, _)| device)
            .window(Tumbling::of(Duration::from_secs(10)))
            .aggregate(Count)
            .name("averages")
            .discard();
    };
    let graph = Shard::graph(&job, 4).unwrap().to_string();
    let expected = "  0  readings (Source: collection of 1)  1 shard
  1  Filter                              1 shard  chained to 0
  2  averages (Tumbling window of 10s)   4 shards  by key from 1
  3  Discard                             4 shards  chained to 2
";
    assert_eq!(graph, expected);
}
