//! `kill -9` of a real process at random moments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use thalweg_commits::model::{killed, table};
use thalweg_kernel::SinkSpec;
use thalweg_sqlite::SqliteSink;

#[test]
fn a_killed_process_loses_and_repeats_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let test = "a_killed_process_loses_and_repeats_nothing";
    let records = killed(test, directory.path(), 50, 60, |directory, contexts| {
        let sink = common::sink(&directory.join("out.db"), false);
        contexts.iter().map(|cx| sink.open(cx).unwrap()).collect()
    });
    let rows = common::rows(&directory.path().join("out.db"));
    table::check(&rows, false, &[records], true);
}

#[test]
fn a_killed_process_leaves_the_table_of_a_changelog() {
    let directory = tempfile::tempdir().unwrap();
    let test = "a_killed_process_leaves_the_table_of_a_changelog";
    let records = killed(test, directory.path(), 50, 60, |directory, contexts| {
        let sink = table::changelog(SqliteSink::new(directory.join("out.db"), "results"));
        contexts.iter().map(|cx| table::Changes(sink.open(cx).unwrap())).collect()
    });
    let rows = common::rows(&directory.path().join("out.db"));
    table::check_changelog(&rows, &[records], true);
}
