//! Goal: `thalweg run` from a real broker gives every reading a place in a result. SIGTERM makes
//! open windows come out, and results reach a broker, too.
//!
//! Method: a private mosquitto and its own clients. The program is known to listen when its log says
//! that it has subscribed. From then on nothing of QoS 1 may be missing, so results are exact.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Program, file, thalweg, wait_for_acks};
use serde_json::Value;
use thalweg_mqtt::testing::Mosquitto;

/// Two of its readings in each full window of ten seconds, and an open one at the end.
fn lines(device: usize, count: usize) -> String {
    (0..count)
        .map(|n| {
            let ts = 1_700_000_000_000_u64 + n as u64 * 5_000;
            format!("{{\"ts\":{ts},\"temp\":{}}}\n", device * 100 + n)
        })
        .collect()
}

fn publish(broker: &Mosquitto, args: &[&str], input: &[u8]) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1"])
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success());
}

fn job(broker: &Mosquitto, sink: &str) -> String {
    format!(
        "[source]\nmqtt = 'mqtt://127.0.0.1:{}'\ntopics = ['sensors/{{device}}/temp']\n\
         [fields]\nvalue = 'temp'\n[window]\nsize = '10s'\nout_of_orderness = '1h'\n{sink}\n\
         [engine]\nshards = 2\n",
        broker.port()
    )
}

/// Counts by (key, start).
fn counts(text: &str) -> BTreeMap<(String, i64), u64> {
    let rows = text.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let key = row["key"].as_str().unwrap().to_owned();
        ((key, row["start"].as_i64().unwrap()), row["count"].as_u64().unwrap())
    });
    rows.collect()
}

fn expected(devices: usize, count: usize) -> BTreeMap<(String, i64), u64> {
    let mut counts = BTreeMap::new();
    for device in 0..devices {
        for n in 0..count as i64 {
            let start = 1_700_000_000_000 + n * 5_000 / 10_000 * 10_000;
            *counts.entry((format!("d{device}"), start)).or_default() += 1;
        }
    }
    counts
}

fn named(toml: &str, id: &str) -> String {
    toml.replacen("'\ntopics", &format!("?client_id={id}'\ntopics"), 1)
}

#[test]
fn readings_come_out_on_standard_output_and_sigterm_drains() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let toml = file(dir.path(), "job.toml", named(&job(&broker, "[sink.stdout]"), "measure"));
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    for device in 0..5 {
        publish(
            &broker,
            &["-t", &format!("sensors/d{device}/temp"), "-l"],
            lines(device, 21).as_bytes(),
        );
    }
    wait_for_acks(&broker, "measure", 5 * 21);
    program.signal("TERM");
    let outcome = program.finish();
    assert!(outcome.err.contains("draining"), "{}", outcome.err);
    assert!(!outcome.err.contains('\u{1b}'), "no colours in a pipe: {}", outcome.err);
    assert_eq!(counts(&outcome.ok()), expected(5, 21));
}

/// Goal: a reading that several topics of the source match counts once. Mosquitto sends it once for each, with MQTT 5.
#[test]
fn a_reading_that_several_topics_match_counts_once() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (id, topics) in [
        ("covered", "['sensors/{device}/temp', 'sensors/#']"),
        ("partly", "['sensors/{device}/temp', 'sensors/d0/{what}']"),
    ] {
        let job = named(&job(&broker, "[sink.stdout]"), id);
        let job = job.replace("['sensors/{device}/temp']", topics);
        let job = job.replace("value = 'temp'", "value = 'temp'\nkey = 'device'");
        let toml = file(dir.path(), "job.toml", job);
        let mut program = Program::start(&mut thalweg(&["run", &toml]));
        program.says("subscribed to");
        publish(&broker, &["-t", "sensors/d0/temp", "-l"], lines(0, 21).as_bytes());
        wait_for_acks(&broker, id, 21);
        program.signal("TERM");
        assert_eq!(counts(&program.finish().ok()), expected(1, 21), "{topics}");
    }
}

