//! Filters and process functions that gather records, within jobs. They pass on what would pass one by one, in the same
//! order and behind the same marks, whatever comes before and after them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::Collector;

/// What is late and what is not, decided by a process function behind a filter: it sees each watermark.
struct Seen;

impl Process<NoKey, Rec> for Seen {
    type Out = (u64, bool);

    fn record(
        &mut self,
        record: Rec,
        cx: &mut Context<'_, NoKey>,
        out: &mut impl Collector<(u64, bool)>,
    ) {
        out.record(cx.time(), (record.2, cx.time() <= cx.watermark()));
    }
}

fn records(seed: u64, count: u64) -> Vec<Rec> {
    // Time goes on now and then, and back now and then: watermarks stand between any number of records.
    let mut time = -(count as i64);
    let each = |n: u64| {
        let random = mix(seed << 32 | n);
        if random.is_multiple_of(1 + seed * 37 % 400) {
            time += (random >> 32) as i64 % 5;
        }
        let late = if (random >> 8).is_multiple_of(50) { 7 } else { 0 };
        ((random >> 16) as u32 % 10, time - late, n)
    };
    (0..count).map(each).collect()
}

/// Few records in a step, so that there are enough steps: a filter tries to gather once in some.
fn tuning(seed: u64) -> Tuning {
    Tuning { step_records_max: 70 + (mix(seed) % 400) as usize, ..Tuning::default() }
}

#[test]
fn a_chain_of_filters_passes_on_what_plain_ones_do() {
    for seed in 0..20 {
        let (count, bound) = (50_000, seed % 4);
        let all = records(seed, count);
        let (out, calls) = (Collected::new(), Rc::new(RefCell::new([Vec::new(), Vec::new()])));
        let (sink, source) = (out.sink(), Scripted::of_records([all.clone()]));
        let job = |flow: &Flow| {
            let (first, second) = (Rc::clone(&calls), Rc::clone(&calls));
            let mut parity = 0;
            flow.source(source.clone(), wm(bound))
                .filter(move |record| {
                    first.borrow_mut()[0].push(record.2);
                    !mix(record.2).is_multiple_of(3)
                })
                .filter(move |record| {
                    second.borrow_mut()[1].push(record.2);
                    parity += mix(record.2) >> 7 & 1;
                    (parity & 1) == 0
                })
                .process(|_| Seen)
                .sink(sink.clone());
        };
        let tuning = tuning(seed);
        run(1, tuning, &job);
        // The simpler truth.
        let (mut parity, mut latest, mut expected, mut passed) = (0, i64::MIN, vec![], vec![]);
        for (_, time, n) in all {
            if !mix(n).is_multiple_of(3) {
                passed.push(n);
                parity += mix(n) >> 7 & 1;
                if parity & 1 == 0 {
                    let late = latest > i64::MIN && time < latest - bound as i64;
                    expected.push((n, late));
                }
            }
            latest = latest.max(time);
        }
        assert_eq!(out.take(), expected, "seed {seed}");
        let [first, second] = &*calls.borrow();
        assert!(first.iter().copied().eq(0..count), "each is asked for once, in order");
        assert_eq!(*second, passed);
    }
}

/// Goal: split, union and windows behind a filter that gathers count what is there. Late records are dropped one
/// by one, and are counted.
#[test]
fn windows_behind_filters_count_what_is_there() {
    for seed in 0..20 {
        let (count, bound, shards) = (50_000, seed % 4, 1 + (seed as usize % 2));
        let all = records(seed, count);
        let (out, late_out) = (Collected::new(), Collected::new());
        let (sink, late_sink) = (out.sink(), late_out.sink());
        let source = Scripted::of_records([all.clone()]);
        let job = |flow: &Flow| {
            let (windows, late) = flow
                .source(source.clone(), wm(bound))
                .filter(|record| !mix(record.2).is_multiple_of(3))
                .map(|record| record)
                .filter(|record| mix(record.2) >> 9 & 1 == 0)
                .key_by(|record: &Rec| record.0)
                .window(Tumbling::of(ms(7)))
                .late_output();
            windows.aggregate(Count).sink(sink.clone());
            late.sink(late_sink.clone());
        };
        let tuning = tuning(seed);
        run(shards, tuning, &job);
        let (mut latest, mut expected, mut late) = (i64::MIN, BTreeMap::new(), vec![]);
        for record in all {
            let (key, time, n) = record;
            if !mix(n).is_multiple_of(3) && mix(n) >> 9 & 1 == 0 {
                let start = time.div_euclid(7) * 7;
                if latest > i64::MIN && start + 6 < latest - bound as i64 {
                    late.push(record);
                } else {
                    *expected.entry((start, key)).or_insert(0) += 1;
                }
            }
            latest = latest.max(time);
        }
        let mut found = BTreeMap::new();
        for window in out.take() {
            let at = (window.start.as_millis(), window.key);
            assert!(found.insert(at, window.value).is_none(), "seed {seed}: {at:?} fired twice");
        }
        assert_eq!(found, expected, "seed {seed}");
        let mut dropped = late_out.take();
        dropped.sort_by_key(|record| record.2);
        assert_eq!(dropped, late, "seed {seed}");
    }
}

/// For each record its number, how many of its key there were before, and whether it is late. For each timer how many
/// records there are by then.
struct Counting(ValueState<u32, u64>);

impl Process<u32, Rec> for Counting {
    type Out = (Option<u64>, u64, bool);

    fn record(
        &mut self,
        record: Rec,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Self::Out>,
    ) {
        let before = self.0.update(cx, |count| std::mem::replace(count, *count + 1));
        out.record(cx.time(), (Some(record.2), before, cx.time() <= cx.watermark()));
        if record.2.is_multiple_of(7) {
            cx.event_timer(cx.time().plus_ms(3));
        }
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Self::Out>) {
        let count = self.0.get(cx).unwrap_or_default();
        out.record(cx.time(), (None, count, true));
    }
}

/// Goal: a process function may look up the state of many records together, or of each by itself. It is called with the
/// same records, watermarks and timers in the same order.
#[test]
fn a_process_function_is_called_as_one_by_one() {
    for seed in 0..20 {
        let all = records(seed, 20_000);
        let keys = [1, 50, 3_000][seed as usize % 3];
        let run = |state_cache_bytes| {
            let out = Collected::new();
            let sink = out.sink();
            let source = Scripted::of_records([all.clone()]);
            let job = move |flow: &Flow| {
                flow.source(source.clone(), wm(seed % 4))
                    .key_by(move |record| mix(record.2) as u32 % keys)
                    .process(|states| Counting(states.value("count")))
                    .sink(sink.clone());
            };
            common::run(1, Tuning { state_cache_bytes, ..tuning(seed) }, &job);
            out.take_timed()
        };
        let (together, alone) = (run(0), run(usize::MAX));
        assert!(alone.len() > all.len(), "records and timers");
        assert_eq!(together, alone, "seed {seed}");
        // The simpler truth, of the records.
        let mut counts = BTreeMap::new();
        let rows = together.iter().filter_map(|&(_, (n, before, _))| Some((n?, before)));
        assert!(rows.clone().map(|row| row.0).eq(0..20_000), "each once, in order");
        for (n, before) in rows {
            let count = counts.entry(mix(n) as u32 % keys).or_insert(0);
            assert_eq!(before, *count, "seed {seed}, record {n}");
            *count += 1;
        }
    }
}
