#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Chunks of columns, filtered and divided by key, have the windows and the late rows that a list says. Jobs crash
//! anywhere and go on, on any number of shards.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::{RowKind, Str};

/// Key, time, number. A key may be absent.
type Reading = (Option<u32>, i64, i64);

const WINDOW_MS: i64 = 30;
const DISORDER_MS: i64 = 20;

/// Partitions of readings up to 19 ms out of order; in the first alone, some beyond that.
fn readings(random: &mut Random, nulls: bool) -> Vec<Vec<Reading>> {
    let late = random.one_in(2);
    let partitions = if late { 1 } else { 1 + random.below(3) };
    (0..partitions)
        .map(|_| {
            let (mut time, keys) = (0, [3, 40][random.below(2)]);
            let count = [0, 1, 60, 3_000][random.below(4)];
            (0..count)
                .map(|n| {
                    time += random.one_in(3) as i64;
                    let back = if late && random.one_in(9) { 90 } else { DISORDER_MS as usize };
                    let key = (!nulls || !random.one_in(5)).then(|| random.below(keys) as u32);
                    (key, (time - random.below(back) as i64).max(0), n)
                })
                .collect()
        })
        .collect()
}

/// The rows of windows, and the late ones.
fn expected(readings: &[Vec<Reading>], nulls_count: bool) -> (Vec<String>, Vec<String>) {
    let (mut sums, mut late) = (BTreeMap::new(), Vec::new());
    for partition in readings {
        let mut watermark = i64::MIN;
        for &(key, time, number) in partition {
            let start = time.div_euclid(WINDOW_MS) * WINDOW_MS;
            let counts = number % 3 != 0 && (nulls_count || key.is_some());
            if counts && start + WINDOW_MS - 1 > watermark {
                *sums.entry((name(key), start)).or_insert(0) += number;
            } else if counts {
                late.push(format!("{time} {number}"));
            }
            // Also behind rows that are left out.
            watermark = watermark.max(time - DISORDER_MS - 1);
        }
    }
    let row = |((key, start), sum): (&(Option<String>, i64), &i64)| {
        format!("{} {:?}", start + WINDOW_MS - 1, (key, start, sum))
    };
    let mut sums: Vec<_> = sums.iter().map(row).collect();
    sums.sort();
    late.sort();
    (sums, late)
}

fn name(key: Option<u32>) -> Option<String> {
    // One of them is longer than what is inline.
    key.map(|key| format!("{}{key}", if key == 1 { "a name of more than 24 bytes " } else { "k" }))
}

type Named = (Option<String>, i64, i64);

fn chunks(flow: &Flow, readings: &[Vec<Reading>]) -> ColumnStream<Boxed<Chunk>> {
    let watermarks =
        Watermarks::bounded_out_of_orderness(Duration::from_millis(DISORDER_MS as u64))
            .timestamps(|&(_, time, _): &Named| time);
    let named = readings.iter().map(|partition| {
        partition.iter().map(|&(key, time, number)| (name(key), time, number)).collect::<Vec<_>>()
    });
    let named: Vec<Vec<Named>> = named.collect();
    flow.source_as("source", Collection::partitioned(named), watermarks)
        .to_columns(
            Fields::new()
                .text_or_null("key", |r: &Named| r.0.as_deref())
                .int("number", |r: &Named| r.2)
                .int_or_null("halved", |r: &Named| (r.2 % 2 == 0).then_some(r.2 / 2)),
        )
        .boxed()
}

/// Twice the half of even numbers, and odd ones as they are, in the other order: nothing is lost.
fn projected(chunks: ColumnStream<Boxed<Chunk>>) -> ColumnStream<Boxed<Chunk>> {
    chunks
        .project(&[("number", DataType::Int), ("key", DataType::Text)], |chunk, out| {
            for row in 0..chunk.len() {
                let [key, number, halved] = chunk.columns() else { panic!("three columns") };
                let doubled = (!halved.is_null(row)).then(|| halved.ints()[row] * 2);
                out[0].push_int(Some(doubled.unwrap_or(number.ints()[row])));
                out[1].push_text(key.text_at(row).as_deref());
            }
        })
        .boxed()
}

fn without_thirds(chunk: &Chunk, rows: &mut Vec<u32>) {
    let numbers = chunk.columns()[0].ints();
    rows.extend((0..chunk.len() as u32).filter(|&row| numbers[row as usize] % 3 != 0));
}