#[test]
fn results_reach_a_broker() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sink = format!(
        "[sink.mqtt]\nurl = 'mqtt://127.0.0.1:{}'\ntopic = 'averages/{{key}}'",
        broker.port()
    );
    let rows = expected(3, 21);
    let port = broker.port().to_string();
    let mut watch = Command::new("mosquitto_sub");
    watch.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "averages/#", "-v"]);
    watch.args(["-C", &rows.len().to_string(), "-W", "60"]);
    let watch = Program::start(&mut watch);
    let deadline = Instant::now() + PATIENCE;
    while !broker.log().contains("averages/# (QoS 1)") {
        assert!(Instant::now() < deadline, "mosquitto_sub did not subscribe");
        thread::sleep(Duration::from_millis(5));
    }

    let toml = file(dir.path(), "job.toml", named(&job(&broker, &sink), "measure"));
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    for device in 0..3 {
        publish(
            &broker,
            &["-t", &format!("sensors/d{device}/temp"), "-l"],
            lines(device, 21).as_bytes(),
        );
    }
    wait_for_acks(&broker, "measure", 3 * 21);
    program.signal("INT");
    program.finish().ok();
    let out = watch.finish().ok();
    let results: String = out
        .lines()
        .map(|line| {
            let (topic, row) = line.split_once(' ').unwrap();
            let value: Value = serde_json::from_str(row).unwrap();
            assert_eq!(topic, format!("averages/{}", value["key"].as_str().unwrap()));
            format!("{row}\n")
        })
        .collect();
    assert_eq!(counts(&results), rows);
}

/// Goal: a drain that cannot end, because the sink's broker is away, ends at the second signal. What
/// is lost by that is not called a success.
#[test]
fn a_second_signal_ends_a_drain_that_cannot_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    // The second line tells that the first was read: it becomes a dead letter.
    let lines = "{\"device\":\"d\",\"ts\":1,\"value\":1}\nnonsense\n";
    let input = file(dir.path(), "in.jsonl", lines);
    let dead = dir.path().join("dead.jsonl");
    let toml = format!(
        "[source]\nfiles = ['{input}']\n[window]\nsize = '1s'\n[dead_letters]\npath = '{}'\n\
         [sink.mqtt]\nurl = 'mqtt://127.0.0.1:1'\ntopic = 'out/{{key}}'\n",
        dead.display()
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("not connected");
    let deadline = Instant::now() + PATIENCE;
    while !dead.metadata().is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < deadline, "no dead letter");
        thread::sleep(Duration::from_millis(5));
    }
    program.signal("TERM");
    program.says("draining");
    // Not the same wish: see `SAME_WISH`.
    thread::sleep(Duration::from_millis(700));
    program.signal("TERM");
    let err = program.finish().failed(1);
    assert!(err.contains("without draining: what was in flight is lost"), "{err}");
}

/// Goal: a drain ends, whatever becomes of the sink's broker, and what it leaves is counted.
#[test]
fn a_drain_whose_sink_has_no_broker_ends_in_bounded_time_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", "{\"device\":\"d\",\"ts\":1,\"value\":1}\n");
    let toml = format!(
        "[source]\nfiles = ['{input}']\n[window]\nsize = '1s'\n[engine]\nshards = 2\n\
         [sink.mqtt]\nurl = 'mqtt://127.0.0.1:1'\ntopic = 'out/{{key}}'\nstop_timeout = '200ms'\n"
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("not connected");
    program.signal("TERM");
    let err = program.finish().failed(1);
    assert!(err.contains("1 results were not delivered within the 200ms of stop_timeout"), "{err}");
    assert!(err.contains("\"out/d\"") && err.contains("the broker is away"), "{err}");
}

