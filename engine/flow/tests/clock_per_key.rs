//! Functions whose keys have clocks of their own: a device that is hours late, silence, crashes, other numbers of shards. They
//! are compared with a naive reading of each key's records.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::each_third::EachThird;
use common::*;
use thalweg_flow::*;
use thalweg_kernel::{Collector, Timestamp};

const WINDOW_MS: i64 = 30;
const HOUR_MS: i64 = 3_600_000;

/// Counts the records of each key in windows, by hand, and says which are late.
struct Windows {
    counts: MapState<u32, i64, u64>,
}

impl Windows {
    fn new(states: &mut States<'_, u32>) -> Self {
        Self { counts: states.map("counts") }
    }
}

impl Process<u32, Rec> for Windows {
    type Out = String;

    fn record(
        &mut self,
        (key, time, _): Rec,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<String>,
    ) {
        assert_eq!(cx.is_late(), cx.time() <= cx.watermark());
        let start = time - time.rem_euclid(WINDOW_MS);
        let last = Timestamp::from(start + WINDOW_MS - 1);
        if last <= cx.watermark() {
            return out.record(cx.time(), format!("late {key} {time}"));
        }
        let count = self.counts.get(cx, &start).unwrap_or_default();
        self.counts.put(cx, start, count + 1);
        cx.event_timer(last);
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<String>) {
        assert!(cx.time() <= cx.watermark(), "a timer ahead of its key's clock");
        let start = cx.time().as_millis() + 1 - WINDOW_MS;
        let count = self.counts.get(cx, &start).unwrap_or_default();
        out.record(cx.time(), format!("{} {start} {count}", cx.key()));
        self.counts.remove(cx, &start);
    }
}

/// What [`Windows`] says, in order, computed record by record with a watermark for each key.
fn naive(
    records: &[Rec],
    mut watermark_behind: impl FnMut(&mut (u64, i64), &Rec) -> Option<i64>,
) -> Vec<String> {
    let (mut clocks, mut rows) = (BTreeMap::<u32, (i64, (u64, i64))>::new(), Vec::new());
    let mut counts = BTreeMap::<(u32, i64), u64>::new();
    for record @ &(key, time, _) in records {
        let (watermark, state) = clocks.entry(key).or_insert((i64::MIN, (0, i64::MIN)));
        let start = time - time.rem_euclid(WINDOW_MS);
        if start + WINDOW_MS - 1 <= *watermark {
            rows.push(format!("late {key} {time}"));
        } else {
            *counts.entry((key, start)).or_default() += 1;
        }
        *watermark = (*watermark).max(watermark_behind(state, record).unwrap_or(i64::MIN));
    }
    rows.extend(counts.iter().map(|((key, start), count)| format!("{key} {start} {count}")));
    rows.sort();
    rows
}

fn by_record() -> Watermarks<impl EventTime<Rec>> {
    Watermarks::monotonous().timestamps(|record: &Rec| record.1).without_clock_guard()
}

fn disordered(ms: u64) -> Watermarks {
    Watermarks::bounded_out_of_orderness(Duration::from_millis(ms))
}

/// Device 9 is offline while the others send three hours of readings, and brings its backlog then.
fn three_hours() -> (Vec<Rec>, Vec<Rec>) {
    let others = (0..300).flat_map(|n| (1..4).map(move |key| (key, n * (HOUR_MS / 100), n as u64)));
    // Up to four milliseconds out of order.
    let backlog = (1..300).map(|n| (9, n * 7 - n % 5, n as u64));
    ([(9, 0, 0)].into_iter().chain(others).collect(), backlog.collect())
}

