//! The Yahoo benchmark runs small, on every engine and in every mode. What it counts is compared with a count that
//! shares no code with it.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::process::{Command, Output};

use serde_json::Value;

fn yahoo(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_yahoo")).args(arguments.split_whitespace()).output().unwrap()
}

/// Runs it, and returns what it says and the JSON lines.
fn run(arguments: &str) -> (String, Vec<Value>) {
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let said = common::say(env!("CARGO_BIN_EXE_yahoo"), &arguments);
    let lines = common::json_lines(&said);
    (said, lines)
}

fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Results, total and checksum by the definition, with event `i` at `time(i)` after T0.
fn counted(events: u64, window_ms: u64, time: impl Fn(u64) -> u64) -> (u64, u64, String) {
    let mut rows = HashMap::<(u64, u64), u64>::new();
    for i in 0..events {
        let h = mix(i);
        if ((h >> 8) & 0xff) * 3 < 256 {
            let ad = (((h >> 16) & 0xffff_ffff) * 1_000) >> 32;
            *rows.entry((ad / 10, time(i) / window_ms)).or_default() += 1;
        }
    }
    let hash = |(&(campaign, w), &count): (&(u64, u64), &u64)| {
        mix(mix(campaign + 0xCA00_0000) ^ (w << 32) ^ count)
    };
    let checksum = rows.iter().map(hash).fold(0, u64::wrapping_add);
    (rows.len() as u64, rows.values().sum(), format!("{checksum:016x}"))
}

fn answer(line: &Value) -> (u64, u64, String) {
    let number = |key: &str| line[key].as_u64().unwrap();
    (number("results"), number("total"), line["checksum"].as_str().unwrap().to_owned())
}

/// What every line has.
fn assert_report(line: &Value, engine: &str, mode: &str, cores: u64, events: u64) {
    assert_eq!((&line["engine"], &line["mode"]), (&engine.into(), &mode.into()), "{line}");
    assert_eq!((&line["cores"], &line["events"]), (&cores.into(), &events.into()), "{line}");
    for key in ["secs", "events_per_s", "cpu_ns_per_event", "peak_rss_mib"] {
        assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
    }
}

fn assert_latency(line: &Value, rate: u64) {
    assert_eq!(line["rate"], rate, "{line}");
    let at = |key: &str| line[key].as_f64().unwrap();
    let quantiles = ["p50_us", "p99_us", "p999_us", "p9999_us", "max_us"].map(at);
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{line}");
    // A quiet machine has less than is printed.
    assert!(at("noise_p999_us") >= 0.0, "{line}");
}

#[test]
fn checkpoints_change_no_count_and_are_compared_with_none() {
    let expected = counted(400_000, 10_000, |i| i / 1_000);
    let (said, lines) = run("--cores 2 --events 400000 --checkpoint 10ms --rounds 1");
    assert!(said.contains("itself without checkpoints"), "{said}");
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(lines.iter().filter(|line| line["checkpoint_ms"] == 10).count(), 1, "{said}");
    lines.iter().for_each(|line| assert_eq!(answer(line), expected));
}

#[test]
fn all_engines_count_the_same_on_one_core_and_on_two() {
    let expected = counted(200_000, 10_000, |i| i / 1_000);
    for cores in [1, 2] {
        let (said, lines) = run(&format!(
            "--cores {cores} --events 200000 --peer plan,handloop,handloop-gathered,timely,timely-local \
             --peer renoir --rounds 1 --driver threads"
        ));
        let engines = [
            "thalweg",
            "plan",
            "handloop",
            "handloop-gathered",
            "timely",
            "timely-local",
            "renoir",
        ];
        assert_eq!(lines.len(), engines.len());
        for (line, engine) in lines.iter().zip(engines) {
            assert_report(line, engine, "memory", cores, 200_000);
            assert!(line.get("rate").is_none(), "{line}");
            let near = (line["total"].as_u64().unwrap()).abs_diff(expected.1) < 100;
            match line["check"].as_str().unwrap() {
                "ok" => assert_eq!(answer(line), expected, "{line}"),
                // Known of renoir: its total is near, and it says so.
                "lossy" => assert!(engine == "renoir" && near, "{line}"),
                _ => panic!("{line}"),
            }
            assert!(said.contains(&format!("\n{engine}")), "{said}");
        }
        assert!(said.contains("thalweg over renoir: "), "{said}");
    }
}

#[test]
fn json_is_decoded_and_counted() {
    let expected = counted(20_000, 10_000, |i| i / 1_000);
    for cores in [1, 2] {
        let (_, lines) = run(&format!(
            "--mode json --cores {cores} --events 20000 --peer handloop --rounds 1 --driver threads"
        ));
        assert_eq!(lines.len(), 2);
        for (line, engine) in lines.iter().zip(["thalweg", "handloop"]) {
            assert_report(line, engine, "json", cores, 20_000);
            assert_eq!((answer(line), &line["check"]), (expected.clone(), &"ok".into()), "{line}");
        }
    }
}

