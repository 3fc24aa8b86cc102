//! Goal: through a real broker, counts per device and window are exactly the counts of the input. They are on
//! 1, 2 and 8 shards, and on both drivers.
//!
//! Method: four `mosquitto_pub` processes publish 100,000 generated readings of 200 devices at
//! QoS 1, while one job on each driver counts them. Both are compared with a naive count of the very
//! lines that were published.
//!
//! Why nothing may be missing: the jobs have subscribed before the first message is published. QoS 1 repeats what
//! was not acknowledged, and this mosquitto drops nothing. By default it would: it holds 1,000 messages for a
//! subscriber that lags and drops the rest, QoS 1 or not. (`max_queued_messages`; 0 is no bound, and
//! [`Mosquitto::options`] sets it.) `max_inflight_messages 0` lets the source's own receive window count, instead
//! of 20 messages at a time.
//!
//! Why nothing is late: the groups race each other, by seconds on a loaded machine. So the allowed disorder is
//! wider than the hour that the event times span.
//!
//! Why nothing is twice: connections do not break here. `restart.rs` is about those that do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use thalweg::prelude::*;
use thalweg_mqtt::testing::Mosquitto;

const MESSAGES: usize = 100_000;
const GROUPS: usize = 4;
const DEVICES: usize = 200;
const WINDOW_MS: i64 = 600_000;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, Deserialize)]
struct Reading {
    /// From the topic.
    group: Str,
    device: Str,
    ts: i64,
}

/// Rows by group, device and start of the window.
type Counts = BTreeMap<(String, String, i64), u64>;

/// The lines of each group. A device's readings are spread unevenly, over an hour.
fn input() -> Vec<String> {
    let mut groups = vec![String::new(); GROUPS];
    for n in 0..MESSAGES {
        let device = (n * n / 7 + n) % DEVICES;
        let ts = 1_700_000_000_000 + (n * 36 + n * 7_919 % 5_000) as i64;
        let value = n % 1_000;
        groups[device % GROUPS] +=
            &format!("{{\"ts\": {ts}, \"device\": \"d{device:03}\", \"value\": {value}}}\n");
    }
    groups
}

/// What must come out, computed from the lines by another parser.
fn naive(groups: &[String]) -> Counts {
    let mut counts = Counts::new();
    for (group, lines) in groups.iter().enumerate() {
        for line in lines.lines() {
            let reading: serde_json::Value = serde_json::from_str(line).unwrap();
            let device = reading["device"].as_str().unwrap().to_owned();
            let ts = reading["ts"].as_i64().unwrap();
            *counts.entry((format!("g{group}"), device, ts - ts % WINDOW_MS)).or_default() += 1;
        }
    }
    counts
}

/// A job that counts, and what it has done so far.
struct Counting {
    running: thalweg::runtime::Running,
    out: Collected<Windowed<(Str, Str), u64>>,
    arrived: Arc<AtomicU64>,
}

fn start(broker: &Mosquitto, driver: DriverKind, shards: usize) -> Counting {
    let (out, arrived) = (Collected::new(), Arc::new(AtomicU64::new(0)));
    let subscribed = Arc::new(AtomicU64::new(0));
    let source = MqttSource::new(broker.config(), Json::<Reading>::new())
        .topic("sensors/{group}/temp")
        .on_subscribed({
            let subscribed = Arc::clone(&subscribed);
            move || {
                let _ = subscribed.fetch_add(1, Ordering::Release);
            }
        });
    let (sink, tally) = (out.sink(), Arc::clone(&arrived));
    let job = Job::new("counts", move |flow| {
        let tally = Arc::clone(&tally);
        flow.source(
            source.clone(),
            Watermarks::bounded_out_of_orderness(secs(7_200)).timestamps(|r: &Reading| r.ts),
        )
        .inspect(move |_, _| {
            let _ = tally.fetch_add(1, Ordering::Relaxed);
        })
        .key_by(|r| (r.group.clone(), r.device.clone()))
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
        .aggregate(Count)
        .sink(sink.clone());
    });
    let running = job.start(&RuntimeConfig { driver, shards, ..RuntimeConfig::default() }).unwrap();
    wait_for("a subscription", || subscribed.load(Ordering::Acquire) > 0);
    Counting { running, out, arrived }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn publisher(broker: &Mosquitto, group: usize) -> Child {
    Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-l"])
        .args(["-t", &format!("sensors/g{group}/temp")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Publishes all groups at once; returns when the broker has acknowledged everything.
fn publish(broker: &Mosquitto, groups: &[String]) {
    thread::scope(|scope| {
        for (group, lines) in groups.iter().enumerate() {
            let mut child = publisher(broker, group);
            scope.spawn(move || {
                child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
                assert!(child.wait().unwrap().success(), "mosquitto_pub failed");
            });
        }
    });
}

fn check(shards: usize) {
    let Some(broker) = Mosquitto::options().line("max_inflight_messages 0").start() else { return };
    let groups = input();
    let expected = naive(&groups);
    assert_eq!(expected.values().sum::<u64>(), MESSAGES as u64);
    let drivers = [DriverKind::Glommio, DriverKind::Threads];
    let jobs = drivers.map(|driver| start(&broker, driver, shards));
    publish(&broker, &groups);
    for (driver, Counting { running, out, arrived }) in drivers.into_iter().zip(jobs) {
        wait_for("end of the messages", || arrived.load(Ordering::Relaxed) >= MESSAGES as u64);
        running.stop();
        let metrics = running.wait().unwrap();
        assert_eq!(metrics.total("numLateRecordsDropped"), 0, "{driver}, {shards} shards");
        assert_eq!(metrics.total("numDeadLetters"), 0, "{driver}, {shards} shards");
        let rows: Vec<_> = out.take();
        let number = rows.len();
        let counts: Counts = rows
            .into_iter()
            .map(|row| {
                let (group, device) = row.key;
                ((group.into(), device.into(), row.start.as_millis()), row.value)
            })
            .collect();
        assert_eq!(number, counts.len(), "one row for a device and window");
        assert!(counts == expected, "{driver}, {shards} shards: counts differ from the input's");
    }
}

#[test]
fn counts_are_exact_on_one_shard() {
    check(1);
}

#[test]
fn counts_are_exact_on_two_shards() {
    check(2);
}

#[test]
fn counts_are_exact_on_eight_shards() {
    check(8);
}
