//! A source falls silent, and its last windows close by the clock: when they are over, and not for the next record.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::{Collector, Key, KeyGroups, Mark, Timestamp};

type Counted = Collected<Windowed<u32, u64>>;

const SECOND: u64 = 1_000;
const DAY: u64 = 24 * 60 * 60 * SECOND;
/// The silence behind which windows close.
const SILENCE: u64 = 5 * SECOND;
const LATE: &str = "numLateRecordsDropped";

/// A shard tells another one only what matters.
const TELLS_LITTLE: Tuning = Tuning { watermark_delay_max: Duration::MAX, ..TINY };

/// The first key that this one of two shards owns.
fn key_of(shard: usize) -> u32 {
    let groups = KeyGroups::default();
    (0..).find(|key: &u32| groups.owner(groups.group_of(key.key_hash()), 2) == shard).unwrap()
}

/// Windows of ten seconds, whose records come up to this many milliseconds out of order.
fn job<S>(source: S, disorder: u64, out: &Counted) -> impl Fn(&Flow) + use<S>
where
    S: thalweg_kernel::SourceSpec<Item = Rec> + Clone,
{
    let out = out.clone();
    move |flow| {
        let watermarks = wm(disorder).close_after(ms(SILENCE)).idle_after(ms(7 * SECOND));
        let keyed = flow.source(source.clone(), watermarks).key_by(|record: &Rec| record.0);
        keyed.window(Tumbling::of(ms(10 * SECOND))).aggregate(Count).sink(out.sink());
    }
}

/// Lets time pass until nobody has a timer any more: when which rows came, as (time, start, key, count).
fn rows_by_clock(machine: &mut Machine, out: &Counted) -> Vec<(u64, i64, u32, u64)> {
    let mut rows = Vec::new();
    for _ in 0..100 {
        let found = out.take();
        rows.extend(found.iter().map(|w| (machine.now, w.start.as_millis(), w.key, w.value)));
        let times = machine.last.iter().filter_map(|step| match step {
            Step::Idle(until) => *until,
            step => panic!("{step:?}"),
        });
        let Some(next) = times.min() else { return rows };
        machine.now = machine.now.max(next.as_millis() as u64);
        machine.settle();
    }
    panic!("somebody always has a timer: {:?}", machine.last);
}

#[test]
fn the_last_window_closes_when_it_is_over_and_the_silence_has_lasted() {
    for shards in [1, 2] {
        for (last, closes) in [
            // Over by the clock of its readings before the silence has lasted.
            (9_500, 9_500 + SILENCE),
            // The silence has lasted, and a reading of the window could still come: the disorder is 200 ms.
            (1_000, 10_000 + 200),
        ] {
            let (out, feed) = (Counted::new(), Feed::default());
            let mut machine = Machine::new(shards, TELLS_LITTLE, &job(feed.clone(), 200, &out));
            let keys = [0, 1].map(key_of);
            for time in [last - 900, last - 100, last] {
                machine.wait(time - machine.now);
                machine.feed(0, &feed, (keys[0], time as i64, 0));
            }
            machine.feed(0, &feed, (keys[1], last as i64, 0));
            assert_eq!(out.take(), []);
            let mut rows = rows_by_clock(&mut machine, &out);
            rows.sort_unstable();
            let mut expected = vec![(closes, 0, keys[0], 3), (closes, 0, keys[1], 1)];
            expected.sort_unstable();
            assert_eq!(rows, expected, "{shards} shards");
            let asleep = vec![Step::Idle(None); shards];
            assert_eq!(machine.last, asleep, "nothing is open: nobody has a timer");
            assert!(metric(&machine.shards, "numWatermarksByClock") == 1);
        }
    }
}

/// Goal: while a broker is away, its silence closes no window; what it has kept counts when it is back.
#[test]
fn a_source_that_would_hear_of_nothing_is_not_silent() {
    let (out, feed) = (Counted::new(), Feed::default());
    let mut machine = Machine::new(1, TELLS_LITTLE, &job(feed.clone(), 0, &out));
    machine.feed(0, &feed, (1, 1_000, 0));
    feed.listen(false);
    machine.settle();
    assert_eq!(rows_by_clock(&mut machine, &out), []);
    machine.wait(60 * SECOND);
    machine.settle();
    feed.listen(true);
    machine.settle();
    machine.feed(0, &feed, (1, 1_500, 0));
    assert_eq!((metric(&machine.shards, LATE), out.take()), (0, vec![]));
    let rows = rows_by_clock(&mut machine, &out);
    assert_eq!(rows.iter().map(|row| (row.1, row.2, row.3)).collect::<Vec<_>>(), [(0, 1, 2)]);
    assert!(rows[0].0 >= 60 * SECOND + SILENCE, "{rows:?}");
}

