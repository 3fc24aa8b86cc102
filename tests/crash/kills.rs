//! Small runs of the crash proof (`tests/bin/crash.rs`), one for each sink.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::process::Command;

fn run(sink: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_crash"))
        .args(["--kills", "10", "--sink", sink, "--rate", "800", "--seed", "42"])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) {
        // Not `eprintln`, which the test harness hides.
        let _seen = std::io::stderr().write_all(err.as_bytes());
        return;
    }
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().last(), Some("kills 10 lost 0 repeated 0"), "{out}\n{err}");
}

#[test]
fn kills_lose_and_repeat_nothing_in_sqlite() {
    run("sqlite");
}

#[test]
fn kills_lose_and_repeat_nothing_in_files() {
    run("files");
}

/// The proof has teeth: a source that acknowledges what is not durable is found out.
#[test]
fn without_a_journal_losses_are_seen() {
    // What failed is kept; here it is not wanted.
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_crash"))
        .args(["--kills", "10", "--durability", "none", "--rate", "800", "--seed", "3"])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        return;
    }
    assert!(!output.status.success() && out.contains("\n  lost: "), "{out}");
}

#[test]
fn the_outbox_is_refused_with_a_reason_until_it_is_built() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_crash")).args(["--sink", "mqtt"]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && err.contains("not built yet"), "{err}");
}