/// Goal: a key that no topic may hold costs its own result alone, with state and without.
#[test]
fn a_key_that_no_topic_may_hold_costs_its_own_result_alone() {
    let Some(broker) = Mosquitto::start() else { return };
    for state in ["", "[state]\ndir = '{dir}/state'\ninterval = '100ms'\n"] {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join("dead.jsonl");
        let state = state.replace("{dir}", &dir.path().display().to_string());
        let port = broker.port();
        let toml = format!(
            "name = 'keys'\n[source]\nmqtt = 'mqtt://127.0.0.1:{port}?client_id=keys'\ntopics = ['in']\n\
             [fields]\nvalue = 'temp'\n[window]\nsize = '10s'\n\
             [sink.mqtt]\nurl = 'mqtt://127.0.0.1:{port}'\ntopic = 'averages/{{key}}'\n\
             [dead_letters]\npath = '{}'\n{state}",
            dead.display()
        );
        let toml = file(dir.path(), "job.toml", toml);
        let mut watch = Command::new("mosquitto_sub");
        watch.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", "averages/#"]);
        let watch = Program::start(watch.args(["-C", "2", "-W", "60", "-i", "watch"]));
        let deadline = Instant::now() + PATIENCE;
        while broker.log().matches("averages/# (QoS 1)").count()
            < if state.is_empty() { 1 } else { 2 }
        {
            assert!(Instant::now() < deadline, "mosquitto_sub did not subscribe");
            thread::sleep(Duration::from_millis(5));
        }
        let mut program = Program::start(&mut thalweg(&["run", &toml]));
        program.says("subscribed to");
        let reading = |key: &str, after_s: u64| {
            let ts = 1_700_000_000_000 + after_s * 1_000;
            format!("{{\"device\":\"{key}\",\"ts\":{ts},\"temp\":1}}\n")
        };
        let bad = ["d\\u0007", "d\\u0085", "d\\ufdd0", "d\\u0000", "a+", "#"];
        let lines: String = bad
            .iter()
            .map(|key| reading(key, 0))
            .chain([0, 20, 40].map(|after_s| reading("good", after_s)))
            .collect();
        publish(&broker, &["-t", "in", "-l"], lines.as_bytes());
        let rows = counts(&watch.finish().ok());
        let good = |start: i64| (("good".to_owned(), 1_700_000_000_000 + start), 1);
        assert_eq!(rows, BTreeMap::from([good(0), good(20_000)]));
        let deadline = Instant::now() + PATIENCE;
        let letters = || std::fs::read_to_string(&dead).unwrap_or_default();
        while letters().lines().count() < bad.len() {
            assert!(Instant::now() < deadline, "{}", letters());
            thread::sleep(Duration::from_millis(5));
        }
        program.signal("TERM");
        let _rows = program.finish().ok();
        let letters = letters();
        for why in ["U+0007", "U+0085", "U+FDD0", "U+0000", "wildcard"] {
            assert!(letters.contains(why), "{why}: {letters}");
        }
        assert!(!broker.log().contains("malformed packet"), "{}", broker.log());
    }
}