/// Goal: every window of a device that is three hours late is right, none of its readings is late, and the others have not
/// waited. The same on 1, 2 and 3 shards, placed or not.
#[test]
fn a_device_that_is_three_hours_late_has_all_of_its_windows() {
    let (others, backlog) = three_hours();
    let all = [others.clone(), backlog].concat();
    let mut expected = naive(&all, |(_, latest), &(_, time, _)| {
        *latest = time.max(*latest);
        Some(*latest - 5)
    });
    assert!(expected.iter().all(|row| !row.starts_with("late")) && expected.len() > 3 * 300);
    expected.sort();
    for (shards, placed) in [(1, false), (2, false), (3, false), (1, true), (3, true)] {
        let out = Collected::new();
        let (sink, source) = (out.sink(), Collection::new(all.clone()));
        let job = move |flow: &Flow| {
            let keyed = flow.source(source.clone(), by_record()).key_by(|record| record.0);
            let keyed = keyed.clock_per_key(disordered(4));
            let rows = match placed {
                false => keyed.process(Windows::new).boxed(),
                // What looks at no time leaves the clock to what follows.
                true => keyed.deduplicate(|record| record.2).boxed().process(Windows::new).boxed(),
            };
            rows.sink(sink.clone());
        };
        run(shards, Tuning::default(), &job);
        let rows = out.take();
        if shards == 1 {
            let of_nine = rows.iter().position(|row| row.starts_with("9 ")).unwrap();
            let others_first = rows[..of_nine].iter().filter(|row| !row.starts_with("9 ")).count();
            assert!(others_first >= 3 * 299, "the others waited: {others_first}");
        }
        let mut rows = rows;
        rows.sort();
        assert_eq!(rows, expected, "{shards} shards, placed: {placed}");
    }
}

/// Readings of keys that are hours apart, each up to 40 ms out of order by its own clock.
fn readings(random: &mut Random) -> Vec<Rec> {
    let mut times = [0; 6];
    let reading = |n| {
        let key = random.below(6);
        times[key] += random.below(25) as i64;
        let at = (times[key] - random.below(40) as i64).max(0);
        (key as u32, at + key as i64 * HOUR_MS, n)
    };
    (0..300).map(reading).collect()
}

/// Runs the windows with this strategy on seeded readings, through crashes, on as many shards as each life has.
fn check<G: WatermarkGenerator<Rec>>(
    strategy: &Watermarks<Received, G>,
    watermark_behind: impl Fn(&mut (u64, i64), &Rec) -> Option<i64>,
) {
    let (mut crashes, mut late) = (0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let readings = readings(&mut random);
        let expected = naive(&readings, |state, reading| watermark_behind(state, reading));
        late += expected.iter().filter(|row| row.starts_with("late")).count();
        for shards in [1, 2, 3] {
            let (store, table) = (Store::default(), Table::default());
            let (source, sink, strategy) = (readings.clone(), table.sink(), strategy.clone());
            let job = move |flow: &Flow| {
                flow.source(Collection::new(source.clone()), by_record())
                    .key_by(|record| record.0)
                    .clock_per_key(strategy.clone())
                    .process(Windows::new)
                    .sink_as("rows", sink.clone());
            };
            let first_shards = Some(shards);
            let crashing = Crashes { moves_max: 150, first_shards, ..Crashes::default() };
            crashes += crashing.until_done(&mut random, &store, &job);
            let text = |row: &String| row.split_once(' ').unwrap().1.trim_matches('"').to_owned();
            let mut rows: Vec<_> = table.rows().iter().map(text).collect();
            rows.sort();
            assert_eq!(rows, expected, "seed {seed}, {shards} shards");
        }
    }
    assert!(crashes > 100 && late > 150, "only {crashes} crashes, and {late} are late");
}

/// Goal: through crashes and on any number of shards each key has the windows and late records that its own records make.
#[test]
fn each_key_is_as_if_it_were_alone() {
    check(&disordered(15), |(_, latest), &(_, time, _)| {
        *latest = time.max(*latest);
        Some(*latest - 16)
    });
}

/// Goal: what a generator of one's own keeps is kept for each key.
#[test]
fn a_generator_goes_on_in_each_key_where_it_was() {
    check(&Watermarks::generated_by(EachThird::default()), |(count, latest), &(_, time, _)| {
        *count += 1;
        *latest = time.max(*latest);
        (*count % 3 == 0).then(|| *latest - 10)
    });
}

/// Keys that are silent for five seconds, and what comes out of the windows of these records.
fn silent_job(script: Vec<Act<Rec>>) -> (impl Fn(&Flow), Collected<String>) {
    let (out, source) = (Collected::new(), Scripted::without_end([script]));
    let sink = out.sink();
    let job = move |flow: &Flow| {
        flow.source_as("script", source.clone(), by_record())
            .key_by(|record| record.0)
            .clock_per_key(disordered(0).idle_after(Duration::from_secs(5)))
            .process(Windows::new)
            .uid("windows")
            .sink(sink.clone());
    };
    (job, out)
}

