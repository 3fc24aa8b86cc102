//! Runs each lesson as a reader would, small.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use thalweg::demo::broker::Broker;
use thalweg::kernel::Encode;
use thalweg::kernel::format::EncodeError;
use thalweg::prelude::*;

/// An example that `cargo test` has built beside this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target: PathBuf = test.ancestors().nth(2).unwrap().into();
    let binary = target.join("examples").join(name);
    assert!(
        binary.is_file(),
        "build the examples first: cargo build -p thalweg-examples --examples"
    );
    Command::new(binary)
}

fn lines(output: &Output) -> Vec<String> {
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{failed}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn word_count_counts_a_file_and_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "To be, or not to be:\n\nthat is the question.").unwrap();
    let expected = [
        r#"["be",2]"#,
        r#"["is",1]"#,
        r#"["not",1]"#,
        r#"["or",1]"#,
        r#"["question",1]"#,
        r#"["that",1]"#,
        r#"["the",1]"#,
        r#"["to",2]"#,
    ];
    let output = example("word_count").arg(&text).output().unwrap();
    let mut counts = lines(&output);
    counts.sort_unstable();
    assert_eq!(counts, expected);

    let input = fs::File::open(&text).unwrap();
    let output = example("word_count").arg("-").stdin(input).output().unwrap();
    let mut counts = lines(&output);
    counts.sort_unstable();
    assert_eq!(counts, expected);
}

#[test]
fn word_count_fires_its_windows_while_the_input_goes_on() {
    let mut child = example("word_count")
        .args(["-", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut counts = BufReader::new(output).lines();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writer = thread::spawn(move || {
        while !stopped.load(Ordering::Acquire) {
            input.write_all(b"tick\n").unwrap();
            thread::sleep(Duration::from_millis(20));
        }
    });
    let first = counts.next().unwrap().unwrap();
    assert!(first.starts_with(r#"["tick","#), "{first}");
    stop.store(true, Ordering::Release);
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn late_records_dead_letters_and_alerts_have_their_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let input = concat!(env!("CARGO_MANIFEST_DIR"), "/readings.jsonl");
    let output = example("late_and_dead").arg(input).arg(folder.path()).output().unwrap();
    assert!(lines(&output).is_empty());
    let read = |name: &str| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut averages: Vec<_> = read("averages.jsonl")
        .iter()
        .map(|row| format!("{} {} {}", row["start"], row["key"].as_str().unwrap(), row["value"]))
        .collect();
    averages.sort_unstable();
    assert_eq!(
        averages,
        [
            "1700000000000 d1 22.0",
            "1700000000000 d2 30.5",
            "1700000010000 d1 24.0",
            "1700000010000 d2 28.0",
        ]
    );
    let temps = |name: &str| -> Vec<f64> {
        read(name).iter().map(|reading| reading["temp"].as_f64().unwrap()).collect()
    };
    assert_eq!(temps("late.jsonl"), [99.0]);
    assert_eq!(temps("alerts.jsonl"), [31.5, 99.0]);
    let dead: Vec<_> =
        read("dead.jsonl").iter().map(|r| r["cause"].as_str().unwrap().to_owned()).collect();
    assert_eq!(dead, ["wrong_type", "malformed", "missing_field"]);
}

#[test]
fn in_order_sorts_readings_and_knows_after_its_end_what_it_has_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let input = concat!(env!("CARGO_MANIFEST_DIR"), "/readings.jsonl");
    let state = folder.path().join("state");
    let run = || lines(&example("in_order").arg(input).arg(&state).output().unwrap());
    let times: Vec<_> = run()
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|reading| reading["ts"].as_i64().unwrap() - 1_700_000_000_000)
        .collect();
    // The reading of 4,000 came more than 5 s late: it is passed on when it comes.
    let in_order: Vec<_> = times.iter().copied().filter(|&time| time != 4_000).collect();
    assert_eq!(in_order, [0, 1_000, 5_000, 9_000, 9_500, 11_000, 13_000, 14_000]);
    assert_eq!(times.len(), 9);
    assert_eq!(run(), [""; 0], "again with the same state: nothing is new");
}

/// Publishes readings again and again, each round in windows of its own, until told to stop: when
/// the example has subscribed is not known.
fn publish(broker: &MqttConfig, stop: &AtomicBool) {
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let begin = 1_700_000_000_000_i64 + round * 60_000;
        let readings = [(0, 20.0), (4_000, 21.0), (9_000, 25.0), (13_000, 0.0)];
        let readings = Collection::new(readings.map(|(ms, temp)| (begin + ms, temp)));
        let broker = broker.clone();
        let job = Job::new("publisher", move |flow| {
            flow.source(readings.clone(), Watermarks::monotonous())
                .map(|(ts, temp)| format!(r#"{{"ts":{ts},"temp":{temp:?}}}"#))
                .sink(MqttSink::new(broker.clone(), "sensors/d7/temp", Plain));
        });
        job.run_with(&RuntimeConfig { shards: 1, ..RuntimeConfig::default() }).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
}

/// Text as it is.
#[derive(Clone)]
struct Plain;

impl Encode<String> for Plain {
    fn encode(&mut self, value: &String, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
}

#[test]
fn averages_reads_a_broker_and_drains_on_a_signal() {
    let broker = Broker::start().unwrap();
    let url = broker.url_v5();
    let child = example("averages").arg(&url).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Killed(child);
    let output = child.0.stdout.take().unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let config: MqttConfig = url.parse().unwrap();
    let publisher = thread::spawn(move || publish(&config, &stopped));
    // The first round may have begun before the subscription: the average of the second is whole.
    let mut rows = BufReader::new(output).lines().map(Result::unwrap);
    let is_whole = |row: String| {
        let row = serde_json::from_str::<serde_json::Value>(&row).unwrap();
        row["key"] == "d7" && row["value"] == 22.0 && row["start"] != 1_700_000_000_000_i64
    };
    assert!(rows.by_ref().any(is_whole));
    stop.store(true, Ordering::Release);
    publisher.join().unwrap();

    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    // Its output stays open to the end, or it would rightly complain.
    rows.for_each(drop);
    assert!(child.0.wait().unwrap().success());
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended by itself unless the test failed.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
