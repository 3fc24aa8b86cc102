//! Bounds on the state of a process function, in keys and in bytes, and what gives way.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{at, build, metric, run, run_to_end};
use thalweg_flow::*;
use thalweg_kernel::Collector;

/// Key, time.
type Record = (u32, i64);

/// What a key is remembered by: a list of times. It says what it has taken in, and what its timers find.
struct Remember(ListState<u32, i64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Taken(u32),
    Found(u32, usize),
}

impl Process<u32, Record> for Remember {
    type Out = Said;

    fn record(
        &mut self,
        (key, time): Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Said>,
    ) {
        self.0.push(cx, time);
        cx.event_timer(1_000_000.into());
        cx.event_timer((2_000_000 + time).into());
        cx.processing_timer(cx.processing_time().plus_ms(10));
        out.record(cx.time(), Said::Taken(key));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Said>) {
        out.record(cx.time(), Said::Found(*cx.key(), self.0.len(cx)));
    }
}

/// What is said of these records, and how many keys gave way and how many records became dead letters.
fn said(
    records: impl IntoIterator<Item = u32>,
    bound: impl Fn(Bounded) -> Bounded,
) -> (Vec<Said>, i64, i64) {
    let records: Vec<Record> =
        records.into_iter().enumerate().map(|(n, key)| (key, n as i64)).collect();
    let (out, source) = (Collected::new(), Collection::new(records));
    let sink = out.sink();
    let job = |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        let mut keyed = flow.source(source.clone(), watermarks).key_by(key as fn(&Record) -> u32);
        let Bounded { keys, bytes } = bound(Bounded::default());
        if let Some((keys, overflow)) = keys {
            keyed = keyed.keys_max(keys, overflow);
        }
        if let Some((bytes, overflow)) = bytes {
            keyed = keyed.bytes_max(bytes, overflow);
        }
        keyed.process(|states| Remember(states.list("times"))).sink(sink.clone());
    };
    let mut shards = build(1, Tuning::default(), &job);
    let mut ms = 0;
    // The clock goes on when all records have been read: timers of both kinds fire then.
    while shards[0].step(at(ms)).unwrap() != Step::Done {
        ms += 100;
        assert!(ms < 10_000_000, "it comes to no end");
    }
    (out.take(), metric(&shards, "numKeysEvicted"), metric(&shards, "numDeadLetters"))
}

fn key(record: &Record) -> u32 {
    record.0
}

#[derive(Clone, Copy, Default)]
struct Bounded {
    keys: Option<(usize, Overflow)>,
    bytes: Option<(usize, Overflow)>,
}

fn taken(said: &[Said]) -> Vec<u32> {
    let taken = |said: &Said| match said {
        Said::Taken(key) => Some(*key),
        Said::Found(..) => None,
    };
    said.iter().filter_map(taken).collect()
}

fn found(said: &[Said]) -> Vec<(u32, usize)> {
    let found = |said: &Said| match said {
        Said::Found(key, times) => Some((*key, *times)),
        Said::Taken(_) => None,
    };
    said.iter().filter_map(found).collect()
}

const EVICT: Overflow = Overflow::EvictLeastRecentlyUsed;

