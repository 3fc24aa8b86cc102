//! Every version and quality of service, both ways.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use common::{Line, Shard, Text, Writer, numbers, publish, subscribed};
use thalweg_mqtt::testing::{Mosquitto, Rumqttd};
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource, Qos, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

#[test]
fn the_source_gets_each_message_once_and_in_order() {
    let Some(broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        for qos in QOS {
            let config = broker.config().version(version).qos(qos);
            let mut shard = subscribed(&broker, config, "in/{device}");
            for device in ["a", "b"] {
                publish(&broker, &format!("in/{device}"), qos as u8, &numbers(0..1_500));
            }
            shard.run_until(3_000);
            shard.stop();
            let mut expected = Vec::new();
            for device in ["a", "b"] {
                expected.extend((0..1_500).map(|n| format!("in/{device} {n} device={device}")));
            }
            assert!(shard.seen.lines == expected, "{version:?} {qos:?}");
            assert!(shard.seen.dead.is_empty());
        }
    }
}

/// Sink to source through one broker.
fn round_trip(config: &MqttConfig, qos: Qos, topic: &'static str, count: usize) {
    let config = config.clone().qos(qos);
    let mut shard = Shard::open(&MqttSource::new(config.clone(), Line).topic(topic));
    // A retained probe would be skipped, so probe until the subscription answers.
    let mut writer = Writer::open(&MqttSink::new(config, topic, Text));
    while shard.seen.lines.is_empty() {
        writer.write(["probe".to_owned()]);
        shard.run_for(std::time::Duration::from_millis(50));
    }
    shard.run_for(std::time::Duration::from_millis(100));
    shard.seen.lines.clear();
    writer.write((0..count).map(|n| n.to_string()));
    assert!(writer.close_within(common::PATIENCE), "the sink closes");
    shard.run_until(count);
    shard.stop();
    let expected: Vec<_> = (0..count).map(|n| format!("{topic} {n}")).collect();
    assert!(shard.seen.lines == expected, "{:?}", &shard.seen.lines[..10]);
}

#[test]
fn the_sink_publishes_each_result_once_and_in_order() {
    let Some(broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        for qos in QOS {
            round_trip(&broker.config().version(version), qos, "out/x", 2_000);
        }
    }
}

#[test]
fn an_embedded_rumqttd_does_as_well() {
    let broker = Rumqttd::start();
    for (version, topic) in [(Version::V311, "four/x"), (Version::V5, "five/x")] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            round_trip(&broker.config(version), qos, topic, 500);
        }
    }
}
