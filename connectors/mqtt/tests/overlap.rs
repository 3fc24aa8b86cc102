//! Filters that overlap, against mosquitto: a message counts once, whichever way it is delivered.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::time::Duration;

use common::hand::Hand;
use common::{Line, Shard, numbers, publish, wait_for_log};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttSource, Qos, Version};

/// What comes of 20 numbers on each of these topics.
fn counted(
    broker: &Mosquitto,
    id: &str,
    version: Version,
    filters: &[&str],
    topics: &[&str],
) -> Vec<String> {
    let before = broker.log().matches("Sending SUBACK").count();
    let config = broker.config().version(version).client_id(id).qos(Qos::ExactlyOnce);
    let source =
        filters.iter().fold(MqttSource::new(config, Line), |source, filter| source.topic(*filter));
    let subscribed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&subscribed);
    let source =
        source.on_subscribed(move || told.store(true, std::sync::atomic::Ordering::SeqCst));
    let mut shard = Shard::open_in(&source, &Hand::swift().context());
    wait_for_log(broker, "Sending SUBACK", before + 1);
    common::wait_until("subscribed", || subscribed.load(std::sync::atomic::Ordering::SeqCst));
    for (at, topic) in topics.iter().enumerate() {
        // QoS 0 and 1, too.
        publish(broker, topic, at as u8 % 3, &numbers(0..20));
    }
    shard.run_until(20 * topics.len());
    shard.run_for(Duration::from_millis(100));
    shard.stop();
    shard.seen.lines
}

fn each(topics: &[(&str, &str)]) -> Vec<String> {
    let line = |(topic, bound): &(&str, &str), n| format!("{topic} {n}{bound}");
    topics.iter().flat_map(|topic| (0..20).map(move |n| line(topic, n))).collect()
}

/// Goal: mosquitto sends a copy for each subscription with MQTT 5, and with MQTT 3.1.1 where it is told to.
#[test]
fn a_message_counts_once_for_several_filters() {
    for version in [Version::V5, Version::V311] {
        for copies in ["false", "true"] {
            let options = Mosquitto::options().line(&format!("allow_duplicate_messages {copies}"));
            let Some(broker) = options.start() else { return };
            // One covers the other, and the first in order names the levels.
            let filters = ["s/{device}/temp", "s/#"];
            let lines = counted(&broker, "one", version, &filters, &["s/d1/temp", "s/d1/x"]);
            let expected = each(&[("s/d1/temp", " device=d1"), ("s/d1/x", "")]);
            assert_eq!(lines, expected, "{version:?}, copies {copies}");
            // They cover each other in part.
            let filters = ["s/{a}/c", "s/b/{c}", "{s}/b/c"];
            let topics = ["s/b/c", "s/x/c", "s/b/x", "t/b/c"];
            let lines = counted(&broker, "other", version, &filters, &topics);
            let bound = [" a=b", " a=x", " c=x", " s=t"];
            let topics: Vec<_> = topics.into_iter().zip(bound).collect();
            assert_eq!(lines, each(&topics), "{version:?}, copies {copies}");
        }
    }
}
