//! The table against plain maps: one of what is true, one of what the store has.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use thalweg_kernel::{Change, Str};
use thalweg_testing::Random;

use super::*;
use crate::testing::Weak;

type Store = BTreeMap<Vec<u8>, Vec<u8>>;

fn id() -> StateId {
    StateId::of("count", "value")
}

fn stored_key(key: &impl Key) -> Vec<u8> {
    let mut out = Vec::new();
    id().begin_key(KeyGroups::default().group_of(key.key_hash()), &mut out);
    key.write_key(&mut out);
    out
}

fn write(held: &Held<u64>, mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&held.value.to_le_bytes());
    out.extend_from_slice(&held.lives_until.as_millis().to_le_bytes());
    out
}

fn read(bytes: &[u8]) -> Held<u64> {
    let lives_until = i64::from_le_bytes(bytes[8..].try_into().unwrap()).into();
    Held { value: u64::from_le_bytes(bytes[..8].try_into().unwrap()), lives_until }
}

fn apply(block: &[u8], store: &mut Store) {
    for change in Changes::read(block) {
        match change.unwrap() {
            Change::Put { key, value } => _ = store.insert(key.to_vec(), value.to_vec()),
            Change::Delete { key } => _ = store.remove(key),
            Change::DeleteRange { .. } => panic!("no ranges"),
        }
    }
}

/// A table, what should be in it, and a store that lags behind.
struct Rig<K> {
    table: KeyedTable<K, u64>,
    model: BTreeMap<K, Held<u64>>,
    /// As of the last snapshot; and what can be read already.
    written: Store,
    readable: Store,
    /// Snapshots that cannot be read yet.
    behind: VecDeque<(Epoch, Vec<u8>)>,
    epoch: Epoch,
    read: Epoch,
    now: Timestamp,
    evicts: bool,
}

impl<K: Key + Ord + std::fmt::Debug> Rig<K> {
    fn new(evicts: bool) -> Self {
        Self {
            table: KeyedTable::weighed_by(|_, _| 3),
            model: BTreeMap::new(),
            written: Store::new(),
            readable: Store::new(),
            behind: VecDeque::new(),
            epoch: Epoch::NONE.next(),
            read: Epoch::NONE,
            now: 0.into(),
            evicts,
        }
    }

    /// The value of a key, read from the store if need be.
    fn get(&mut self, key: &K, to_change: bool) -> Option<&mut Held<u64>> {
        let (hash, now) = (table_hash(key), self.now);
        let found = match to_change {
            true => self.table.get_mut(hash, key, now).is_cold(),
            false => self.table.get(hash, key, now).is_cold(),
        };
        if found {
            assert!(self.evicts, "a miss is final");
            if let Some(bytes) = self.readable.get(&stored_key(key)) {
                let Held { value, lives_until } = read(bytes);
                self.table.load(hash, key.clone(), value, lives_until);
            }
        }
        match self.table.get_mut(hash, key, now) {
            Found::Here(held) => Some(held),
            _ => None,
        }
    }

    /// Checks one key by reading it, as a model of a caller that only reads.
    fn check(&mut self, key: &K) {
        let (hash, now) = (table_hash(key), self.now);
        let expected = self.model.get(key).filter(|held| held.lives_until >= now).cloned();
        let found = match self.table.get(hash, key, now) {
            Found::Here(held) => Some(held.clone()),
            Found::Absent => None,
            Found::Cold => {
                let stored = self.readable.get(&stored_key(key)).map(|bytes| read(bytes));
                if let Some(Held { value, lives_until }) = stored {
                    self.table.load(hash, key.clone(), value, lives_until);
                }
                match self.table.get(hash, key, now) {
                    Found::Here(held) => Some(held.clone()),
                    _ => None,
                }
            }
        };
        assert_eq!(found, expected, "{key:?} in {}", self.epoch);
    }

    fn barrier(&mut self, lag: usize) {
        let mut changes = Changes::new();
        self.table.snapshot(id(), KeyGroups::default(), &mut changes, write);
        apply(changes.as_bytes(), &mut self.written);
        self.behind.push_back((self.epoch, changes.into_bytes()));
        while self.behind.len() > lag {
            let (epoch, block) = self.behind.pop_front().unwrap();
            apply(&block, &mut self.readable);
            self.read = epoch;
        }
        self.epoch = self.epoch.next();
        self.table.begin_epoch(self.epoch, self.read);
        // What has not expired is stored as it is, and nothing else but what is expired.
        let now = self.now;
        for (key, held) in self.model.iter().filter(|(_, held)| held.lives_until >= now) {
            let bytes = self.written.get(&stored_key(key)).expect("it is stored");
            assert_eq!(&read(bytes), held);
        }
        let alive = self.written.values().filter(|bytes| read(bytes).lives_until >= now);
        let expected = self.model.values().filter(|held| held.lives_until >= now);
        assert_eq!(alive.count(), expected.count());
    }

