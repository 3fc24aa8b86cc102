//! Seeded schedules on a real server, with crashes anywhere and other numbers of shards. The thread of the
//! run before may still be at work when the next one opens. Another connection reads all the while. And
//! what a sink into any database must stand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Database;
use thalweg_commits::model;
use thalweg_commits::model::table::{self, Real, RealChangelog};

/// Whole jobs; each gets a database of its own.
fn play(seeds: std::ops::Range<u64>, keyed: bool) {
    for seed in seeds {
        let Some(table) = Database::new(&format!("seed {seed}")) else { return };
        model::play(&mut Real { table, keyed }, seed, 250, 25);
    }
}

#[test]
fn rows_are_appended_once() {
    play(0..12, false);
}

#[test]
fn rows_are_replaced_in_order() {
    play(1_000..1_012, true);
}

#[test]
fn a_changelog_is_followed() {
    for seed in 2_000..2_012 {
        let Some(table) = Database::new(&format!("seed {seed}")) else { return };
        model::play(&mut RealChangelog(table), seed, 250, 25);
    }
}

#[test]
fn going_back_writes_again() {
    let Some(database) = Database::new("back") else { return };
    table::going_back(&database);
}

#[test]
fn an_epoch_that_is_committed_again_has_the_effect_of_once() {
    let Some(database) = Database::new("again") else { return };
    table::repeated_epochs(&database);
}

#[test]
fn what_is_written_at_least_once_is_seen_at_once() {
    let Some(database) = Database::new("at least") else { return };
    table::at_least_once(&database);
}

#[test]
fn two_jobs_of_one_name_do_not_share_a_table() {
    let Some(database) = Database::new("two") else { return };
    table::two_directories(&database);
    let Some(database) = Database::new("two at once") else { return };
    table::two_directories_at_once(&database);
}