#[test]
fn events_pass_a_broker_with_both_qualities_of_service() {
    let (_, total, _) = counted(2_000, 1, |i| i);
    for qos in [0, 1] {
        let (_, lines) = run(&format!(
            "--mode mqtt --events 2000 --rate 4000 --window 100ms --qos {qos} --cores 2 \
             --noise-seconds 0.02 --broker embedded --driver threads"
        ));
        let line = &lines[0];
        assert_report(line, "thalweg", "mqtt", 2, 2_000);
        assert_latency(line, 4_000);
        // Its checksum depends on when it ran; the binary has compared it with a naive count.
        assert_eq!((&line["check"], &line["missing"]), (&"ok".into(), &0.into()), "{line}");
        assert_eq!((&line["total"], &line["qos"]), (&total.into(), &qos.into()), "{line}");
        assert!(line["ysb_recorded"].as_u64().unwrap() > 0, "{line}");
        assert!(line["ysb_p99_us"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["broker"].as_str().unwrap().contains("embedded"), "{line}");
    }
}

#[test]
fn latencies_are_reported_at_a_rate() {
    // 20 events in each millisecond.
    let expected = counted(10_000, 1, |i| i / 20);
    for (cores, driver) in [(1, "auto"), (2, "threads")] {
        let (said, lines) = run(&format!(
            "--rate 20000 --seconds 0.5 --cores {cores} --driver {driver} --noise-seconds 0.02 --rounds 2"
        ));
        let line = &lines[0];
        assert_report(line, "thalweg", "memory", cores, 10_000);
        assert_latency(line, 20_000);
        assert_eq!(answer(line), expected, "{line}");
        assert!(line["recorded"].as_u64().unwrap() > 1_000, "{line}");
        assert!(line["behind_end_ms"].is_number() && line["behind_middle_ms"].is_number());
        assert!(said.contains("noise p99.9") && said.contains("the median of 2 rounds"), "{said}");
    }
}

#[test]
fn a_sweep_ends_at_its_bound_and_is_drawn_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (svg, json) = (dir.path().join("latency.svg"), dir.path().join("runs.jsonl"));
    let (said, lines) = run(&format!(
        "--sweep --rate 1000 --rate-max 2000 --behind-ms-max 1000 --seconds 0.3 --cores 1 \
         --driver threads --noise-seconds 0.02 --plot {} --json {}",
        svg.display(),
        json.display()
    ));
    assert_eq!(
        lines.iter().map(|line| line["rate"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1_000, 2_000]
    );
    assert!(said.contains("the highest sustained rate: 2000 events a second"), "{said}");
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("p99.9"), "{drawn}");
    assert!(drawn.matches("<polyline").count() >= 4, "{drawn}");
    let kept = std::fs::read_to_string(json).unwrap();
    assert_eq!(
        kept.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>(),
        lines
    );
}

#[test]
fn wrong_options_end_with_2_and_say_what_is_allowed() {
    for (arguments, said) in [
        ("--checkpoint 2s", "possible values: off, 10ms, 1s"),
        ("--mode json --peer timely", "mode json knows handloop"),
        ("--rate 1000 --peer handloop", "thalweg runs alone"),
        ("--mode json --rate 5", "only in modes memory and mqtt"),
        ("--sweep --mode mqtt", "only in mode memory"),
        ("--sweep --events 5", "give --seconds"),
        ("--seconds 1", "only with --rate"),
        ("--plot x.svg", "only with --rate"),
        ("--window 1us", "whole milliseconds"),
        ("--seconds=-1", "allowed: a number over 0"),
        ("--peer flink", "possible values"),
        ("--broker gateway", "mqtt://HOST[:PORT]"),
        ("--cores 0", "1..=128"),
    ] {
        let output = yahoo(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {error}");
        assert!(error.contains(said), "{arguments}: {error}");
    }
}

#[test]
fn a_run_that_fails_ends_with_1() {
    // A measured process that cannot do what it is told.
    let spec = serde_json::json!({
        "engine": "timely", "mode": "json", "cores": 1, "events": 1, "window_ms": 1, "rate": null,
        "driver": "auto", "spin_us": 0, "noise_ms": 0, "broker": null, "qos": 0,
    });
    let output = Command::new(env!("CARGO_BIN_EXE_yahoo"))
        .args(["--measure", &spec.to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("timely does not do mode json"));
}

#[test]
fn help_has_examples() {
    let said = String::from_utf8_lossy(&yahoo("--help").stdout).to_string();
    for word in ["Examples:", "--peer", "--sweep", "--qos", "exit code is 1"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("--measure"), "{said}");
}
