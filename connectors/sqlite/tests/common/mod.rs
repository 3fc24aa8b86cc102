//! What the tests share.
#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use thalweg_file::rolling::model::{Engine, KEYS, Random};
use thalweg_kernel::{ConnectorError, OpenContext, Sink};
use thalweg_sqlite::SqliteSink;

/// Appends records, or keeps the newest of each key.
pub fn sink(path: &Path, keyed: bool) -> SqliteSink<u64> {
    let sink = SqliteSink::new(path, "results");
    if keyed {
        sink.key("key", |&n| n % KEYS).column("n", |&n: &u64| n)
    } else {
        sink.column("n", |&n: &u64| n)
    }
}

/// Reads the table; empty while there is none.
pub fn rows(path: &Path) -> Vec<i64> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    read(&connection)
}

pub fn read(connection: &Connection) -> Vec<i64> {
    let Ok(mut statement) = connection.prepare_cached("SELECT n FROM results ORDER BY n") else {
        return Vec::new();
    };
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What the table holds is what came before one of `positions`.
pub fn check(rows: &[i64], keyed: bool, positions: &[u64], all: bool) {
    let count = rows.last().map_or(0, |&n| n as u64 + 1);
    if keyed {
        let newest = count.saturating_sub(KEYS) as i64..count as i64;
        assert!(rows.iter().copied().eq(newest), "{rows:?}");
    } else {
        assert!(rows.iter().copied().eq(0..count as i64), "lost or repeated: {rows:?}");
    }
    assert!(positions.contains(&count), "part of an epoch: {count} of {positions:?}");
    assert!(!all || positions.last() == Some(&count), "not all: {count} of {positions:?}");
}

pub fn contexts(shards: usize) -> Vec<OpenContext> {
    Engine::default().contexts(shards, Waker::noop(), &mut Random(1))
}

/// One without checkpoints.
pub fn direct() -> OpenContext {
    let mut cx = contexts(1).remove(0);
    cx.durability.checkpoints = false;
    cx.shared = Arc::default();
    cx
}

pub fn until(mut done: impl FnMut() -> Result<bool, ConnectorError>) -> Result<(), ConnectorError> {
    let start = Instant::now();
    while !done()? {
        assert!(start.elapsed() < Duration::from_secs(20), "stuck");
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

pub fn close<T>(sink: &mut impl Sink<T>) -> Result<(), ConnectorError> {
    until(|| sink.close())
}

/// A small file system of its own, or none if this user may not mount one.
pub struct Small(pub tempfile::TempDir);

impl Small {
    pub fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: only root can mount a small file system to fill");
            return None;
        }
        Some(Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
