//! Small runs of the crash proof (`tests/bin/crash.rs`), one for each sink.

use thalweg_tests::proof;

const CRASH: &str = env!("CARGO_BIN_EXE_crash");

fn run(sink: &str) {
    let arguments = ["--kills", "10", "--sink", sink, "--rate", "800", "--seed", "42"];
    if let Some(said) = proof::run(CRASH, &arguments) {
        said.assert_last("kills 10 lost 0 repeated 0");
    }
}

#[test]
fn kills_lose_and_repeat_nothing_in_sqlite() {
    run("sqlite");
}

#[test]
fn kills_lose_and_repeat_nothing_in_postgres() {
    run("postgres");
}

#[test]
fn kills_lose_and_repeat_nothing_in_files() {
    run("files");
}

#[test]
fn kills_lose_and_repeat_nothing_in_the_outbox() {
    run("mqtt");
}

/// The proof has teeth: a source that acknowledges what is not durable is found out.
#[test]
fn without_a_journal_losses_are_seen() {
    let arguments = ["--kills", "10", "--durability", "none", "--rate", "800", "--seed", "3"];
    if let Some(said) = proof::run(CRASH, &arguments) {
        said.assert_failed("\n  lost: ");
    }
}
