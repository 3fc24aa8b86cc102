//! Flipped bits are found, a full map is waited out, and foreign formats are named.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use tempfile::TempDir;
use thalweg_kernel::{Changes, Epoch};
use thalweg_store::{
    EpochRecord, Folding, Inspector, Resume, Savepoint, Store, StoreError, StoreOptions,
};

/// Flips a bit wherever `pattern` stands in the data file.
fn flip(dir: &Path, pattern: &[u8]) {
    let path = dir.join("data.mdb");
    let mut bytes = std::fs::read(&path).unwrap();
    let windows = bytes.windows(pattern.len()).enumerate();
    let places: Vec<_> = windows.filter(|(_, w)| *w == pattern).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|&at| bytes[at] ^= 4);
    std::fs::write(path, bytes).unwrap();
}

/// The directory of a closed store with three epochs, each of which can be resumed, and the options to open it with.
fn three_epochs() -> (TempDir, StoreOptions) {
    let dir = TempDir::new().unwrap();
    let options = StoreOptions { retained: 3, ..lazy() };
    let mut store = Store::open(dir.path(), options, Resume::Newest).unwrap();
    for epoch in 1..=3 {
        store.commit(record(epoch), &[&puts(0, 3, format!("VALUE-{epoch}").as_bytes())]).unwrap();
    }
    drop(store);
    (dir, options)
}

#[test]
fn damage_in_the_changelog_stops_recovery_and_names_the_epoch() {
    let (dir, options) = three_epochs();
    flip(dir.path(), b"VALUE-3");
    let open = |resume| Store::open(dir.path(), options, resume);
    let Err(StoreError::Damaged(text)) = open(Resume::Newest) else { panic!("not noticed") };
    assert!(text.contains("epoch 3") && text.contains("older epoch"), "{text}");
    // Nothing was changed, and what the text says helps.
    let store = open(Resume::Epoch(Epoch::new(2))).unwrap();
    assert!(contents(&store).values().all(|value| value == b"VALUE-2"));
}

#[test]
fn damage_in_the_base_stops_whoever_reads_it_and_names_the_key() {
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    store.commit(record(1), &[&puts(0, 3, b"VALUE")]).unwrap();
    drop(store);
    drop(Store::open(dir.path(), options(), Resume::Newest).unwrap());
    flip(dir.path(), b"VALUE");
    let store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    let reader = store.reader();
    let wanted = key(1, &1_u64.to_be_bytes());
    let error = reader.get(&wanted, &mut |_| panic!("damaged")).unwrap_err().to_string();
    assert!(error.contains("group 1") && error.contains("savepoint"), "{error}");
    assert!(reader.scan(&[0], &[255; 20], &mut |_, _| Ok(())).is_err());
}

#[test]
fn a_full_map_is_reported_and_a_larger_one_goes_on() {
    let dir = TempDir::new().unwrap();
    let small = StoreOptions { map_bytes: 1 << 20, ..lazy() };
    let mut store = Store::open(dir.path(), small, Resume::Newest).unwrap();
    let mut model = Map::new();
    let block = |epoch| puts(epoch * 100, 100, &[7; 500]);
    let mut epoch = 1;
    let error = loop {
        match store.commit(record(epoch), &[&block(epoch)]) {
            Ok(()) => apply(&mut model, &block(epoch)),
            Err(error) => break error,
        }
        epoch += 1;
    };
    assert!(matches!(&error, StoreError::Full(text) if text.contains("map_bytes")), "{error}");
    assert!(epoch > 3);
    // It is not final: what fits is still taken.
    assert!(matches!(store.commit(record(epoch), &[&block(epoch)]), Err(StoreError::Full(_))));
    store.commit(record(epoch), &[]).unwrap();
    drop(store);
    let mut store = Store::open(dir.path(), lazy(), Resume::Newest).unwrap();
    assert_eq!(contents(&store), model);
    store.commit(record(epoch + 1), &[&block(epoch)]).unwrap();
}

