//! Goal: three readings, and then silence: their row comes by the clock, and the log says so once. What comes for the row
//! afterwards is late, and the log says who made it late. A device whose clock is fast is named, and makes nobody late.
//!
//! Method: `thalweg run` on a private mosquitto, with the clients of mosquitto. Readings are of now or of 2023.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use common::{Program, file, thalweg};
use thalweg_mqtt::testing::Mosquitto;

fn publish(broker: &Mosquitto, ts: u128) {
    publish_of(broker, "a", ts);
}

fn publish_of(broker: &Mosquitto, device: &str, ts: u128) {
    let port = broker.port().to_string();
    let payload = format!("{{\"ts\":{ts},\"temp\":1}}");
    let topic = format!("sensors/{device}/temp");
    let args = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", &topic, "-m", &payload];
    assert!(Command::new("mosquitto_pub").args(args).status().unwrap().success());
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

/// Sends three readings of one window and waits for its row.
fn closes(first: impl Fn() -> u128) {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let toml = format!(
        "[source]\nmqtt = 'mqtt://127.0.0.1:{}'\ntopics = ['sensors/{{device}}/temp']\n\
         [fields]\nvalue = 'temp'\n[window]\nsize = '2s'\nout_of_orderness = '200ms'\nclose_after = '1s'\n\
         [sink.stdout]\n[engine]\nshards = 2\n",
        broker.port()
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    let start = first() / 2_000 * 2_000 + 2_000;
    for n in 0..3 {
        publish(&broker, start + n);
    }
    let published = Instant::now();
    program.says(&format!("\"start\":{start},\"end\":{},\"count\":3", start + 2_000));
    assert!(published.elapsed() < Duration::from_secs(30), "{:?}", published.elapsed());
    program.says("windows close by the clock");
    publish(&broker, start + 3);
    program.says("late, and count nowhere; the newest is of \"a\" at ");
    program.says("the clock has moved time there while nothing came");
    program.signal("TERM");
    let ended = program.finish();
    assert_eq!(ended.err.matches("close by the clock").count(), 1, "{}", ended.err);
    assert!(ended.err.contains("late=1"), "{}", ended.err);
    let rows = ended.ok();
    assert_eq!(rows.matches("\"start\"").count(), 1, "{rows}");
}

/// Goal: of two devices one is four minutes fast. It is named, and the readings of the other count.
#[test]
fn a_device_whose_clock_is_fast_is_named_and_makes_nobody_late() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let toml = format!(
        "[source]\nmqtt = 'mqtt://127.0.0.1:{}'\ntopics = ['sensors/{{device}}/temp']\n\
         [fields]\nvalue = 'temp'\n[window]\nsize = '1s'\nout_of_orderness = '500ms'\nclose_after = '1s'\n\
         [sink.stdout]\n[engine]\nshards = 2\n",
        broker.port()
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    for n in 0..10 {
        if n % 3 == 1 {
            publish_of(&broker, "fast", now_ms() + 240_000);
        }
        publish_of(&broker, "good", now_ms());
    }
    program.says("the clock of fast is fast: a record is 3m 59s");
    program.says("windows close by the clock");
    program.signal("TERM");
    let ended = program.finish();
    assert!(ended.err.contains("late=0"), "{}", ended.err);
    assert_eq!(ended.err.matches("the clock of fast").count(), 1, "{}", ended.err);
    let rows = ended.ok();
    let good = rows.lines().filter(|line| line.contains("\"key\":\"good\""));
    let counts = good.map(|line| line.split("\"count\":").nth(1).unwrap());
    let counts = counts.map(|rest| rest.split(',').next().unwrap().parse::<u32>().unwrap());
    assert_eq!(counts.sum::<u32>(), 10, "{rows}");
}

#[test]
fn readings_of_now_have_their_row_when_the_window_is_over() {
    closes(now_ms);
}

#[test]
fn readings_of_long_ago_have_their_row_after_the_silence() {
    closes(|| 1_700_000_000_000);
}
