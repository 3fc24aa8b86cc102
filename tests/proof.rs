//! How a test runs one of the programs in `bin` small.

// A helper of tests panics with a clear text, as tests do.
#![allow(clippy::expect_used, reason = "for tests only")]

use std::io::Write;
use std::process::{Command, ExitStatus};

/// The exit code of a program that this machine has not what it needs for.
const SKIPPED: i32 = 77;

/// What a program said.
#[derive(Debug)]
pub struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

/// Runs `program`; `None` if it was skipped, after printing why. What it keeps of a failure is removed.
///
/// # Panics
/// If the program cannot be started.
pub fn run(program: &str, arguments: &[&str]) -> Option<Said> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(program)
        .args(arguments)
        .env("TMPDIR", dir.path())
        .output()
        .expect("the program starts");
    if output.status.code() == Some(SKIPPED) {
        // Not `eprintln`, which the test harness hides.
        let _seen = std::io::stderr().write_all(&output.stderr);
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Said { status: output.status, out: text(&output.stdout), err: text(&output.stderr) })
}

impl Said {
    /// It ended well, and with this line.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_last(&self, line: &str) {
        let Self { status, out, err } = self;
        assert!(status.success() && out.lines().last() == Some(line), "{status}\n{out}\n{err}");
    }

    /// It failed, and said this.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_failed(&self, because: &str) {
        let Self { status, out, err } = self;
        assert!(!status.success() && out.contains(because), "{status}\n{out}\n{err}");
    }
}
