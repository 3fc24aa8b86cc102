//! A device whose clock is fast: it is named, and if time is held to this machine's clock it makes nobody late.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::Str;

const NOW: u64 = 1_000_000;
const FAST: u32 = 9;

/// Windows of a second over one good device, which sends each 100 ms, and one that is four minutes fast and sends once.
/// Returns the rows of the good one, how many records were late, how many were ahead, and what was noticed.
fn run_with(held: bool, after: usize) -> (Vec<u64>, i64, i64, TimeNotices) {
    let (out, feed) = (Collected::<Windowed<u32, u64>>::new(), Feed::default());
    let (source, sink) = (feed.clone(), out.clone());
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(ms(300)).timestamps(|r: &Rec| r.1);
        let watermarks = watermarks.named_by(|record: &Rec| Str::from(format!("d{}", record.0)));
        let watermarks = if held { watermarks.held_to_clock() } else { watermarks };
        let keyed = flow.source(source.clone(), watermarks).key_by(|record: &Rec| record.0);
        keyed.window(Tumbling::of(ms(1_000))).aggregate(Count).sink(sink.sink());
    };
    let mut machine = Machine::new(2, Tuning::default(), &job);
    machine.now = NOW;
    for n in 0..50 {
        if n == after {
            machine.feed(0, &feed, (FAST, machine.now as i64 + 240_000, 0));
        }
        machine.feed(0, &feed, (1, machine.now as i64, 0));
        machine.wait(100);
    }
    let mut notices = TimeNotices::default();
    for shard in &machine.shards {
        let TimeNotices { late, mover, ahead } = shard.take_time_notices();
        notices.late = notices.late.or(late);
        notices.mover = notices.mover.or(mover);
        notices.ahead = notices.ahead.or(ahead);
    }
    feed.end();
    machine.ring(0);
    machine.settle();
    let counts = out.take().into_iter().filter(|row| row.key == 1).map(|row| row.value).collect();
    let [late, ahead] = ["numLateRecordsDropped", "numRecordsAheadOfClock"]
        .map(|name| metric(&machine.shards, name));
    (counts, late, ahead, notices)
}

#[test]
fn a_fast_device_makes_nobody_late_where_time_is_held_to_the_clock() {
    let (counts, late, ahead, notices) = run_with(true, 7);
    assert_eq!((counts, late, ahead), (vec![10; 5], 0, 1));
    let AheadRecord { who, by_ms } = notices.ahead.unwrap();
    assert_eq!((&*who, by_ms), ("d9", 240_000));
    assert_eq!(notices.late, None);
    assert_eq!(notices.mover.unwrap().who.as_deref(), Some("d1"));
}

#[test]
fn where_it_is_not_held_the_late_ones_are_told_with_who_made_them_late() {
    let (counts, late, ahead, notices) = run_with(false, 7);
    assert_eq!((counts, late, ahead), (vec![7], 43, 1));
    let newest = NOW as i64 + 4_900;
    let watermark = (NOW as i64 + 700 + 240_000 - 301).into();
    let late = LateRecord { key: "1".into(), time: newest.into(), watermark };
    assert_eq!(notices.late, Some(late));
    let mover = notices.mover.unwrap();
    assert_eq!((mover.who.as_deref(), mover.time), (Some("d9"), (NOW as i64 + 240_700).into()));
}
