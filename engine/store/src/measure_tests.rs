//! What the store costs, measured. Not part of the tests' everyday run:
//! `cargo test --release -p thalweg-store measure -- --ignored --nocapture --test-threads=1`
//! on the disk where `TMPDIR` points.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use heed::types::Bytes;
use tempfile::TempDir;
use thalweg_kernel::{Changes, Epoch, StateId, Timestamp};
use thalweg_testing::Random;

use crate::lock::DirLock;
use crate::{EpochRecord, Folding, Resume, Store, StoreOptions, env};

const KEYS: u64 = 1_000_000;

fn key(number: u64) -> Vec<u8> {
    let mut key = Vec::new();
    StateId::of("measure", "value").begin_key((number % 128) as u16, &mut key);
    key.extend_from_slice(&number.to_le_bytes());
    key
}

fn record(epoch: u64) -> EpochRecord {
    EpochRecord {
        epoch: Epoch::new(epoch),
        job: "measure".into(),
        key_groups: 128,
        shards: 1,
        at: Timestamp::from_millis(0),
        states: Vec::new(),
        counts: Default::default(),
        oldest: Epoch::NONE,
        directory: Default::default(),
    }
}

fn load(store: &mut Store) {
    for epoch in 1..=10 {
        let mut changes = Changes::new();
        for number in (epoch - 1) * KEYS / 10..epoch * KEYS / 10 {
            changes.put(&key(number), &[7; 64]);
        }
        store.commit(record(epoch), &[changes.as_bytes()]).unwrap();
    }
    while store.fold(true).unwrap() != Folding::Idle {}
}

fn dirty(random: &mut Random, count: u64) -> Changes {
    let mut changes = Changes::new();
    for _ in 0..count {
        changes.put(&key(random.below(KEYS)), &[random.next_u64() as u8; 64]);
    }
    changes
}

/// Bytes that this process has handed to the kernel, and bytes of page cache it made dirty. Some file systems
/// cache in large folios (ext4 from Linux 6.16 on). The second figure counts a whole folio there for each page
/// written, while the disk gets only the page: the first is the truth.
fn written() -> [u64; 2] {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    ["wchar: ", "write_bytes: "]
        .map(|name| io.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap())
}

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default(), Resume::Newest).unwrap()
}

/// Goal: at most 6 bytes written for a byte of dirty state (key and value), at best 3.
/// Method: 1,000 random keys of 1 M in each of 2,500 epochs, so that folding has its full share. `MEASURE_EPOCHS` is
/// another number of them; `MEASURE_PACE_MS` lets each wait for its time, as in a job.
#[test]
#[ignore = "takes a minute"]
fn measure_bytes_written() {
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (epochs, pace_ms) =
        (set("MEASURE_EPOCHS").unwrap_or(2_500), set("MEASURE_PACE_MS").unwrap_or(0));
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    load(&mut store);
    println!("base {} MB", store.base_bytes / 1_000_000);
    let (mut random, mut state_bytes, mut runs) = (Random::new(1), 0, 0);
    let mut commits = Vec::new();
    let mut longest_step = Duration::ZERO;
    let before = written();
    let started = Instant::now();
    for epoch in 11..11 + epochs {
        let due = started + Duration::from_millis(pace_ms * (epoch - 11));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let changes = dirty(&mut random, 1_000);
        state_bytes += 1_000 * (18 + 64);
        let start = Instant::now();
        store.commit(record(epoch), &[changes.as_bytes()]).unwrap();
        commits.push(start.elapsed());
        loop {
            let start = Instant::now();
            let folding = store.fold(false).unwrap();
            longest_step = longest_step.max(start.elapsed());
            match folding {
                Folding::Idle => break,
                Folding::More => {}
                Folding::Done(_) => runs += 1,
            }
        }
    }
    let after = written();
    let [ratio, dirtied] = [0, 1].map(|i| (after[i] - before[i]) as f64 / f64::from(state_bytes));
    let file = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    commits.sort_unstable();
    println!(
        "{ratio:.2} bytes written ({dirtied:.2} of page cache) per byte of dirty state, {runs} folds, file {} MB",
        file / 1_000_000
    );
    println!(
        "{epochs} epochs in {:?}, commit median {:?}, longest step of folding {longest_step:?}",
        started.elapsed(),
        commits[commits.len() / 2]
    );
}

/// Goal: 1 M keys with a changelog of 60 MB recover within 2 s.
#[test]
#[ignore = "takes half a minute"]
fn measure_recovery() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    load(&mut store);
    let mut random = Random::new(1);
    for epoch in 11..71 {
        let changes = dirty(&mut random, 11_000);
        store.commit(record(epoch), &[changes.as_bytes()]).unwrap();
    }
    drop(store);
    let start = Instant::now();
    let store = open(dir.path());
    let opened = start.elapsed();
    let mut count = 0;
    let each = &mut |_: &[u8], _: &[u8]| {
        count += 1;
        Ok(())
    };
    store.reader().scan(&[], &[255; 20], each).unwrap();
    println!("opened in {opened:?}, {count} keys read after {:?}", start.elapsed());
}

/// Goal: a random get takes at most 1.5 times a bare heed get. Method: equal keys and values in both, by turns,
/// best of each.
#[test]
#[ignore = "takes half a minute"]
fn measure_random_get() {
    let (ours, bare) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut store = open(ours.path());
    load(&mut store);
    let reader = store.reader();
    let lock = DirLock::acquire(bare.path()).unwrap();
    let env = env::open(&lock, 1 << 30).unwrap();
    let mut txn = env.write_txn().unwrap();
    let table = env.create_database::<Bytes, Bytes>(&mut txn, None).unwrap();
    for number in 0..KEYS {
        table.put(&mut txn, &key(number), &[7; 64]).unwrap();
    }
    txn.commit().unwrap();
    let mut random = Random::new(3);
    let keys: Vec<_> = (0..200_000).map(|_| key(random.below(KEYS))).collect();
    let time = |gets: &dyn Fn()| {
        let start = Instant::now();
        gets();
        start.elapsed().as_nanos() as u64 / keys.len() as u64
    };
    let mut best = [u64::MAX; 3];
    for _ in 0..7 {
        let nanos = [
            time(&|| {
                let txn = env.read_txn().unwrap();
                for key in &keys {
                    black_box(table.get(&txn, key).unwrap().unwrap()[0]);
                }
            }),
            time(&|| {
                for key in &keys {
                    let txn = env.read_txn().unwrap();
                    black_box(table.get(&txn, key).unwrap().unwrap()[0]);
                }
            }),
            time(&|| {
                for key in &keys {
                    let found = &mut |value: &[u8]| {
                        black_box(value[0]);
                        Ok(())
                    };
                    assert!(reader.get(key, found).unwrap());
                }
            }),
        ];
        best = std::array::from_fn(|i| best[i].min(nanos[i]));
    }
    let [bare, each, ours] = best;
    println!("bare {bare} ns, with a transaction each {each} ns, ours {ours} ns");
    println!(
        "ratio to bare {:.2}, to a transaction each {:.2}",
        ours as f64 / bare as f64,
        ours as f64 / each as f64
    );
}
