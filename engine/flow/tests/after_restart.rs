#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
//! A job finds after a restart what is not as it was. Partitions were idle or at their end, state is of another schema,
//! windows are others, memory has dropped keys, timers and clocks have gone far.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::{Collector, ConnectorError, Timestamp};

type Reading = (String, i64);

type Feed = common::Feed<Reading>;

fn push(feed: &Feed, key: &str, time: i64) {
    feed.push((key.into(), time));
}

fn watermarks() -> Watermarks<impl EventTime<Reading>> {
    Watermarks::monotonous().idle_after(Duration::from_millis(10)).timestamps(|r: &Reading| r.1)
}

/// The job anew, with so little memory that every key is read from storage.
fn restart(job: &dyn Fn(&Flow), store: &Store) -> Result<Vec<Shard>, ConnectorError> {
    let tuning = Tuning { state_memory_bytes_max: 0, ..Tuning::default() };
    try_build(1, tuning, Some(store.storage()), job)
}

fn at(ms: u64) -> Now {
    Now { wall: Timestamp::from(1_000_000 + ms), steady: Duration::from_millis(ms) }
}

fn run(shards: &mut [Shard], ms: u64) {
    step_all(shards, at(ms));
}

fn epoch(shards: &mut [Shard], store: &Store, ms: u64) {
    common::epoch(shards, store, at(ms));
}

fn counts(feeds: &[&Feed], table: &Table) -> impl Fn(&Flow) + use<> {
    let feeds = Feeds(feeds.iter().copied().cloned().collect());
    let sink = table.sink();
    move |flow| {
        flow.source_as("feeds", feeds.clone(), watermarks())
            .key_by(|(key, _)| key.clone())
            .window(Tumbling::of(Duration::from_millis(100)))
            .aggregate(Count)
            .uid("windows")
            .sink_as("rows", sink.clone());
    }
}

#[test]
fn a_window_that_has_fired_stays_fired() {
    let (store, table, a, b) = Default::default();
    let job = counts(&[&a, &b], &table);
    let mut shard = restart(&job, &store).unwrap();
    push(&b, "k", 10);
    push(&a, "k", 20);
    run(&mut shard, 0);
    run(&mut shard, 50);
    // Only one of the idle partitions speaks again: time goes on without the other.
    push(&a, "k", 1_000);
    run(&mut shard, 51);
    epoch(&mut shard, &store, 52);
    let mut shard = restart(&job, &store).unwrap();
    run(&mut shard, 0);
    push(&b, "k", 50);
    run(&mut shard, 1);
    push(&a, "k", 2_000);
    push(&b, "k", 2_000);
    run(&mut shard, 2);
    epoch(&mut shard, &store, 3);
    assert_eq!(table.rows().iter().filter(|row| row.starts_with("99 ")).count(), 1);
}

#[test]
fn a_job_that_has_ended_goes_on_when_there_is_more() {
    let (store, table, a, b): (Store, Table, Feed, Feed) = Default::default();
    let mut shard = restart(&counts(&[&a, &b], &table), &store).unwrap();
    push(&a, "k", 20);
    a.end();
    b.end();
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let (a, b): (Feed, Feed) = Default::default();
    let mut shard = restart(&counts(&[&a, &b], &table), &store).unwrap();
    (0..300).for_each(|n| push(&a, "k", 1_000 + n));
    a.end();
    b.end();
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    assert_eq!(table.rows().len(), 4, "one window before, three after");
}

#[test]
fn other_windows_do_not_take_over_what_was_stored() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let mut shard = restart(&counts(&[&a], &table), &store).unwrap();
    push(&a, "k", 10);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 0);
    let feeds = Feeds(vec![a]);
    let shorter = move |flow: &Flow| {
        flow.source_as("feeds", feeds.clone(), watermarks())
            .key_by(|(key, _)| key.clone())
            .window(Tumbling::of(Duration::from_millis(50)))
            .aggregate(Count)
            .uid("windows")
            .sink_as("rows", table.sink());
    };
    let error = restart(&shorter, &store).err().unwrap().to_string();
    assert!(error.contains("100ms") && error.contains("50ms"), "{error}");
}

#[test]
fn a_key_that_cannot_be_stored_ends_the_job_before_it_spoils_an_epoch() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let mut shard = restart(&counts(&[&a], &table), &store).unwrap();
    push(&a, &"x".repeat(70_000), 10);
    run(&mut shard, 0);
    shard[0].begin(store.epoch().next());
    run(&mut shard, 0);
    let error = shard[0].snapshot().unwrap_err().to_string();
    assert!(error.contains("65,525 bytes"), "{error}");
}

