//! A source was silent and speaks again, much at once. Nothing of it is late because one way through the job is shorter
//! than another. The sizes of steps, the number of shards and their order do not matter.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::Collector;

const COUNT: u64 = 2_000;

/// One record; silence; then all others within a step or a few, in order.
fn source() -> Scripted<Rec> {
    let others = (1..COUNT).map(|n| Act::Record((n as u32 % 10, n as i64, n)));
    Scripted::new([[Act::Record((0, 0, 0)), Act::Until(100)].into_iter().chain(others).collect()])
}

fn watermarks() -> Watermarks<impl EventTime<Rec>> {
    wm(0).idle_after(ms(10))
}

/// Steps the shards in this order until they are done: what windows have counted, and dropped as late.
fn counted(order: &[usize], tuning: Tuning, job: impl Fn(&Flow), out: &Counted) -> (u64, i64) {
    let mut shards = build(order.iter().max().unwrap() + 1, tuning, &job);
    let mut done = vec![false; shards.len()];
    for now in 0..100_000 {
        for &shard in order {
            done[shard] = done[shard] || shards[shard].step(at(now)).unwrap() == Step::Done;
        }
        if done.iter().all(|&done| done) {
            let counted = out.take().iter().map(|row| row.value).sum();
            return (counted, metric(&shards, "numLateRecordsDropped"));
        }
    }
    panic!("it comes to no end");
}

type Counted = Collected<Windowed<u32, u64>>;

#[test]
fn a_union_of_what_was_split_waits_for_both_sides() {
    for step_records_max in [1, 10, 300, 1_024] {
        let (out, source) = (Counted::new(), source());
        let sink = out.sink();
        let job = |flow: &Flow| {
            let [even, odd] = flow.source(source.clone(), watermarks()).split();
            even.filter(|record| record.2.is_multiple_of(2))
                .union(odd.filter(|record| !record.2.is_multiple_of(2)))
                .key_by(|record: &Rec| record.0)
                .window(Tumbling::of(ms(100)))
                .aggregate(Count)
                .sink(sink.clone());
        };
        let tuning = Tuning { step_records_max, ..Tuning::default() };
        assert_eq!(counted(&[0], tuning, job, &out), (COUNT, 0), "{step_records_max} a step");
    }
}

struct Pass;

impl Process<u32, Rec> for Pass {
    type Out = Rec;

    fn record(&mut self, record: Rec, cx: &mut Context<'_, u32>, out: &mut impl Collector<Rec>) {
        out.record(cx.time(), record);
    }
}

#[test]
fn a_second_exchange_waits_for_all_shards() {
    let orders: [&[usize]; 6] =
        [&[0], &[0, 1], &[1, 0], &[0, 1, 2], &[2, 1, 0], &[0, 0, 0, 0, 1, 2]];
    for order in orders {
        let (out, source) = (Counted::new(), source());
        let sink = out.sink();
        let job = |flow: &Flow| {
            flow.source(source.clone(), watermarks())
                .key_by(|record: &Rec| record.0)
                .process(|_| Pass)
                .key_by(|record: &Rec| record.0)
                .window(Tumbling::of(ms(100)))
                .aggregate(Count)
                .sink(sink.clone());
        };
        let found = counted(order, Tuning::default(), job, &out);
        assert_eq!(found, (COUNT, 0), "shards stepped {order:?}");
    }
}