    fn restart(&mut self, mut key: impl FnMut(&mut &[u8]) -> Option<K>) {
        (self.table, self.evicts) = (KeyedTable::weighed_by(|_, _| 3), false);
        self.behind.clear();
        self.readable = self.written.clone();
        for (stored, value) in &self.written {
            let (_, mut rest) = StateId::split_key(stored).unwrap();
            let (key, Held { value, lives_until }) = (key(&mut rest).unwrap(), read(value));
            self.table.load(table_hash(&key), key, value, lives_until);
        }
        self.read = self.epoch;
        self.epoch = self.epoch.next();
        self.table.begin_epoch(self.epoch, self.read);
    }
}

impl<T> Found<T> {
    fn is_cold(&self) -> bool {
        matches!(self, Found::Cold)
    }
}

fn run<K: Key + Ord + std::fmt::Debug>(seed: u64, steps: u64, mut key: impl FnMut(u64) -> K) {
    let random = &mut Random::new(seed);
    let (ttl, lag) = (random.below(2) == 0, random.below(4) as usize);
    let keys = [2, 20, 300, 5_000][random.below(4) as usize];
    let wants_eviction = random.below(2) == 0;
    let mut rig = Rig::<K>::new(wants_eviction);
    for step in 0..steps {
        let key_now = key(random.below(keys));
        let hash = table_hash(&key_now);
        let lives = match ttl && random.below(2) == 0 {
            true => rig.now.plus_ms(random.below(30) as i64),
            false => NEVER,
        };
        match random.below(100) {
            0..40 => {
                let now = rig.now;
                let alive = rig.model.get(&key_now).filter(|held| held.lives_until >= now);
                let value = alive.map_or(0, |held| held.value) + step;
                let held = Held { value, lives_until: lives };
                match rig.get(&key_now, true) {
                    Some(here) => *here = Held { value: here.value + step, lives_until: lives },
                    None => {
                        let inserted = rig.table.insert(hash, key_now.clone(), step, lives);
                        assert_eq!(inserted, &held);
                    }
                }
                rig.model.insert(key_now, held);
            }
            40..50 => {
                rig.table.put(hash, key_now.clone(), step, lives);
                rig.model.insert(key_now, Held { value: step, lives_until: lives });
            }
            50..70 => rig.check(&key_now),
            70..85 => {
                let expected = rig.model.remove(&key_now);
                let expected = expected.filter(|held| held.lives_until >= rig.now);
                match rig.table.remove(hash, &key_now, rig.now) {
                    Found::Here(value) => assert_eq!(Some(value), expected.map(|held| held.value)),
                    Found::Absent => assert_eq!(None, expected),
                    Found::Cold => assert!(rig.evicts),
                }
                rig.check(&key_now);
            }
            85..90 => _ = rig.table.expire(rig.now, random.below(300) as usize),
            90..94 => rig.now = rig.now.plus_ms(random.below(8) as i64),
            94..97 if rig.evicts => {
                let (before, keep) = (rig.table.len(), random.below(keys) as usize);
                let evicted = rig.table.evict_clean(rig.read, keep);
                assert!(
                    rig.table.len() + evicted == before
                        && (evicted == 0 || rig.table.len() >= keep)
                );
            }
            97 => {
                let used_least = rig.table.least_recently_used();
                assert_eq!(used_least.is_none(), rig.table.is_empty());
                if let Some(key) = used_least {
                    rig.table.remove(table_hash(&key), &key, rig.now);
                    rig.model.remove(&key);
                }
            }
            _ => rig.barrier(lag),
        }
        assert_eq!(rig.table.weight_bytes(), rig.table.len() * 3);
    }
    rig.barrier(lag);
    for number in 0..keys {
        rig.check(&key(number));
    }
    rig.barrier(0);
    rig.restart(|rest| K::read_key(rest));
    for number in 0..keys {
        rig.check(&key(number));
    }
    let now = rig.now;
    let here: BTreeMap<_, _> =
        rig.table.iter(now).map(|(key, held)| (key.clone(), held.clone())).collect();
    rig.model.retain(|_, held| held.lives_until >= now);
    assert_eq!(here, rig.model);
}

#[test]
fn it_equals_a_map_whatever_is_dropped_expired_removed_and_restored() {
    (0..2_000).for_each(|seed| run(seed, 400, |number| number));
    (0..6).for_each(|seed| run(7_000 + seed, 40_000, |number| number));
}

