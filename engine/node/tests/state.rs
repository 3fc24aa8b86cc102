//! Goal: a job with a state directory goes on where it was killed, and what it has stored can be looked into.
//!
//! Method: the real program on a file is killed again and again, and started again with another number of
//! shards. Its results in a SQLite database must be those of one undisturbed run. Then `savepoint`, `state` and
//! `journal` on its directory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{Program, file, run, thalweg};

const RECORDS: i64 = 400_000;

/// Readings of 20 devices, 2 ms apart and up to 1 s out of order; the naive count and sum of each
/// device's seconds.
fn readings(path: &Path) -> BTreeMap<(String, i64), (i64, f64)> {
    let (mut lines, mut expected) = (String::new(), BTreeMap::new());
    for n in 0..RECORDS {
        let (device, ts) = (n * 7 % 20, 1_700_000_000_000 + n * 2 - n * n % 997);
        let value = n % 100;
        writeln!(lines, r#"{{"device":"d{device}","ts":{ts},"value":{value}}}"#).unwrap();
        let window = expected.entry((format!("d{device}"), ts - ts % 1_000)).or_insert((0, 0.0));
        *window = (window.0 + 1, window.1 + value as f64);
    }
    fs::write(path, lines).unwrap();
    expected
}

fn configuration(dir: &Path, shards: usize) -> String {
    let at = dir.display();
    let toml = format!(
        "name = 'killed'\n[engine]\nshards = {shards}\n[source]\nfiles = ['{at}/in.jsonl']\n[window]\nsize = '1s'\n\
         out_of_orderness = '2s'\n[sink.sqlite]\npath = '{at}/out.db'\ntable = 'stats'\n\
         [sink.more]\nconnector = 'sqlite'\npath = '{at}/more.db'\ntable = 'stats'\n\
         [state]\ndir = '{at}/state'\ninterval = '10ms'\n"
    );
    file(dir, &format!("job{shards}.toml"), &toml)
}

#[test]
fn a_job_that_is_killed_again_and_again_counts_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let expected = readings(&dir.path().join("in.jsonl"));
    let epochs = dir.path().join("state/state/data.mdb");
    for life in 0_u64..8 {
        let config = configuration(dir.path(), [1, 2, 3][life as usize % 3]);
        let job = Program::start(&mut thalweg(&["--log", "error", "run", &config]));
        let begun = Instant::now();
        // The first life must have stored something for `state ls` below.
        let least = Duration::from_millis(30 + 67 * life % 250);
        while begun.elapsed() < least || !epochs.exists() && begun.elapsed().as_secs() < 20 {
            thread::sleep(Duration::from_millis(5));
        }
        drop(job);
    }
    run(&["run", &configuration(dir.path(), 2)]).ok();
    for name in ["out.db", "more.db"] {
        let database = rusqlite::Connection::open(dir.path().join(name)).unwrap();
        let mut rows = database.prepare("SELECT key, window_start, count, avg FROM stats").unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            let (count, avg): (i64, f64) = (row.get(2)?, row.get(3)?);
            Ok(((row.get(0)?, row.get(1)?), (count, (avg * count as f64).round())))
        };
        let rows: BTreeMap<(String, i64), _> =
            rows.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows, expected, "{name}");
    }

    let state = dir.path().join("state").display().to_string();
    let listed = run(&["state", "ls", &state]).ok();
    assert!(listed.contains("\"windows\"") && listed.contains("key groups"), "{listed}");
    let savepoint = dir.path().join("saved").display().to_string();
    let saved = run(&["savepoint", &state, &savepoint]).ok();
    assert!(saved.contains("the job is not running"), "{saved}");
    let position = run(&["state", "get", &savepoint, "source", "positions"]).ok();
    assert_eq!(position.lines().count(), 1, "{position}");
    run(&["journal", "verify", &state]).ok();
    let error = run(&["state", "get", &savepoint, "nobody", "nothing"]).failed(1);
    assert!(error.contains("thalweg state ls"), "{error}");
}
