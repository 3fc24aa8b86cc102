//! What becomes of input that does not fit: nothing is lost without a trace.
//!
//! ```sh
//! cargo run -p thalweg-examples --example late_and_dead                  # results in this folder
//! cargo run -p thalweg-examples --example late_and_dead INPUT FOLDER
//! ```
//!
//! | file | what it gets |
//! |---|---|
//! | `averages.jsonl` | each device's average per 10 s |
//! | `late.jsonl` | readings whose window had already fired: more than 2 s behind the latest |
//! | `dead.jsonl` | lines that are no readings, with the reason and where they stood |
//! | `alerts.jsonl` | a *side output*: readings over 30 degrees, beside the main stream |

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thalweg::prelude::*;

#[derive(Clone, Deserialize, Serialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

fn main() -> Result<(), JobError> {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/readings.jsonl");
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().unwrap_or(sample.into());
    let folder = PathBuf::from(arguments.next().unwrap_or(".".into()));
    let file = move |name| FileSink::new(folder.join(name), JsonLines);

    thalweg::run(&Job::new("late and dead", move |flow| {
        let readings = flow.source(
            FileSource::new(&input, Json::<Reading>::new()),
            Watermarks::bounded_out_of_orderness(secs(2)).timestamps(|r: &Reading| r.ts),
        );
        // A closure with a side: what it returns goes on, what it emits goes aside.
        let (readings, alerts) = readings.side_output(|reading, side| {
            if reading.temp > 30.0 {
                side.emit(reading.clone());
            }
            Some(reading)
        });
        let (windows, late) =
            readings.key_by(|r| r.device.clone()).window(Tumbling::of(secs(10))).late_output();

        windows.aggregate(Average::of(|r: &Reading| r.temp)).sink(file("averages.jsonl"));
        late.sink(file("late.jsonl"));
        alerts.sink(file("alerts.jsonl"));
        flow.dead_letters().sink(file("dead.jsonl"));
    }))
}
