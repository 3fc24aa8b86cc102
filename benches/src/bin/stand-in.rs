//! `thalweg` under another name, so that the tests of `footprint` have a binary to measure.

use std::process::ExitCode;

fn main() -> ExitCode {
    thalweg::cli::main()
}
