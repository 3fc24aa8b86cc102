//! Long keys in the base, also those that share a stored key.

use tempfile::TempDir;

use super::*;
use crate::env::{self, Env};
use crate::lock::DirLock;

fn env(dir: &TempDir) -> (Env, Base) {
    let env = env::open(&DirLock::acquire(dir.path()).unwrap(), 1 << 24).unwrap();
    let mut txn = env.write_txn().unwrap();
    let table = env.create_database(&mut txn, Some("base")).unwrap();
    txn.commit().unwrap();
    (env, Base(table))
}

fn all(base: Base, txn: &RoTxn) -> Vec<Vec<u8>> {
    base.scan(txn, &[], &[255; 600]).unwrap().map(|entry| entry.unwrap().0.to_vec()).collect()
}

#[test]
fn keys_around_the_limit_stand_in_their_order() {
    let dir = TempDir::new().unwrap();
    let (env, base) = env(&dir);
    let mut txn = env.write_txn().unwrap();
    let mut writer = BaseWriter::new(base, &txn).unwrap();
    let mut keys: Vec<_> = (490..520).map(|length| vec![5; length]).collect();
    keys.extend((0..9).map(|last| [vec![5; 495], vec![last]].concat()));
    keys.push([vec![5; 494], vec![6]].concat());
    for key in keys.iter().rev() {
        writer.put(&mut txn, key, key).unwrap();
    }
    keys.sort_unstable();
    keys.dedup();
    assert!(all(base, &txn) == keys);
    for key in &keys {
        assert_eq!(base.get(&txn, key).unwrap(), Some(&key[..]));
    }
    // A scan has its first key and not its last, whatever their lengths.
    for (from, first) in keys.iter().enumerate() {
        for (to, last) in keys.iter().enumerate() {
            let scanned = base.scan(&txn, first, last).unwrap().map(|entry| entry.unwrap().0);
            assert!(scanned.eq(keys.get(from..to).unwrap_or_default()), "{from}..{to}");
        }
    }
    // A bound within the long ones cuts between them.
    let mut budget = 100;
    assert!(writer.delete_range(&mut txn, &keys[8], &keys[20], &mut budget).unwrap());
    keys.drain(8..20);
    assert!(all(base, &txn) == keys && budget == 88);
}

#[test]
fn keys_whose_hashes_are_equal_share_a_stored_key() {
    let dir = TempDir::new().unwrap();
    let (env, base) = env(&dir);
    let (one, other) = ([vec![5; 600], vec![2]].concat(), [vec![5; 600], vec![1]].concat());
    let mut space = [0; LONG_KEY_BYTES];
    let stored = stored_key(&one, &mut space);
    let mut txn = env.write_txn().unwrap();
    // As if both hashes were equal.
    let mut entries = Vec::new();
    envelope::write_long(&other, b"other", &mut entries);
    base.0.put(&mut txn, stored, &entries).unwrap();
    let mut writer = BaseWriter::new(base, &txn).unwrap();
    assert_eq!(base.get(&txn, &one).unwrap(), None);
    writer.delete(&mut txn, &one).unwrap();
    for value in [b"first", b"again"] {
        writer.put(&mut txn, &one, value).unwrap();
        assert_eq!(base.get(&txn, &one).unwrap(), Some(&value[..]));
        assert!(all(base, &txn) == [other.clone(), one.clone()]);
    }
    writer.delete(&mut txn, &one).unwrap();
    assert!(base.get(&txn, &one).unwrap().is_none() && all(base, &txn) == [other]);
}
