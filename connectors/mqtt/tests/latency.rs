//! How long a message takes from the sink's write to the source's emission, through mosquitto on
//! loopback. Small by default, so that it cannot rot; for figures run it with
//! `MQTT_LATENCY_MESSAGES=20000 cargo test --release -p thalweg-mqtt --test latency -- --nocapture`.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{Line, PATIENCE, Shard, Text, Writer, wait_for_log};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttSink, MqttSource, Qos, Version};

#[test]
fn latency_at_a_thousand_messages_a_second() {
    let Some(broker) = Mosquitto::start() else { return };
    let count: usize =
        std::env::var("MQTT_LATENCY_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let start = Instant::now();
    let mut subacks = 0;
    for version in [Version::V311, Version::V5] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let config = broker.config().version(version).qos(qos);
            let mut shard = Shard::open(&MqttSource::new(config.clone(), Line).topic("a"));
            subacks += 1;
            wait_for_log(&broker, "Sending SUBACK", subacks);
            let publisher = thread::spawn(move || {
                let mut writer = Writer::open(&MqttSink::new(config, "a", Text));
                writer.write(["0".to_owned()]);
                thread::sleep(Duration::from_millis(100));
                let begin = Instant::now();
                for n in 0..count {
                    let due = begin + Duration::from_millis(n as u64);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    writer.write([start.elapsed().as_micros().to_string()]);
                }
                assert!(writer.close_within(PATIENCE));
            });
            let mut micros = Vec::new();
            let mut read = 1;
            shard.run_until(1);
            while micros.len() < count {
                shard.run(|seen| seen.lines.len() > read).expect("messages");
                let now = start.elapsed().as_micros() as u64;
                let sent = shard.seen.lines[read..]
                    .iter()
                    .filter_map(|line| line[2..].parse::<u64>().ok());
                micros.extend(sent.map(|sent| now - sent));
                read = shard.seen.lines.len();
            }
            publisher.join().expect("the publisher");
            shard.stop();
            micros.sort_unstable();
            let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
            println!(
                "{version:?} {qos:?}: p50 {} us, p99 {} us, p99.9 {} us, max {} us",
                at(0.5),
                at(0.99),
                at(0.999),
                at(1.0)
            );
            assert!(at(0.5) < 1_000_000);
        }
    }
}

#[test]
fn throughput_from_sink_to_source() {
    // mosquitto's default window of 20 would be what is measured.
    let Some(broker) = Mosquitto::options().line("max_inflight_messages 1000").start() else {
        return;
    };
    let count: usize = std::env::var("MQTT_THROUGHPUT_MESSAGES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000);
    let mut subacks = 0;
    for version in [Version::V311, Version::V5] {
        let config = broker.config().version(version);
        let mut shard = Shard::open(&MqttSource::new(config.clone(), Line).topic("a"));
        shard.records_max = 4_096;
        subacks += 1;
        wait_for_log(&broker, "Sending SUBACK", subacks);
        let start = Instant::now();
        let publisher = thread::spawn(move || {
            let mut writer = Writer::open(&MqttSink::new(config, "a", Text));
            writer.write((0..count).map(|n| n.to_string()));
            assert!(writer.close_within(PATIENCE));
            start.elapsed()
        });
        shard.run_until(count);
        let read = start.elapsed();
        let written = publisher.join().expect("the publisher");
        shard.stop();
        let rate = |time: Duration| count as f64 / time.as_secs_f64();
        println!(
            "{version:?} QoS 1: {:.0} msg/s written, {:.0} msg/s read",
            rate(written),
            rate(read)
        );
    }
}
