//! Windows that close by the clock. Their jobs crash anywhere and go on, on any number of shards, and their input ends and
//! goes on. Whatever the clock decides: each record is in one row or late once, and each window has one row.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::*;
use thalweg_flow::*;

const SIZE_MS: i64 = 20;

fn job(source: &Scripted<Rec>, at_end: AtEnd, table: &Table) -> impl Fn(&Flow) + use<> {
    let (source, sink) = (source.clone(), table.sink());
    move |flow| {
        flow.at_end(at_end);
        let watermarks = wm(5).close_after(ms(10)).idle_after(ms(25));
        let keyed =
            flow.source_as("in", source.clone(), watermarks).key_by(|record: &Rec| record.0);
        let (windows, late) = keyed.window(Tumbling::of(ms(SIZE_MS.unsigned_abs()))).late_output();
        let rows = windows.aggregate(Count).uid("windows");
        rows.map(|row| (row.key, row.start.as_millis(), row.value)).sink_as("rows", sink.clone());
        late.map(|record| (record.0, record.1, -1 - record.2 as i64)).sink_as("late", sink.clone());
    }
}

/// Partitions that fall silent now and then, some for long.
fn script(random: &mut Random, count: u64) -> Vec<Vec<Act<Rec>>> {
    let partitions = 1 + random.below(3);
    let mut acts = vec![Vec::new(); partitions];
    let mut time = 0;
    for number in 0..count {
        let part = random.below(partitions);
        time += random.below(4) as i64;
        let behind = random.below(5) as i64;
        acts[part].push(Act::Record((random.below(5) as u32, (time - behind).max(0), number)));
        if random.one_in(25) {
            let polls = 5 + random.below(120);
            acts[part].extend((0..polls).map(|_| Act::Silence));
        }
    }
    acts
}

/// Key, start and count of each window's row, and the number of each late record.
fn said(table: &Table) -> (Vec<(u32, i64, i64)>, Vec<i64>) {
    let (mut rows, mut late) = (Vec::new(), Vec::new());
    for row in table.rows() {
        let numbers = row.split(|c: char| !c.is_ascii_digit() && c != '-');
        let numbers: Vec<i64> = numbers.filter_map(|number| number.parse().ok()).collect();
        let [_, key, start, value] = numbers[..] else { panic!("{row}") };
        if value < 0 { late.push(-1 - value) } else { rows.push((key as u32, start, value)) }
    }
    (rows, late)
}

#[test]
fn each_record_counts_once_or_is_late_once() {
    let (mut by_clock, mut late_records, mut crashes) = (0, 0, 0);
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let count = 20 + random.below(300) as u64;
        let acts = script(&mut random, count);
        let (store, table) = (Store::default(), Table::default());
        // The input ends once or twice before its last end.
        let parts = 1 + random.below(3);
        for part in 1..=parts {
            let begin = acts.iter().map(|acts| acts[..acts.len() * part / parts].to_vec());
            let source = Scripted::new(begin.collect::<Vec<_>>());
            let at_end = if part == parts { AtEnd::Finish } else { AtEnd::Suspend };
            let job = job(&source, at_end, &table);
            crashes += Crashes::default().until_done(&mut random, &store, &job);
            // The rows of the last epoch are committed when the job is opened once more.
            drop(build_from(&store, 1, &job));
        }
        let (rows, mut late) = said(&table);
        let counted = rows.iter().map(|(_, _, count)| count).sum::<i64>();
        assert_eq!(counted + late.len() as i64, count as i64, "seed {seed}");
        let mut windows = BTreeMap::new();
        for (key, start, count) in rows {
            assert_eq!(windows.insert((key, start), count), None, "seed {seed}: {key} at {start}");
        }
        late_records += late.len();
        late.sort_unstable();
        let before = late.len();
        late.dedup();
        assert_eq!(late.len(), before, "seed {seed}: late twice");
        // Without the clock nobody would have closed them.
        by_clock += usize::from(before > 0);
    }
    assert!(
        crashes > 100 && late_records > 100 && by_clock > 20,
        "{crashes} {late_records} {by_clock}"
    );
}
