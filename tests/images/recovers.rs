//! A small run of the crash images (`tests/bin/images.rs`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use thalweg_tests::proof;

const IMAGES: &str = env!("CARGO_BIN_EXE_images");

#[test]
fn every_image_that_a_crash_may_leave_is_recovered() {
    if let Some(said) = proof::run(IMAGES, &["--images", "300", "--steps", "40", "--seed", "42"]) {
        said.assert_last("images 630 failures 0");
    }
}

/// The proof has teeth: on a disk whose syncs do nothing, promises are broken.
#[test]
fn without_syncs_images_fail() {
    // What failed is kept; here it is not wanted.
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path().to_str().unwrap();
    for workload in ["journal", "store"] {
        let few = ["--images", "100", "--steps", "20", "--without-syncs", "--workload", workload];
        let few: Vec<_> = few.into_iter().chain(["--scratch", scratch]).collect();
        if let Some(said) = proof::run(IMAGES, &few) {
            said.assert_failed("FAILED");
        }
    }
}
