//! A small run of the crash images (`tests/bin/images.rs`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::process::Command;

#[test]
fn every_image_that_a_crash_may_leave_is_recovered() {
    let output = Command::new(env!("CARGO_BIN_EXE_images"))
        .args(["--images", "300", "--steps", "40", "--seed", "42"])
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
    assert_eq!(out.lines().last(), Some("images 630 failures 0"), "{out}\n{err}");
}

/// The proof has teeth: on a disk whose syncs do nothing, promises are broken.
#[test]
fn without_syncs_images_fail() {
    for workload in ["journal", "store"] {
        let scratch = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_images"))
            .args(["--images", "100", "--steps", "20", "--without-syncs", "--workload", workload])
            .arg("--scratch")
            .arg(scratch.path())
            .env("TMPDIR", scratch.path())
            .output()
            .unwrap();
        if output.status.code() == Some(77) {
            return;
        }
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && out.contains("FAILED"), "{workload}: {out}");
    }
}