#[test]
fn a_key_that_gives_way_takes_its_timers_along() {
    let (said, evicted, dead) =
        said(0..1_000, |bounds| Bounded { keys: Some((10, EVICT)), ..bounds });
    assert_eq!((taken(&said).len(), evicted, dead), (1_000, 990, 0));
    let found = found(&said);
    assert!(found.iter().all(|&(_, times)| times == 1), "no timer is without its state");
    let at_end = found.iter().rev().take(20).count();
    assert!(at_end == 20 && found.len() <= 20 + 1_000, "{} timers", found.len());
    let mut keys: Vec<_> = found.iter().rev().take(20).map(|&(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 10, "two timers of each key that is left");
}

#[test]
fn without_a_bound_nothing_gives_way() {
    let (said, evicted, dead) = said(0..1_000, |bounds| bounds);
    assert_eq!((taken(&said).len(), evicted, dead), (1_000, 0, 0));
    let at_end = found(&said).len();
    assert!(at_end >= 2_000, "{at_end} timers");
}

/// Goal: bytes are bounded whether keys come or grow. Method: new keys until they are refused, then one key again
/// and again.
#[test]
fn bytes_are_bounded_and_known_keys_go_on_for_a_while() {
    const BYTES: usize = 40_000;
    let bytes = |bounds| Bounded { bytes: Some((BYTES, Overflow::DeadLetter)), ..bounds };
    let records = (0..2_000).chain(std::iter::repeat_n(0, 10_000));
    let (said, evicted, dead) = said(records, bytes);
    let taken = taken(&said);
    let new = taken.iter().filter(|&&key| key > 0).count() + 1;
    let of_known = taken.len() - new;
    // A key takes about a hundred bytes, and forty of its first time.
    assert!((BYTES / 200..BYTES / 100).contains(&new), "{new} keys");
    // A quarter of the bound in times, with their numbers and marks.
    assert!((BYTES / 4 / 48..=BYTES / 4 / 32).contains(&of_known), "{of_known} records");
    assert_eq!((evicted, dead), (0, 12_000 - taken.len() as i64));
}

#[test]
fn bytes_make_others_give_way() {
    let bytes = |bounds| Bounded { bytes: Some((40_000, EVICT)), ..bounds };
    let records = (0..20_000_u32).map(|n| if n.is_multiple_of(2) { n / 100 } else { n });
    let (said, evicted, dead) = said(records, bytes);
    assert_eq!((taken(&said).len(), dead), (20_000, 0));
    assert!(evicted > 5_000, "{evicted} keys");
    let left = found(&said).iter().rev().take_while(|(_, times)| *times > 0).count();
    assert!(left > 0);
}

/// Goal: as many keys as may be are no way around the bound for bytes. Method: ten keys of ten, which grow.
#[test]
fn bytes_are_bounded_where_there_are_as_many_keys_as_may_be() {
    for overflow in [Overflow::DeadLetter, EVICT] {
        let both = |_| Bounded { keys: Some((10, overflow)), bytes: Some((20_000, overflow)) };
        let (said, evicted, dead) = said((0..20_000).map(|n| n % 10), both);
        let taken = taken(&said).len();
        match overflow {
            Overflow::DeadLetter => {
                assert!((400..700).contains(&taken), "{taken} of thirty bytes and more");
                assert_eq!((evicted, dead), (0, 20_000 - taken as i64));
            }
            Overflow::EvictLeastRecentlyUsed => {
                assert_eq!((taken, dead), (20_000, 0));
                assert!(evicted > 50, "{evicted} keys");
            }
        }
    }
}

/// Goal: the key at hand does not give way while there is another. Method: a list of ten times, and then one of a
/// hundred, which has room without the other one.
#[test]
fn the_key_at_hand_stays_while_there_is_another() {
    for (small, large) in (0..20).map(|n| (n, 20 - n)).filter(|(small, large)| small != large) {
        let bytes = |bounds| Bounded { bytes: Some((4_400, EVICT)), ..bounds };
        let records = std::iter::repeat_n(small, 10).chain(std::iter::repeat_n(large, 100));
        let (said, evicted, dead) = said(records, bytes);
        assert_eq!((taken(&said).len(), evicted, dead), (110, 1, 0));
        assert_eq!(found(&said).last(), Some(&(large, 100)), "{small} was there before");
    }
}

/// Keeps what it is told of a key, in a list and in a map. At the last record it drops all but the first.
struct Forgetful(ListState<u32, i64>, MapState<u32, i64, i64>);

impl Process<u32, Record> for Forgetful {
    type Out = Said;

    fn record(
        &mut self,
        (key, time): Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Said>,
    ) {
        let Self(list, map) = self;
        list.push(cx, time);
        map.put(cx, time, time);
        if time % 1_000 == 999 {
            let first = time - 999;
            list.retain(cx, |&kept| kept == first);
            (first + 1..=time).for_each(|kept| assert!(map.remove(cx, &kept)));
            assert_eq!((list.get(cx), map.len(cx)), (vec![first], 1));
        }
        out.record(cx.time(), Said::Taken(key));
    }
}

/// Goal: bytes that lists and maps do not need any more can be used by others. Method: each of a hundred keys fills a
/// list and a map, and empties them.
#[test]
fn lists_and_maps_that_shrink_make_room() {
    let records: Vec<Record> = (0..100_000).map(|n| ((n / 1_000) as u32, n)).collect();
    let (out, source) = (Collected::new(), Collection::new(records));
    let sink = out.sink();
    let job = |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        flow.source(source.clone(), watermarks)
            .key_by(key)
            .bytes_max(120_000, Overflow::DeadLetter)
            .process(|states| Forgetful(states.list("list"), states.map("map")))
            .sink(sink.clone());
    };
    run(1, Tuning::default(), &job);
    assert_eq!(taken(&out.take()).len(), 100_000);
}

