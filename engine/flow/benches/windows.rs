//! What windows cost: overlapping ones beside tumbling ones.
//!
//! `cargo bench -p thalweg-flow --bench windows`. Instructions of a part:
//! `valgrind --tool=callgrind target/release/deps/windows-* --bench overlap 100 tumbling`.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::time::{Duration, Instant};

use thalweg_flow::*;

/// Key and time.
type Record = (u64, i64);

/// Events for each second of event time.
const EVENTS_PER_SECOND: u64 = 100_000;
const SECOND: Duration = Duration::from_secs(1);

fn by_time() -> Watermarks<impl EventTime<Record>> {
    Watermarks::monotonous().timestamps(|&(_, time): &Record| time).without_clock_guard()
}

/// Events of this many keys, evenly in time.
fn events(count: u64, keys: u64) -> Vec<Record> {
    let mix = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % keys;
    (0..count).map(|n| (mix(n), (n * 1_000 / EVENTS_PER_SECOND) as i64)).collect()
}

fn counts<W: Aligned + Clone>(records: Vec<Record>, windows: W) -> Duration {
    let records = std::cell::RefCell::new(Some(Collection::new(records)));
    let job = |flow: &Flow| {
        let records = records.borrow_mut().take().unwrap();
        let keyed = flow.source(records, by_time()).key_by(|&(key, _)| key);
        keyed.window(windows.clone()).aggregate(Count).discard();
    };
    let begun = Instant::now();
    let mut shard = Shard::build(&job, &BuildContext::single("windows")).unwrap();
    while shard.step(Now::default()).unwrap() != Step::Done {}
    begun.elapsed()
}

/// Overlapping windows, of which each second is in sixty, beside windows of a second.
fn overlap(count: u64, only: Option<(u64, &str)>) {
    for keys in [100, 10_000] {
        let each = |name: &str, took: Duration| {
            println!(
                "{keys} keys, {name}: {:.1} ns an event",
                took.as_nanos() as f64 / count as f64
            );
        };
        let wanted = |name| only.is_none_or(|only| only == (keys, name));
        if wanted("tumbling") {
            each("tumbling 1 s", counts(events(count, keys), Tumbling::of(SECOND)));
        }
        if wanted("sliding") {
            let windows = Sliding::of(60 * SECOND, SECOND);
            each("sliding 60 s / 1 s", counts(events(count, keys), windows));
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Under `cargo test` each once and small, so that it cannot rot.
    let small = std::env::args().all(|argument| argument != "--bench");
    let count = if small { 10_000 } else { 10_000_000 };
    match arguments.as_slice() {
        ["overlap", keys, which] => {
            overlap(count / 5, keys.parse().ok().map(|keys| (keys, *which)));
        }
        _ => overlap(count, None),
    }
}
