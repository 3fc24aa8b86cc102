//! What the tests of the store share: records, and a plain model of state.
#![allow(dead_code)] // each test uses a part

use std::collections::BTreeMap;
use std::path::Path;

use thalweg_kernel::{Change, Changes, Epoch, StateId, StateInfo, StateKind, Str, Timestamp};
use thalweg_store::{
    EpochRecord, FoldPolicy, Inspector, Savepoint, Store, StoreError, StoreOptions,
};

pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn state() -> StateId {
    StateId::of("count", "value")
}

pub(crate) fn key(group: u16, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    state().begin_key(group, &mut key);
    key.extend_from_slice(rest);
    key
}

pub(crate) fn record(epoch: u64) -> EpochRecord {
    let info = StateInfo {
        id: state(),
        operator: Str::from("count"),
        name: Str::from("value"),
        kind: StateKind::Keyed,
        schema: 1,
        types: "String -> u64".to_owned(),
        layout: None,
    };
    EpochRecord {
        epoch: Epoch::new(epoch),
        job: Str::from("test"),
        key_groups: 128,
        shards: 2,
        at: Timestamp::from_millis(1_700_000_000_000),
        states: vec![info],
        counts: BTreeMap::from([("records".to_owned(), epoch)]),
        oldest: Epoch::NONE,
        directory: Default::default(),
    }
}

/// A small map, and folding whenever there is anything to fold.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        map_bytes: 256 << 20,
        fold: FoldPolicy { bytes_min: 0, bytes_max: 0, base_ratio: 0.0 },
        fold_changes_max: 7,
        ..StoreOptions::default()
    }
}

/// A store as above, without folding unless it is wanted.
pub(crate) fn lazy() -> StoreOptions {
    StoreOptions { fold: FoldPolicy::default(), ..options() }
}

pub(crate) fn apply(map: &mut Map, block: &[u8]) {
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

/// What a fresh reader of the store sees.
pub(crate) fn contents(store: &Store) -> Map {
    let mut map = Map::new();
    let mut last: Option<Vec<u8>> = None;
    let each = &mut |key: &[u8], value: &[u8]| {
        assert!(last.as_deref() < Some(key), "in order, each key once");
        last = Some(key.to_vec());
        map.insert(key.to_vec(), value.to_vec());
        Ok(())
    };
    store.reader().scan(&[0], &[255; 20], each).unwrap();
    map
}

pub(crate) fn exported(path: &Path) -> Result<Map, StoreError> {
    let mut map = Map::new();
    let mut savepoint = Savepoint::open(path)?;
    savepoint.entries(state(), b"", |key, value| {
        map.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    Ok(map)
}

pub(crate) fn inspected(dir: &Path) -> Map {
    let mut map = Map::new();
    let each = |key: &[u8], value: &[u8]| {
        map.insert(key.to_vec(), value.to_vec());
        Ok(())
    };
    Inspector::open(dir).unwrap().entries(state(), b"", each).unwrap();
    map
}

/// Puts `count` keys from number `from` on.
pub(crate) fn puts(from: u64, count: u64, value: &[u8]) -> Vec<u8> {
    let mut changes = Changes::new();
    for number in from..from + count {
        changes.put(&key((number % 128) as u16, &number.to_be_bytes()), value);
    }
    changes.into_bytes()
}
