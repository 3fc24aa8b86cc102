//! What timers of a process function find: at the end of time, after a leap of it, and when they change each other.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::{Collector, Timestamp};

/// Key, time.
type Record = (u32, i64);

/// Runs a job of these records to its end: what came out of its process function.
fn run<P: Process<u32, Record>>(
    records: &[Record],
    make: impl Fn(&mut States<'_, u32>) -> P,
) -> Vec<P::Out>
where
    P::Out: Send,
{
    let (out, source) = (Collected::new(), Collection::new(records.to_vec()));
    let sink = out.sink();
    let job = |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        flow.source(source.clone(), watermarks.without_clock_guard())
            .key_by(|record: &Record| record.0)
            .process(&make)
            .sink(sink.clone());
    };
    common::run(1, Tuning::default(), &job);
    out.take()
}

/// Sets a timer ten seconds later for each record, and with each timer that fires one five seconds later; deletes
/// those of even seconds.
struct Chained;

impl Process<u32, Record> for Chained {
    type Out = (u32, i64);

    fn record(&mut self, _: Record, cx: &mut Context<'_, u32>, _: &mut impl Collector<(u32, i64)>) {
        cx.event_timer(cx.time().plus_ms(10_000));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<(u32, i64)>) {
        out.record(cx.time(), (*cx.key(), cx.time().as_millis()));
        cx.event_timer(cx.time().plus_ms(5_000));
        // Of those that are due as well.
        cx.delete_event_timer(cx.time().plus_ms(7_000));
    }
}

/// Goal: when the stream ends all timers fire that are set by then, and none of the timers that they set in turn.
#[test]
fn at_the_end_those_fire_that_were_set_by_then() {
    let records = [(1, 0), (1, 7_000), (2, 8_000), (3, 9_000), (3, 9_001)];
    let fired = run(&records, |_| Chained);
    assert_eq!(fired, [(1, 10_000), (2, 18_000), (3, 19_000), (3, 19_001)]);
    // Those that are due on the way fire as often as they are.
    let fired = run(&[(1, 0), (2, 21_000), (2, 21_000)], |_| Chained);
    assert_eq!(fired, [(1, 10_000), (1, 15_000), (1, 20_000), (1, 25_000), (2, 31_000)]);
}

/// Remembers the time of a record for a minute. It says what is left of that after ten seconds, after the minute, and one
/// millisecond later.
struct Left(ValueState<u32, i64>);

impl Process<u32, Record> for Left {
    type Out = (u32, Timestamp, Option<i64>);

    fn record(
        &mut self,
        (_, time): Record,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<Self::Out>,
    ) {
        self.0.set(cx, time);
        [10_000, 60_000, 60_001].into_iter().for_each(|ms| cx.event_timer(cx.time().plus_ms(ms)));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Self::Out>) {
        out.record(cx.time(), (*cx.key(), cx.time(), self.0.get(cx)));
    }
}

/// Goal: a timer finds what lives at its time, however far the watermark has leapt that lets it fire.
#[test]
fn a_timer_finds_what_lives_at_its_time() {
    let ttl = || StateOptions::new().ttl(Ttl::event_time(Duration::from_secs(60)));
    let left = |key, from: i64| {
        [(10_000, Some(from)), (60_000, Some(from)), (60_001, None)]
            .map(|(ms, left)| (key, Timestamp::from(from + ms), left))
    };
    let found = run(&[(1, 0)], |states| Left(states.value_with("time", ttl())));
    assert_eq!(found, left(1, 0), "at the end");
    let records = [(1, 0), (2, 7_200_000), (2, 7_200_000)];
    let found = run(&records, |states| Left(states.value_with("time", ttl())));
    assert_eq!(found, [left(1, 0), left(2, 7_200_000)].concat());
}

/// Remembers a record for a minute, and says at the end of time what it was.
struct Farewell(ValueState<u32, i64>);

impl Process<u32, Record> for Farewell {
    type Out = Option<i64>;

    fn record(
        &mut self,
        (_, time): Record,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<Option<i64>>,
    ) {
        self.0.set(cx, time);
        cx.event_timer(Timestamp::MAX);
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Option<i64>>) {
        out.record(cx.time(), self.0.get(cx));
    }
}

#[test]
fn a_timer_at_the_end_of_time_finds_what_lives_when_the_stream_ends() {
    let ttl = || StateOptions::new().ttl(Ttl::event_time(Duration::from_secs(60)));
    let records = [(1, 0), (2, 50_000), (3, 70_000), (3, 70_000)];
    let found = run(&records, |states| Farewell(states.value_with("time", ttl())));
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_unstable();
    assert_eq!(found, [None, Some(50_000), Some(70_000)]);
}