/// Windows by key behind the exchange; the filter stands in front of it or behind it.
fn job<K: ColumnKey + std::fmt::Debug>(
    flow: &Flow,
    readings: &[Vec<Reading>],
    behind: bool,
    (sums, late): (&Table, &Table),
    name: impl Fn(K) -> Option<String> + Copy + 'static,
) {
    let chunks = projected(chunks(flow, readings));
    let by_key = if behind {
        chunks.exchange_by::<K>("key").keep(without_thirds).boxed()
    } else {
        chunks.keep(without_thirds).boxed().exchange_by::<K>("key").boxed()
    };
    let (windows, late_rows) = by_key
        .to_keyed(|chunk, row| chunk.columns()[0].ints()[row])
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
        .late_output();
    late_rows.sink_as("late", late.sink());
    windows
        .aggregate(Sum::of(|&number: &i64| number))
        .uid("windows")
        .map(move |row| (name(row.key), row.start.as_millis(), row.value))
        .sink_as("sums", sums.sink());
}

#[test]
fn windows_behind_divided_columns_are_those_of_a_list_also_what_is_late() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let (nulls, null_is_key, behind) = (seed % 3 != 0, seed % 2 == 0, seed % 5 < 2);
        let readings = readings(&mut random, nulls);
        let (expected_sums, expected_late) = expected(&readings, null_is_key);
        let (store, sums, late) = (Store::default(), Table::default(), Table::default());
        let tables = (sums.clone(), late.clone());
        let describe = move |flow: &Flow| {
            let tables = (&tables.0, &tables.1);
            if null_is_key {
                let name = |key: Option<Str>| key.map(String::from);
                job::<Option<Str>>(flow, &readings, behind, tables, name);
            } else {
                job::<Str>(flow, &readings, behind, tables, |key| Some(key.into()));
            }
        };
        Crashes::default().until_done(&mut random, &store, &describe);
        assert_eq!(sums.rows(), expected_sums, "seed {seed}");
        assert_eq!(late.rows(), expected_late, "seed {seed}");
    }
}

#[test]
fn a_chunk_keeps_kinds_nulls_and_the_places_of_watermarks() {
    let types = [DataType::Int, DataType::Text, DataType::Float];
    let mut chunk = Chunk::new(&types);
    for n in 0..10_i64 {
        if n % 3 == 0 {
            chunk.watermark((n * 10).into());
        }
        chunk.push(n.into(), RowKind::ALL[n as usize % 4]);
        let [int, text, float] = chunk.columns_mut() else { panic!("three columns") };
        int.push_int((n != 4).then_some(n));
        text.push_text((n > 5).then(|| "x".repeat(n as usize)).as_deref());
        float.push_float(Some(n as f64 / 2.0));
    }
    chunk.keep(&[2, 4, 6, 9]);
    assert_eq!(chunk.times(), [2, 4, 6, 9].map(|n: i64| n.into()));
    let kinds: Vec<_> = (0..4).map(|row| chunk.kind(row)).collect();
    assert_eq!(kinds, [2, 4, 6, 9].map(|n| RowKind::ALL[n % 4]));
    let [int, text, float] = chunk.columns() else { panic!("three columns") };
    assert_eq!((0..4).map(|n| int.is_null(n)).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(text.text_at(0), None);
    assert_eq!(text.text_at(3).unwrap(), "xxxxxxxxx");
    assert_eq!(float.floats(), [1.0, 2.0, 3.0, 4.5]);
    // The watermarks of 0, 3, 6 and 9 stand before the first row that is left behind them.
    let watermarks = [(0, 0.into()), (1, 30.into()), (2, 60.into()), (3, 90.into())];
    assert_eq!(chunk.watermarks(), watermarks);
}

#[test]
fn a_column_that_is_not_there_and_a_key_of_another_type_are_refused_in_words() {
    let refused = |describe: &dyn Fn(&Flow)| Shard::graph(describe, 1).unwrap_err().to_string();
    let absent = refused(&|flow| {
        let by_key = chunks(flow, &[]).exchange_by::<i64>("nmber");
        by_key.to_rows(|_, _| ()).discard();
    });
    assert!(absent.contains(r#"no column "nmber"; there are key, number, halved"#), "{absent}");
    let other = refused(&|flow| {
        let by_key = chunks(flow, &[]).exchange_by::<i64>("key");
        by_key.to_rows(|_, _| ()).discard();
    });
    assert!(other.contains(r#"column "key" is of another type"#), "{other}");
}
