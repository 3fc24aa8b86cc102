//! `check`: what a part of a job makes of a script, both written as text.
//!
//! A script is records `key=value@time` and watermarks `|time`, each watermark directly behind the record in front of it.
//! Behind the script the stream ends. What comes out is written as records.

use std::fmt::Display;

use thalweg_flow::{BoxedStream, Collected, Collection, Flow, Tuning, Watermarks};
use thalweg_kernel::{Str, Timestamp};

use super::shards::{TINY, run};

/// A record of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) key: Str,
    pub(crate) value: i64,
    pub(crate) time: i64,
    watermark: Option<Timestamp>,
}

/// The records of a script.
fn records(script: &str) -> Vec<Said> {
    let mut records = Vec::<Said>::new();
    for word in script.split_whitespace() {
        if let Some(time) = word.strip_prefix('|') {
            let Some(before) = records.last_mut() else { panic!("{word}: behind which record?") };
            before.watermark = Some(time.parse::<i64>().unwrap().into());
            continue;
        }
        let (key, rest) = word.split_once('=').unwrap_or_else(|| panic!("{word}: key=value@time"));
        let (value, time) = rest.split_once('@').unwrap_or_else(|| panic!("{word}: no time"));
        let (value, time) = (value.parse().unwrap(), time.parse().unwrap());
        records.push(Said { key: key.into(), value, time, watermark: None });
    }
    records
}

/// `part` of a job gives what is expected, for each key in this order. It does so on any number of shards, with steps and
/// batches of any size.
pub(crate) fn check<V: Display + Send + 'static>(
    part: impl Fn(BoxedStream<Said>) -> BoxedStream<(Str, V)>,
    script: &str,
    expected: &str,
) {
    let by_key = |record: &String| record.split('=').next().map(str::to_owned);
    let mut expected: Vec<_> = expected.split_whitespace().map(str::to_owned).collect();
    expected.sort_by_key(by_key);
    for shards in [1, 2, 3, 8] {
        for tuning in [Tuning::default(), TINY] {
            let out = Collected::new();
            let (sink, source) = (out.sink(), Collection::new(records(script)));
            let job = |flow: &Flow| {
                let watermarks = Watermarks::punctuated(|said: &Said, _| said.watermark)
                    .timestamps(|said: &Said| said.time)
                    .without_clock_guard();
                part(flow.source(source.clone(), watermarks).boxed()).sink(sink.clone());
            };
            run(shards, tuning, &job);
            let row = |(time, (key, value))| format!("{key}={value}@{time}");
            let mut found: Vec<_> = out.take_timed().into_iter().map(row).collect();
            found.sort_by_key(by_key);
            assert_eq!(found, expected, "{shards} shards, {tuning:?}: {script}");
        }
    }
}
