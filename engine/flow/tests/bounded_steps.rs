//! A watermark that makes very much due at once: no step does more than its share.
//!
//! What a step does is counted in bytes that it takes from the allocator or gives back, and in rows that it emits. Both
//! depend on nothing but the job: a table that grew or was dropped in one go would be seen on the busiest machine.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/due.rs"]
mod due;

use std::cell::Cell;
use std::rc::Rc;

use allocation_counter::measure;
use due::{ALL_DUE, Alarm, Record, SECOND};
use thalweg_flow::*;
use thalweg_kernel::{Collector, Timestamp};
use thalweg_testing::{Act, Scripted};

const KEYS: u64 = 200_000;
/// Records of the other pipeline.
const TICKS: u64 = 4_000;
/// Each of the tables that are filled and emptied takes several times this much.
const STEP_BYTES_MAX: u64 = 2 << 20;
/// A little is done whatever the budget.
const STEP_ROWS_MAX: u64 = 2_048 + 256;

/// What one step has done.
#[derive(Clone, Copy, Default)]
struct Done {
    allocated: u64,
    freed: u64,
    rows: u64,
}

/// Runs a job of a record for each key, and one at `last` that makes all due, beside a second pipeline. Rows are counted in
/// the cell that `describe` is given.
fn check(name: &str, rows: u64, last: i64, describe: impl Fn(BoxedStream<Record>, Rc<Cell<u64>>)) {
    let records: Vec<Record> = (0..KEYS).map(|key| (key, 0)).chain([(0, last)]).collect();
    // One record in each step.
    let ticks = (0..TICKS).flat_map(|n| [Act::Record(n), Act::Silence]);
    let (records, ticks) = (Collection::new(records), Scripted::new([ticks.collect()]));
    let [emitted, ticked] = [(); 2].map(|()| Rc::<Cell<u64>>::default());
    let job = |flow: &Flow| {
        let by_time = Watermarks::monotonous().timestamps(|&(_, time): &Record| time);
        let all = flow.source(records.clone(), by_time.without_clock_guard());
        describe(all.boxed(), Rc::clone(&emitted));
        let ticked = Rc::clone(&ticked);
        flow.source(ticks.clone(), Watermarks::monotonous())
            .inspect(move |_, _| ticked.set(ticked.get() + 1))
            .discard();
    };
    let mut shard = Shard::build(&job, &BuildContext::single(name)).unwrap();
    let (mut most, mut is_done) = (Done::default(), false);
    while !is_done {
        let before = (emitted.get(), ticked.get());
        let taken = measure(|| is_done = shard.step(Now::default()).unwrap() == Step::Done);
        let freed = taken.bytes_total.saturating_add_signed(-taken.bytes_current);
        most.allocated = most.allocated.max(taken.bytes_total);
        most.freed = most.freed.max(freed);
        most.rows = most.rows.max(emitted.get() - before.0);
        let goes_on = ticked.get() > before.1 || before.1 == TICKS;
        assert!(goes_on, "{name}: the other pipeline stands still");
    }
    assert_eq!(emitted.get(), rows, "{name}");
    let Done { allocated, freed, rows } = most;
    assert!(allocated <= STEP_BYTES_MAX, "{name}: {allocated} bytes allocated in one step");
    assert!(freed <= STEP_BYTES_MAX, "{name}: {freed} bytes freed in one step");
    assert!(rows <= STEP_ROWS_MAX, "{name}: {rows} rows in one step");
}

fn count<T>(rows: Rc<Cell<u64>>) -> impl FnMut(Timestamp, &T) {
    move |_, _| rows.set(rows.get() + 1)
}

#[test]
fn no_step_does_more_than_its_share_of_timers() {
    check("timers", KEYS, ALL_DUE.as_millis() + 1, |records, rows| {
        let keyed = records.key_by(|&(key, _)| key);
        keyed.process(|_| Alarm).inspect(count(rows)).discard();
    });
}

/// Sets a timer for each record, all of one key and for times of their own.
struct Alarms;

impl Process<(), Record> for Alarms {
    type Out = i64;

    fn record(&mut self, (n, _): Record, cx: &mut Context<'_, ()>, _: &mut impl Collector<i64>) {
        cx.event_timer(ALL_DUE.minus_ms(n as i64));
    }

    fn timer(&mut self, cx: &mut Context<'_, ()>, out: &mut impl Collector<i64>) {
        out.record(cx.time(), cx.time().as_millis());
    }
}

#[test]
fn no_step_does_more_than_its_share_of_what_the_clock_of_a_key_makes_due() {
    check("clock of a key", KEYS, ALL_DUE.as_millis() + 1, |records, rows| {
        let keyed = records.key_by(|_| ()).clock_per_key(Watermarks::monotonous());
        keyed.process(|_| Alarms).inspect(count(rows)).discard();
    });
}

#[test]
fn no_step_does_more_than_its_share_of_tumbling_windows() {
    check("tumbling", KEYS + 1, ALL_DUE.as_millis(), |records, rows| {
        let windowed = records.key_by(|&(key, _)| key).window(Tumbling::of(SECOND));
        windowed.aggregate(Count).inspect(count(rows)).discard();
    });
}

#[test]
fn no_step_does_more_than_its_share_of_sliding_windows() {
    // Each key is in three windows; the last record in three later ones, of which two have the first key's slice, too.
    check("sliding", KEYS * 3 + 1, 1_000, |records, rows| {
        let windowed = records.key_by(|&(key, _)| key).window(Sliding::of(3 * SECOND, SECOND));
        windowed.aggregate(Count).inspect(count(rows)).discard();
    });
}

#[test]
fn no_step_does_more_than_its_share_of_sessions() {
    check("sessions", KEYS + 1, ALL_DUE.as_millis(), |records, rows| {
        let windowed = records.key_by(|&(key, _)| key).window(Session::gap(SECOND));
        windowed.aggregate(Count).inspect(count(rows)).discard();
    });
}