/// Goal: what no device should send costs nobody else a reading, and is counted.
#[test]
fn hostile_messages_become_dead_letters_and_the_rest_counts() {
    let Some(broker) = Mosquitto::options().line("message_size_limit 0").start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("dead.jsonl");
    let sink = format!("[sink.stdout]\n[dead_letters]\npath = '{}'", dead.display());
    let toml = file(dir.path(), "job.toml", named(&job(&broker, &sink), "measure"));
    publish(&broker, &["-t", "sensors/old/temp", "-r", "-m", "{\"ts\":1,\"temp\":1}"], b"");
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    let topic = "sensors/d0/temp";
    publish(&broker, &["-t", topic, "-l"], lines(0, 10).as_bytes());
    publish(&broker, &["-t", topic, "-n"], b"");
    publish(&broker, &["-t", topic, "-s"], b"\xff\xfe\x00");
    publish(&broker, &["-t", topic, "-s"], format!("{{\"x\":{}", "[".repeat(100_000)).as_bytes());
    publish(&broker, &["-t", topic, "-s"], &vec![b'1'; 300 * 1024]);
    // Over packet_bytes_max: read past.
    publish(&broker, &["-t", topic, "-s"], &vec![b'1'; (1 << 20) + 1]);
    publish(&broker, &["-t", topic, "-q", "2", "-m", "{\"ts\":1700000045000,\"temp\":1}"], b"");
    let long = format!("sensors/{}/temp", "x".repeat(60_000));
    publish(&broker, &["-t", &long, "-m", "{\"ts\":1700000000000,\"temp\":1}"], b"");
    let wide = "{\"ts\":1700000000000,\"temp\":1e400}";
    publish(&broker, &["-t", topic, "-m", wide], b"");
    // The retained one is acknowledged too, though it is no event.
    wait_for_acks(&broker, "measure", 1 + 10 + 5 + 1 + 1 + 1);
    program.signal("TERM");
    let outcome = program.finish();
    assert!(outcome.err.contains("dead_letters=6"), "{}", outcome.err);
    let mut rows = counts(&outcome.ok());
    let long_key = rows.remove(&("x".repeat(60_000), 1_700_000_000_000));
    assert_eq!(long_key, Some(1));
    let mut all = expected(1, 10);
    *all.entry(("d0".into(), 1_700_000_040_000)).or_default() += 1;
    assert_eq!(rows, all);
    let dead = std::fs::read_to_string(dead).unwrap();
    let mut causes: Vec<String> = dead
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["cause"].to_string())
        .collect();
    causes.sort();
    let expected =
        ["invalid_utf8", "malformed", "not_a_number", "too_deep", "too_large", "too_large"];
    assert_eq!(causes, expected.map(|cause| format!("\"{cause}\"")), "{dead}");
}

