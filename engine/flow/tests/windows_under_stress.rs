//! Windows where both sides of the exchange fill them: senders that fall idle and wake behind, sinks that are
//! full, limits that are met, extreme times; and seeded jobs of all that. Whatever happens, each window of
//! a key fires once, every record is in a row or counted as dropped, and a key's records stay in order.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::task::Waker;
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::*;

/// Key, time, number.
type Rec = (u32, i64, u64);
#[derive(Clone, Copy, Debug)]
enum Act {
    R(Rec),
    Silence,
    At(i64),
}

/// Partitions that do what a script says; whether they end after it.
#[derive(Clone)]
struct Scripted(Vec<Vec<Act>>, bool);
struct Part(VecDeque<Act>, bool);
impl SourceSpec for Scripted {
    type Item = Rec;
    type Partition = Part;
    fn describe(&self) -> String {
        "scripted".into()
    }
    fn partitions(&self) -> usize {
        self.0.len()
    }
    fn open(&self, p: usize, _: &OpenContext) -> Result<Part, ConnectorError> {
        Ok(Part(self.0[p].iter().copied().collect(), self.1))
    }
}

impl Source for Part {
    type Item = Rec;
    fn poll(
        &mut self,
        now: Timestamp,
        max: usize,
        out: &mut impl Emit<Rec>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..max {
            if let Some(Act::At(t)) = self.0.front()
                && now < Timestamp::from(*t)
            {
                return Ok(SourceStatus::Waiting(None));
            }
            match self.0.pop_front() {
                Some(Act::At(_)) => {}
                Some(Act::R(r)) => out.record(r, now, &Generated),
                Some(Act::Silence) => return Ok(SourceStatus::Waiting(None)),
                None => {
                    return Ok(if self.1 {
                        SourceStatus::Ended
                    } else {
                        SourceStatus::Waiting(None)
                    });
                }
            }
        }
        Ok(SourceStatus::Ready)
    }
    fn stop(&mut self) {}
}

fn build(n: usize, tuning: Tuning, job: &dyn Fn(&Flow)) -> Vec<Shard> {
    let wakers: Arc<[Waker]> = vec![Waker::noop().clone(); n].into();
    let shared = Arc::<Shared>::default();
    (0..n)
        .map(|shard| {
            let cx = BuildContext {
                shard,
                wakers: wakers.clone(),
                shared: shared.clone(),
                tuning,
                ..BuildContext::single("t")
            };
            Shard::build(job, &cx).unwrap()
        })
        .collect()
}

fn metric(shards: &[Shard], name: &str) -> i64 {
    shards
        .iter()
        .flat_map(|s| s.metrics())
        .filter(|m| m.name == name && m.operator.contains("indow"))
        .map(|m| m.value())
        .sum()
}

