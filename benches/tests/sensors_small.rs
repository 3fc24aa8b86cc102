//! `sensors` runs small: so it cannot rot, and its check is made with every build.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use serde_json::Value;

/// Runs it and returns its lines of JSON.
fn run(arguments: &[&str]) -> Vec<Value> {
    let said = common::say(env!("CARGO_BIN_EXE_sensors"), arguments);
    assert!(said.contains("thalweg over handloop"), "{said}");
    common::json_lines(&said)
}

#[test]
fn both_engines_write_the_same_rows_on_one_core_and_on_two() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let json = dir.path().join("runs.jsonl");
    let mut runs = Vec::new();
    for cores in ["1", "2"] {
        let small = ["--lines", "250000", "--rounds", "1", "--driver", "threads", "--cores", cores];
        let kept = ["--file", path, "--json", json.to_str().unwrap()];
        runs.extend(run(&[&small[..], &kept[..]].concat()));
    }
    assert_eq!(runs.len(), 4);
    let engines: Vec<_> = runs.iter().map(|run| run["engine"].as_str().unwrap()).collect();
    assert_eq!(engines, ["thalweg", "handloop", "thalweg", "handloop"]);
    for (run, cores) in runs.iter().zip([1, 1, 2, 2]) {
        assert_eq!((&run["mode"], &run["cores"]), (&"sensors".into(), &cores.into()), "{run}");
        assert_eq!((&run["events"], &run["total"]), (&250_000.into(), &250_000.into()), "{run}");
        // 25 s of event time: three windows, and what comes before the first.
        assert_eq!(run["results"], runs[0]["results"], "{run}");
        assert!((3_000..=4_000).contains(&run["results"].as_u64().unwrap()), "{run}");
        assert_eq!(run["checksum"], runs[0]["checksum"], "{run}");
        for key in ["secs", "events_per_s", "cpu_ns_per_event", "peak_rss_mib"] {
            assert!(run[key].as_f64().unwrap() > 0.0, "{key} of {run}");
        }
    }
    assert_eq!(std::fs::read_to_string(&json).unwrap().lines().count(), 4);
    // Rows are removed, input stays.
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1 + 1 + 2, "the JSON lines, one file, two files");
}

#[test]
fn help_tells_the_options_and_a_wrong_one_is_named() {
    let binary = || Command::new(env!("CARGO_BIN_EXE_sensors"));
    let help = String::from_utf8(binary().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("--lines") && !help.contains("--engine"), "{help}");
    let wrong = binary().args(["--peer", "flink"]).output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("handloop"));
}