/// On a disk of a few MB: `mount -t tmpfs -o size=8m tmpfs DIR`, then `THALWEG_SMALL_DISK=DIR cargo test
/// -p thalweg-store --test damage -- --ignored`.
#[test]
#[ignore = "needs a small disk"]
fn a_full_disk_is_waited_out() {
    let small = PathBuf::from(std::env::var_os("THALWEG_SMALL_DISK").unwrap());
    let (dir, ballast) = (small.join("state"), small.join("ballast"));
    let options = StoreOptions { fold_changes_max: 100, ..options() };
    let mut store = Store::open(&dir, options, Resume::Newest).unwrap();
    let mut model = Map::new();
    let mut epoch = 1;
    let block = |epoch| puts(epoch * 10, 20, &[7; 100]);
    let mut full = 0;
    while full < 2 {
        match store.commit(record(epoch), &[&block(epoch)]) {
            Ok(()) => {
                apply(&mut model, &block(epoch));
                epoch += 1;
            }
            Err(StoreError::Full(text)) => {
                assert!(text.contains("make room"), "{text}");
                full += 1;
                let bytes = std::fs::metadata(dir.join("data.mdb")).unwrap().len();
                println!("full at epoch {epoch}, {bytes} bytes of state");
                // There is room again, and the work goes on.
                let _ = std::fs::remove_file(&ballast);
                store.commit(record(epoch), &[&block(epoch)]).unwrap();
                apply(&mut model, &block(epoch));
                epoch += 1;
            }
            Err(error) => panic!("{error}"),
        }
        loop {
            match store.fold(false) {
                Ok(Folding::Idle) | Err(StoreError::Full(_)) => break,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if epoch.is_multiple_of(20) {
            // Somebody else fills the disk.
            let filled = std::fs::write(&ballast, vec![0; 64 << 20]);
            assert!(filled.is_err());
        }
    }
    let _ = std::fs::remove_file(&ballast);
    drop(store);
    assert_eq!(contents(&Store::open(&dir, options, Resume::Newest).unwrap()), model);
}

fn savepoint(dir: &Path) -> (PathBuf, Map) {
    let mut store = Store::open(&dir.join("state"), lazy(), Resume::Newest).unwrap();
    let mut changes = Changes::new();
    for number in 0..40_u8 {
        changes.put(&key(u16::from(number % 3), &[number]), &[number; 5]);
    }
    changes.put(&key(9, &[5; 600]), b"of a long key");
    changes.put(&key(9, &[6; 10]), &[1; 70_000]);
    store.commit(record(7), &[changes.as_bytes()]).unwrap();
    let file = dir.join("savepoint");
    store.export(Epoch::new(7), &file).unwrap();
    let mut model = Map::new();
    apply(&mut model, changes.as_bytes());
    (file, model)
}

#[test]
fn a_savepoint_becomes_the_first_epoch_of_an_empty_directory() {
    let dir = TempDir::new().unwrap();
    let (file, model) = savepoint(dir.path());
    let mut opened = Savepoint::open(&file).unwrap();
    opened.verify().unwrap();
    let states = opened.states();
    assert_eq!((states.len(), states[0].entries), (1, 42));
    assert_eq!(exported(&file).unwrap(), model);
    let mut some = 0;
    opened
        .entries(state(), &[5], |_, _| {
            some += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(some, 2, "keys that begin so");

    let target = dir.path().join("other");
    let mut store = Store::import(&target, lazy(), &mut opened).unwrap();
    assert_eq!(contents(&store), model);
    assert_eq!(store.recovered().unwrap().job, "test");
    assert_eq!((store.newest(), store.next()), (Epoch::new(7), Epoch::new(8)));
    store.commit(record(8), &[]).unwrap();
    drop(store);
    let again = Store::import(&target, lazy(), &mut opened);
    assert!(matches!(again, Err(StoreError::Refused(text)) if text.contains("empty directory")));
    let inspector = Inspector::open(&target).unwrap();
    assert_eq!(inspector.states().unwrap(), states);
    assert_eq!(inspector.record().epoch, Epoch::new(8));
}

#[test]
fn every_flipped_bit_of_a_savepoint_is_noticed() {
    let dir = TempDir::new().unwrap();
    let (file, _) = savepoint(dir.path());
    let good = std::fs::read(&file).unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Savepoint::open(&file).and_then(|mut savepoint| savepoint.verify())
    };
    read(&good).unwrap();
    // All bytes but those inside the large value, of which some will do.
    let dense = |at: &usize| *at < 2_500 || good.len() - at < 1_000 || at.is_multiple_of(997);
    for at in (0..good.len()).filter(dense) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(read(&bytes).is_err(), "byte {at}");
    }
    for end in [0, 10, 100, good.len() / 2, good.len() - 1] {
        assert!(read(&good[..end]).is_err(), "cut at {end}");
    }
    let mut newer = good.clone();
    newer[8] = 3;
    let error = read(&newer).unwrap_err().to_string();
    assert!(error.contains("has format 3"), "{error}");
}

#[test]
fn an_import_that_failed_leaves_nothing_to_resume_from() {
    let dir = TempDir::new().unwrap();
    let (file, model) = savepoint(dir.path());
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = good.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&file, bad).unwrap();
    let target = dir.path().join("other");
    let import = || Store::import(&target, lazy(), &mut Savepoint::open(&file).unwrap());
    assert!(matches!(import(), Err(StoreError::Damaged(_))));
    let opened = Store::open(&target, lazy(), Resume::Newest);
    assert!(matches!(opened, Err(StoreError::Refused(text)) if text.contains("import it again")));
    std::fs::write(&file, good).unwrap();
    assert_eq!(contents(&import().unwrap()), model);
}

/// To write it anew after a deliberate change of format: `THALWEG_GOLDEN=write cargo test`.
#[test]
fn a_savepoint_is_the_golden_file_and_the_golden_file_can_be_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (golden, earlier) = (golden.join("savepoint-2.bin"), golden.join("savepoint-1.bin"));
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(&dir.path().join("state"), lazy(), Resume::Newest).unwrap();
    let block = [puts(0, 5, b"five"), puts(128, 2, b"two more")].concat();
    store.commit(record(3), &[&block]).unwrap();
    let file = dir.path().join("savepoint");
    store.export(Epoch::new(3), &file).unwrap();
    let written = std::fs::read(&file).unwrap();
    if std::env::var_os("THALWEG_GOLDEN").is_some() {
        std::fs::write(&golden, &written).unwrap();
    }
    assert!(std::fs::read(&golden).unwrap() == written);
    let mut model = Map::new();
    apply(&mut model, &block);
    for golden in [golden, earlier] {
        assert_eq!(exported(&golden).unwrap(), model);
        assert_eq!(Savepoint::open(&golden).unwrap().record().epoch, Epoch::new(3));
    }
}

