//! Every binary runs small, with the embedded broker: so they cannot rot.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// Runs a binary and returns the JSON of its last line.
fn run(binary: &str, arguments: &[&str]) -> Value {
    let output = Command::new(binary).args(arguments).output().unwrap();
    let (said, failed) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {failed}");
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

#[test]
fn latency_counts_every_message_on_every_stream() {
    for qos in ["0", "1"] {
        let report = run(
            env!("CARGO_BIN_EXE_latency"),
            &["--broker", "embedded", "--driver", "threads", "--rate", "50", "--seconds", "0.5"]
                .into_iter()
                .chain(["--noise-seconds", "0.01", "--qos", qos])
                .collect::<Vec<_>>(),
        );
        for stream in ["bare", "job", "keyed"] {
            let line = &report[stream];
            assert_eq!((&line["messages"], &line["missing"]), (&25.into(), &0.into()), "{report}");
            let [p50, max] = ["p50_us", "max_us"].map(|name| line[name].as_f64().unwrap());
            assert!(0.0 < p50 && p50 <= max, "{report}");
        }
        assert!(report["broker"].as_str().unwrap().contains("embedded"), "{report}");
    }
}

#[test]
fn latency_counts_every_result_of_an_outbox() {
    let report = run(
        env!("CARGO_BIN_EXE_latency"),
        &["--outbox", "--broker", "embedded", "--driver", "threads", "--rate", "50"]
            .into_iter()
            .chain(["--seconds", "0.5", "--noise-seconds", "0.01", "--checkpoint", "20ms"])
            .collect::<Vec<_>>(),
    );
    for stream in ["bare", "outbox"] {
        let line = &report[stream];
        assert_eq!((&line["messages"], &line["missing"]), (&25.into(), &0.into()), "{report}");
    }
    assert!(report["sync_before"]["p50_us"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn footprint_measures_a_binary() {
    let report = run(
        env!("CARGO_BIN_EXE_footprint"),
        &["--binary", env!("CARGO_BIN_EXE_stand-in"), "--broker", "embedded"]
            .into_iter()
            .chain(["--starts", "2", "--idle-seconds", "0.4", "--drivers", "threads"])
            .collect::<Vec<_>>(),
    );
    assert!(report["bytes"].as_u64().unwrap() > 100_000, "{report}");
    let driver = &report["drivers"][0];
    assert_eq!(driver["driver"], "threads");
    assert!(driver["mqtt_start"]["median_ms"].as_f64().unwrap() > 0.0, "{report}");
    assert!(driver["file_run"]["median_ms"].as_f64().unwrap() > 0.0, "{report}");
    assert!(driver["idle"]["rss_mib"].as_f64().unwrap() > 1.0, "{report}");
    assert!(driver["idle"]["threads"].as_u64().unwrap() >= 2, "{report}");
}

#[test]
fn help_tells_the_options() {
    for (binary, option) in [
        (env!("CARGO_BIN_EXE_latency"), "--spin-us"),
        (env!("CARGO_BIN_EXE_footprint"), "--starts"),
    ] {
        let output = Command::new(binary).arg("--help").output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(option));
    }
}

#[test]
fn a_binary_that_is_not_there_is_an_error_that_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_footprint"))
        .args(["--binary", "/nowhere/thalweg", "--broker", "embedded"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cargo build --release -p thalweg"), "{said}");
}