/// Goal: the timers of a silent key fire as far as the stream has passed them, and make late only what they have closed.
#[test]
fn silence_ends_what_a_key_has_open_and_no_more() {
    let script = vec![
        Act::Record((1, 10, 0)),
        Act::Record((1, 100, 0)),
        Act::Record((2, 95, 0)),
        Act::Record((2, 130, 0)),
        Act::Until(3_000),
        Act::Record((2, 131, 0)),
        Act::Until(6_000),
        // The window from 90 to 119 is closed. Nothing else is.
        Act::Record((1, 119, 0)),
        Act::Record((1, 120, 0)),
        Act::Record((1, 200, 0)),
        Act::Until(20_000),
        Act::Record((2, 1_000, 0)),
    ];
    let (job, out) = silent_job(script);
    let mut shards = build(1, Tuning::default(), &job);
    settle(&mut shards, at(0));
    assert_eq!(out.take(), ["1 0 1", "2 90 1"]);
    settle(&mut shards, at(3_000));
    settle(&mut shards, at(4_999));
    assert!(out.take().is_empty());
    // Key 2 has spoken since, and its window ends at 149, which the stream has not reached.
    settle(&mut shards, at(5_000));
    assert_eq!(out.take(), ["1 90 1"]);
    settle(&mut shards, at(6_000));
    assert_eq!(out.take(), ["late 1 119", "1 120 1"]);
    settle(&mut shards, at(8_500));
    // The stream is at 199: it has passed the window of key 2, and not that of key 1 that ends at 209.
    assert_eq!(out.take(), ["2 120 2"]);
    settle(&mut shards, at(19_000));
    assert!(out.take().is_empty());
    settle(&mut shards, at(20_000));
    settle(&mut shards, at(25_000));
    assert_eq!(out.take(), ["1 180 1"]);
}

/// Sets a processing-time timer with each record, and an event timer with that.
struct SetsLater;

impl Process<u32, Rec> for SetsLater {
    type Out = String;

    fn record(&mut self, _: Rec, cx: &mut Context<'_, u32>, _: &mut impl Collector<String>) {
        cx.processing_timer(cx.processing_time().plus_ms(1_000));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<String>) {
        let (key, watermark) = (cx.key(), cx.watermark());
        if cx.fired().is_some_and(|fired| fired.domain == TimeDomain::ProcessingTime) {
            out.record(cx.time(), format!("{key} is at {watermark:?}"));
            cx.event_timer(50.into());
        } else {
            out.record(cx.time(), format!("{key} has passed {:?}", cx.time()));
        }
    }
}

/// Goal: a processing-time timer sees the clock of its key, and the event timer that it sets fires once the key is silent.
#[test]
fn a_processing_timer_goes_by_the_clock_of_its_key() {
    let (out, script) = (Collected::new(), vec![Act::Record((1, 10, 0)), Act::Record((2, 95, 0))]);
    let (sink, source) = (out.sink(), Scripted::without_end([script]));
    let job = move |flow: &Flow| {
        flow.source(source.clone(), by_record())
            .key_by(|record| record.0)
            .clock_per_key(disordered(0).idle_after(Duration::from_secs(5)))
            .process(|_| SetsLater)
            .sink(sink.clone());
    };
    let mut shards = build(1, Tuning::default(), &job);
    settle(&mut shards, at(0));
    settle(&mut shards, at(1_000));
    let said = |key: u32, at: i64| format!("{key} is at {:?}", Timestamp::from(at));
    let mut rows = out.take();
    rows.sort();
    assert_eq!(rows, [said(1, 9), said(2, 94)]);
    settle(&mut shards, at(5_999));
    assert!(out.take().is_empty());
    settle(&mut shards, at(6_000));
    let mut rows = out.take();
    rows.sort();
    let passed = Timestamp::from(50);
    assert_eq!(rows, [1, 2].map(|key| format!("{key} has passed {passed:?}")));
}

