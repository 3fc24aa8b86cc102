//! Goal: averages per device and window over files equal naive ones to the bit. That holds on every driver, any
//! number of shards and any seed of the simulation.
//!
//! Method: 200,000 readings of 300 devices in four files. The files are partitions of one source and are read side
//! by side. Within each, readings come up to [`DISORDER_MS`] out of order, which is what the watermarks allow. So
//! none is late, and windows fire while later ones fill. Temperatures are multiples of 1/4, whose sums are exact,
//! so the order in which files interleave cannot show.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod everywhere;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use thalweg::prelude::*;

const LINES: u64 = 200_000;
const FILES: u64 = 4;
const DEVICES: u64 = 300;
const WINDOW_MS: i64 = 10_000;
const DISORDER_MS: i64 = 1_500;
const BEGIN_MS: i64 = 1_700_000_000_000;

#[derive(Clone, Debug, Deserialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

/// By device and start of the window, in bits: no tolerance.
type Averages = BTreeMap<(String, i64), u64>;

/// The files, and the naive answer.
fn input(dir: &std::path::Path) -> (Vec<PathBuf>, Averages) {
    let mut files = vec![String::new(); FILES as usize];
    let mut sums = BTreeMap::<(String, i64), (f64, u32)>::new();
    let mut state = 1_u64;
    for n in 0..LINES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(3);
        let device = format!("d{:05}", (state >> 33) % DEVICES);
        let ts = BEGIN_MS + n as i64 - (state >> 20) as i64 % DISORDER_MS;
        let temp = ((state >> 44) % 400) as f64 / 4.0 - 20.0;
        let file = &mut files[(n / 7 % FILES) as usize];
        writeln!(file, r#"{{"device":"{device}","status":"ok","ts":{ts},"temp":{temp}}}"#).unwrap();
        let (sum, count) = sums.entry((device, ts - ts.rem_euclid(WINDOW_MS))).or_default();
        *sum += temp;
        *count += 1;
    }
    let paths = files.iter().enumerate().map(|(n, text)| {
        let path = dir.join(format!("readings-{n}.jsonl"));
        std::fs::write(&path, text).unwrap();
        path
    });
    let averages =
        sums.into_iter().map(|(key, (sum, count))| (key, (sum / f64::from(count)).to_bits()));
    (paths.collect(), averages.collect())
}

#[test]
fn averages_equal_naive_ones_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, expected) = input(dir.path());
    for config in everywhere::configs(1) {
        let (out, paths) = (Collected::new(), paths.clone());
        let sink = out.sink();
        let job = Job::new("averages", move |flow| {
            let disorder = Duration::from_millis(DISORDER_MS as u64);
            flow.source(
                FileSource::all(&paths, Json::<Reading>::new()),
                Watermarks::bounded_out_of_orderness(disorder).timestamps(|r: &Reading| r.ts),
            )
            .key_by(|r| r.device.clone())
            .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
            .aggregate(Average::of(|r: &Reading| r.temp))
            .sink(sink.clone());
        });
        let what = format!("{}, {} shards", config.driver, config.shards);
        let metrics = job.run_with(&config).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(metrics.total("numLateRecordsDropped"), 0, "{what}");
        let rows: Averages = out
            .take()
            .into_iter()
            .map(|row| ((row.key.to_string(), row.start.as_millis()), row.value.to_bits()))
            .collect();
        assert!(rows == expected, "{what}: {} rows of {}", rows.len(), expected.len());
    }
}
