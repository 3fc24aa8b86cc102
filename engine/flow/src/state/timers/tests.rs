//! Timers against a sorted set, with a map for the store.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_kernel::{Change, Str};
use thalweg_testing::Random;

use super::*;
use crate::testing::Weak;

type Store = BTreeMap<Vec<u8>, Vec<u8>>;
type Model<K> = BTreeSet<(Timestamp, K)>;

fn id() -> StateId {
    StateId::of("alarm", "timers")
}

/// Applies a snapshot to the store; the number of changes.
fn store<K: Key>(timers: &mut Timers<K>, store: &mut Store) -> usize {
    let mut changes = Changes::new();
    timers.snapshot(id(), KeyGroups::default(), &mut changes);
    for change in Changes::read(changes.as_bytes()) {
        match change.unwrap() {
            Change::Put { key, value } => {
                assert!(value.is_empty());
                assert!(store.insert(key.to_vec(), Vec::new()).is_none(), "it was stored");
            }
            Change::Delete { key } => assert!(store.remove(key).is_some(), "it was not stored"),
            Change::DeleteRange { .. } => panic!("no ranges"),
        }
    }
    changes.len()
}

fn restored<K: Key>(store: &Store, mut timers: Timers<K>) -> Timers<K> {
    for key in store.keys() {
        let (group, rest) = StateId::split_key(key).unwrap();
        assert!(group < KeyGroups::default().count());
        timers.restore(rest).unwrap();
    }
    timers
}

fn insert<K: Key>(timers: &mut Timers<K>, time: i64, key: K) -> Inserted {
    timers.insert(time.into(), table_hash(&key), key)
}

fn drained<K: Key>(timers: &mut Timers<K>) -> Vec<(Timestamp, K)> {
    std::iter::from_fn(|| timers.pop_due(Timestamp::MAX)).collect()
}

/// Random operations; after each the model agrees.
fn run<K: Key + Ord + std::fmt::Debug>(
    seed: u64,
    steps: usize,
    mut time: impl FnMut(&mut Random, u64) -> i64,
    mut key: impl FnMut(&mut Random) -> K,
) {
    let random = &mut Random::new(seed);
    let timers_max = if random.below(4) == 0 { 50 } else { usize::MAX };
    let by_key = seed.is_multiple_of(2);
    let new = || match by_key {
        true => Timers::new(timers_max).known_by_key(),
        false => Timers::new(timers_max),
    };
    let (mut timers, mut model, mut kept) = (new(), Model::new(), Store::new());
    let (inserts, deletes) = (random.below(60) + 20, random.below(60));
    for step in 0..steps as u64 {
        let what = random.below(inserts + deletes + 30);
        if what < inserts {
            let (time, key) = (Timestamp::from(time(random, step)), key(random));
            let known = model.contains(&(time, key.clone()));
            let inserted = timers.insert(time, table_hash(&key), key.clone());
            let expected = match (known, model.len() < timers_max) {
                (true, _) => Inserted::Present,
                (_, false) => Inserted::Refused,
                _ => Inserted::Added,
            };
            assert_eq!(inserted, expected);
            if inserted == Inserted::Added {
                model.insert((time, key));
            }
        } else if what < inserts + deletes {
            // Mostly one that is there.
            let from = (Timestamp::from(time(random, step)), key(random));
            let (time, key) = match model.range(from.clone()..).next() {
                Some(found) if random.below(8) > 0 => found.clone(),
                _ => from,
            };
            let was_there = timers.delete(time, table_hash(&key), &key);
            assert_eq!(was_there, model.remove(&(time, key.clone())));
            if by_key && random.below(4) == 0 {
                timers.delete_key(table_hash(&key), &key);
                model.retain(|(_, other)| *other != key);
            }
        } else if what < inserts + deletes + 25 {
            let until = match model.iter().nth(random.below(4) as usize) {
                Some((time, _)) => time.plus_ms(random.below(3) as i64 - 1),
                None => Timestamp::MAX,
            };
            for _ in 0..=random.below(20) {
                let Some(fired) = timers.pop_due(until) else {
                    assert!(model.first().is_none_or(|first| first.0 > until));
                    break;
                };
                assert!(fired.0 <= until && Some(fired.0) == model.first().map(|first| first.0));
                assert!(model.remove(&fired));
            }
        } else {
            store(&mut timers, &mut kept);
            if random.below(3) == 0 {
                timers = restored(&kept, new());
                assert_eq!(store(&mut timers, &mut kept), 0, "restored, nothing has changed");
            }
            assert_eq!(kept.len(), model.len());
        }
        assert_eq!(timers.len(), model.len());
        if random.below(4) == 0 {
            assert_eq!(timers.earliest(), model.first().map(|first| first.0));
        }
    }
    store(&mut timers, &mut kept);
    let mut again = restored(&kept, new());
    for timers in [&mut timers, &mut again] {
        let fired = drained(timers);
        assert!(fired.is_sorted_by_key(|fired| fired.0));
        assert_eq!(fired.into_iter().collect::<Model<K>>(), model);
        assert_eq!((timers.len(), timers.earliest()), (0, None));
    }
    store(&mut timers, &mut kept);
    assert!(kept.is_empty());
}