#[test]
fn a_side_output_that_no_operator_takes_over_is_refused() {
    let (store, a): (Store, Feed) = Default::default();
    let job = move |flow: &Flow| {
        let feeds = || flow.source(Feeds(vec![a.clone()]), watermarks());
        let (right, _tag, side) = feeds().key_by(|(key, _)| key.clone()).side_tag::<u32>("side");
        side.discard();
        feeds().key_by(|(key, _)| key.clone()).connect(right).process(|_| Neither).discard();
    };
    let error = restart(&job, &store).err().unwrap().to_string();
    assert!(error.contains("the side output \"side\" comes out of no operator"), "{error}");
}

/// Does nothing with the records of two streams.
struct Neither;

impl CoProcess<String, Reading, Reading> for Neither {
    type Out = ();
    fn left(&mut self, _: Reading, _: &mut Context<'_, String>, _: &mut impl Collector<()>) {}
    fn right(&mut self, _: Reading, _: &mut Context<'_, String>, _: &mut impl Collector<()>) {}
}

/// Emits what it knew of the key, and remembers the time of the record; forgets at a time that ends in 9.
struct Last(ValueState<String, (i64, u64)>);

impl Process<String, Reading> for Last {
    type Out = String;

    fn record(
        &mut self,
        (key, time): Reading,
        cx: &mut Context<'_, String>,
        out: &mut impl Collector<String>,
    ) {
        let last = self.0.get(cx).map(|(last, _)| last);
        out.record(cx.time(), format!("{key} {time} {last:?}"));
        if time % 10 == 9 {
            self.0.clear(cx);
        } else {
            self.0.set(cx, (time, 0));
        }
    }
}

fn last(
    feed: &Feed,
    table: &Table,
    options: impl Fn() -> StateOptions<(i64, u64)>,
) -> impl Fn(&Flow) {
    let (feeds, sink) = (Feeds(vec![feed.clone()]), table.sink());
    move |flow| {
        flow.source_as("feeds", feeds.clone(), watermarks())
            .key_by(|(key, _)| key.clone())
            .keys_max(20, Overflow::DeadLetter)
            .process(|states| Last(states.value_with("last", options())))
            .uid("last")
            .sink_as("rows", sink.clone());
    }
}

#[test]
fn state_of_an_earlier_schema_can_be_read_and_dropped() {
    struct Old(ValueState<String, i64>);
    impl Process<String, Reading> for Old {
        type Out = ();

        fn record(
            &mut self,
            (_, time): Reading,
            cx: &mut Context<'_, String>,
            _: &mut impl Collector<()>,
        ) {
            self.0.set(cx, time);
        }
    }
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let feeds = Feeds(vec![a.clone()]);
    let old = move |flow: &Flow| {
        flow.source_as("feeds", feeds.clone(), watermarks())
            .key_by(|(key, _)| key.clone())
            .process(|states| Old(states.value("last")))
            .uid("last")
            .map(|()| String::new())
            .sink_as("rows", Table::default().sink());
    };
    let mut shard = restart(&old, &store).unwrap();
    push(&a, "k", 10);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let options = || StateOptions::new().schema(2).migrate(1, |old: i64| (old, 0));
    let new = last(&a, &table, options);
    for time in [19, 30] {
        let mut shard = restart(&new, &store).unwrap();
        push(&a, "k", time);
        run(&mut shard, 0);
        epoch(&mut shard, &store, 1);
    }
    assert_eq!(table.rows(), ["19 \"k 19 Some(10)\"", "30 \"k 30 None\""]);
}

#[test]
fn keys_that_memory_has_dropped_are_counted_once() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let mut shard = restart(&last(&a, &table, StateOptions::new), &store).unwrap();
    for round in 0..30 {
        (0..3).for_each(|n| push(&a, &format!("k{n}"), round * 10 + n));
        run(&mut shard, 0);
        epoch(&mut shard, &store, 0);
        epoch(&mut shard, &store, 0);
    }
    push(&a, "new", 1_000);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 0);
    assert_eq!(table.rows().len(), 91, "three keys of twenty, and a fourth");
}

