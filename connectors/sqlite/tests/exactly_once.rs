//! Hundreds of seeded schedules on real files. Crashes come anywhere, the thread of the run before is still at
//! work when the next one opens, and the number of shards changes. Another connection reads all the while. And
//! what a sink into any database must stand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::File;
use thalweg_commits::model;
use thalweg_commits::model::table::{self, Real, RealChangelog};

/// Most of them where syncing costs nothing, so that there is time for more.
fn file(seed: u64) -> File {
    let memory = Path::new("/dev/shm");
    if !seed.is_multiple_of(4) && memory.is_dir() { File::within(memory) } else { File::new() }
}

fn play(seeds: std::ops::Range<u64>, keyed: bool) {
    for seed in seeds {
        model::play(&mut Real { table: file(seed), keyed }, seed, 250, 25);
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

#[test]
fn a_changelog_is_followed() {
    for seed in 2_000..2_120 {
        model::play(&mut RealChangelog(file(seed)), seed, 250, 25);
    }
}

#[test]
fn going_back_writes_again() {
    table::going_back(&File::new());
}

#[test]
fn an_epoch_that_is_committed_again_has_the_effect_of_once() {
    table::repeated_epochs(&File::new());
}

#[test]
fn what_is_written_at_least_once_is_seen_at_once() {
    table::at_least_once(&File::new());
}

#[test]
fn two_jobs_of_one_name_do_not_share_a_table() {
    table::two_directories(&File::new());
    table::two_directories_at_once(&File::new());
}
