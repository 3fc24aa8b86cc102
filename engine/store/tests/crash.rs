//! A real process is killed while it commits and folds: what it reported is there, and nothing in part.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use tempfile::TempDir;
use thalweg_store::{Resume, Store, StoreError};
use thalweg_testing::Random;

const DIR: &str = "THALWEG_STORE_CRASH_DIR";

/// What an epoch writes: every key gets the epoch's number, in two blocks.
fn blocks(epoch: u64) -> [Vec<u8>; 2] {
    [puts(0, 50, &epoch.to_le_bytes()), puts(50, 50, &epoch.to_le_bytes())]
}

/// The child: not a test of its own, it does nothing unless it is told where.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut store = Store::open(Path::new(&dir), options(), Resume::Newest).unwrap();
    let mut out = std::io::stdout();
    loop {
        let epoch = store.next().number();
        let blocks = blocks(epoch);
        store.commit(record(epoch), &[&blocks[0], &blocks[1]]).unwrap();
        writeln!(out, "\ncommitted {epoch}").unwrap();
        out.flush().unwrap();
        store.fold(false).unwrap();
        store.fold(false).unwrap();
    }
}

#[test]
fn what_a_killed_process_reported_is_there_and_nothing_in_part() {
    let dir = TempDir::new().unwrap();
    let mut random = Random::new(11);
    let mut reported = 0;
    for _ in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stop_after = reported + 1 + random.below(40);
        let mut lines = lines.map_while(Result::ok);
        for line in lines.by_ref() {
            if let Some(epoch) = line.strip_prefix("committed ") {
                reported = epoch.parse().unwrap();
                if reported >= stop_after {
                    break;
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(random.below(3_000)));
        child.kill().unwrap();
        for line in lines {
            if let Some(epoch) = line.strip_prefix("committed ") {
                reported = epoch.parse().unwrap();
            }
        }
        child.wait().unwrap();

        let store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
        let newest = store.newest().number();
        assert!(newest >= reported && newest <= reported + 1, "{newest} after {reported}");
        let contents = contents(&store);
        assert_eq!(contents.len(), 100);
        assert!(contents.values().all(|value| *value == newest.to_le_bytes()), "epoch {newest}");
        reported = newest;
    }
}

#[test]
fn a_directory_has_one_owner_in_all_processes() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), options(), Resume::Newest).unwrap();
    let reader = store.reader();
    let open = || Store::open(dir.path(), options(), Resume::Newest);
    let Err(StoreError::InUse(text)) = open() else { panic!("opened twice") };
    assert!(text.contains("this process itself"), "{text}");
    drop(store);
    assert!(matches!(open(), Err(StoreError::InUse(_))), "a reader still looks at it");
    drop(reader);
    drop(open().unwrap());

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("committed ")));
    let Err(StoreError::InUse(text)) = open() else { panic!("opened twice") };
    assert!(text.contains(&format!("process {}", child.id())), "{text}");
    // It can be looked into meanwhile.
    let looked = inspected(dir.path());
    assert_eq!(looked.len(), 100);
    let first = looked.values().next().unwrap();
    assert!(looked.values().all(|value| value == first), "of one epoch");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(open().unwrap());
}
