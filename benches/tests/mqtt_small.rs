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

/// Runs all contenders at one rate, and returns the report and a line of JSON for each run.
fn at_a_rate(job: &str, state: &str) -> (String, Vec<Value>) {
    let small = ["--rates", "400", "--devices", "10", "--rounds", "1", "--by-thread"];
    let own = ["--seconds", "1.5", "--drivers", "threads", "--broker", "embedded"];
    let cell = ["--jobs", job, "--state", state];
    let said = common::say(env!("CARGO_BIN_EXE_mqtt"), &[&small[..], &own, &cell].concat());
    let runs = common::json_lines(&said);
    let who: Vec<_> = runs.iter().map(|run| run["contender"].as_str().unwrap()).collect();
    assert_eq!(who, ["handloop", "rumqttc", "thalweg threads"]);
    for run in &runs {
        assert_eq!(
            (&run["task"], &run["state"], &run["rate"]),
            (&job.into(), &state.into(), &400.into())
        );
        // A second of warm-up is sent and not measured.
        assert_eq!(
            (&run["outcome"]["sent"], &run["outcome"]["measured"]),
            (&1_000.into(), &600.into())
        );
        assert_eq!(run["outcome"]["lost"], 0, "a quiet broker drops nothing: {run}");
        let back = &run["outcome"]["back"];
        let [p50, p99] = ["p50_us", "p99_us"].map(|key| back[key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{run}");
        for key in ["cpu_us_per_message", "switches_per_message"] {
            assert!(run[key].as_f64().unwrap() > 0.0, "{key} of {run}");
        }
        let switches: u64 = run["report"]["threads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|thread| thread["switches"].as_u64().unwrap())
            .sum();
        assert_eq!(run["report"]["switches"], switches, "{run}");
        assert_eq!(run["report"]["seen"].is_null(), job == "averages", "{run}");
    }
    (said, runs)
}

#[test]
fn contenders_at_a_rate_lose_nothing_and_what_they_cost_is_known() {
    let (said, _runs) = at_a_rate("averages", "none");
    assert!(said.contains("averages, state none, QoS 0"), "{said}");
}

#[test]
fn a_message_is_seen_before_it_is_back_and_an_outbox_waits_for_its_checkpoint() {
    let (_said, runs) = at_a_rate("through", "journal:100ms");
    for run in &runs {
        let p50 = |age: &Value| age["p50_us"].as_f64().unwrap();
        let (seen, back) = (p50(&run["report"]["seen"]), p50(&run["outcome"]["back"]));
        assert!(0.0 < seen && seen < back, "{run}");
    }
    let [loops, _bare, thalweg] = &runs[..] else { panic!("three contenders") };
    let p50 = |run: &Value| run["outcome"]["back"]["p50_us"].as_f64().unwrap();
    assert!(p50(thalweg) > p50(loops) + 10_000.0, "{thalweg} beside {loops}");
    assert!(thalweg["shards"] == 2, "{thalweg}");
}

#[test]
fn an_idle_process_is_measured_against_its_bars() {
    let arguments = ["--idle", "1", "--drivers", "threads", "--broker", "embedded"];
    let said = common::say(env!("CARGO_BIN_EXE_mqtt"), &arguments);
    let lines = common::json_lines(&said);
    assert_eq!((lines.len(), &lines[0]["mode"]), (1, &"idle".into()), "{said}");
    let figure = |key: &str| lines[0][key].as_f64().unwrap();
    assert!(figure("switches_per_s") > 0.0 && figure("cpu_percent") < 100.0, "{said}");
    assert!(said.contains("written in 10 minutes, KiB"), "{said}");
}

#[test]
fn help_tells_the_options_and_a_broker_that_is_not_there_is_an_error() {
    let binary = || Command::new(env!("CARGO_BIN_EXE_mqtt"));
    let help = String::from_utf8(binary().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("--rates") && help.contains("Examples:"), "{help}");
    assert!(!help.contains("--role") && !help.contains("--order"), "{help}");
    let wrong = binary().args(["--rates", "100", "--state", "some"]).output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("journal:TIME"));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = format!("mqtt://127.0.0.1:{nobody}");
    let refused = binary().args(["--broker", &broker, "--role", "handloop"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("refused"), "{said}");
}
