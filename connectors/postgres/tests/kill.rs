//! `kill -9` of a real process at random moments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use thalweg_commits::model::{killed, table};
use thalweg_kernel::SinkSpec;
use thalweg_postgres::testing::{Client, Server};

#[test]
fn a_killed_process_loses_and_repeats_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let test = "a_killed_process_loses_and_repeats_nothing";
    // The process that is killed is told by a file where the server is; it starts none.
    let is_life = std::env::var_os(thalweg_commits::model::KILL_DIRECTORY).is_some();
    let server = if is_life { None } else { Server::start() };
    if let Some(server) = &server {
        fs::write(directory.path().join("url"), server.url("postgres")).unwrap();
    } else if !is_life {
        return; // Skipped.
    }
    let records = killed(test, directory.path(), 40, 60, |directory, contexts| {
        let url = fs::read_to_string(directory.join("url")).unwrap();
        let sink = common::sink(&url, false);
        contexts.iter().map(|cx| sink.open(cx).unwrap()).collect()
    });
    let server = server.unwrap();
    let client = Client::connect(&server.url("postgres"));
    let rows = client.integers("SELECT n FROM results ORDER BY n");
    table::check(&rows, false, &[records], true);
}
