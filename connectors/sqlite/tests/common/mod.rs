//! What the tests share.
#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use thalweg_commits::model::table::{Table, bound};
use thalweg_sqlite::{SqliteFile, SqliteSink};

/// A file of its own.
#[derive(Debug)]
pub struct File {
    directory: tempfile::TempDir,
    reader: Connection,
}

impl File {
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub fn within(directory: &Path) -> Self {
        let directory = tempfile::tempdir_in(directory).unwrap();
        let reader = connect(&directory.path().join("out.db"));
        Self { directory, reader }
    }
}

impl File {
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("out.db")
    }
}

impl Table for File {
    type Server = SqliteFile;

    fn unbound<T>(&self) -> SqliteSink<T> {
        SqliteSink::new(self.path(), "results")
    }

    fn rows(&self) -> Vec<i64> {
        read(&self.reader)
    }
}

/// Appends records, or keeps the newest of each key.
pub fn sink(path: &Path, keyed: bool) -> SqliteSink<u64> {
    bound(SqliteSink::new(path, "results"), keyed)
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    // Two runs may be after the lock at once.
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

/// Reads the table; empty while there is none.
pub fn rows(path: &Path) -> Vec<i64> {
    read(&connect(path))
}

pub fn read(connection: &Connection) -> Vec<i64> {
    let Ok(mut statement) = connection.prepare_cached("SELECT n FROM results ORDER BY n") else {
        return Vec::new();
    };
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
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
