//! Goal: a file grows from run to run, and no row is replaced by one that knows less.
//!
//! Method: `thalweg run` three times over a file that has grown in between, into a table and into files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use common::{file, run};

const BEGIN_MS: i64 = 1_700_000_000_000;

/// The readings of each run, in seconds.
const PARTS: [&[i64]; 3] = [&[0, 1, 2, 3], &[4, 5], &[6, 20]];

fn job(dir: &Path, window: &str, sink: &str) -> String {
    let at = dir.display();
    let toml = format!(
        "name = 'growing'\n[source]\nfiles = ['{at}/in.jsonl']\n[fields]\nvalue = 'temp'\n\
         [window]\nsize = '10s'\n{window}\n{sink}\n[state]\ndir = '{at}/state'\ninterval = '200ms'\n"
    );
    file(dir, "job.toml", toml)
}

fn grow(dir: &Path, seconds: &[i64]) {
    let mut input =
        OpenOptions::new().create(true).append(true).open(dir.join("in.jsonl")).unwrap();
    for second in seconds {
        let ts = BEGIN_MS + second * 1_000;
        writeln!(input, r#"{{"device":"a","ts":{ts},"temp":1}}"#).unwrap();
    }
}

/// Start and count of each row, in order.
fn rows(dir: &Path) -> Vec<(i64, i64)> {
    let database = rusqlite::Connection::open(dir.join("out.db")).unwrap();
    let mut found =
        database.prepare("SELECT window_start, count FROM averages ORDER BY 1").unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? - BEGIN_MS, row.get(1)?));
    found.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn runs(dir: &Path, toml: &str) -> Vec<(Vec<(i64, i64)>, String)> {
    let each = PARTS.map(|part| {
        grow(dir, part);
        let ended = run(&["run", toml]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        (rows(dir), ended.err)
    });
    each.into()
}

#[test]
fn a_row_in_a_table_is_replaced_by_rows_that_know_more() {
    let dir = tempfile::tempdir().unwrap();
    let sink =
        format!("[sink.sqlite]\npath = '{}/out.db'\ntable = 'averages'", dir.path().display());
    let toml = job(dir.path(), "", &sink);
    let found: Vec<_> = runs(dir.path(), &toml).into_iter().map(|(rows, _)| rows).collect();
    assert_eq!(found, [vec![(0, 4)], vec![(0, 6)], vec![(0, 7), (20_000, 1)]]);
}

#[test]
fn windows_that_are_suspended_are_written_when_they_are_over() {
    let dir = tempfile::tempdir().unwrap();
    let sink =
        format!("[sink.sqlite]\npath = '{}/out.db'\ntable = 'averages'", dir.path().display());
    let toml = job(dir.path(), "at_end = 'suspend'", &sink);
    let found = runs(dir.path(), &toml);
    assert!(found.iter().all(|(_, err)| err.contains("stay open in the state")), "{found:?}");
    assert_eq!(found.last().unwrap().0, [(0, 7)]);
}

/// What lies in the directory of a sink that never takes a row back.
fn in_files(dir: &Path) -> String {
    let files = fs::read_dir(dir.join("out")).into_iter().flatten();
    let texts = files.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    texts.collect()
}

#[test]
fn files_have_each_window_once_and_whole_also_beside_a_table() {
    for table in ["", "[sink.sqlite]\npath = '{at}/out.db'\ntable = 'averages'\n"] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        let sinks = format!("{}[sink.files]\ndir = '{at}/out'", table.replace("{at}", &at));
        let toml = job(dir.path(), "", &sinks);
        for (part, shown) in PARTS.into_iter().zip([0, 0, 1]) {
            grow(dir.path(), part);
            run(&["run", &toml]).ok();
            let found = in_files(dir.path());
            assert_eq!(found.matches("\"key\"").count(), shown, "{found}");
        }
        let found = in_files(dir.path());
        assert!(found.contains("\"count\":7"), "{found}");
        if !table.is_empty() {
            assert_eq!(rows(dir.path()), [(0, 7)]);
        }
    }
}

#[test]
fn what_comes_for_a_row_that_is_written_and_forgotten_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let sink = format!("[sink.files]\ndir = '{}/out'", dir.path().display());
    let toml = job(dir.path(), "at_end = 'finish'", &sink);
    for (part, late) in PARTS.into_iter().zip(["late=0", "late=2", "late=1"]) {
        grow(dir.path(), part);
        let ended = run(&["run", &toml]);
        assert!(ended.code == Some(0) && ended.err.contains(late), "{}", ended.err);
    }
    let found = in_files(dir.path());
    assert_eq!((found.matches("\"count\":4").count(), found.matches("\"key\"").count()), (1, 2));
}
