//! Windows that both sides of the exchange fill. Senders fall idle and wake behind, sinks are full, limits are met, times
//! are extreme. Seeded jobs of all that are in `windows_seeded.rs`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use common::*;
use thalweg_flow::*;
use thalweg_kernel::*;

/// Two shards, one falls idle, the other goes on; the first wakes with records whose window has fired.
#[test]
fn a_shard_that_wakes_behind_does_not_fire_twice() {
    let out = Collected::new();
    let sink = out.sink();
    let keys = 0..40_u32;
    // Shard 0: window [0, 1000), silence from 0 to 300, then a second record of each key.
    let mut a: Vec<Act<Rec>> = keys.clone().map(|k| Act::Record((k, 100, 0))).collect();
    a.push(Act::Until(300));
    a.extend(keys.clone().map(|k| Act::Record((k, 200, 1))));
    // Shard 1: time goes on to 5,000 while shard 0 is idle.
    let b = vec![
        Act::Record((0, 150, 2)),
        Act::Until(200),
        Act::Record((0, 5_000, 3)),
        Act::Until(300),
        Act::Record((0, 5_001, 3)),
        Act::Until(350),
        Act::Record((0, 9_001, 3)),
    ];
    let src = Scripted::without_end([a, b]);
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
    assert_eq!(sum + late + 1, metric_of(&shards, "numRecordsIn", "indow"));
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
    let src = Scripted::without_end([vec![
        Act::Record((0, 10_000, 0)),
        Act::Silence,
        Act::Record((0, 9_000, 1)),
        Act::Record((0, 10_001, 1)),
    ]]);
    let w = || Watermarks::monotonous().timestamps(|r: &Rec| r.1).clock_guard(ms(1_000));
    let mut shards = build(1, Tuning::default(), &|flow| {
        flow.source(src.clone(), w()).discard();
    });
    shards[0].step(Now { wall: 10_000.into(), steady: ms(0) }).unwrap();
    settle(&mut shards, Now { wall: 0.into(), steady: ms(1) });
    assert_eq!(metric(&shards, "numDeadLetters"), 2);
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
                    |a: &mut [u64; 64], b: &[u64; 64]| {
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

/// Keeps texts. Counts those that come in a sum from in front of the exchange, where there are some of the key already.
struct Texts(Arc<AtomicUsize>);

impl Aggregate<(u32, String)> for Texts {
    type Accumulator = Vec<String>;
    type Output = usize;

    const GROWS: bool = true;

    fn create(&self) -> Vec<String> {
        Vec::new()
    }

    fn add(&self, texts: &mut Vec<String>, (_, text): (u32, String)) {
        texts.push(text);
    }

    fn merge(&self, into: &mut Vec<String>, other: &Vec<String>) {
        self.0.fetch_add(other.iter().filter(|text| text.len() > 1).count(), Ordering::Relaxed);
        into.extend_from_slice(other);
    }

    fn result(&self, texts: &Vec<String>) -> usize {
        texts.len()
    }
}

/// Goal: in front of the exchange contents that grow with their records take a megabyte, about, before any barrier. All
/// texts may be large, or those of one key, or all but the first ones of each key.
#[test]
fn contents_that_grow_do_not_pile_up_in_front_of_the_exchange() {
    const KEYS: u32 = 8;
    const OF_EACH: u64 = 200;
    const TEXT_BYTES: usize = 10_000;
    type IsLarge = fn(u32, u64) -> bool;
    let cases: [IsLarge; 3] = [|_, _| true, |key, _| key == 3, |_, number| number >= 10];
    for (case, is_large) in cases.into_iter().enumerate() {
        let numbers = (0..OF_EACH).flat_map(|number| (0..KEYS).map(move |key| (key, 0, number)));
        let large = numbers.clone().filter(|&(key, _, number)| is_large(key, number)).count();
        let source = Scripted::without_end([numbers.map(Act::Record).collect(), vec![]]);
        let merged = Arc::<AtomicUsize>::default();
        let mut shards = build(2, Tuning::default(), &|flow| {
            flow.source(source.clone(), wm(0))
                .map(move |(key, _, number)| {
                    (key, "x".repeat(if is_large(key, number) { TEXT_BYTES } else { 1 }))
                })
                .key_by(|&(key, _): &(u32, String)| key)
                .window(Tumbling::of(ms(1_000)))
                .aggregate(Texts(Arc::clone(&merged)))
                .discard();
        });
        settle(&mut shards, at(0));
        // What is held in front of the exchange, and the first sums of each key, were merged into nothing.
        let not_merged = large - merged.load(Ordering::Relaxed).min(large);
        let held_max = (1 << 20) / TEXT_BYTES;
        assert!(
            not_merged <= 3 * held_max,
            "case {case}: {not_merged} texts of {TEXT_BYTES} bytes"
        );
    }
}
