//! What the tests share that run a binary small.

use std::process::Command;

use serde_json::Value;

/// Runs a binary, which must succeed, and returns what it says.
pub(crate) fn say(binary: &str, arguments: &[&str]) -> String {
    let output = Command::new(binary).args(arguments).output().unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {failed}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The lines of it that are JSON objects.
pub(crate) fn json_lines(said: &str) -> Vec<Value> {
    let lines = said.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}