/// Goal: behind a backlog of old records nobody waits for their clock.
#[test]
fn windows_of_old_records_close_after_the_silence() {
    let (out, feed) = (Counted::new(), Feed::default());
    let mut machine = Machine::new(1, TELLS_LITTLE, &job(feed.clone(), 2_000, &out));
    machine.now = 3 * DAY;
    machine.feed(0, &feed, (1, -100_000, 0));
    machine.feed(0, &feed, (1, 1_000, 0));
    let rows = rows_by_clock(&mut machine, &out);
    assert_eq!(rows, [(3 * DAY, -100_000, 1, 1), (3 * DAY + SILENCE, 0, 1, 1)]);
}

/// Goal: a live device whose date is wrong pauses for longer than the silence, and none of its readings is late.
#[test]
fn a_live_device_whose_date_is_wrong_makes_no_backlog() {
    let (out, feed) = (Counted::new(), Feed::default());
    let mut machine = Machine::new(1, TELLS_LITTLE, &job(feed.clone(), 2_000, &out));
    machine.now = 3 * DAY;
    for n in 0..20 {
        machine.feed(0, &feed, (1, 1_000 + n * 6_000, 0));
        // All timers come in time.
        (0..12).for_each(|_| machine.wait(500));
    }
    let counted: u64 = rows_by_clock(&mut machine, &out).iter().map(|row| row.3).sum();
    assert_eq!((metric(&machine.shards, LATE), counted), (0, 20));
}

/// Goal: what comes for a window that the clock has closed is late, and counted; what comes for the next one is not.
#[test]
fn a_reading_behind_the_clock_is_late_and_replaces_nothing() {
    let (out, feed) = (Counted::new(), Feed::default());
    let mut machine = Machine::new(1, TELLS_LITTLE, &job(feed.clone(), 0, &out));
    machine.feed(0, &feed, (1, 9_000, 0));
    assert_eq!(rows_by_clock(&mut machine, &out), [(SILENCE, 0, 1, 1)]);
    machine.feed(0, &feed, (1, 9_500, 0));
    assert_eq!(metric(&machine.shards, LATE), 1);
    machine.feed(0, &feed, (1, 10_000, 0));
    let from = machine.now;
    assert_eq!(rows_by_clock(&mut machine, &out), [(from + 10_000, 10_000, 1, 1)]);
    assert_eq!(metric(&machine.shards, LATE), 1);
}

/// Goal: each of several open windows closes in its time, also where another shard has them.
#[test]
fn all_open_windows_close_one_after_the_other() {
    for shards in [1, 2] {
        let (out, feed) = (Counted::new(), Feed::default());
        let mut machine = Machine::new(shards, TELLS_LITTLE, &job(feed.clone(), 25_000, &out));
        let key = key_of(shards - 1);
        for time in [1_000, 11_000, 21_000] {
            machine.feed(0, &feed, (key, time, 0));
        }
        // Time goes on from the watermark -4,001.
        let expected = [(14_000, 0), (24_000, 10_000), (34_000, 20_000)];
        let rows = rows_by_clock(&mut machine, &out);
        let rows: Vec<_> = rows.into_iter().map(|(at, start, ..)| (at, start)).collect();
        assert_eq!(rows, expected, "{shards} shards");
        assert!(machine.wake_ups.iter().sum::<usize>() < 20, "{:?}", machine.wake_ups);
    }
}

/// Goal: a shard whose source is silent hears of a window that another shard's records open, and does not hold it up.
#[test]
fn sources_on_two_shards_close_a_window_together() {
    let (out, feeds) = (Counted::new(), [Feed::default(), Feed::default()]);
    let source = Feeds(feeds.to_vec());
    let mut machine = Machine::new(2, TELLS_LITTLE, &job(source, 0, &out));
    let keys = [0, 1].map(key_of);
    machine.feed(0, &feeds[0], (keys[0], 1_000, 0));
    machine.wait(3_000);
    machine.feed(1, &feeds[1], (keys[0], 4_000, 0));
    let rows = rows_by_clock(&mut machine, &out);
    assert_eq!(rows, [(9_000, 0, keys[0], 2)]);
    assert_eq!(machine.last, [Step::Idle(None); 2]);
}

/// Goal: a reading that came while the process was stopped is not late because the process was.
#[test]
fn a_process_that_was_away_looks_again_before_it_believes_in_silence() {
    let (out, feed) = (Counted::new(), Feed::default());
    let mut machine = Machine::new(1, TELLS_LITTLE, &job(feed.clone(), 0, &out));
    machine.feed(0, &feed, (1, 9_000, 0));
    // It was to look after five seconds, and comes after a minute. Whoever reads for it is no faster.
    machine.wait(60 * SECOND);
    assert_eq!(out.take(), []);
    machine.wait(100);
    // Whatever else steps it does not cut that short.
    machine.ring(0);
    machine.settle();
    assert_eq!(out.take(), []);
    machine.feed(0, &feed, (1, 9_500, 0));
    assert_eq!(metric(&machine.shards, LATE), 0);
    let rows = rows_by_clock(&mut machine, &out);
    assert_eq!(rows, [(60 * SECOND + 100 + SILENCE, 0, 1, 2)]);
}

