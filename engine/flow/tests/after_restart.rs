#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
//! What a job finds after a restart that is not as it was: partitions that were idle or at their end, state of
//! another schema, other windows, keys that memory has dropped, timers and clocks that have gone far.

#[path = "common/world.rs"]
mod world;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::{
    Collector, ConnectorError, Emit, Generated, OpenContext, PartitionId, Partitions, Source,
    SourceSpec, SourceStatus, Timestamp,
};
use world::{Store, Table};

type Reading = (String, i64);

/// A partition that a test fills as it goes. It has no position: what was read does not come again.
#[derive(Clone, Default)]
struct Feed(Arc<Mutex<(VecDeque<Reading>, bool)>>);

impl Feed {
    fn push(&self, key: &str, time: i64) {
        self.0.lock().unwrap().0.push_back((key.into(), time));
    }

    fn end(&self) {
        self.0.lock().unwrap().1 = true;
    }
}

#[derive(Clone)]
struct Feeds(Vec<Feed>);

impl SourceSpec for Feeds {
    type Item = Reading;
    type Partition = Feed;

    fn describe(&self) -> String {
        "feeds".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }

    fn open(&self, partition: &PartitionId, _: &OpenContext) -> Result<Feed, ConnectorError> {
        Ok(self.0[partition.number().unwrap()].clone())
    }
}

impl Source for Feed {
    type Item = Reading;

    fn poll(
        &mut self,
        now: Timestamp,
        _: usize,
        out: &mut impl Emit<Reading>,
    ) -> Result<SourceStatus, ConnectorError> {
        let (readings, ended) = &mut *self.0.lock().unwrap();
        readings.drain(..).for_each(|reading| out.record(reading, now, &Generated));
        Ok(if *ended { SourceStatus::Ended } else { SourceStatus::Waiting(None) })
    }

    fn stop(&mut self) {
        self.end();
    }
}

fn watermarks() -> Watermarks<impl EventTime<Reading>> {
    Watermarks::monotonous().idle_after(Duration::from_millis(10)).timestamps(|r: &Reading| r.1)
}

fn try_build(job: &dyn Fn(&Flow), store: &Store) -> Result<Shard, ConnectorError> {
    // So little memory that every key is read from storage.
    let tuning = Tuning { state_memory_bytes_max: 0, ..Tuning::default() };
    let storage = Some(store.storage());
    Shard::build(job, &BuildContext { storage, tuning, ..BuildContext::single("restart") })
}

fn at(ms: u64) -> Now {
    Now { wall: Timestamp::from(1_000_000 + ms), steady: Duration::from_millis(ms) }
}

fn run(shard: &mut Shard, ms: u64) {
    for _ in 0..50 {
        shard.step(at(ms)).unwrap();
    }
}

fn epoch(shard: &mut Shard, store: &Store, ms: u64) {
    let epoch = store.epoch().next();
    shard.begin(epoch);
    run(shard, ms);
    store.commit(epoch, &[shard.snapshot().unwrap().expect("the epoch completes")]);
    shard.committed(epoch, epoch).unwrap();
    run(shard, ms);
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
    let mut shard = try_build(&job, &store).unwrap();
    b.push("k", 10);
    a.push("k", 20);
    run(&mut shard, 0);
    run(&mut shard, 50);
    // Only one of the idle partitions speaks again: time goes on without the other.
    a.push("k", 1_000);
    run(&mut shard, 51);
    epoch(&mut shard, &store, 52);
    let mut shard = try_build(&job, &store).unwrap();
    run(&mut shard, 0);
    b.push("k", 50);
    run(&mut shard, 1);
    a.push("k", 2_000);
    b.push("k", 2_000);
    run(&mut shard, 2);
    epoch(&mut shard, &store, 3);
    assert_eq!(table.rows().iter().filter(|row| row.starts_with("99 ")).count(), 1);
}

