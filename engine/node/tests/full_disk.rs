//! Goal: a full disk is said clearly, stops acknowledging, loses nothing, and is over when there is room again.
//!
//! Method: the real program has its state directory on a small file system of its own. There are a private mosquitto,
//! and a file that takes all room there is. More is published than the journal has prepared for, so it must stop
//! taking. Then the file is removed, and every reading must be counted once. Only root can mount; others skip this.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Program, file, thalweg};
use thalweg_mqtt::testing::Mosquitto;

/// Two segments of the journal and some state fit in.
const DISK: &str = "size=56m";
/// Readings while the disk is full: more bytes than two segments of the journal.
const READINGS: usize = 2_600;
const PADDING_BYTES: usize = 16 * 1_024;
const DEVICES: usize = 7;

/// A small file system; unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        // Not `eprintln`, which the test harness hides.
        let _seen = writeln!(std::io::stderr(), "skipped: only root can mount a small file system");
        None
    }

    /// Takes all room there is; drop the path to give it back.
    fn fill(&self) -> tempfile::TempPath {
        let ballast = self.0.path().join("ballast");
        let mut file = File::create(&ballast).unwrap();
        for bytes in [64 * 1_024, 512] {
            while file.write_all(&vec![1; bytes]).is_ok() {}
        }
        tempfile::TempPath::try_from_path(ballast).unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Readings from this number on, a line each, 10 ms apart.
fn readings(numbers: std::ops::Range<usize>, padding: usize) -> String {
    let (mut lines, padding) = (String::new(), "x".repeat(padding));
    for n in numbers {
        let (device, ts) = (n % DEVICES, 1_700_000_000_000 + n * 10);
        writeln!(lines, r#"{{"device":"d{device}","ts":{ts},"value":1,"padding":"{padding}"}}"#)
            .unwrap();
    }
    lines
}

/// Publishes each line at QoS 1; returns when the broker has acknowledged all.
fn publish(broker: &Mosquitto, lines: &str) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1"])
        .args(["-t", "readings", "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn acknowledged(broker: &Mosquitto) -> usize {
    broker.log().matches("Received PUBACK from full-disk").count()
}

/// Counts by device and window.
fn rows(database: &Path) -> BTreeMap<(String, i64), i64> {
    let database = rusqlite::Connection::open(database).unwrap();
    let Ok(mut rows) = database.prepare("SELECT key, window_start, count FROM stats") else {
        return BTreeMap::new();
    };
    let mut counts = BTreeMap::new();
    let mut rows = rows.query([]).unwrap();
    while let Ok(Some(row)) = rows.next() {
        let before = counts.insert((row.get(0).unwrap(), row.get(1).unwrap()), row.get(2).unwrap());
        assert_eq!(before, None, "a row came twice");
    }
    counts
}

#[test]
fn a_full_disk_is_told_stops_acknowledging_and_loses_nothing() {
    let Some(broker) = Mosquitto::start() else { return };
    let Some(small) = Small::mount() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.db");
    let toml = format!(
        "name = 'full'\n[engine]\nshards = 2\n[source]\n\
         mqtt = 'mqtt://127.0.0.1:{}?client_id=full-disk'\ntopics = ['readings']\n\
         [window]\nsize = '1s'\n[sink.sqlite]\npath = '{}'\ntable = 'stats'\n\
         [state]\ndir = '{}/state'\ninterval = '20ms'\n",
        broker.port(),
        out.display(),
        small.0.path().display()
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    let early = 200;
    publish(&broker, &readings(0..early, 0));
    let deadline = Instant::now() + PATIENCE;
    while acknowledged(&broker) < early {
        assert!(Instant::now() < deadline, "{} of {early} acknowledged", acknowledged(&broker));
        thread::sleep(Duration::from_millis(10));
    }

    let ballast = small.fill();
    publish(&broker, &readings(early..early + READINGS, PADDING_BYTES));
    program.says("no message is taken or acknowledged for now");
    program.says("the disk has no room");
    let stopped = acknowledged(&broker);
    assert!(stopped < early + READINGS, "acknowledged without room: {stopped}");

    drop(ballast);
    // The last one closes the windows of all others.
    let last = early + READINGS;
    publish(&broker, &readings(last + 1_000..last + 1_001, 0));
    let mut expected = BTreeMap::new();
    for n in 0..last {
        let start = (1_700_000_000_000 + n as i64 * 10) / 1_000 * 1_000;
        *expected.entry((format!("d{}", n % DEVICES), start)).or_insert(0) += 1;
    }
    let deadline = Instant::now() + PATIENCE;
    while rows(&out).len() < expected.len() {
        assert!(
            Instant::now() < deadline,
            "{} of {} rows\n{}",
            rows(&out).len(),
            expected.len(),
            program.err()
        );
        thread::sleep(Duration::from_millis(50));
    }
    program.signal("TERM");
    program.finish().ok();
    assert_eq!(rows(&out), expected);
}