/// Goal: records that wait in a lane while a sink takes nothing are no silence of their keys.
#[test]
fn what_waits_behind_a_full_sink_is_no_silence() {
    let script = vec![
        Act::Record((1, 10, 0)),
        Act::Record((2, 95, 0)),
        Act::Until(1_000),
        Act::Record((1, 11, 0)),
        Act::Until(2_000),
    ];
    let (job, out) = silent_job(script);
    let mut shards = build(1, Tuning::default(), &job);
    settle(&mut shards, at(0));
    out.take();
    // Nobody steps the shard for 40 seconds, and the record of key 1 comes with the first step.
    settle(&mut shards, at(40_000));
    settle(&mut shards, at(44_999));
    assert!(out.take().is_empty());
    settle(&mut shards, at(45_000));
    assert_eq!(out.take(), ["1 0 2"]);
}

/// Goal: a key that is not heard of any more after a restart is silent since the restart.
#[test]
fn a_key_is_silent_from_a_restart_on() {
    let store = Store::default();
    let mut script = vec![Act::Record((1, 10, 0)), Act::Record((2, 95, 0))];
    let (job, out) = silent_job(script.clone());
    let mut first = build_from(&store, 1, &job);
    settle(&mut first, at(0));
    epoch(&mut first, &store, at(1));
    assert!(out.take().is_empty());

    script.push(Act::Record((2, 96, 0)));
    let (job, out) = silent_job(script);
    let mut second = build_from(&store, 1, &job);
    settle(&mut second, at(100_000));
    settle(&mut second, at(104_999));
    assert!(out.take().is_empty());
    settle(&mut second, at(105_000));
    assert_eq!(out.take(), ["1 0 1"]);
}

/// Goal: after a restart all keys are silent, although they are more than a step looks at.
#[test]
fn each_of_many_keys_is_silent_from_a_restart_on() {
    const KEYS: u32 = 5_000;
    let store = Store::default();
    let shard = |job: &dyn Fn(&Flow)| {
        let storage = Some(store.storage());
        Shard::build(job, &BuildContext { storage, ..BuildContext::single("silent") }).unwrap()
    };
    let script =
        (1..=KEYS).map(|key| Act::Record((key, 10, 0))).chain([Act::Record((0, 95, 0))]).collect();
    let (job, out) = silent_job(script);
    let mut first = [shard(&job)];
    settle(&mut first, at(0));
    first[0].begin(store.epoch().next());
    settle(&mut first, at(1));
    store.commit(store.epoch().next(), &[first[0].snapshot().unwrap().unwrap()]);
    assert!(out.take().is_empty());

    let (job, out) = silent_job(vec![Act::Record((0, 96, 0))]);
    let mut second = [shard(&job)];
    // The shard asks to be stepped again at once until it is done with all of them.
    let mut steps = |ms| (0..100).for_each(|_| _ = second[0].step(at(ms)).unwrap());
    steps(100_000);
    steps(104_999);
    assert!(out.take().is_empty());
    steps(105_000);
    assert_eq!(out.take().len(), KEYS as usize);
}

/// Goal: a clock goes with the state of its key, and with the timers of the key.
#[test]
fn the_clock_of_a_key_that_gives_way_begins_anew() {
    let run = |keys_max: usize| {
        let out = Collected::new();
        let (sink, records) = (out.sink(), [(1, 100, 0), (2, 100, 0), (1, 10, 0)]);
        let job = move |flow: &Flow| {
            flow.source(Collection::new(records), by_record())
                .key_by(|record| record.0)
                .keys_max(keys_max, Overflow::EvictLeastRecentlyUsed)
                .clock_per_key(disordered(0).idle_after(Duration::from_secs(5)))
                .process(Windows::new)
                .sink(sink.clone());
        };
        common::run(1, Tuning::default(), &job);
        let mut rows = out.take();
        rows.sort();
        rows
    };
    assert_eq!(run(1), ["1 0 1"]);
    assert_eq!(run(2), ["1 90 1", "2 90 1", "late 1 10"]);
}

/// Says of each record of the left stream whether it is late.
struct IsLate;

impl CoProcess<u32, Rec, u8, NoKey> for IsLate {
    type Out = (Rec, bool);

