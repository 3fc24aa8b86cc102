//! What windows cost: overlapping ones beside tumbling ones, and the longest step of a watermark that closes a million.
//!
//! `cargo bench -p thalweg-flow --bench windows`; a part of it: `-- overlap`, `-- longest`. Instructions:
//! `valgrind --tool=callgrind target/release/deps/windows-* --bench overlap 100 tumbling`.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::cell::Cell;
use std::rc::Rc;
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

/// Steps a job to its end: the longest step since `counts` holds, and how many there were.
fn run(job: &dyn Fn(&Flow), counts: &Cell<bool>) -> (Duration, u32) {
    let mut shard = Shard::build(job, &BuildContext::single("windows")).unwrap();
    let (mut longest, mut steps) = (Duration::ZERO, 0);
    loop {
        let begun = Instant::now();
        let step = shard.step(Now::default()).unwrap();
        // What comes before is how tables grow.
        if counts.get() {
            longest = longest.max(begun.elapsed());
            steps += 1;
        }
        if step == Step::Done {
            return (longest, steps);
        }
    }
}

/// Events of so many keys, evenly in time.
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
    run(&job, &Cell::new(true));
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

/// A watermark that makes so many pairs of key and window due.
fn longest(keys: u64) {
    // Whether the record has come that makes them due.
    let due = Rc::new(Cell::new(false));
    let source = |flow: &Flow, last: i64| {
        let mut records: Vec<Record> = (0..keys).map(|key| (key, 0)).collect();
        records.push((0, last));
        let due = Rc::clone(&due);
        flow.source(Collection::new(records), by_time()).map(move |record: Record| {
            due.set(record.1 > 0);
            record
        })
    };
    let says = |name: &str, (longest, steps): (Duration, u32)| {
        println!("{keys} {name} due at once: longest step {longest:.2?} of {steps}");
    };
    let far = 1_000_000_000;
    let tumbling = run(
        &|flow| {
            let keyed = source(flow, far).key_by(|&(key, _)| key).window(Tumbling::of(SECOND));
            keyed.keys_max(usize::MAX).aggregate(Count).discard();
        },
        &due,
    );
    says("tumbling windows", tumbling);
    due.set(false);
    let sliding = run(
        &|flow| {
            let windows = Sliding::of(10 * SECOND, SECOND);
            let keyed = source(flow, 1_000).key_by(|&(key, _)| key).window(windows);
            keyed.keys_max(usize::MAX).aggregate(Count).discard();
        },
        &due,
    );
    says("windows of ten slices", sliding);
    due.set(false);
    let sessions = run(
        &|flow| {
            let keyed = source(flow, far).key_by(|&(key, _)| key).window(Session::gap(SECOND));
            keyed.keys_max(usize::MAX).aggregate(Count).discard();
        },
        &due,
    );
    says("sessions", sessions);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Under `cargo test` each once and small, so that it cannot rot.
    let small = std::env::args().all(|argument| argument != "--bench");
    let (count, keys) = if small { (10_000, 1_000) } else { (10_000_000, 1_000_000) };
    match arguments.as_slice() {
        ["overlap", keys, which] => {
            overlap(count / 5, keys.parse().ok().map(|keys| (keys, *which)))
        }
        ["overlap"] => overlap(count, None),
        ["longest"] => longest(keys),
        _ => {
            overlap(count, None);
            longest(keys);
        }
    }
}