fn wm(bound: u64) -> Watermarks<impl EventTime<Rec>> {
    Watermarks::bounded_out_of_orderness(Duration::from_millis(bound))
        .timestamps(|r: &Rec| r.1)
        .without_clock_guard()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at(s: u64) -> Now {
    Now { wall: Timestamp::from(s), steady: ms(s) }
}

fn settle(shards: &mut [Shard], now: Now) {
    for _ in 0..100_000 {
        let mut busy = false;
        for s in shards.iter_mut() {
            busy |= s.step(now).unwrap() == Step::Busy;
        }
        if !busy {
            return;
        }
    }
    panic!("busy for ever");
}

/// Two shards, one falls idle, the other goes on; the first wakes with records whose window has fired.
#[test]
fn a_shard_that_wakes_behind_does_not_fire_twice() {
    let out = Collected::new();
    let sink = out.sink();
    let keys = 0..40_u32;
    // Shard 0: window [0, 1000), silence from 0 to 300, then a second record of each key.
    let mut a: Vec<Act> = keys.clone().map(|k| Act::R((k, 100, 0))).collect();
    a.push(Act::At(300));
    a.extend(keys.clone().map(|k| Act::R((k, 200, 1))));
    // Shard 1: time goes on to 5,000 while shard 0 is idle.
    let b = vec![
        Act::R((0, 150, 2)),
        Act::At(200),
        Act::R((0, 5_000, 3)),
        Act::At(300),
        Act::R((0, 5_001, 3)),
        Act::At(350),
        Act::R((0, 9_001, 3)),
    ];
    let src = Scripted(vec![a, b], false);
    let mut shards = build(2, Tuning::default(), &|flow| {
        flow.source(src.clone(), wm(0).idle_after(ms(100)))
            .key_by(|r: &Rec| r.0)
            .window(Tumbling::of(ms(1_000)))
            .aggregate(Count)
            .sink(sink.clone());
    });
    for t in [0, 50, 150, 200, 250, 300, 350, 450, 500] {
        settle(&mut shards, at(t));
    }
    let mut rows = BTreeMap::<_, Vec<u64>>::new();
    for w in out.take() {
        rows.entry((w.start.as_millis(), w.key)).or_default().push(w.value);
    }
    let twice: Vec<_> = rows.iter().filter(|(_, v)| v.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let sum = rows.values().flatten().sum::<u64>() as i64;
    let late = metric(&shards, "numLateRecordsDropped");
    // The last one's window is open.
    assert_eq!(sum + late + 1, metric(&shards, "numRecordsIn"));
}

/// In order, one record a window.
#[test]
fn windows_in_order_never_reach_windows_max() {
    let out = Collected::new();
    let sink = out.sink();
    let src = Collection::new((0..1_000_u64).map(|n| (0, n as i64 * 1_000, n)));
    let mut shards = build(1, Tuning::default(), &|flow| {
        flow.source(src.clone(), wm(0))
            .key_by(|r: &Rec| r.0)
            .window(Tumbling::of(ms(1_000)))
            .windows_max(16)
            .aggregate(Count)
            .sink(sink.clone());
    });
    settle(&mut shards, at(0));
    let dropped = metric(&shards, "numWindowsOverLimitDropped");
    assert_eq!(dropped, 0);
}

#[test]
fn keys_in_order_never_reach_keys_max() {
    let src = Collection::new((0..10_000_u64).map(|n| ((n % 50) as u32, n as i64 * 10, n)));
    let mut shards = build(1, Tuning::default(), &|flow| {
        flow.source(src.clone(), wm(0))
            .key_by(|r: &Rec| r.0)
            .window(Tumbling::of(ms(500)))
            .keys_max(100)
            .aggregate(Count)
            .discard();
    });
    settle(&mut shards, at(0));
    assert_eq!(metric(&shards, "numKeysOverLimitDropped"), 0);
}

/// A sink that is full for a while, defaults everywhere.
#[derive(Clone)]
struct Slow(Arc<AtomicBool>, Arc<AtomicUsize>);
impl<T: 'static> SinkSpec<T> for Slow {
    type Writer = Slow;
    fn describe(&self) -> String {
        "slow".into()
    }
    fn open(&self, _: &OpenContext) -> Result<Slow, ConnectorError> {
        Ok(self.clone())
    }
}

impl<T> Sink<T> for Slow {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(self.0.load(Ordering::Relaxed))
    }
    fn write(&mut self, _: Timestamp, _: T) -> Result<(), ConnectorError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}

#[test]
fn a_full_sink_holds_the_source_back_and_drops_nothing() {
    let src = Collection::new((0..20_000_u64).map(|n| (0, n as i64 * 60_000, n)));
    let (open, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let slow = Slow(open.clone(), rows.clone());
    let mut shards = build(1, Tuning::default(), &|flow| {
        flow.source(src.clone(), wm(0))
            .key_by(|r: &Rec| r.0)
            .window(Tumbling::of(ms(60_000)))
            .aggregate(Count)
            .sink(slow.clone());
    });
    settle(&mut shards, at(0));
    open.store(true, Ordering::Relaxed);
    settle(&mut shards, at(1));
    let dropped = metric(&shards, "numWindowsOverLimitDropped");
    assert_eq!((rows.load(Ordering::Relaxed), dropped), (20_000, 0));
}

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) * n) >> 31
    }
}

/// Steps shards in any order until all are done, while the clock goes on by less than `pace_ms` a step.
fn step_to_the_end(shards: &mut [Shard], r: &mut Rng, pace_ms: u64) {
    let mut done = vec![false; shards.len()];
    let mut now = 0;
    for _ in 0..200_000 {
        if done.iter().all(|d| *d) {
            return;
        }
        if pace_ms > 0 {
            now += r.below(pace_ms);
        }
        let i = r.below(shards.len() as u64) as usize;
        if !done[i] {
            done[i] = shards[i].step(at(now)).unwrap() == Step::Done;
        }
    }
    assert!(done.iter().all(|d| *d), "stalled");
}

