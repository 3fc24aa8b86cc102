//! Seeded jobs with windows that both sides of the exchange fill. Whatever happens, each window of a key fires
//! once. Every record is in a row or counted as dropped, and a key's records stay in order.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::*;
use thalweg_flow::*;

/// Steps shards in any order until all are done, while the clock goes on by less than `pace_ms` a step.
fn step_to_the_end(shards: &mut [Shard], r: &mut Random, pace_ms: u64) {
    let mut done = vec![false; shards.len()];
    let mut now = 0;
    for _ in 0..200_000 {
        if done.iter().all(|d| *d) {
            return;
        }
        if pace_ms > 0 {
            now += r.below(pace_ms);
        }
        let i = r.below(shards.len());
        if !done[i] {
            done[i] = shards[i].step(at(now)).unwrap() == Step::Done;
        }
    }
    assert!(done.iter().all(|d| *d), "stalled");
}

/// Silences between the records of a script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silences {
    None,
    /// One in forty moves.
    Short,
    /// One in twelve, a third of them with a leap of time behind.
    Long,
}

/// `count` scripts of up to `moves` moves each, of `keys` keys, with records less than `back` milliseconds back.
/// `seq` numbers all records.
fn scripts(
    r: &mut Random,
    count: usize,
    moves: u64,
    (keys, back): (u64, u64),
    silences: Silences,
    seq: &mut u64,
) -> Vec<Vec<Act<Rec>>> {
    let one_in = if silences == Silences::Long { 12 } else { 40 };
    let mut script = || {
        let mut t = 0_i64;
        let moves = r.below(moves);
        let mut act = || {
            if silences != Silences::None && r.below(one_in) == 0 {
                if silences == Silences::Long && r.below(3) == 0 {
                    t += r.below(80) as i64;
                }
                return Act::Silence;
            }
            t += r.below(4) as i64;
            *seq += 1;
            Act::Record((r.below(keys) as u32, t - r.below(back) as i64, *seq))
        };
        (0..moves).map(|_| act()).collect()
    };
    (0..count).map(|_| script()).collect()
}

/// Small steps and batches.
fn tuning(r: &mut Random) -> Tuning {
    Tuning {
        step_records_max: 1 + r.below(40),
        batch_records: 1 + r.below(8),
        lane_batches: 1 + r.below(4),
        step_work_max: 1 + r.below(6),
        ..Tuning::default()
    }
}

/// Fuzz. Invariants: conservation, each (window, key) fires once, order per sender.
fn fuzz(idle: bool, seeds: std::ops::Range<u64>, lists_late: bool) -> Vec<String> {
    let mut bad = Vec::new();
    for seed in seeds {
        let mut r = Random::new(seed * 7919 + 13);
        let shards_n = 1 + r.below(3);
        let parts_n = 1 + r.below(4);
        let keys = [1, 3, 10, 40][r.below(4)];
        let disorder = [0, 5, 60][r.below(3)];
        let size = [1, 7, 20, 100][r.below(4)];
        let bound = [0, 10, 50][r.below(3)];
        let mut seq = 0;
        let silences = if idle { Silences::Long } else { Silences::Short };
        let parts = scripts(&mut r, parts_n, 600, (keys, disorder + 1), silences, &mut seq);
        let total: i64 =
            parts.iter().flatten().filter(|a| matches!(a, Act::Record(_))).count() as i64;
        let part_of: BTreeMap<u64, usize> = parts
            .iter()
            .enumerate()
            .flat_map(|(p, a)| {
                a.iter().filter_map(move |a| match a {
                    Act::Record(x) => Some((x.2, p)),
                    _ => None,
                })
            })
            .collect();
        let (out, late) = (Collected::new(), Collected::new());
        let (sink, late_sink) = (out.sink(), late.sink());
        let src = Scripted::new(parts);
        let tuning = tuning(&mut r);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut shards = build(shards_n, tuning, &|flow| {
                let mut w = wm(bound);
                if idle {
                    w = w.idle_after(ms(3));
                }
                let win = flow
                    .source(src.clone(), w)
                    .key_by(|r: &Rec| r.0)
                    .window(Tumbling::of(ms(size)));
                let agg = Fold::new(
                    Vec::new,
                    |v: &mut Vec<u64>, r: Rec| v.push(r.2),
                    |a: &mut Vec<u64>, b: &Vec<u64>| a.extend(b),
                );
                if lists_late {
                    let (win, l) = win.late_output();
                    win.aggregate(agg).sink(sink.clone());
                    l.sink(late_sink.clone());
                } else {
                    win.aggregate(agg).sink(sink.clone());
                }
            });
            step_to_the_end(&mut shards, &mut r, 3);
            (metric(&shards, "numLateRecordsDropped"), metric_of(&shards, "numRecordsIn", "indow"))
        }));
        let Ok((late_n, n_in)) = run else {
            bad.push(format!("{seed}: panic (shards {shards_n})"));
            continue;
        };
        let late_n = late_n + late.take().len() as i64;
        let rows = out.take();
        let mut fired = BTreeMap::new();
        let mut sum = 0;
        let mut disordered = 0;
        for w in &rows {
            *fired.entry((w.start.as_millis(), w.key)).or_insert(0) += 1;
            sum += w.value.len() as i64;
            let mut last = BTreeMap::new();
            for s in &w.value {
                let p = part_of[s];
                if last.insert(p, *s).is_some_and(|l| l > *s) {
                    disordered += 1;
                }
            }
        }
        let twice = fired.values().filter(|n| **n > 1).count();
        if sum + late_n != total || n_in != total || twice > 0 || disordered > 0 {
            bad.push(format!("{seed}: shards {shards_n} parts {parts_n} total {total} in {n_in} rows {sum} late {late_n} twice {twice} disordered {disordered}"));
        }
    }
    bad
}