    fn left(
        &mut self,
        record: Rec,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Self::Out>,
    ) {
        out.record(cx.time(), (record, cx.is_late()));
    }

    fn right(&mut self, _: u8, _: &mut Context<'_, NoKey>, _: &mut impl Collector<Self::Out>) {}
}

/// Goal: a function that has rules from everywhere beside its keys sees the clocks of the keys as well.
#[test]
fn a_function_with_rules_sees_the_clock_of_its_key() {
    let out = Collected::new();
    let (sink, records) =
        (out.sink(), [(2, 100, 0), (1, 10, 1), (1, 5, 2), (1, 30, 3), (1, 7, 4), (2, 99, 5)]);
    let job = move |flow: &Flow| {
        let rules = flow.source(Collection::new([0_u8; 0]), Watermarks::monotonous());
        flow.source(Collection::new(records), by_record())
            .key_by(|record| record.0)
            .clock_per_key(disordered(0))
            .connect_broadcast(rules)
            .process(|_| IsLate)
            .map(|((_, _, number), is_late)| (number, is_late))
            .sink(sink.clone());
    };
    run(1, Tuning::default(), &job);
    let late: Vec<_> = out.take().into_iter().filter(|row| row.1).map(|row| row.0).collect();
    assert_eq!(late, [2, 4, 5]);
}

/// Remembers nothing but what has a time to live.
struct Forgets(#[allow(dead_code, reason = "it is there to be kept")] ValueState<u32, i64>);

impl Process<u32, Rec> for Forgets {
    type Out = ();
    fn record(&mut self, _: Rec, _: &mut Context<'_, u32>, _: &mut impl Collector<()>) {}
}

#[test]
fn clocks_that_could_not_go_are_refused() {
    let second = Duration::from_secs(1);
    let jobs: [(&str, &dyn Fn(&Flow)); 6] = [
        ("a window goes by the watermark of the stream", &|flow| {
            let keyed = flow.source(Scripted::new([vec![]]), by_record()).key_by(|r| r.0);
            let windows = keyed.clock_per_key(disordered(4)).window(Tumbling::of(second));
            windows.aggregate(Count).discard();
        }),
        ("two keyed inputs goes by the watermark of the stream", &|flow| {
            let source = || flow.source(Scripted::new([vec![]]), by_record()).key_by(|r| r.0);
            source().connect(source().clock_per_key(disordered(4))).process(|_| Nothing).discard();
        }),
        ("no function is left to go by their clocks", &|flow| {
            let keyed = flow.source(Scripted::new([vec![]]), by_record()).key_by(|r| r.0);
            let keyed = keyed.clock_per_key(disordered(4));
            keyed.deduplicate(|record| record.2).values().discard();
        }),
        ("a key would count as silent without any time passing", &|flow| {
            let keyed = flow.source(Scripted::new([vec![]]), by_record()).key_by(|r| r.0);
            let at_once = disordered(4).idle_after(Duration::ZERO);
            keyed.clock_per_key(at_once).process(Windows::new).discard();
        }),
        ("a partition would count as silent without any time passing", &|flow| {
            let at_once = by_record().idle_after(Duration::ZERO);
            flow.source(Scripted::new([vec![]]), at_once).discard();
        }),
        ("use Ttl::processing_time", &|flow| {
            let keyed = flow.source(Scripted::new([vec![]]), by_record()).key_by(|r| r.0);
            let options = StateOptions::new().ttl(Ttl::event_time(second));
            let forgets =
                |states: &mut States<'_, u32>| Forgets(states.value_with("value", options));
            keyed.clock_per_key(disordered(4)).process(forgets).discard();
        }),
    ];
    for (why, job) in jobs {
        let error = refusal(job);
        assert!(error.contains(why), "{error}");
    }
}

/// Does nothing with two streams.
struct Nothing;

impl CoProcess<u32, Rec, Rec> for Nothing {
    type Out = ();
    fn left(&mut self, _: Rec, _: &mut Context<'_, u32>, _: &mut impl Collector<()>) {}
    fn right(&mut self, _: Rec, _: &mut Context<'_, u32>, _: &mut impl Collector<()>) {}
}