#[test]
fn a_job_that_has_ended_goes_on_when_there_is_more() {
    let (store, table, a, b): (Store, Table, Feed, Feed) = Default::default();
    let mut shard = try_build(&counts(&[&a, &b], &table), &store).unwrap();
    a.push("k", 20);
    a.end();
    b.end();
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let (a, b): (Feed, Feed) = Default::default();
    let mut shard = try_build(&counts(&[&a, &b], &table), &store).unwrap();
    (0..300).for_each(|n| a.push("k", 1_000 + n));
    a.end();
    b.end();
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    assert_eq!(table.rows().len(), 4, "one window before, three after");
}

#[test]
fn other_windows_do_not_take_over_what_was_stored() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let mut shard = try_build(&counts(&[&a], &table), &store).unwrap();
    a.push("k", 10);
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
    let error = try_build(&shorter, &store).err().unwrap().to_string();
    assert!(error.contains("100ms") && error.contains("50ms"), "{error}");
}

#[test]
fn a_key_that_cannot_be_stored_ends_the_job_before_it_spoils_an_epoch() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let mut shard = try_build(&counts(&[&a], &table), &store).unwrap();
    a.push(&"x".repeat(70_000), 10);
    run(&mut shard, 0);
    shard.begin(store.epoch().next());
    run(&mut shard, 0);
    let error = shard.snapshot().unwrap_err().to_string();
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
    let error = try_build(&job, &store).err().unwrap().to_string();
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
    let mut shard = try_build(&old, &store).unwrap();
    a.push("k", 10);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let options = || StateOptions::new().schema(2).migrate(1, |old: i64| (old, 0));
    let new = last(&a, &table, options);
    for time in [19, 30] {
        let mut shard = try_build(&new, &store).unwrap();
        a.push("k", time);
        run(&mut shard, 0);
        epoch(&mut shard, &store, 1);
    }
    assert_eq!(table.rows(), ["19 \"k 19 Some(10)\"", "30 \"k 30 None\""]);
}

#[test]
fn keys_that_memory_has_dropped_are_counted_once() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let mut shard = try_build(&last(&a, &table, StateOptions::new), &store).unwrap();
    for round in 0..30 {
        (0..3).for_each(|n| a.push(&format!("k{n}"), round * 10 + n));
        run(&mut shard, 0);
        epoch(&mut shard, &store, 0);
        epoch(&mut shard, &store, 0);
    }
    a.push("new", 1_000);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 0);
    assert_eq!(table.rows().len(), 91, "three keys of twenty, and a fourth");
}

#[test]
fn what_is_written_before_the_first_watermark_lives_as_long_as_anything() {
    let (store, table, a): (Store, Table, Feed) = Default::default();
    let options = || StateOptions::new().ttl(Ttl::event_time(Duration::from_secs(3_600)));
    let mut shard = try_build(&last(&a, &table, options), &store).unwrap();
    for time in [500_000, 500_001] {
        a.push("k", time);
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
        let mut shard = try_build(&job, &store).unwrap();
        a.push("k", 10);
        for _ in 0..3 {
            let before = fired.load(SeqCst);
            shard.step(at(1)).unwrap();
            assert!(fired.load(SeqCst) - before < 10_000, "in one step");
        }
        a.end();
        run(&mut shard, 2);
        epoch(&mut shard, &store, 3);
    }
}

/// Goal: an operator never goes on with the state of its neighbour, because another of its kind was added
/// before it; once they have their names, all is as it was.
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
    let mut shard = try_build(&job(&[(0, None), (1, None)]), &store).unwrap();
    feeds[0].push("k", 10);
    feeds[1].push("k", 20);
    run(&mut shard, 0);
    epoch(&mut shard, &store, 1);
    let added = job(&[(2, None), (0, None), (1, None)]);
    let error = try_build(&added, &store).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(r#"("Process", "Process #2")"#), "{error}");
    let named = job(&[(2, Some("new")), (0, Some("Process")), (1, Some("Process #2"))]);
    let mut shard = try_build(&named, &store).unwrap();
    for (feed, time) in [(0, 11), (1, 21), (2, 31)] {
        feeds[feed].push("k", time);
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