#[test]
fn what_is_written_before_the_first_watermark_lives_as_long_as_anything() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let options = || StateOptions::new().ttl(Ttl::event_time(Duration::from_secs(3_600)));
    let mut shard = restart(&last(&a, &table, options), &store).unwrap();
    for time in [500_000, 500_001] {
        push(&a, "k", time);
        run(&mut shard, 0);
    }
    epoch(&mut shard, &store, 0);
    assert!(table.rows()[1].contains("Some(500000)"), "{:?}", table.rows());
}

/// A timer that sets itself again a second later, in event time or by the clock.
struct Periodic(TimeDomain, Arc<AtomicU64>);

impl Periodic {
    fn set(&self, cx: &mut Context<'_, String>) {
        match self.0 {
            TimeDomain::EventTime => cx.event_timer(cx.time().plus_ms(1_000)),
            TimeDomain::ProcessingTime => cx.processing_timer(cx.processing_time().plus_ms(1)),
        }
    }
}

impl Process<String, Reading> for Periodic {
    type Out = ();

    fn record(&mut self, _: Reading, cx: &mut Context<'_, String>, _: &mut impl Collector<()>) {
        self.set(cx);
        // Due long ago, many times.
        (0..20_000).for_each(|ms| cx.processing_timer(ms.into()));
    }

    fn timer(&mut self, cx: &mut Context<'_, String>, _: &mut impl Collector<()>) {
        self.1.fetch_add(1, SeqCst);
        self.set(cx);
    }
}

#[test]
fn timers_that_set_themselves_end_with_their_stream_and_leave_a_step_in_time() {
    for domain in [TimeDomain::EventTime, TimeDomain::ProcessingTime] {
        let (store, a, fired): (Store, Feed, Arc<AtomicU64>) = Default::default();
        let (feeds, count) = (Feeds(vec![a.clone()]), Arc::clone(&fired));
        let job = move |flow: &Flow| {
            flow.source_as("feeds", feeds.clone(), watermarks())
                .key_by(|(key, _)| key.clone())
                .process(|_| Periodic(domain, Arc::clone(&count)))
                .uid("periodic")
                .discard();
        };
        let mut shard = restart(&job, &store).unwrap();
        push(&a, "k", 10);
        for _ in 0..3 {
            let before = fired.load(SeqCst);
            shard[0].step(at(1)).unwrap();
            assert!(fired.load(SeqCst) - before < 10_000, "in one step");
        }
        a.end();
        run(&mut shard, 2);
        epoch(&mut shard, &store, 3);
    }
}

/// Goal: an operator never goes on with the state of its neighbour, because another of its kind was added
/// before it. Once the operators have their names, all is as it was.
#[test]
fn one_more_operator_of_a_kind_is_refused_until_they_are_named() {
    let (store, table): (Store, Table) = Default::default();
    let feeds: [Feed; 3] = Default::default();
    // Each reads its feed, and has this name, or none.
    let job = |operators: &[(usize, Option<&'static str>)]| {
        let (feeds, sink, operators) = (feeds.clone(), table.sink(), operators.to_vec());
        move |flow: &Flow| {
            for &(feed, uid) in &operators {
                let source = Feeds(vec![feeds[feed].clone()]);
                let rows = flow
                    .source_as(&format!("feed {feed}"), source, watermarks())
                    .key_by(|(key, _)| key.clone())
                    .process(|states| Last(states.value("last")));
                let rows = if let Some(uid) = uid { rows.uid(uid) } else { rows };
                rows.sink_as(&format!("rows {feed}"), sink.clone());
            }
        }
    };
    let mut shard = restart(&job(&[(0, None), (1, None)]), &store).unwrap();
    push(&feeds[0], "k", 10);
    push(&feeds[1], "k", 20);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let added = job(&[(2, None), (0, None), (1, None)]);
    let error = restart(&added, &store).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(r#"("Process", "Process #2")"#), "{error}");
    let named = job(&[(2, Some("new")), (0, Some("Process")), (1, Some("Process #2"))]);
    let mut shard = restart(&named, &store).unwrap();
    for (feed, time) in [(0, 11), (1, 21), (2, 31)] {
        push(&feeds[feed], "k", time);
    }
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let mut rows = table.rows();
    rows.sort();
    let expected = [
        "10 \"k 10 None\"",
        "11 \"k 11 Some(10)\"",
        "20 \"k 20 None\"",
        "21 \"k 21 Some(20)\"",
        "31 \"k 31 None\"",
    ];
    assert_eq!(rows, expected);
}
