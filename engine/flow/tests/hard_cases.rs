//! Descriptions that are wrong, streams that stand still, and clocks that jump.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::Cell;
use std::time::Duration;

use common::world::Store;
use common::{Scripted, build_from, metric, try_build};
use thalweg_flow::*;
use thalweg_testing::Act;

/// One of these a poll.
fn script(acts: &[Act<i64>]) -> Scripted<i64> {
    let behind = |act| (act != Act::Silence).then_some(Act::Silence);
    let each = |&act: &Act<i64>| std::iter::once(act).chain(behind(act));
    Scripted::without_end([acts.iter().flat_map(each).collect()])
}

/// A source that says nothing and does not end.
fn silent() -> Scripted<i64> {
    script(&[])
}

fn by_value() -> Watermarks<impl EventTime<i64>> {
    Watermarks::monotonous().timestamps(|&ts: &i64| ts).without_clock_guard()
}

fn build(job: &dyn Fn(&Flow)) -> Result<Shard, String> {
    Shard::build(job, &BuildContext::single("test")).map_err(|error| error.to_string())
}

/// Steps until the shard says it is idle or done.
fn settle(shard: &mut Shard, now: Now) -> Step {
    for _ in 0..10_000 {
        let step = shard.step(now).unwrap();
        if step != Step::Busy {
            return step;
        }
    }
    panic!("busy for ever");
}

