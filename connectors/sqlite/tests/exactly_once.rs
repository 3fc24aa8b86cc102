//! Hundreds of seeded schedules on real files: crashes anywhere, the thread of the run before still at
//! work when the next one opens, other numbers of shards; another connection reads all the while.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use thalweg_file::rolling::model::{self, Random, World};
use thalweg_kernel::{OpenContext, SinkSpec};
use thalweg_sqlite::commits::RowWriter;

struct Real {
    path: PathBuf,
    reader: Connection,
    keyed: bool,
}

impl World for Real {
    type Sink = RowWriter<u64>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<RowWriter<u64>> {
        let sink = common::sink(&self.path, self.keyed).held_rows_max(60);
        contexts.iter().map(|cx| sink.open(cx).unwrap()).collect()
    }

    fn step(&mut self, random: &mut Random) {
        thread::sleep(Duration::from_micros(random.below(200)));
    }

    fn crash(&mut self, sinks: Vec<RowWriter<u64>>, _random: &mut Random) {
        drop(sinks);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        common::check(&common::read(&self.reader), self.keyed, positions, all);
    }
}

fn play(seeds: std::ops::Range<u64>, keyed: bool) {
    for seed in seeds {
        // Most of them where syncing costs nothing, so that there is time for more.
        let memory = Path::new("/dev/shm");
        let directory = if seed % 4 > 0 && memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let path = directory.path().join("out.db");
        let reader = Connection::open(&path).unwrap();
        // Two runs may be after the lock at once.
        reader.busy_timeout(Duration::from_secs(5)).unwrap();
        model::play(&mut Real { path, reader, keyed }, seed, 250, 25);
    }
}

#[test]
fn rows_are_appended_once() {
    play(0..120, false);
}

#[test]
fn rows_are_replaced_in_order() {
    play(1_000..1_120, true);
}
