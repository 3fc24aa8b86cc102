//! The job under test, as a user would write it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thalweg::prelude::*;

#[derive(Deserialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

/// Statistics of each device over ten seconds, from `inputs` to `output`.
pub fn job(inputs: &[PathBuf], output: &Path) -> Job {
    let (inputs, output) = (inputs.to_vec(), output.to_owned());
    Job::new("sensors", move |flow| {
        let readings = FileSource::all(inputs.clone(), Json::<Reading>::new());
        let five_seconds =
            Watermarks::bounded_out_of_orderness(secs(5)).timestamps(|r: &Reading| r.ts);
        flow.source(readings, five_seconds)
            .key_by(|r| r.device.clone())
            .window(Tumbling::of(secs(10)))
            .aggregate(Stats::of(|r: &Reading| r.temp))
            .sink(FileSink::new(output.clone(), JsonLines::new()));
    })
}