#[test]
fn bad_hashes_and_keys_of_any_kind_cost_only_time() {
    for (seed, mask) in (0..30).zip([0, 1, 0x7ff, !0 << 11, 0xff << 56].into_iter().cycle()) {
        run(seed, 3_000, |number| Weak(number, mask));
    }
    (0..40).for_each(|seed| run(seed, 1_000, |number| Str::from(format!("a name {number}"))));
}

fn put(table: &mut KeyedTable<u64, u64>, key: u64, value: u64) {
    table.put(table_hash(&key), key, value, NEVER);
}

fn changes(table: &mut KeyedTable<u64, u64>) -> usize {
    let mut changes = Changes::new();
    table.snapshot(id(), KeyGroups::default(), &mut changes, write);
    changes.len()
}

#[test]
fn a_snapshot_writes_what_has_changed_and_nothing_else() {
    let mut table = KeyedTable::new();
    (0..5_000).for_each(|key| put(&mut table, key, 0));
    assert_eq!((changes(&mut table), changes(&mut table)), (5_000, 0));
    (0..100).for_each(|key| put(&mut table, key * 7 % 50, 1));
    assert!(matches!(table.get(table_hash(&4_000), &4_000, 0.into()), Found::Here(_)));
    assert_eq!((changes(&mut table), changes(&mut table)), (50, 0));
    for key in 5_000..6_000 {
        put(&mut table, key, 0);
        table.remove(table_hash(&key), &key, 0.into());
    }
    assert_eq!(changes(&mut table), 0, "what came and went");
    (0..10).for_each(|key| _ = table.remove(table_hash(&key), &key, 0.into()));
    (0..5).for_each(|key| put(&mut table, key, 2));
    assert_eq!(changes(&mut table), 10, "five deletes and five puts");
}

#[test]
fn the_least_recently_used_go_first() {
    let mut table = KeyedTable::new();
    (0..10_000).for_each(|key| put(&mut table, key, key));
    changes(&mut table);
    table.begin_epoch(Epoch::new(2), Epoch::new(1));
    // The first search finds all of them used, lately.
    while table.evict_clean(Epoch::new(1), 9_999) == 0 {}
    (0..5_000).for_each(|key| _ = table.get(table_hash(&key), &key, 0.into()));
    while table.len() > 5_500 {
        table.evict_clean(Epoch::new(1), 5_500);
    }
    let recent = table.iter(0.into()).filter(|(key, _)| **key < 5_000).count();
    assert!(recent > 4_900, "{recent} of 5,000");
}

#[test]
fn nothing_is_dropped_that_the_store_cannot_read() {
    let mut table = KeyedTable::new();
    (0..3_000).for_each(|key| put(&mut table, key, key));
    let search = |table: &mut KeyedTable<u64, u64>, readable| {
        (0..100).map(|_| table.evict_clean(Epoch::new(readable), 0)).sum::<usize>()
    };
    assert_eq!(search(&mut table, 9), 0, "all are dirty");
    changes(&mut table);
    table.begin_epoch(Epoch::new(2), Epoch::NONE);
    assert_eq!(search(&mut table, 0), 0, "all changed in epoch 1");
    (0..1_000).for_each(|key| put(&mut table, key, 1));
    assert_eq!(search(&mut table, 1), 2_000);
    assert!(table.get(table_hash(&2_000), &2_000, 0.into()).is_cold());
}

/// Goal: what has expired is freed though nobody asks for it, and with it the memory.
#[test]
fn what_has_expired_is_really_freed() {
    let mut table = KeyedTable::<_, _, Timestamp>::new();
    for key in 0..100_000_u64 {
        table.insert(table_hash(&key), key, key, (key as i64 % 1_000).into());
    }
    let full = table.memory_bytes();
    let mut calls = 0;
    while table.len() > 100 {
        table.expire(999.into(), 1_000);
        calls += 1;
        assert!(calls < 600, "{} are left", table.len());
    }
    assert!(table.iter(0.into()).all(|(key, _)| key % 1_000 == 999));
    assert!(table.memory_bytes() * 20 < full, "{} of {full} bytes", table.memory_bytes());
}

#[test]
fn removed_keys_are_forgotten_when_the_store_knows_it() {
    let mut table = KeyedTable::new();
    for epoch in 1..200 {
        (0..2_000).for_each(|key| put(&mut table, key, key));
        changes(&mut table);
        table.begin_epoch(Epoch::new(2 * epoch), Epoch::new(2 * epoch - 1));
        (0..2_000).for_each(|key| _ = table.remove(table_hash(&key), &key, 0.into()));
        assert_eq!(changes(&mut table), 2_000);
        table.begin_epoch(Epoch::new(2 * epoch + 1), Epoch::new(2 * epoch));
    }
    assert!(table.removed.memory_bytes() < 400_000, "{} bytes", table.removed.memory_bytes());
}