/// Goal: what a broker repeats, because it was not acknowledged in time, counts once if its publisher numbers it.
/// And a job that is suspended tells its last figures.
///
/// Method: acknowledgements go with checkpoints, of which there is none before the end. So a broker that
/// was restarted repeats all it has delivered, with DUP, to the job.
#[test]
fn what_the_broker_repeats_counts_once_where_it_is_numbered() {
    let Some(mut broker) = Mosquitto::options().persistent().start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let numbered = format!(
        "name = 'numbered'\n{}[deduplicate]\nproperty = 'seq'\n[state]\ndir = '{at}/state'\ninterval = '1h'\n",
        job(&broker, "[sink.stdout]")
    );
    let id = "measure&durability=ack_on_checkpoint&recognise_repeats=false";
    let toml = file(dir.path(), "job.toml", named(&numbered, id));
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    let send = |broker: &Mosquitto, after_ms: u64, seq: &str| {
        let reading = format!("{{\"ts\":{},\"temp\":1}}", 1_700_000_000_000 + after_ms);
        let property = ["-D", "publish", "user-property", "seq", seq];
        let args = ["-V", "mqttv5", "-t", "sensors/d0/temp", "-m", &reading];
        publish(broker, &[&args[..], &property].concat(), b"");
    };
    for n in 0..7 {
        send(&broker, n, &n.to_string());
    }
    // Not a number: no reading.
    send(&broker, 7, "seven");
    let wait_for_all = |broker: &Mosquitto, dup: &str| {
        let (deadline, to) =
            (Instant::now() + PATIENCE, format!("Sending PUBLISH to measure ({dup}, q1"));
        while broker.log().matches(&to).count() < 8 {
            assert!(Instant::now() < deadline, "not all delivered with {dup}:\n{}", broker.log());
            thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for_all(&broker, "d0");
    broker.save();
    broker.restart();
    wait_for_all(&broker, "d1");
    // Everything before it has been taken once its own window is out: that of the first seven is, too.
    send(&broker, 20_000, "8");
    send(&broker, 7_200_000, "9");
    program.says("1700000020000");
    program.signal("TERM");
    let outcome = program.finish();
    assert!(outcome.err.contains("repeated=7"), "{}", outcome.err);
    assert!(outcome.err.contains("records=16 "), "{}", outcome.err);
    assert!(outcome.err.contains("dead_letters=2 "), "{}", outcome.err);
    let rows = counts(&outcome.ok());
    let first = ("d0".to_owned(), 1_700_000_000_000);
    assert_eq!(rows.get(&first), Some(&7), "{rows:?}");
}

/// Goal: a journal that is damaged ends the program with what is damaged and what to do, not one attempt after
/// the other.
#[test]
fn a_damaged_journal_is_final() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let state = format!(
        "name = 'damaged'\n{}[state]\ndir = '{at}/state'\ninterval = '1h'\n[restart.fixed]\ndelay = '1ms'\n\
         restarts_max = 1000000\n",
        job(&broker, "[sink.stdout]")
    );
    let toml = file(dir.path(), "job.toml", named(&state, "measure"));
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    publish(&broker, &["-t", "sensors/d0/temp", "-l"], lines(0, 5).as_bytes());
    wait_for_acks(&broker, "measure", 5);
    // As `kill -9` does.
    drop(program);
    let journals = std::fs::read_dir(dir.path().join("state/journal")).unwrap();
    let journal = journals.map(|entry| entry.unwrap().path()).next().unwrap();
    for segment in std::fs::read_dir(journal).unwrap() {
        let path = segment.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let err = Program::start(&mut thalweg(&["run", &toml])).finish().failed(1);
    assert!(err.contains("is damaged") && err.contains("Restore the file from a copy"), "{err}");
    assert!(!err.contains("restart_in"), "{err}");
}

/// Goal: a job goes on from a savepoint in another directory, where there is no journal yet. It has what its
/// windows held, and what its broker kept meanwhile.
#[test]
fn a_savepoint_moves_a_job_to_another_directory() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (database, saved) = (path("results.db"), path("saved"));
    let sink = format!("[sink.sqlite]\npath = '{database}'\ntable = 'averages'");
    let job = format!("name = 'moved'\n{}", named(&job(&broker, &sink), "moved"));
    let with_state = |name: &str, more: &str| {
        let state = format!("[state]\ndir = '{}'\ninterval = '50ms'\n{more}", path(name));
        file(dir.path(), &format!("{name}.toml"), format!("{job}{state}"))
    };
    let topic = ["-t", "sensors/d0/temp", "-l"];

    let mut here = Program::start(&mut thalweg(&["run", &with_state("here", "")]));
    here.says("subscribed to");
    publish(&broker, &topic, lines(0, 21).as_bytes());
    wait_for_acks(&broker, "moved", 21);
    common::run(&["savepoint", &path("here"), &saved, "--stop"]).ok();
    here.finish().ok();

    // Two hours later than allowed: every window before it is complete.
    let last = format!("{{\"ts\":{},\"temp\":0}}\n", 1_700_000_000_000_u64 + 7_200_000);
    publish(&broker, &topic, last.as_bytes());
    let there = with_state("there", &format!("savepoint = '{saved}'"));
    let mut there = Program::start(&mut thalweg(&["run", &there]));
    there.says("subscribed to");
    let count = || {
        let results = rusqlite::Connection::open(&database).ok()?;
        let sum = "SELECT sum(count) FROM averages";
        results.query_row(sum, [], |row| row.get::<_, Option<i64>>(0)).ok()?
    };
    let deadline = Instant::now() + PATIENCE;
    while count() != Some(21) {
        assert!(Instant::now() < deadline, "{:?} of 21 readings are in results", count());
        thread::sleep(Duration::from_millis(20));
    }
    there.signal("TERM");
    there.finish().ok();
}