/// Knows a key for a second.
struct Briefly(ValueState<u32, i64>);

impl Process<u32, Record> for Briefly {
    type Out = Said;

    fn record(
        &mut self,
        (key, time): Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Said>,
    ) {
        let known = usize::from(self.0.get(cx).is_some());
        self.0.set(cx, time);
        out.record(cx.time(), if known > 0 { Said::Found(key, 1) } else { Said::Taken(key) });
    }
}

/// Goal: what has expired keeps nobody out, and nobody gives way to it, whatever the sizes of steps. Method: as many
/// keys as may be, a pause, and as many others.
#[test]
fn what_has_expired_makes_room() {
    for (step_records_max, overflow) in
        [1, 64, 10_000].into_iter().flat_map(|max| [(max, Overflow::DeadLetter), (max, EVICT)])
    {
        let keys = |first: u32, time: i64| (first..first + 1_000).map(move |key| (key, time));
        let pause = std::iter::once((0, 99_999));
        let records: Vec<Record> = keys(0, 0).chain(pause).chain(keys(5_000, 100_000)).collect();
        let (out, source) = (Collected::new(), Collection::new(records));
        let sink = out.sink();
        let job = |flow: &Flow| {
            let watermarks = Watermarks::monotonous()
                .timestamps(|record: &Record| record.1)
                .without_clock_guard();
            flow.source(source.clone(), watermarks)
                .key_by(key)
                .keys_max(1_001, overflow)
                .process(|states| {
                    let second = Ttl::event_time(Duration::from_secs(1));
                    Briefly(states.value_with("time", StateOptions::new().ttl(second)))
                })
                .sink(sink.clone());
        };
        let tuning = Tuning { step_records_max, ..Tuning::default() };
        let mut shards = build(1, tuning, &job);
        run_to_end(&mut shards, at(0));
        let given_way = ["numKeysEvicted", "numDeadLetters"].map(|name| metric(&shards, name));
        assert_eq!(given_way, [0, 0], "{step_records_max} {overflow:?}");
        assert_eq!(out.take().len(), 2_001);
    }
}

/// Keeps a value of each key, and another one of each second key.
struct Values(ValueState<u32, i64>, ValueState<u32, (i64, i64)>);

impl Process<u32, Record> for Values {
    type Out = Said;

    fn record(
        &mut self,
        (key, time): Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Said>,
    ) {
        let known = self.0.get(cx).is_some();
        self.0.set(cx, time);
        if key.is_multiple_of(2) {
            self.1.set(cx, (time, time));
        }
        out.record(cx.time(), if known { Said::Found(key, 1) } else { Said::Taken(key) });
    }
}

/// Goal: bounds on values hold to the key and to the byte, although one look at them serves many records. Method: steps of
/// one record look each time, and larger ones come to what they say.
#[test]
fn one_look_at_the_bounds_serves_many_records() {
    let records: Vec<Record> = (0..900).map(|n| ((n / 2 % 300) as u32, n)).collect();
    let outcome = |step_records_max, keys_max, bytes_max, overflow| {
        let (out, source) = (Collected::new(), Collection::new(records.clone()));
        let sink = out.sink();
        let job = |flow: &Flow| {
            let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
            flow.source(source.clone(), watermarks)
                .key_by(key)
                .keys_max(keys_max, overflow)
                .bytes_max(bytes_max, overflow)
                .process(|states| Values(states.value("one"), states.value("two")))
                .sink(sink.clone());
        };
        let mut shards = build(1, Tuning { step_records_max, ..Tuning::default() }, &job);
        run_to_end(&mut shards, at(0));
        let given_way = ["numKeysEvicted", "numDeadLetters"].map(|name| metric(&shards, name));
        (out.take(), given_way)
    };
    for (keys_max, bytes_max) in [(100, 1 << 20), (1_000, 4_000), (1_000, 4_001), (1, 1_000)] {
        for overflow in [Overflow::DeadLetter, EVICT] {
            let one_by_one = outcome(1, keys_max, bytes_max, overflow);
            assert!(one_by_one.1.iter().sum::<i64>() > 100, "the bounds are met");
            if overflow == Overflow::DeadLetter && keys_max < 1_000 {
                assert_eq!(taken(&one_by_one.0).len(), keys_max);
            }
            for step_records_max in [7, 10_000] {
                let at_once = outcome(step_records_max, keys_max, bytes_max, overflow);
                assert_eq!(at_once, one_by_one, "{step_records_max} {keys_max} {bytes_max}");
            }
        }
    }
}