/// Fuzz. Invariants: conservation, each (window, key) fires once, order per sender.
fn fuzz(idle: bool, seeds: std::ops::Range<u64>, lists_late: bool) -> Vec<String> {
    let mut bad = Vec::new();
    for seed in seeds {
        let mut r = Rng(seed * 7919 + 13);
        let shards_n = 1 + r.below(3) as usize;
        let parts_n = 1 + r.below(4) as usize;
        let keys = [1, 3, 10, 40][r.below(4) as usize];
        let disorder = [0, 5, 60][r.below(3) as usize];
        let size = [1, 7, 20, 100][r.below(4) as usize];
        let bound = [0, 10, 50][r.below(3) as usize];
        let mut seq = 0;
        let parts: Vec<Vec<Act>> = (0..parts_n)
            .map(|_| {
                let mut t = 0_i64;
                let n = r.below(600);
                (0..n)
                    .map(|_| {
                        if r.below(if idle { 12 } else { 40 }) == 0 {
                            if idle && r.below(3) == 0 {
                                t += r.below(80) as i64;
                            }
                            return Act::Silence;
                        }
                        t += r.below(4) as i64;
                        seq += 1;
                        Act::R((r.below(keys) as u32, t - r.below(disorder + 1) as i64, seq))
                    })
                    .collect()
            })
            .collect();
        let total: i64 = parts.iter().flatten().filter(|a| matches!(a, Act::R(_))).count() as i64;
        let part_of: BTreeMap<u64, usize> = parts
            .iter()
            .enumerate()
            .flat_map(|(p, a)| {
                a.iter().filter_map(move |a| match a {
                    Act::R(x) => Some((x.2, p)),
                    _ => None,
                })
            })
            .collect();
        let (out, late) = (Collected::new(), Collected::new());
        let (sink, late_sink) = (out.sink(), late.sink());
        let src = Scripted(parts, true);
        let tuning = Tuning {
            step_records_max: 1 + r.below(40) as usize,
            batch_records: 1 + r.below(8) as usize,
            lane_batches: 1 + r.below(4) as usize,
            ..Tuning::default()
        };
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
                    |a: &mut Vec<u64>, b: Vec<u64>| a.extend(b),
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
            (metric(&shards, "numLateRecordsDropped"), metric(&shards, "numRecordsIn"))
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

/// Limits; everything is counted somewhere.
#[test]
fn fuzz_limits() {
    let mut bad = Vec::new();
    for seed in 0..600 {
        let mut r = Rng(seed * 104729 + 7);
        let shards_n = 1 + r.below(3) as usize;
        let keys = [1, 10, 40][r.below(3) as usize];
        let size = [1, 7, 20, 100][r.below(4) as usize];
        let (km, wmax) = (r.below(60) as usize, r.below(10) as usize);
        let mut seq = 0;
        let parts: Vec<Vec<Act>> = (0..1 + r.below(3))
            .map(|_| {
                let mut t = 0_i64;
                let n = r.below(600);
                (0..n)
                    .map(|_| {
                        t += r.below(4) as i64;
                        seq += 1;
                        Act::R((r.below(keys) as u32, t - r.below(30) as i64, seq))
                    })
                    .collect()
            })
            .collect();
        let total = parts.iter().flatten().count() as i64;
        let out = Collected::new();
        let sink = out.sink();
        let src = Scripted(parts, true);
        let tuning = Tuning {
            step_records_max: 1 + r.below(40) as usize,
            batch_records: 1 + r.below(8) as usize,
            lane_batches: 1 + r.below(4) as usize,
            ..Tuning::default()
        };
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
        .map(|n| metric(&shards, n));
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
        let mut r = Rng(seed * 104729 + 7);
        let shards_n = 1 + r.below(3) as usize;
        let mut seq = 0;
        let mut mk = |r: &mut Rng| -> Vec<Vec<Act>> {
            (0..1 + r.below(3))
                .map(|_| {
                    let mut t = 0_i64;
                    let n = r.below(400);
                    (0..n)
                        .map(|_| {
                            t += r.below(4) as i64;
                            seq += 1;
                            Act::R((r.below(30) as u32, t - r.below(60) as i64, seq))
                        })
                        .collect()
                })
                .collect()
        };
        let (a, b) = (mk(&mut r), mk(&mut r));
        let total = a.iter().chain(&b).flatten().count() as i64;
        let (out, late, late2) = (Collected::new(), Collected::new(), Collected::new());
        let (sink, ls, l2) = (out.sink(), late.sink(), late2.sink());
        let (a, b) = (Scripted(a, true), Scripted(b, true));
        let tuning = Tuning {
            step_records_max: 1 + r.below(40) as usize,
            batch_records: 1 + r.below(8) as usize,
            lane_batches: 1 + r.below(4) as usize,
            ..Tuning::default()
        };
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

/// Extreme times with small windows.
#[test]
fn extremes() {
    for shards_n in [1, 2] {
        let ts = [
            i64::MIN,
            i64::MIN + 1,
            i64::MIN + 8,
            i64::MIN + 9,
            i64::MIN + 20,
            -11,
            -1,
            0,
            1,
            i64::MAX - 20,
            i64::MAX - 1,
            i64::MAX,
            i64::MAX,
        ];
        for size in [1, 10, 1000, u64::MAX] {
            for bound in [0, 10, u64::MAX] {
                for off in [0, 3, 7] {
                    let out = Collected::new();
                    let sink = out.sink();
                    let src = Collection::new(
                        ts.iter().enumerate().map(|(n, t)| (n as u32 % 2, *t, n as u64)),
                    );
                    let mut shards = build(shards_n, Tuning::default(), &|flow| {
                        flow.source(src.clone(), wm(bound))
                            .key_by(|r: &Rec| r.0)
                            .window(Tumbling::of(ms(size)).offset(ms(off)))
                            .aggregate(Count)
                            .sink(sink.clone());
                    });
                    settle(&mut shards, at(0));
                    let n: u64 = out.take().iter().map(|w| w.value).sum();
                    let late = metric(&shards, "numLateRecordsDropped") as u64;
                    assert_eq!(n + late, ts.len() as u64, "size {size} bound {bound} off {off}");
                }
            }
        }
    }
}

/// Two shards, in order, small limits.
#[test]
fn two_shards_in_order_never_reach_windows_max() {
    let src = Collection::new((0..1_000_u64).map(|n| (n as u32 % 7, n as i64 * 1_000, n)));
    let mut shards = build(2, Tuning::default(), &|flow| {
        flow.source(src.clone(), wm(0))
            .key_by(|r: &Rec| r.0)
            .window(Tumbling::of(ms(1_000)))
            .windows_max(16)
            .aggregate(Count)
            .discard();
    });
    settle(&mut shards, at(0));
    assert_eq!(metric(&shards, "numWindowsOverLimitDropped"), 0);
}

/// The guard, after the machine's clock was set back.
#[test]
fn the_clock_guard_holds_after_the_clock_was_set_back() {
    let src = Scripted(
        vec![vec![
            Act::R((0, 10_000, 0)),
            Act::Silence,
            Act::R((0, 9_000, 1)),
            Act::R((0, 10_001, 1)),
        ]],
        false,
    );
    let w = || Watermarks::monotonous().timestamps(|r: &Rec| r.1).clock_guard(ms(1_000));
    let mut shards = build(1, Tuning::default(), &|flow| {
        flow.source(src.clone(), w()).discard();
    });
    shards[0].step(Now { wall: 10_000.into(), steady: ms(0) }).unwrap();
    settle(&mut shards, Now { wall: 0.into(), steady: ms(1) });
    let dead: i64 =
        shards[0].metrics().iter().filter(|m| m.name == "numDeadLetters").map(|m| m.value()).sum();
    assert_eq!(dead, 2);
}

/// Memory of large accumulators.
#[test]
fn large_accumulators_take_little_more_than_their_size() {
    const KEYS: u64 = 130;
    const WINDOWS: u64 = 60;
    let info = allocation_counter::measure(|| {
        let src = Collection::new(
            (0..KEYS * WINDOWS).map(|n| ((n % KEYS) as u32, (n / KEYS) as i64 * 1000, n)),
        );
        let mut shards = build(1, Tuning::default(), &|flow| {
            flow.source(src.clone(), wm(60_000))
                .key_by(|r: &Rec| r.0)
                .window(Tumbling::of(ms(1_000)))
                .aggregate(Fold::new(
                    || [0_u64; 64],
                    |a: &mut [u64; 64], r: Rec| a[r.2 as usize % 64] += 1,
                    |a: &mut [u64; 64], b: [u64; 64]| {
                        for (a, b) in a.iter_mut().zip(b) {
                            *a += b
                        }
                    },
                ))
                .discard();
        });
        settle(&mut shards, at(0));
    });
    let net = KEYS * WINDOWS * 520;
    assert!(info.bytes_max < 4 * net);
}

#[test]
fn fuzz_with_idle_late_dropped() {
    let b = fuzz(true, 400..800, false);
    assert!(b.is_empty(), "{} of 400\n{}", b.len(), b.join("\n"));
}

/// `key_by` promises two calls at most.
#[test]
fn the_key_is_asked_for_twice_at_most() {
    let calls = std::rc::Rc::new(std::cell::Cell::new(0));
    let src = Collection::new([(0, 5_000, 0), (0, 1, 1)]);
    let c = calls.clone();
    let mut shards = build(1, Tuning::default(), &|flow| {
        let c = c.clone();
        flow.source(src.clone(), wm(0))
            .key_by(move |r: &Rec| {
                if r.2 == 1 {
                    c.set(c.get() + 1);
                }
                r.0
            })
            .window(Tumbling::of(ms(1_000)))
            .aggregate(Count)
            .discard();
    });
    settle(&mut shards, at(0));
    assert!(calls.get() <= 2, "{}", calls.get());
}