fn at(wall_ms: i64, steady_ms: u64) -> Now {
    Now { wall: wall_ms.into(), steady: Duration::from_millis(steady_ms) }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_stream_that_leads_nowhere_is_refused_by_name() {
    let jobs: [(&str, &dyn Fn(&Flow)); 5] = [
        ("Source: scripted", &|flow| drop(flow.source(silent(), by_value()))),
        ("SideOutput", &|flow| {
            let source = flow.source(silent(), by_value());
            let (_main, side) = source.side_output(|n, side| {
                side.emit(n);
                Some(n)
            });
            side.discard();
        }),
        ("Side", &|flow| {
            let source = flow.source(silent(), by_value());
            let (main, _side) = source.side_output(|n, _: &mut Side<'_, i64>| Some(n));
            main.discard();
        }),
        ("Split", &|flow| {
            let [one, _other] = flow.source(silent(), by_value()).split();
            one.discard();
        }),
        ("Filter", &|flow| {
            let source = flow.source(silent(), by_value()).filter(|_| true);
            let (_windows, late) = source.key_by(|&n| n).window(Tumbling::of(SECOND)).late_output();
            late.discard();
        }),
    ];
    for (operator, job) in jobs {
        let error = build(job).err().unwrap();
        assert!(error.contains(&format!("{operator:?}, is never used")), "{operator}: {error}");
    }
}

#[test]
fn other_mistakes_of_a_description_are_told() {
    let twice = build(&|flow| {
        let source = flow.source(silent(), by_value());
        let window = source.key_by(|&n| n).window(Tumbling::of(SECOND));
        let (window, first) = window.late_output();
        let (window, second) = window.late_output();
        window.aggregate(Count).discard();
        first.union(second).discard();
    });
    assert!(twice.err().unwrap().contains("late_output() twice"));
    let dead = build(&|flow| {
        flow.dead_letters().discard();
        flow.dead_letters().discard();
    });
    assert!(dead.err().unwrap().contains("dead_letters() twice"));
    let empty = build(&|flow| {
        let source = flow.source(silent(), by_value());
        source.key_by(|&n| n).window(Tumbling::of(Duration::ZERO)).aggregate(Count).discard();
    });
    assert!(empty.err().unwrap().contains("1 ms or more"));
}

#[test]
fn a_job_that_describes_itself_differently_on_each_shard_is_refused() {
    let calls = Cell::new(0);
    let job = |flow: &Flow| {
        calls.set(calls.get() + 1);
        let mut names = vec!["temp", "humidity"];
        if calls.get() == 2 {
            names.reverse();
        }
        for name in names {
            let source = flow.source(silent(), by_value()).name(name);
            source.key_by(|&n| n).window(Tumbling::of(SECOND)).aggregate(Count).discard();
        }
    };
    let error = try_build(2, Tuning::default(), None, &job).err().unwrap().to_string();
    assert!(error.contains("differently on shard 1: where it has \"humidity\""), "{error}");
}

#[test]
fn a_source_without_partitions_ends_and_holds_nobody_back() {
    let out = Collected::new();
    let sink = out.sink();
    let mut shard = build(&|flow| {
        let none = flow.source(Collection::<i64>::partitioned([[0; 0]; 0]), by_value());
        let some = flow.source(Collection::new([1_i64, 5_000]), by_value());
        let all = none.union(some).key_by(|&n| n);
        all.window(Tumbling::of(SECOND)).aggregate(Count).sink(sink.clone());
    })
    .unwrap();
    assert_eq!(settle(&mut shard, Now::default()), Step::Done);
    assert_eq!(out.take().len(), 2);
}

#[test]
fn an_idle_step_has_delivered_everything_whatever_the_order_of_description() {
    // The reader of the dead letters is described before the source that makes them.
    let dead = Collected::new();
    let sink = dead.sink();
    let mut shard = build(&|flow| {
        flow.dead_letters().sink(sink.clone());
        flow.source(script(&[Act::Refuse]), by_value()).discard();
    })
    .unwrap();
    assert_eq!(settle(&mut shard, Now::default()), Step::Idle(None));
    assert_eq!(dead.take().len(), 1);

    // A partition's silence travels through a side output that is read before its stream.
    let out = Collected::new();
    let sink = out.sink();
    let mut shard = build(&|flow| {
        let active = flow.source(script(&[Act::Record(1), Act::Record(10_000)]), by_value());
        let (main, side) = flow
            .source(silent(), by_value().idle_after(5 * SECOND))
            .side_output(|n, _: &mut Side<'_, i64>| Some(n));
        let all = active.union(side).key_by(|_| 0_u8);
        all.window(Tumbling::of(SECOND)).aggregate(Count).sink(sink.clone());
        main.discard();
    })
    .unwrap();
    assert_eq!(settle(&mut shard, at(0, 0)), Step::Idle(Some(5 * SECOND)));
    assert!(out.take().is_empty());
    settle(&mut shard, at(5_000, 5_000));
    assert_eq!(out.take().len(), 1);
}

#[test]
fn dead_letters_have_time_and_hold_nobody_back() {
    let (windows, all) = (Collected::new(), Collected::new());
    let (window_sink, all_sink) = (windows.sink(), all.sink());
    let mut shard = build(&|flow| {
        let [counted, joined] = flow.dead_letters().split();
        counted
            .key_by(|letter| letter.cause.name())
            .window(Tumbling::of(SECOND))
            .aggregate(Count)
            .sink(window_sink.clone());
        let acts = [Act::Refuse, Act::Record(1), Act::Record(9_000), Act::Silence, Act::Refuse];
        let records = flow.source(script(&acts), by_value()).map(|_| ());
        let all = records.union(joined.map(|_| ())).key_by(|()| 0_u8);
        all.window(Tumbling::of(SECOND)).aggregate(Count).sink(all_sink.clone());
    })
    .unwrap();
    settle(&mut shard, at(100, 100));
    assert_eq!(all.take().len(), 1, "window [0, 1000) has fired");
    settle(&mut shard, at(2_000, 2_000));
    shard.step(at(2_000, 2_000)).unwrap();
    settle(&mut shard, at(2_000, 2_000));
    assert_eq!(windows.take().len(), 1, "a later letter moved the dead letters' watermark");
}

#[test]
fn a_jump_of_the_clock_makes_no_partition_idle_and_no_record_late() {
    let late = Collected::new();
    let sink = late.sink();
    let mut shard = build(&|flow| {
        let fast = script(&[Act::Record(10_000), Act::Silence, Act::Record(20_000)]);
        let slow = script(&[Act::Record(1_000), Act::Silence, Act::Record(1_500)]);
        let idle = 5 * SECOND;
        let fast = flow.source(fast, by_value().idle_after(idle));
        let slow = flow.source(slow, by_value().idle_after(idle));
        let window = fast.union(slow).key_by(|_| 0_u8).window(Tumbling::of(SECOND));
        let (window, late) = window.late_output();
        window.aggregate(Count).discard();
        late.sink(sink.clone());
    })
    .unwrap();
    let hour = 3_600_000;
    for now in [at(0, 0), at(hour, 100), at(hour + 100, 200), at(hour + 200, 300)] {
        shard.step(now).unwrap();
    }
    settle(&mut shard, at(hour + 300, 400));
    assert_eq!(late.take(), Vec::<i64>::new());
}

#[test]
fn windows_over_the_limit_are_counted_not_opened() {
    let mut shard = build(&|flow| {
        // A silent partition holds the watermark back while another sends times at random.
        let silent = flow.source(silent(), by_value());
        let hostile = (0..5_000_i64).map(|n| n * 7_919_000 % 1_000_003).map(Act::Record).collect();
        let hostile = flow.source(Scripted::without_end([hostile]), by_value());
        let all = silent.union(hostile).key_by(|_| 0_u8);
        all.window(Tumbling::of(Duration::from_millis(1)))
            .windows_max(8)
            .aggregate(Count)
            .discard();
    })
    .unwrap();
    settle(&mut shard, Now::default());
    assert!(metric(&[shard], "numWindowsOverLimitDropped") > 0);
}

/// Goal: a source may be ahead of a barrier and refuse thousands of records. The sinks of its shard get the barrier
/// nevertheless, and the letters go on with it.
#[test]
fn letters_that_are_held_behind_a_barrier_do_not_keep_it_from_others() {
    const REFUSED: usize = 6_000;
    let (store, out) = (Store::default(), Collected::new());
    let sink = out.sink();
    let source = Scripted::without_end([vec![Act::<i64>::Refuse; REFUSED], vec![]]);
    let job = move |flow: &Flow| {
        let windows = flow.source(source.clone(), by_value()).key_by(|n| *n);
        windows.window(Tumbling::of(SECOND)).aggregate(Count).sink(sink.clone());
    };
    let mut shards = build_from(&store, 2, &job);
    let epoch = store.epoch().next();
    shards[0].begin(epoch);
    (0..100).for_each(|_| _ = shards[0].step(Now::default()).unwrap());
    shards[1].begin(epoch);
    let mut snapshots = [false; 2];
    for _ in 0..100 {
        for (shard, snapshot) in shards.iter_mut().zip(&mut snapshots) {
            shard.step(Now::default()).unwrap();
            *snapshot |= shard.snapshot().unwrap().is_some();
        }
    }
    assert_eq!(snapshots, [true; 2], "the barrier waits for ever");
    assert_eq!(metric(&shards, "numDeadLetters"), REFUSED as i64);
}
