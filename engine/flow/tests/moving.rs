#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! A shard says whether another epoch would hold anything new. Records and their marks are news, timers by this machine's
//! clock, and what sinks have still to note. A barrier that passes is none.

mod common;

use common::*;
use thalweg_flow::{Context, Flow, Now, Process, Shard, ShardSnapshot};
use thalweg_kernel::Collector;

/// Emits what came, when the machine's clock has gone on by this many milliseconds.
struct After(i64);

impl Process<u32, Rec> for After {
    type Out = u32;

    fn record(&mut self, _: Rec, cx: &mut Context<'_, u32>, _: &mut impl Collector<u32>) {
        let now = cx.processing_time();
        cx.processing_timer(now.plus_ms(self.0));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<u32>) {
        out.record(cx.time(), *cx.key());
    }
}

/// Two partitions on two shards, each of which has keys of the other.
fn job(feeds: &[Feed<Rec>; 2], table: &Table) -> impl Fn(&Flow) + use<> {
    let (feeds, sink) = (Feeds(feeds.to_vec()), table.sink());
    move |flow| {
        let watermarks = wm(0).idle_after(ms(1_000));
        let keyed = flow.source_as("feeds", feeds.clone(), watermarks).key_by(|r: &Rec| r.0);
        let late = keyed.process(|_| After(500));
        late.sink_as("rows", sink.clone());
    }
}

/// Which shards have moved.
fn moved(shards: &[Shard]) -> Vec<bool> {
    shards.iter().map(Shard::has_moved).collect()
}

fn had_moved(snapshots: &[ShardSnapshot]) -> Vec<bool> {
    snapshots.iter().map(|snapshot| snapshot.moved).collect()
}

/// Goal: what a shard says of itself is what its epochs hold.
#[test]
fn a_shard_says_whether_it_has_moved() {
    let (feeds, store, table) = (<[Feed<Rec>; 2]>::default(), Store::default(), Table::default());
    let mut shards = build_from(&store, 2, &job(&feeds, &table));
    let next = |shards: &mut [Shard], now: Now| had_moved(&epoch(shards, &store, now));
    assert_eq!(next(&mut shards, at(1)), [true, true], "what was restored may be stored otherwise");
    for now in 2..5 {
        assert_eq!(moved(&shards), [false, false]);
        assert_eq!(
            next(&mut shards, at(now)),
            [false, false],
            "barriers have passed, and nothing else"
        );
    }

    // Many keys, so each shard has some.
    feeds[0].extend((0..20).map(|key| (key, 100, 0)));
    step_all(&mut shards, at(10));
    assert_eq!(moved(&shards), [true, true]);
    assert_eq!(next(&mut shards, at(11)), [true, true]);
    assert_eq!(moved(&shards), [false, false]);

    // Their timers fire, and a sink notes that their rows are committed.
    step_all(&mut shards, at(509));
    assert_eq!(moved(&shards), [false, false], "timers are not due");
    step_all(&mut shards, at(510));
    assert_eq!(moved(&shards), [true, true], "timers have fired");
    assert_eq!(next(&mut shards, at(511)), [true, true]);
    assert_eq!(moved(&shards), [true, true], "rows are committed");
    assert_eq!(next(&mut shards, at(512)), [true, true]);
    assert_eq!(moved(&shards), [false, false]);

    // Both partitions fall silent.
    step_all(&mut shards, at(2_000));
    assert_eq!(moved(&shards), [true, true]);
    next(&mut shards, at(2_001));
    step_all(&mut shards, at(90_000));
    assert_eq!(moved(&shards), [false, false]);
    assert_eq!(table.rows().len(), 20);
}
