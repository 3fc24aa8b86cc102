//! The store against a plain model: random epochs, folding in small steps, reopening at any point.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use tempfile::TempDir;
use thalweg_kernel::{Changes, Epoch};
use thalweg_store::{Resume, Store, StoreError, StoreOptions};
use thalweg_testing::Random;

/// Keys of all kinds: short ones, long ones with a common beginning, lengths around LMDB's limit.
fn random_key(random: &mut Random) -> Vec<u8> {
    let group = random.below(4) as u16;
    let number = random.below(12) as u8;
    let rest = match random.below(6) {
        0 => [vec![b'l'; 600], vec![number]].concat(),
        1 => vec![b'l'; 480 + usize::from(number)],
        2 => [vec![b'l'; 485], vec![number; 1 + usize::from(number) * 9]].concat(),
        3 => [vec![number; 700], vec![number % 3]].concat(),
        _ => vec![number; 1 + usize::from(number % 3)],
    };
    key(group, &rest)
}

fn random_block(random: &mut Random) -> Vec<u8> {
    let mut block = Changes::new();
    for _ in 0..random.below(40) {
        let key = random_key(random);
        match random.below(20) {
            0 => {
                let other = random_key(random);
                block.delete_range(key.as_slice().min(&other), key.as_slice().max(&other));
            }
            1 => {
                let (from, to) = state().range(1..3);
                block.delete_range(&from, &to);
            }
            2..6 => block.delete(&key),
            _ => block.put(&key, &vec![9; random.below(60) as usize]),
        }
    }
    block.into_bytes()
}

/// Goal: whatever happens in between, what is recovered is exactly an epoch that was committed. Method: keep the
/// model of every epoch. Commit, fold a few steps, and reopen without closing anything, sometimes at an older
/// epoch. Compare what readers, savepoints and inspectors see.
fn run(seed: u64) {
    let mut random = Random::new(seed);
    let options = StoreOptions { retained: 1 + random.below(3) as usize, ..options() };
    let dir = TempDir::new().unwrap();
    let open = |resume| Store::open(dir.path(), options, resume).unwrap();
    let mut store = open(Resume::Newest);
    assert!(store.recovered().is_none() && contents(&store).is_empty());
    let mut models: Vec<(Epoch, Map)> = vec![(Epoch::NONE, Map::new())];
    for _ in 0..60 {
        match random.below(10) {
            0..4 => {
                let mut model = models.last().unwrap().1.clone();
                let blocks = [random_block(&mut random), random_block(&mut random)];
                blocks.iter().for_each(|block| apply(&mut model, block));
                let epoch = store.next();
                store.commit(record(epoch.number()), &[&blocks[0], &blocks[1]]).unwrap();
                models.push((epoch, model));
            }
            4..8 => {
                for _ in 0..random.below(12) {
                    store.fold(random.below(2) == 0).unwrap();
                }
            }
            8 => {
                drop(store);
                if models.len() > 1 {
                    assert_eq!(inspected(dir.path()), models.last().unwrap().1, "seed {seed}");
                }
                store = open(Resume::Newest);
                assert_eq!(contents(&store), models.last().unwrap().1, "seed {seed}");
            }
            _ => {
                let oldest = store.oldest();
                let kept: Vec<_> = models.iter().filter(|m| m.0 >= oldest).cloned().collect();
                let (epoch, model) = &kept[random.below(kept.len() as u64) as usize];
                if *epoch == Epoch::NONE {
                    continue;
                }
                let file = dir.path().join("savepoint");
                store.export(*epoch, &file).unwrap();
                assert_eq!(&exported(&file).unwrap(), model, "seed {seed}: savepoint of {epoch}");
                let next = store.next();
                drop(store);
                store = open(Resume::Epoch(*epoch));
                assert_eq!(&contents(&store), model, "seed {seed}: recovered at {epoch}");
                assert_eq!(store.recovered().unwrap().counts["records"], epoch.number());
                assert_eq!((store.next(), store.readable()), (next, *epoch), "no number twice");
                models.retain(|m| m.0 <= *epoch);
            }
        }
        let newest = models.last().unwrap().0;
        assert!(store.newest() == newest && store.oldest() <= newest);
        assert!(store.readable() <= store.oldest());
    }
}

