//! `mqtt` runs small: so it cannot rot.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use serde_json::Value;

/// Runs it and returns its lines of JSON.
fn run(arguments: &[&str]) -> Vec<Value> {
    let said = common::say(env!("CARGO_BIN_EXE_mqtt"), arguments);
    assert!(said.contains("thalweg over handloop"), "{said}");
    common::json_lines(&said)
}

#[test]
fn rows_of_both_engines_count_what_was_sent() {
    let small = ["--rate", "500", "--seconds", "2.5", "--devices", "10", "--rounds", "1"];
    let runs = run(&[&small[..], &["--driver", "threads", "--broker", "embedded"]].concat());
    let engines: Vec<_> = runs.iter().map(|run| run["engine"].as_str().unwrap()).collect();
    assert_eq!(engines, ["thalweg", "handloop"]);
    for run in &runs {
        assert_eq!((&run["mode"], &run["sent"]), (&"mqtt".into(), &1_250.into()), "{run}");
        assert_eq!(run["events"], 1_250, "{run}");
        let [results, total, lost] =
            ["results", "total", "lost"].map(|key| run[key].as_u64().unwrap());
        // 2.5 s touch three or four seconds of the clock; all but the last are closed.
        assert!((10..=30).contains(&results), "{run}");
        assert!((500..1_250).contains(&total), "{run}");
        assert_eq!(lost, 0, "a quiet broker drops nothing: {run}");
        let [p50, p99] = ["p50_ms", "p99_ms"].map(|key| run[key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{run}");
        for key in
            ["secs", "cpu_us_per_message", "cpu_ns_per_event", "events_per_s", "peak_rss_mib"]
        {
            assert!(run[key].as_f64().unwrap() > 0.0, "{key} of {run}");
        }
    }
}

#[test]
fn help_tells_the_options_and_a_broker_that_is_not_there_is_an_error() {
    let binary = || Command::new(env!("CARGO_BIN_EXE_mqtt"));
    let help = String::from_utf8(binary().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("--rate") && !help.contains("--role"), "{help}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = format!("mqtt://127.0.0.1:{nobody}");
    let refused = binary().args(["--broker", &broker, "--role", "handloop"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("refused"), "{said}");
}
