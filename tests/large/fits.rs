//! A small run of state that does not fit (`tests/bin/large.rs`).

use thalweg_tests::proof;

#[test]
fn state_larger_than_what_memory_may_keep_is_right_in_the_end() {
    prove(&[]);
}

#[test]
fn windows_larger_than_what_memory_may_keep_are_right_in_the_end() {
    prove(&["--windows"]);
}

/// Eight times what hot state may take. The limit leaves room for all of it: a slow disk must not fail a test.
fn prove(more: &[&str]) {
    let small = ["--limit-mib", "160", "--times", "0.2", "--hot-mib", "4", "--cold", "8000"];
    let small: Vec<_> = small.into_iter().chain(["--hot", "20000", "--pending-mib", "2"]).collect();
    let small = [&small[..], more].concat();
    if let Some(said) = proof::run(env!("CARGO_BIN_EXE_large"), &small) {
        said.assert_last("wrong 0 missing 0");
    }
}