/// Goal: a window that the clock has closed stays closed over a restart.
#[test]
fn what_the_clock_has_closed_is_closed_after_a_restart() {
    let store = Store::default();
    let (out, feed) = (Counted::new(), Feed::default());
    let job = job(feed.clone(), 0, &out);
    let mut shards = build_from(&store, 1, &job);
    feed.push((1, 9_000, 0));
    settle(&mut shards, at(0));
    for now in [SILENCE, SILENCE + 1, SILENCE + 2] {
        settle(&mut shards, at(now));
    }
    assert_eq!(out.take().len(), 1);
    epoch(&mut shards, &store, at(SILENCE + 3));
    drop(shards);
    let mut shards = build_from(&store, 1, &job);
    // The watermark of the source itself, and not only that of the windows.
    settle(&mut shards, at(SILENCE + 4));
    let shown = |metric: &Metric| metric.name == "currentOutputWatermark";
    let watermark = shards[0].metrics().iter().find(|metric| shown(metric)).map(Metric::value);
    assert_eq!(watermark, Some(9_999));
    feed.push((1, 9_500, 0));
    settle(&mut shards, at(SILENCE + 5));
    assert_eq!((metric(&shards, LATE), out.take().len()), (1, 0));
}

/// Goal: windows by the time of arrival close as soon as they are over by the clock, and nothing of them is late.
#[test]
fn windows_of_arrival_close_by_the_clock() {
    let (out, feed) = (Counted::new(), Feed::default());
    let (source, sink) = (feed.clone(), out.clone());
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::monotonous().close_after(Duration::ZERO);
        let keyed = flow.source(source.clone(), watermarks).key_by(|record: &Rec| record.0);
        keyed.window(Tumbling::of(ms(10 * SECOND))).aggregate(Count).sink(sink.sink());
    };
    for shards in [1, 2] {
        let mut machine = Machine::new(shards, TELLS_LITTLE, &job);
        machine.now = 1_000;
        for n in 0..9 {
            // What the record says of its time is nobody's concern.
            machine.feed(0, &feed, (1, -(n as i64), n));
            assert_eq!(out.take(), [], "{}", machine.now);
            machine.wait(1_000);
        }
        let rows: Vec<_> = out.take().into_iter().map(|row| row.value).collect();
        assert_eq!((machine.now, rows), (10_000, vec![9]), "{shards} shards");
        machine.feed(0, &feed, (1, 0, 9));
        let rows = rows_by_clock(&mut machine, &out);
        assert_eq!(rows, [(20_000, 10_000, 1, 1)], "{shards} shards");
        assert_eq!(metric(&machine.shards, LATE), 0);
        assert_eq!(machine.last, vec![Step::Idle(None); shards]);
    }
}

/// Passes everything on, and says of nothing that it can do without.
struct Notes;

impl Operator<Rec> for Notes {
    type Out = Rec;

    fn record(&mut self, time: Timestamp, value: Rec, out: &mut impl Collector<Rec>) {
        out.record(time, value);
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Rec>) {
        out.mark(mark);
    }
}

/// Goal: an operator of the user's, to which every mark matters, gets ever fewer of them while its source is silent.
#[test]
fn where_every_mark_matters_time_goes_on_in_growing_steps() {
    let feed = Feed::default();
    let source = feed.clone();
    let job = move |flow: &Flow| {
        let readings = flow.source(source.clone(), wm(0).close_after(ms(SILENCE)));
        readings.then("notes", Notes).discard();
    };
    let mut machine = Machine::new(1, TELLS_LITTLE, &job);
    machine.feed(0, &feed, (1, 9_000, 0));
    let mut steps = 0;
    while machine.now < DAY {
        let Step::Idle(Some(until)) = machine.last[0] else { panic!("{:?}", machine.last) };
        machine.now = until.as_millis() as u64;
        machine.settle();
        steps += 1;
    }
    assert!((10..30).contains(&steps), "{steps} steps in a day");
    let shown = machine.shards[0].metrics().iter();
    let watermark = shown.filter(|it| it.name == "currentOutputWatermark").map(Metric::value);
    let behind = machine.now as i64 + 9_000 - watermark.max().unwrap();
    assert_eq!(behind, 1, "time has gone on as the clock has");
}

/// Goal: where no silence is needed, a source that speaks again is looked at as often as at first.
#[test]
fn steps_are_short_again_behind_each_record() {
    let feed = Feed::default();
    let source = feed.clone();
    let job = move |flow: &Flow| {
        let readings = flow.source(source.clone(), wm(0).close_after(Duration::ZERO));
        readings.then("notes", Notes).discard();
    };
    let mut machine = Machine::new(1, TELLS_LITTLE, &job);
    for round in 0..3 {
        machine.feed(0, &feed, (1, machine.now as i64, 0));
        let from = machine.now;
        let Step::Idle(Some(first)) = machine.last[0] else { panic!("{:?}", machine.last) };
        assert!(first.as_millis() as u64 - from <= 200, "round {round}: {first:?} from {from}");
        while machine.now < from + 3_600 * SECOND {
            let Step::Idle(Some(until)) = machine.last[0] else { panic!("{:?}", machine.last) };
            machine.now = until.as_millis() as u64;
            machine.settle();
        }
    }
}
