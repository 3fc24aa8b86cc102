#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! A job put together at run time, with a pointer at every edge, has the results of the job whose type says all.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::Collector;

/// Key, time, number.
type Reading = (u32, i64, u64);

/// A step of a plan.
#[derive(Clone, Copy, Debug)]
enum Planned {
    /// Keeps numbers that this one does not divide.
    Keep(u64),
    /// Adds to the number.
    Add(u64),
    /// Each record this many times.
    Repeat(u64),
    Rebalance,
    /// Drops what was there before.
    Once,
}

fn plan(random: &mut Random) -> Vec<Planned> {
    let any = |random: &mut Random| match random.below(5) {
        0 => Planned::Keep(2 + random.below(3)),
        1 => Planned::Add(1_000),
        2 => Planned::Repeat(2),
        3 => Planned::Rebalance,
        _ => Planned::Once,
    };
    (0..random.below(5)).map(|_| any(random)).collect()
}

/// The plan's steps, and a count for each key at the end: by timers that set off when all is there.
fn assemble(flow: &Flow, plan: &[Planned], readings: &[Vec<Reading>]) -> BoxedStream<(u32, u64)> {
    let watermarks = Watermarks::bounded_out_of_orderness(Duration::from_millis(20))
        .timestamps(|&(_, time, _): &Reading| time);
    let readings = Collection::partitioned(readings.to_vec());
    let mut stream = flow.source_as("source", readings, watermarks).boxed();
    for (n, planned) in plan.iter().enumerate() {
        stream = match *planned {
            Planned::Keep(divisor) => stream.filter(move |r| r.2 % divisor != 0).boxed(),
            Planned::Add(more) => stream.map(move |(k, t, n)| (k, t, n + more)).boxed(),
            Planned::Repeat(times) => stream.flat_map(move |r| (0..times).map(move |_| r)).boxed(),
            Planned::Rebalance => stream.rebalance().boxed(),
            Planned::Once => stream
                .key_by(|&(key, _, _)| key)
                .deduplicate_within(1 << 16, |&(_, _, number)| number)
                .uid(&format!("once {n}"))
                .boxed()
                .values()
                .boxed(),
        };
    }
    let counts = stream.key_by(|&(key, _, _)| key).process(|states| AtEnd(states.value("count")));
    counts.uid("counts").boxed()
}

struct AtEnd(ValueState<u32, u64>);

impl Process<u32, Reading> for AtEnd {
    type Out = (u32, u64);

    fn record(
        &mut self,
        _: Reading,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<(u32, u64)>,
    ) {
        let count = self.0.get(cx).unwrap_or_default();
        self.0.set(cx, count + 1);
        cx.event_timer(1_000_000.into());
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<(u32, u64)>) {
        let count = self.0.get(cx).unwrap_or_default();
        out.record(cx.time(), (*cx.key(), count));
        self.0.clear(cx);
    }
}

fn expected(plan: &[Planned], readings: &[Vec<Reading>]) -> Vec<String> {
    let mut all: Vec<Reading> = readings.iter().flatten().copied().collect();
    for planned in plan {
        match *planned {
            Planned::Keep(divisor) => all.retain(|r| r.2 % divisor != 0),
            Planned::Add(more) => all.iter_mut().for_each(|r| r.2 += more),
            Planned::Repeat(times) => {
                all = all.iter().flat_map(|&r| (0..times).map(move |_| r)).collect();
            }
            Planned::Rebalance => {}
            Planned::Once => {
                let mut seen = std::collections::BTreeSet::new();
                all.retain(|&(key, _, number)| seen.insert((key, number)));
            }
        }
    }
    let mut counts = BTreeMap::new();
    all.iter().for_each(|r| *counts.entry(r.0).or_insert(0_u64) += 1);
    let mut rows: Vec<_> = counts.iter().map(|count| format!("1000000 {count:?}")).collect();
    rows.sort();
    rows
}

#[test]
fn a_plan_of_any_steps_counts_what_a_list_counts() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let plan = plan(&mut random);
        let readings: Vec<Vec<Reading>> = (0..1 + random.below(3))
            .map(|p| {
                let count = [0, 1, 200][random.below(3)];
                let reading = |n: usize, random: &mut Random| {
                    (random.below(30) as u32, (n + random.below(20)) as i64, (n / 2) as u64)
                };
                (0..count).map(|n| reading(n * 3 + p, &mut random)).collect()
            })
            .collect();
        let expected = expected(&plan, &readings);
        let (store, table) = (Store::default(), Table::default());
        let sink = table.sink();
        let steps = plan.clone();
        let job = move |flow: &Flow| assemble(flow, &steps, &readings).sink_as("s", sink.clone());
        Crashes::default().until_done(&mut random, &store, &job);
        assert_eq!(table.rows(), expected, "seed {seed}: {plan:?}");
    }
}