#[test]
fn they_equal_a_sorted_set_whatever_the_times() {
    for seed in 0..1_500 {
        let keys = [1_u64, 3, 40, 1 << 40][seed as usize % 4];
        let key = move |random: &mut Random| random.below(keys);
        let steps = 300;
        match seed % 7 {
            0 => run(seed, steps, |r, _| r.below(86_400_000) as i64, key),
            1 => run(seed, steps, |r, _| r.below(20) as i64 - 10, key),
            2 => run(seed, steps, |_, _| 7, key),
            3 => run(seed, steps, |_, step| step as i64, key),
            4 => run(seed, steps, |_, step| -(step as i64), key),
            5 => run(seed, steps, |r, _| [i64::MIN, -1, 0, i64::MAX][r.below(4) as usize], key),
            _ => run(seed, steps, |r, _| r.next_u64() as i64, key),
        }
    }
}

#[test]
fn many_are_split_cleaned_and_still_equal_a_sorted_set() {
    for seed in 0..14 {
        let spread = [1_i64, 2, 1_000, 1 << 20, 1 << 62, 3, 10][seed as usize % 7];
        let time = move |random: &mut Random, _| random.below(spread) - 1;
        run(seed, 12_000, time, |random| random.below(1_u64 << 30));
    }
}

#[test]
fn bad_hashes_and_keys_of_any_kind_cost_only_time() {
    for (seed, mask) in (0..).zip([0, 1, 0xff << 56, 0x7ff, 0]) {
        let time = move |random: &mut Random, _| random.below(3 + seed) as i64;
        run(seed, 4_000, time, |random| Weak(random.below(2_000), mask));
    }
    let time = |random: &mut Random, _| random.below(100) as i64;
    run(9, 3_000, time, |random| Str::from(format!("a device with a name {}", random.below(500))));
    run(9, 300, time, |_| ());
}

/// Goal: deleted timers hold no memory. Method: insert and delete again and again, far from the frontier.
#[test]
fn what_is_deleted_is_not_kept() {
    let mut timers = Timers::new(usize::MAX);
    (0..1_000_u64).for_each(|key| _ = insert(&mut timers, 5, key));
    for round in 0..200 {
        let time = |key: u64| if round % 2 == 0 { i64::MAX } else { (key * round) as i64 + 10 };
        (0..2_000_u64).for_each(|key| _ = insert(&mut timers, time(key), key));
        for key in 0..2_000 {
            assert!(timers.delete(time(key).into(), table_hash(&key), &key));
        }
        // One pair, many times over.
        for _ in 0..1_000 {
            assert_eq!(insert(&mut timers, 77, 1), Inserted::Added);
            assert!(timers.delete(77.into(), table_hash(&1_u64), &1));
        }
    }
    assert_eq!(timers.len(), 1_000);
    assert!(timers.memory_bytes() < 400_000, "{} bytes", timers.memory_bytes());
}

#[test]
fn what_comes_and_goes_between_barriers_is_not_written() {
    let (mut timers, mut kept) = (Timers::new(usize::MAX), Store::new());
    insert(&mut timers, 10, 1_u64);
    insert(&mut timers, 20, 2);
    assert!(timers.pop_due(15.into()).is_some());
    assert_eq!(store(&mut timers, &mut kept), 1);
    // A stored one that is deleted and comes again is a delete and a put: nothing is lost either way.
    timers.delete(20.into(), table_hash(&2_u64), &2);
    insert(&mut timers, 20, 2);
    assert_eq!((store(&mut timers, &mut kept), kept.len()), (2, 1));
    assert_eq!(store(&mut timers, &mut kept), 0);
    timers.clear();
    assert_eq!((store(&mut timers, &mut kept), kept.len()), (1, 0));
}

#[test]
fn stored_keys_are_in_order_of_time_and_never_change() {
    let (mut timers, mut kept) = (Timers::new(usize::MAX), Store::new());
    for time in [5, i64::MIN, -1, i64::MAX, 0] {
        insert(&mut timers, time, 7_u8);
    }
    store(&mut timers, &mut kept);
    let rest = |time: [u8; 8]| {
        let mut key = Vec::new();
        id().begin_key(KeyGroups::default().group_of(7_u8.key_hash()), &mut key);
        [key, time.to_vec(), vec![7]].concat()
    };
    let expected = [
        [0; 8],
        [0x7f, 255, 255, 255, 255, 255, 255, 255],
        [0x80, 0, 0, 0, 0, 0, 0, 0],
        [0x80, 0, 0, 0, 0, 0, 0, 5],
        [255; 8],
    ];
    assert_eq!(kept.into_keys().collect::<Vec<_>>(), expected.map(rest));
}

#[test]
fn bytes_that_are_no_timer_are_damaged() {
    let mut timers = Timers::<u32>::new(10);
    for bytes in [0, 7, 8, 11, 13] {
        let error = timers.restore(&vec![0; bytes]).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
    assert!(timers.restore(&[0; 12]).is_ok());
    assert!(timers.restore(&[0; 12]).is_ok(), "twice is once");
    assert_eq!((timers.len(), timers.earliest()), (1, Some(Timestamp::MIN)));
}