#[test]
fn what_is_recovered_is_what_was_committed() {
    (0..25).for_each(run);
}

#[test]
fn every_key_can_be_got_and_every_range_scanned_whatever_their_lengths() {
    let mut random = Random::new(7);
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    let mut model = Map::new();
    for epoch in 1..40 {
        let block = random_block(&mut random);
        apply(&mut model, &block);
        store.commit(record(epoch), &[&block]).unwrap();
    }
    while store.readable() < store.newest() {
        store.fold(true).unwrap();
    }
    let reader = store.reader();
    for _ in 0..600 {
        let wanted = random_key(&mut random);
        let mut found = None;
        let was_there = reader.get(&wanted, &mut |value| {
            found = Some(value.to_vec());
            Ok(())
        });
        assert_eq!(was_there.unwrap(), found.is_some());
        assert_eq!(found.as_ref(), model.get(&wanted));

        let (from, to) = (random_key(&mut random), random_key(&mut random));
        let mut scanned = Vec::new();
        let each = &mut |key: &[u8], value: &[u8]| {
            scanned.push((key.to_vec(), value.to_vec()));
            Ok(())
        };
        reader.scan(&from, &to, each).unwrap();
        let within = |key: &Vec<u8>| from <= *key && *key < to;
        let expected = model.iter().filter(|(key, _)| within(key));
        assert!(scanned.iter().map(|(k, v)| (k, v)).eq(expected), "from {from:?} to {to:?}");
    }
}

#[test]
fn only_kept_epochs_can_be_asked_for() {
    let dir = TempDir::new().unwrap();
    let options = StoreOptions { retained: 2, ..lazy() };
    let mut store = Store::open(dir.path(), options, Resume::Newest).unwrap();
    for epoch in 1..=4 {
        store.commit(record(epoch), &[&puts(epoch, 1, b"v")]).unwrap();
    }
    assert_eq!((store.oldest(), store.newest()), (Epoch::new(3), Epoch::new(4)));
    let file = dir.path().join("savepoint");
    assert!(matches!(store.export(Epoch::new(2), &file), Err(StoreError::Refused(_))));
    assert!(matches!(store.commit(record(4), &[]), Err(StoreError::Refused(_))));
    drop(store);
    for (epoch, kept) in [(2, false), (5, false), (3, true)] {
        let opened = Store::open(dir.path(), options, Resume::Epoch(Epoch::new(epoch)));
        assert_eq!(opened.is_ok(), kept, "{epoch}");
    }
}

#[test]
fn what_could_not_be_folded_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    let mut short = Changes::new();
    short.put(b"short", b"value");
    for block in [&b"no block"[..], short.as_bytes()] {
        assert!(matches!(store.commit(record(1), &[block]), Err(StoreError::Refused(_))));
    }
    store.commit(record(1), &[&puts(0, 1, b"v")]).unwrap();
}

#[test]
fn folding_begins_by_itself_and_ends_with_everything_readable() {
    let dir = TempDir::new().unwrap();
    let mut options = lazy();
    options.fold.bytes_min = 50_000;
    let mut store = Store::open(dir.path(), options, Resume::Newest).unwrap();
    let (mut idle, mut done) = (0, 0);
    for epoch in 1..200 {
        store.commit(record(epoch), &[&puts(epoch, 10, &[1; 50])]).unwrap();
        match store.fold(false).unwrap() {
            thalweg_store::Folding::Idle => idle += 1,
            thalweg_store::Folding::More => {}
            thalweg_store::Folding::Done(epoch) => {
                assert_eq!(store.readable(), epoch);
                done += 1;
            }
        }
    }
    assert!(idle > 20 && done >= 1, "{idle} {done}");
}