/// A power cut while LMDB makes its first two pages leaves any part of them.
#[test]
fn a_torn_first_start_begins_anew_and_anything_longer_does_not() {
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), StoreOptions::default(), Resume::Newest).unwrap());
        std::fs::read(dir.path().join("data.mdb")).unwrap()
    };
    for torn in [vec![0; 512], vec![0; 8_192], [vec![0; 512], whole[512..8_192].to_vec()].concat()]
    {
        let mut torn = torn;
        // The second page's first sector is missing, too.
        if torn.len() == 8_192 {
            torn[4_096..4_608].fill(0);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data.mdb"), &torn).unwrap();
        let store = Store::open(dir.path(), StoreOptions::default(), Resume::Newest).unwrap();
        assert_eq!(store.newest(), Epoch::NONE);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data.mdb"), vec![0; 12_288]).unwrap();
    assert!(Store::open(dir.path(), StoreOptions::default(), Resume::Newest).is_err());
}

#[test]
fn a_directory_without_state_is_told_from_one_that_is_broken() {
    let dir = TempDir::new().unwrap();
    let why = || Inspector::open(dir.path()).err().unwrap().to_string();
    assert!(why().contains("there is no state in"), "{}", why());
    std::fs::write(dir.path().join("data.mdb"), b"").unwrap();
    assert!(why().contains("there is no state in"), "{}", why());
    std::fs::write(dir.path().join("data.mdb"), [7; 8192]).unwrap();
    assert!(why().contains("is it a state directory"), "{}", why());
}

/// Goal: a damaged record of the newest epoch stops who wants that one, and nobody who asks for an older one.
#[test]
fn damage_in_a_record_leaves_older_epochs_to_be_asked_for() {
    let (dir, options) = three_epochs();
    flip(dir.path(), b"\"records\":3");
    let open = |resume| Store::open(dir.path(), options, resume);
    for resume in [Resume::Newest, Resume::Epoch(Epoch::new(3))] {
        let Err(StoreError::Damaged(text)) = open(resume) else { panic!("not noticed") };
        assert!(text.contains("the record of epoch 3"), "{text}");
    }
    let store = open(Resume::Epoch(Epoch::new(2))).unwrap();
    assert!(contents(&store).values().all(|value| value == b"VALUE-2"));
    assert_eq!(store.next(), Epoch::new(4), "its number is not used again");
}

/// Goal: a sink's database can tell the epochs of one directory from those of another.
#[test]
fn a_directory_keeps_its_id_and_one_made_of_its_savepoint_names_it() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut store = Store::open(&at("state"), lazy(), Resume::Newest).unwrap();
    let (id, parent) = store.identity();
    assert_eq!((id.len(), parent), (32, None));
    let record = EpochRecord { directory: id.clone(), ..record(7) };
    store.commit(record, &[]).unwrap();
    store.export(Epoch::new(7), &at("savepoint")).unwrap();
    let owned = Inspector::open(&at("state")).map(drop).unwrap_err().to_string();
    assert!(owned.contains("this process owns it"), "{owned}");
    drop(store);
    assert_eq!(Inspector::open(&at("state")).unwrap().epochs().len(), 1);
    let store = Store::open(&at("state"), lazy(), Resume::Newest).unwrap();
    assert_eq!(store.identity(), (id.clone(), None));
    let mut savepoint = Savepoint::open(&at("savepoint")).unwrap();
    let other = Store::import(&at("other"), lazy(), &mut savepoint).unwrap().identity();
    assert_eq!(other.1, Some((id.clone(), Epoch::new(7))));
    assert_ne!(other.0, id);
}