#[test]
fn fuzz_without_idle() {
    let b = fuzz(false, 0..400, true);
    assert!(b.is_empty(), "{}", b.join("\n"));
}

#[test]
fn fuzz_without_idle_late_dropped() {
    let b = fuzz(false, 400..800, false);
    assert!(b.is_empty(), "{}", b.join("\n"));
}

#[test]
fn fuzz_with_idle() {
    let b = fuzz(true, 0..400, true);
    assert!(b.is_empty(), "{} of 400\n{}", b.len(), b.join("\n"));
}

#[test]
fn fuzz_with_idle_late_dropped() {
    let b = fuzz(true, 400..800, false);
    assert!(b.is_empty(), "{} of 400\n{}", b.len(), b.join("\n"));
}

/// Limits; everything is counted somewhere.
#[test]
fn fuzz_limits() {
    let mut bad = Vec::new();
    for seed in 0..600 {
        let mut r = Random::new(seed * 104729 + 7);
        let shards_n = 1 + r.below(3);
        let keys = [1, 10, 40][r.below(3)];
        let size = [1, 7, 20, 100][r.below(4)];
        let (km, wmax) = (r.below(60), r.below(10));
        let mut seq = 0;
        let count = 1 + r.below(3);
        let parts = scripts(&mut r, count, 600, (keys, 30), Silences::None, &mut seq);
        let total = parts.iter().flatten().count() as i64;
        let out = Collected::new();
        let sink = out.sink();
        let src = Scripted::new(parts);
        let tuning = tuning(&mut r);
        let mut shards = build(shards_n, tuning, &|flow| {
            flow.source(src.clone(), wm(10))
                .key_by(|r: &Rec| r.0)
                .window(Tumbling::of(ms(size)))
                .keys_max(km)
                .windows_max(wmax)
                .aggregate(Count)
                .sink(sink.clone());
        });
        step_to_the_end(&mut shards, &mut r, 0);
        let sum: i64 = out.take().iter().map(|w| w.value as i64).sum();
        let m = [
            "numLateRecordsDropped",
            "numKeysOverLimitDropped",
            "numWindowsOverLimitDropped",
            "numRecordsIn",
        ]
        .map(|n| metric_of(&shards, n, "indow"));
        if sum + m[0] + m[1] + m[2] != total || m[3] != total {
            bad.push(format!("{seed}: {shards_n} total {total} rows {sum} {m:?}"));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Two windows in a row, unions, late output used again.
#[test]
fn fuzz_chained() {
    for seed in 0..300 {
        let mut r = Random::new(seed * 104729 + 7);
        let shards_n = 1 + r.below(3);
        let mut seq = 0;
        let mut mk = |r: &mut Random| {
            let count = 1 + r.below(3);
            scripts(r, count, 400, (30, 60), Silences::None, &mut seq)
        };
        let (a, b) = (mk(&mut r), mk(&mut r));
        let total = a.iter().chain(&b).flatten().count() as i64;
        let (out, late, late2) = (Collected::new(), Collected::new(), Collected::new());
        let (sink, ls, l2) = (out.sink(), late.sink(), late2.sink());
        let (a, b) = (Scripted::new(a), Scripted::new(b));
        let tuning = tuning(&mut r);
        let mut shards = build(shards_n, tuning, &|flow| {
            let all = flow.source(a.clone(), wm(10)).union(flow.source(b.clone(), wm(20)));
            let (w, l) = all.key_by(|r: &Rec| r.0).window(Tumbling::of(ms(10))).late_output();
            let w = w.aggregate(Count);
            let (w2, lost) = w.key_by(|w| w.key % 3).window(Tumbling::of(ms(50))).late_output();
            w2.aggregate(Sum::of(|w: &Windowed<u32, u64>| w.value)).sink(sink.clone());
            lost.sink(l2.clone());
            l.key_by(|r: &Rec| r.0)
                .window(Tumbling::of(ms(1_000_000)))
                .aggregate(Count)
                .sink(ls.clone());
        });
        step_to_the_end(&mut shards, &mut r, 0);
        assert_eq!(late2.take().len(), 0, "{seed}");
        let rows: i64 = out.take().iter().map(|w| w.value as i64).sum();
        let l: i64 = late.take().iter().map(|w| w.value as i64).sum();
        let dropped = metric(&shards, "numLateRecordsDropped");
        assert_eq!(rows + l + dropped, total, "seed {seed} rows {rows} late {l} dropped {dropped}");
    }
}
