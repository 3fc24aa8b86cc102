//! Operator state: a buffer that is there again after a restart.
//!
//! ```sh
//! cargo run -p thalweg-examples --example in_order                    # readings.jsonl of this folder
//! cargo run -p thalweg-examples --example in_order INPUT STATE_DIR
//! ```
//!
//! Readings come up to 5 s out of order and leave in order. Until no earlier one is expected they wait in a list
//! that belongs to the operator, not to a key. With a directory for the state, ctrl-C or `kill -9` costs nothing of
//! what waits, and no line of this example is about that.

use serde::{Deserialize, Serialize};
use thalweg::prelude::*;

#[derive(Deserialize, Serialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

/// Holds readings back until the watermark has passed them.
struct InOrder {
    waiting: OperatorListState<(i64, Str, f64)>,
}

impl Process<NoKey, Reading> for InOrder {
    type Out = Reading;

    fn record(
        &mut self,
        r: Reading,
        cx: &mut Context<'_, NoKey>,
        out: &mut impl Collector<Reading>,
    ) {
        // A list has bounds. What it has no room for leaves at once: better out of order than not at all.
        if let Err(ListFull((ts, device, temp))) = self.waiting.push((r.ts, r.device, r.temp)) {
            out.record(cx.time(), Reading { device, ts, temp });
        }
    }

    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<Reading>) {
        let due = |ts: i64| Timestamp::from(ts) <= cx.watermark();
        let mut ready: Vec<_> =
            self.waiting.with(|all| all.filter(|(ts, ..)| due(*ts)).cloned().collect());
        self.waiting.retain(|(ts, ..)| !due(*ts));
        ready.sort_by_key(|(ts, ..)| *ts);
        for (ts, device, temp) in ready {
            out.record(ts.into(), Reading { device, ts, temp });
        }
    }
}

fn main() -> Result<(), JobError> {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/readings.jsonl");
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().unwrap_or(sample.into());
    let state = arguments.next().map(|dir| StateConfig::new(StateDirectory::new(dir).backend()));

    let job = Job::new("in order", move |flow| {
        flow.source(
            FileSource::new(&input, Json::<Reading>::new()),
            Watermarks::bounded_out_of_orderness(secs(5)).timestamps(|r: &Reading| r.ts),
        )
        .process(|states| InOrder { waiting: states.list("waiting") })
        .uid("in order")
        .sink(StdoutSink::new());
    });
    thalweg::run_with(&job, &RuntimeConfig { state, ..RuntimeConfig::default() })
}
