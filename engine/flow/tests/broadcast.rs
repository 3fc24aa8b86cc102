//! Broadcast state: the same on every shard, stored once, there again on any number of shards.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use thalweg_flow::*;
use thalweg_kernel::{Collector, Timestamp};

use self::common::*;

/// Key, time.
type Record = (u32, i64);

/// Puts a value under a name, or takes it away: name, value, time.
type Rule = (String, Option<u64>, i64);

fn rules(seed: u64) -> Vec<Rule> {
    let mut random = Random::new(seed);
    (0..40)
        .map(|n| {
            let value = if random.one_in(3) { None } else { Some(n) };
            (format!("rule {}", random.below(9)), value, n as i64)
        })
        .collect()
}

fn records() -> Vec<Record> {
    (0..120).map(|n| (n % 11, i64::from(n))).collect()
}

/// What each shard has in the end.
type Ends = Arc<Mutex<BTreeMap<usize, BTreeMap<String, u64>>>>;

/// Says with each record which rules hold, and counts the records of its key; at the end which rules are left.
struct Ruled {
    rules: BroadcastState<String, u64>,
    count: ValueState<u32, u64>,
    shard: usize,
    ends: Ends,
}

impl Ruled {
    fn all(&self) -> BTreeMap<String, u64> {
        self.rules.with(Clone::clone)
    }
}

impl CoProcess<u32, Record, Rule, NoKey> for Ruled {
    type Out = String;

    fn left(
        &mut self,
        record: Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<String>,
    ) {
        let count = self.count.update(cx, |count| {
            *count += 1;
            *count
        });
        out.record(cx.time(), format!("{record:?} as {count} under {:?}", self.all()));
    }

    fn right(
        &mut self,
        (name, value, _): Rule,
        cx: &mut Context<'_, NoKey>,
        _: &mut impl Collector<String>,
    ) {
        match value {
            Some(value) => self.rules.put(cx, name, value).unwrap(),
            None => drop(self.rules.remove(cx, &name)),
        }
    }

    fn close(&mut self, _: &mut Context<'_, NoKey>, _: &mut impl Collector<String>) {
        self.ends.lock().unwrap().insert(self.shard, self.all());
    }
}

fn job(seed: u64, table: &Table, ends: &Ends) -> impl Fn(&Flow) + use<> {
    let (records, rules) = (Collection::new(records()), Collection::new(rules(seed)));
    let (sink, ends) = (table.sink(), Arc::clone(ends));
    move |flow| {
        let by_time = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        let rule_time = Watermarks::monotonous().timestamps(|rule: &Rule| rule.2);
        let rules = flow.source(rules.clone(), rule_time.without_clock_guard());
        flow.source(records.clone(), by_time.without_clock_guard())
            .key_by(|record: &Record| record.0)
            .connect_broadcast(rules)
            .process(|states| Ruled {
                rules: states.operator().broadcast("rules"),
                count: states.value("count"),
                shard: states.operator().instance(),
                ends: Arc::clone(&ends),
            })
            .sink(sink.clone());
    }
}

/// The maps that there are, one after the other, as rules come.
fn maps(seed: u64) -> Vec<BTreeMap<String, u64>> {
    let mut map = BTreeMap::new();
    let mut maps = vec![map.clone()];
    for (name, value, _) in rules(seed) {
        match value {
            Some(value) => drop(map.insert(name, value)),
            None => drop(map.remove(&name)),
        }
        maps.push(map.clone());
    }
    maps
}

/// Goal: after crashes anywhere, on any number of shards, every shard has the map that there is, with no entry more and none
/// less. Every record has seen a map that there was.
/// Method: lives of a job whose rules come and go, against a plain map.
#[test]
fn every_shard_has_the_same_map_after_any_restart() {
    for seed in 0..12 {
        let (store, table, mut random) = (Store::default(), Table::default(), Random::new(seed));
        let maps = maps(seed);
        for life in 0.. {
            let (shards, ends) = ([1, 2, 3, 8][random.below(4)], Ends::default());
            let moves_max = if life < 6 { 5 + random.below(250) } else { 999_999 };
            let lived =
                Life { shards, store: &store, random: &mut random, moves_max, epoch_every: 12 };
            if lived.live(&job(seed, &table, &ends)) == Ended::Done {
                let ends = ends.lock().unwrap();
                assert_eq!(ends.len(), shards, "seed {seed}");
                assert!(ends.values().all(|end| Some(end) == maps.last()), "seed {seed}: {ends:?}");
                break;
            }
        }
        let (mut rows, mut counts) = (table.rows(), BTreeMap::<u32, u64>::new());
        for record in records() {
            let count = counts.entry(record.0).or_default();
            *count += 1;
            let row = |map| {
                let text = format!("{record:?} as {count} under {map:?}");
                format!("{} {text:?}", Timestamp::from(record.1))
            };
            let seen = maps.iter().find_map(|map| rows.iter().position(|known| *known == row(map)));
            rows.remove(seen.unwrap_or_else(|| panic!("seed {seed}: no {record:?}")));
        }
        assert!(rows.is_empty(), "seed {seed}: {rows:?}");
    }
}

/// Goal: there is one copy of each entry in the store.
#[test]
fn an_entry_is_stored_once() {
    for shards in [1, 3, 8] {
        let (store, table, ends) = (Store::default(), Table::default(), Ends::default());
        Crashes::none(shards).until_done(&mut Random::new(3), &store, &job(3, &table, &ends));
        let reader = (store.storage().reader)().unwrap();
        let state = reader.states().iter().find(|state| state.name == "rules").unwrap();
        let (from, to) = state.id.range(0..u16::MAX);
        let mut stored = 0;
        reader
            .scan(&from, &to, &mut |_, _| {
                stored += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(Some(stored), maps(3).last().map(BTreeMap::len), "{shards} shards");
    }
}
