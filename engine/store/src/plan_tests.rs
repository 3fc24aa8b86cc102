//! Plans against the naive truth: a map to which every change is applied in turn.

use std::collections::BTreeMap;

use thalweg_testing::Random;

use super::*;

fn random_key(random: &mut Random) -> Vec<u8> {
    // Few keys, many with a common beginning that is longer than what sorting looks at first.
    let number = random.below(40_u64);
    match number % 4 {
        0 => vec![7; 24 + (number / 4) as usize],
        _ => number.to_be_bytes().to_vec(),
    }
}

fn random_block(random: &mut Random, changes: u64) -> Vec<u8> {
    let mut block = Changes::new();
    for _ in 0..changes {
        let key = random_key(random);
        match random.below(10) {
            0 => {
                let other = random_key(random);
                block.delete_range(key.as_slice().min(&other), key.as_slice().max(&other));
            }
            1..3 => block.delete(&key),
            _ => block.put(&key, &random.next_u64().to_le_bytes()),
        }
    }
    block.into_bytes()
}

fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, block: &[u8]) {
    for change in Changes::read(block) {
        match change.unwrap() {
            Change::Put { key, value } => drop(map.insert(key.to_vec(), value.to_vec())),
            Change::Delete { key } => drop(map.remove(key)),
            Change::DeleteRange { from, to } => {
                map.retain(|key, _| key.as_slice() < from || key.as_slice() >= to);
            }
        }
    }
}

/// What a map becomes by a plan: first the ranges, then the changes, a few at a time.
fn fold(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, blocks: &[&[u8]], step: usize) {
    let mut plan = Plan::default();
    for number in 0..blocks.len() {
        let mut next = Some(0);
        while let Some(offset) = next {
            next = plan.add(blocks, number, offset, &mut step.clone()).unwrap();
        }
    }
    plan.seal(blocks);
    for (from, to) in plan.ranges(blocks) {
        map.retain(|key, _| key.as_slice() < from || key.as_slice() >= to);
    }
    let mut positions = plan.start();
    let mut last: Option<Vec<u8>> = None;
    loop {
        let mut reading = plan.read(blocks, positions);
        for _ in 0..step {
            let Some((key, value)) = reading.next() else { return };
            assert!(last.as_deref() < Some(key), "in order, and each key once");
            last = Some(key.to_vec());
            match value {
                Some(value) => drop(map.insert(key.to_vec(), value.to_vec())),
                None => drop(map.remove(key)),
            }
        }
        positions = reading.into_positions();
    }
}

#[test]
fn a_plan_does_what_its_blocks_do_one_after_the_other() {
    for seed in 0..300 {
        let random = &mut Random::new(seed);
        let (mut expected, mut folded) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..3 {
            let count = random.below(6);
            let blocks: Vec<_> = (0..count).map(|_| random_block(random, seed % 30)).collect();
            let blocks: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
            blocks.iter().for_each(|block| apply(&mut expected, block));
            fold(&mut folded, &blocks, 1 + (seed as usize % 7));
            assert_eq!(folded, expected, "seed {seed}");
        }
    }
}

#[test]
fn chunks_are_merged_and_the_last_change_wins() {
    let mut block = Changes::new();
    let random = &mut Random::new(1);
    let count = 3 * CHUNK_CHANGES as u64 + 5;
    for number in 0..count {
        block.put(&random.below(20_000_u64).to_be_bytes(), &number.to_le_bytes());
    }
    let mut expected = BTreeMap::new();
    apply(&mut expected, block.as_bytes());
    let mut folded = BTreeMap::new();
    fold(&mut folded, &[block.as_bytes()], 1_000);
    assert_eq!(folded, expected);
}

#[test]
fn a_damaged_block_is_reported() {
    assert!(Plan::default().add(&[&[9, 9]], 0, 0, &mut 10).is_err());
}

#[test]
fn reading_can_begin_at_a_key() {
    let mut block = Changes::new();
    for number in (0..100_u64).rev() {
        block.put(&number.to_be_bytes(), b"");
    }
    let blocks = [block.as_bytes()];
    let mut plan = Plan::default();
    plan.add(&blocks, 0, 0, &mut 1_000).unwrap();
    plan.seal(&blocks);
    for from in [0, 1, 50, 99] {
        let start = plan.start_at(&blocks, &u64::to_be_bytes(from));
        assert_eq!(plan.read(&blocks, start).count() as u64, 100 - from);
    }
}
