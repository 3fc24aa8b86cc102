//! `kill -9` of a real process at random moments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use thalweg_commits::model::{killed, table};
use thalweg_kernel::{OpenContext, Sink, SinkSpec};
use thalweg_postgres::PostgresSink;
use thalweg_postgres::testing::{Client, Server};

/// Plays a job that is killed again and again; its records in the end, and its rows. None where there is no server.
fn kill<S: Sink<u64>>(
    test: &str,
    open: impl Fn(&str, &[OpenContext]) -> Vec<S>,
) -> Option<(u64, Vec<i64>)> {
    let directory = tempfile::tempdir().unwrap();
    // The process that is killed is told by a file where the server is; it starts none.
    let is_life = std::env::var_os(thalweg_commits::model::KILL_DIRECTORY).is_some();
    let server = if is_life { None } else { Server::start() };
    if let Some(server) = &server {
        fs::write(directory.path().join("url"), server.url("postgres")).unwrap();
    } else if !is_life {
        return None; // Skipped.
    }
    let records = killed(test, directory.path(), 40, 60, |directory, contexts| {
        open(&fs::read_to_string(directory.join("url")).unwrap(), contexts)
    });
    let server = server.unwrap();
    let client = Client::connect(&server.url("postgres"));
    Some((records, client.integers("SELECT n FROM results ORDER BY n")))
}

#[test]
fn a_killed_process_loses_and_repeats_nothing() {
    let found = kill("a_killed_process_loses_and_repeats_nothing", |url, contexts| {
        let sink = common::sink(url, false);
        contexts.iter().map(|cx| sink.open(cx).unwrap()).collect()
    });
    let Some((records, rows)) = found else { return };
    table::check(&rows, false, &[records], true);
}

#[test]
fn a_killed_process_leaves_the_table_of_a_changelog() {
    let found = kill("a_killed_process_leaves_the_table_of_a_changelog", |url, contexts| {
        let sink = table::changelog(PostgresSink::new(common::config(url), "results"));
        contexts.iter().map(|cx| table::Changes(sink.open(cx).unwrap())).collect()
    });
    let Some((records, rows)) = found else { return };
    table::check_changelog(&rows, &[records], true);
}
