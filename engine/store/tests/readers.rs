//! Readers on other threads while epochs are committed and folded.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use tempfile::TempDir;
use thalweg_kernel::{Changes, Epoch, StateReader};
use thalweg_store::{Folding, Resume, Store};
use thalweg_testing::Random;

const KEYS: u64 = 200;

fn get(reader: &dyn StateReader, number: u64) -> Option<u64> {
    let mut value = None;
    let wanted = key((number % 128) as u16, &number.to_be_bytes());
    let found = &mut |bytes: &[u8]| {
        // A value may be looked at while another is.
        reader.get(&wanted, &mut |_| Ok(()))?;
        value = Some(u64::from_le_bytes(bytes.try_into().unwrap()));
        Ok(())
    };
    reader.get(&wanted, found).unwrap();
    value
}

/// Goal: the contract holds. A key is as old as the newest readable epoch that changed it, or newer, and
/// one that was never changed is as it was.
/// Method: epoch n sets the key n modulo KEYS to n; readers ask all the time.
#[test]
fn what_is_readable_is_read_and_what_was_not_changed_stays() {
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    store.commit(record(1), &[&puts(0, 2 * KEYS, &1_u64.to_le_bytes())]).unwrap();
    while store.readable() < Epoch::new(1) {
        store.fold(true).unwrap();
    }
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let reader = store.reader();
            let (stop, asked) = (&stop, &asked);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while !stop.load(Ordering::Relaxed) {
                    let number = random.below(2 * KEYS);
                    let readable = reader.readable().number();
                    let value = get(&*reader, number).unwrap();
                    if number >= KEYS {
                        assert_eq!(value, 1, "key {number} was never changed");
                    } else {
                        // The last epoch up to the readable one that set this key.
                        let since = (readable + KEYS - number) % KEYS;
                        let last = readable.saturating_sub(since).max(1);
                        assert!(value >= last, "key {number}: {value} < {last}");
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for epoch in 2..1_000_u64 {
            let number = epoch % KEYS;
            let mut changes = Changes::new();
            changes.put(&key((number % 128) as u16, &number.to_be_bytes()), &epoch.to_le_bytes());
            store.commit(record(epoch), &[changes.as_bytes()]).unwrap();
            store.fold(epoch % 7 == 0).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 1_000);
    assert!(store.readable() > Epoch::new(500));
    // Readers do not keep pages from being used again. The exception is a reader in the middle of a read, which
    // on a busy machine may last for some epochs.
    let bytes = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    assert!(bytes < 12 << 20, "{bytes} bytes");
}

#[test]
fn a_reader_tells_what_was_restored() {
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(dir.path(), lazy(), Resume::Newest).unwrap();
    assert_eq!((store.reader().restored(), store.reader().states().len()), (None, 0));
    store.commit(record(1), &[&puts(0, 1, b"v")]).unwrap();
    drop(store);
    let store = Store::open(dir.path(), lazy(), Resume::Newest).unwrap();
    let reader = store.reader();
    assert_eq!((reader.restored(), reader.readable()), (Some(Epoch::new(1)), Epoch::new(1)));
    assert_eq!(reader.states(), record(1).states);
    assert!(reader.get(&key(1, b"other"), &mut |_| Ok(())).is_ok_and(|was_there| !was_there));
}

#[test]
fn a_reader_that_rests_keeps_no_pages_from_being_used_again() {
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    let reader = store.reader();
    for epoch in 1..200 {
        store.commit(record(epoch), &[&puts(0, 50, &[epoch as u8; 100])]).unwrap();
        while store.fold(true).unwrap() == Folding::More {}
        if epoch == 2 {
            assert!(get_bytes(&*reader, 7).is_some(), "from now on it rests");
        }
    }
    let bytes = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert_eq!(get_bytes(&*reader, 7), Some(vec![199; 100]));
}

fn get_bytes(reader: &dyn StateReader, number: u64) -> Option<Vec<u8>> {
    let mut value = None;
    let wanted = key((number % 128) as u16, &number.to_be_bytes());
    let found = &mut |bytes: &[u8]| {
        value = Some(bytes.to_vec());
        Ok(())
    };
    reader.get(&wanted, found).unwrap();
    value
}
