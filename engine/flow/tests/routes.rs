#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Every route between shards, in jobs that crash anywhere and go on, against what a list says.

mod common;

use std::time::Duration;

use common::*;
use thalweg_flow::*;

type Reading = (u32, i64, u64);

fn readings(random: &mut Random) -> Vec<Vec<Reading>> {
    // Partitions that are empty, and more of them than shards, are among these.
    (0..1 + random.below(4))
        .map(|_| {
            let mut time = 0;
            let count = [0, 1, 300][random.below(3)];
            (0..count)
                .map(|n| {
                    time += random.below(5) as i64;
                    (random.below(20) as u32, (time - random.below(20) as i64).max(0), n)
                })
                .collect()
        })
        .collect()
}

fn source(flow: &Flow, readings: &[Vec<Reading>]) -> Stream<impl Chain<Out = Reading> + use<>> {
    let watermarks = Watermarks::bounded_out_of_orderness(Duration::from_millis(20))
        .timestamps(|&(_, time, _): &Reading| time);
    flow.source_as("source", Collection::partitioned(readings.to_vec()), watermarks)
}

/// Runs the job through crashes on these numbers of shards, and returns its rows.
fn rows(job: &dyn Fn(&Flow), table: &Table, random: &mut Random, shards: &[usize]) -> Vec<String> {
    Crashes { shards, ..Crashes::default() }.until_done(random, &Store::default(), job);
    table.rows()
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

fn row(&(key, time, number): &Reading) -> String {
    format!("{time} {:?}", (key, number))
}

#[test]
fn every_record_takes_each_route_once() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let readings = readings(&mut random);
        let table = Table::default();
        let sink = table.sink();
        let all = readings.clone();
        let job = move |flow: &Flow| {
            let narrow = |(key, _, number): Reading| (key, number);
            source(flow, &all)
                .rebalance()
                .global()
                .rebalance()
                .map(narrow)
                .sink_as("s", sink.clone());
        };
        let expected = sorted(readings.iter().flatten().map(row).collect());
        assert_eq!(rows(&job, &table, &mut random, &[1, 2, 3, 8]), expected, "seed {seed}");
    }
}

#[test]
fn a_broadcast_reaches_every_shard_once() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let readings = readings(&mut random);
        let shards = [1, 2, 3, 8][seed as usize % 4];
        let table = Table::default();
        let sink = table.sink();
        let all = readings.clone();
        let job = move |flow: &Flow| {
            let narrow = |(key, _, number): Reading| (key, number);
            source(flow, &all).broadcast().map(narrow).sink_as("s", sink.clone());
        };
        let everywhere = readings.iter().flatten().flat_map(|r| vec![row(r); shards]).collect();
        assert_eq!(rows(&job, &table, &mut random, &[shards]), sorted(everywhere), "seed {seed}");
    }
}

#[test]
fn what_is_global_is_on_one_shard() {
    let all = vec![(0..50).map(|n| (0, n, n as u64)).collect::<Vec<_>>(); 4];
    for shards in [1, 2, 3, 8] {
        let readings = all.clone();
        let sink = Table::default().sink();
        let job = move |flow: &Flow| {
            let only = source(flow, &readings).global();
            only.map(|reading| reading.2).sink(sink.clone());
        };
        let graph = Shard::graph(&job, shards).unwrap();
        let text = graph.to_string();
        assert!(text.contains("all from 0"), "{text}");
        assert_eq!(graph.nodes.last().unwrap().parallelism, 1, "{text}");
    }
}

/// Windows behind `deduplicate` are those behind a filter that knows all numbers.
#[test]
fn a_placed_stream_goes_on_without_a_second_exchange() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut once = readings(&mut random);
        // Numbered across partitions, so that a key's numbers differ.
        once.iter_mut().flatten().enumerate().for_each(|(n, reading)| reading.2 = n as u64);
        let mut twice = once.clone();
        for partition in &mut twice {
            let repeated = partition.iter().flat_map(|&reading| [reading, reading]).collect();
            *partition = repeated;
        }
        let window = |time: i64| time.div_euclid(30) * 30;
        let mut expected = std::collections::BTreeMap::new();
        for &(key, time, number) in once.iter().flatten() {
            let sum = expected.entry((key, window(time))).or_insert(0);
            *sum += number;
        }
        let expected = expected
            .iter()
            .map(|(&(key, start), sum)| format!("{} {:?}", start + 29, (key, start, *sum)));
        let (table, (late_table, late)) = (Table::default(), (Table::default(), seed % 2 == 0));
        let (sink, late_sink) = (table.sink(), late_table.sink());
        let job = move |flow: &Flow| {
            let windows = source(flow, &twice)
                .key_by(|&(key, _, _)| key)
                .deduplicate_within(10_000, |&(_, _, number)| number)
                .uid("deduplicate")
                .window(Tumbling::of(Duration::from_millis(30)));
            let windows = if late {
                let (windows, late) = windows.late_output();
                late.sink_as("late", late_sink.clone());
                windows
            } else {
                windows
            };
            windows
                .aggregate(Sum::of(|&(_, _, number): &Reading| number as i64))
                .map(|row| (row.key, row.start.as_millis(), row.value))
                .sink_as("sums", sink.clone());
        };
        let graph = Shard::graph(&job, 2).unwrap();
        let edges = graph.nodes.iter().flat_map(|node| &node.inputs);
        assert_eq!(edges.filter(|(_, edge)| *edge == Edge::Hash).count(), 1, "{graph}");
        let rows = rows(&job, &table, &mut random, &[1, 2, 3, 8]);
        assert_eq!(rows, sorted(expected.collect()), "seed {seed}");
        assert!(late_table.rows().is_empty());
    }
}
