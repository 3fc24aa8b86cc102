//! The longest step of a watermark that makes a million timers due, or a million windows.
//!
//! `cargo bench -p thalweg-flow --bench longest`; a part of it: `-- timers`, `-- tumbling`, `-- sliding`, `-- sessions`.
//! Under `cargo test` each runs once and small.
//!
//! Other processes of the machine take their time from some step or other. So each job runs [`ROUNDS`] times, and the
//! figures are of the round whose longest step is the shortest. The first one is the time that passed, the second
//! the time that the processor spent on the step.
//!
//! The allocator has a step of its own: glibc gives the top of its heap back in one go, once nothing above is in
//! use. With `MALLOC_MMAP_THRESHOLD_=32768` in the environment the tables are given back one by one.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

#[path = "../tests/common/due.rs"]
mod due;

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use due::{ALL_DUE, Alarm, Record, SECOND};
use rustix::time::{ClockId, clock_gettime};
use thalweg_flow::*;

const ROUNDS: usize = 5;

fn by_time() -> Watermarks<impl EventTime<Record>> {
    Watermarks::monotonous().timestamps(|&(_, time): &Record| time).without_clock_guard()
}

/// How long a step has taken: the time that passed, and that of the processor.
#[derive(Clone, Copy, Default)]
struct Took {
    passed: Duration,
    worked: Duration,
}

impl Took {
    /// What `step` takes, and what it says.
    fn of<T>(step: impl FnOnce() -> T) -> (Self, T) {
        let (begun, worked) = (Instant::now(), worked());
        let said = step();
        (Self { passed: begun.elapsed(), worked: self::worked() - worked }, said)
    }

    fn max(self, other: Self) -> Self {
        Self { passed: self.passed.max(other.passed), worked: self.worked.max(other.worked) }
    }
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2?} ({:.2?})", self.passed, self.worked)
    }
}

/// The processor's time of this thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The longest step of each part of a run: while state grows, and from the watermark on that makes all due. The last
/// part is the step in which the job ends.
#[derive(Clone, Copy, Default)]
struct Longest {
    growing: Took,
    due: Took,
    end: Took,
    steps_due: u32,
}

/// Runs a job of records that make `keys` keys due, the last of them at `last`.
fn run(keys: u64, last: i64, describe: impl Fn(BoxedStream<Record>)) -> Longest {
    let records: Vec<Record> = (0..keys).map(|key| (key, 0)).chain([(0, last)]).collect();
    let records = Collection::new(records);
    let is_due = Rc::new(Cell::new(false));
    let job = |flow: &Flow| {
        let is_due = Rc::clone(&is_due);
        let look = move |_, record: &Record| is_due.set(is_due.get() || record.1 > 0);
        describe(flow.source(records.clone(), by_time()).inspect(look).boxed());
    };
    let mut shard = Shard::build(&job, &BuildContext::single("longest")).unwrap();
    let mut longest = Longest::default();
    loop {
        let (took, step) = Took::of(|| shard.step(Now::default()).unwrap());
        if step == Step::Done {
            longest.end = took;
            return longest;
        }
        if is_due.get() {
            longest.due = longest.due.max(took);
            longest.steps_due += 1;
        } else {
            longest.growing = longest.growing.max(took);
        }
    }
}

fn timers(keys: u64) -> Longest {
    run(keys, ALL_DUE.as_millis() + 1, |records| {
        records.key_by(|&(key, _)| key).process(|_| Alarm).discard();
    })
}

fn windows<W: Aligned + Clone>(keys: u64, last: i64, windows: W) -> Longest {
    run(keys, last, |records| {
        let windowed = records.key_by(|&(key, _)| key).window(windows.clone());
        windowed.keys_max(usize::MAX).aggregate(Count).discard();
    })
}

fn tumbling(keys: u64) -> Longest {
    windows(keys, ALL_DUE.as_millis(), Tumbling::of(SECOND))
}

fn sliding(keys: u64) -> Longest {
    windows(keys, 1_000, Sliding::of(10 * SECOND, SECOND))
}

fn sessions(keys: u64) -> Longest {
    run(keys, ALL_DUE.as_millis(), |records| {
        let windowed = records.key_by(|&(key, _)| key).window(Session::gap(SECOND));
        windowed.keys_max(usize::MAX).aggregate(Count).discard();
    })
}

fn main() {
    // Under `cargo test` once and small, so that it cannot rot.
    let small = std::env::args().all(|argument| argument != "--bench");
    let (keys, rounds) = if small { (1_000, 1) } else { (1_000_000, ROUNDS) };
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    type Measure = (&'static str, fn(u64) -> Longest);
    let all: [Measure; 4] =
        [("timers", timers), ("tumbling", tumbling), ("sliding", sliding), ("sessions", sessions)];
    for (name, measure) in all {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let rounds: Vec<Longest> = (0..rounds).map(|_| measure(keys)).collect();
        let least = |of: fn(&Longest) -> Took| {
            let all = || rounds.iter().map(of);
            let passed = all().map(|took| took.passed).min().unwrap();
            Took { passed, worked: all().map(|took| took.worked).min().unwrap() }
        };
        println!(
            "{keys} {name}: longest step of {}: due {}; while they come {}; at the end {}",
            rounds[0].steps_due,
            least(|round| round.due),
            least(|round| round.growing),
            least(|round| round.end),
        );
    }
}
