//! The counters count. A recorder is global, so this is one test in a process of its own.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::hand::Hand;
use common::peer::{PUBACK, Peer};
use common::{Line, PATIENCE, Shard, Text, Writer, publish, publish_with, subscribed, wait_until};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use thalweg_kernel::Sink;
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttSink, MqttSource, Qos, Version};

type Cells = Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>;

#[derive(Clone, Default)]
struct Cellar(Cells);

impl Cellar {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        let name = format!("{} {}", key.name(), labels.join(" "));
        Arc::clone(self.0.lock().expect("the map").entry(name).or_default())
    }

    fn value(&self, name: &str) -> u64 {
        let cells = self.0.lock().expect("the map");
        cells
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {:?}", cells.keys()))
            .load(Ordering::Relaxed)
    }
}

impl Recorder for Cellar {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn what_happens_is_counted() {
    let Some(mut broker) = Mosquitto::options().persistent().start() else { return };
    let cellar = Cellar::default();
    metrics::set_global_recorder(cellar.clone()).expect("the only recorder");
    let value = |name: &str| cellar.value(&format!("thalweg_mqtt_{name} job=test operator=mqtt"));

    publish_with(&broker, &["-t", "a/kept", "-q", "1", "-r", "-m", "old"], "");
    subscribed(&broker, broker.config().client_id("gw"), "b").stop();
    let mut shard =
        subscribed(&broker, broker.config().client_id("gw").qos(Qos::ExactlyOnce), "a/+");
    publish(&broker, "b", 1, "of a forgotten subscription\n");
    publish(&broker, "a/x", 2, "12345\n");
    shard.run_until(1);
    assert_eq!(f64::from_bits(value("connected")), 1.0);
    publish(&broker, "a/x", 2, "held\n");
    common::wait_for_log(&broker, "Received PUBLISH", 4);
    std::thread::sleep(std::time::Duration::from_millis(100));
    broker.save();
    broker.kill();
    broker.restart();
    common::wait_for_log(&broker, "Sending SUBACK", 3);
    shard.run_until(2);
    shard.stop();
    assert_eq!(f64::from_bits(value("connected")), 0.0);
    assert_eq!(value("retained_skipped_total"), 1);
    assert_eq!(value("unmatched_total"), 1);
    // Connections: two sources, one of them twice.
    assert_eq!(value("connects_total"), 3);
    // old, forgotten, 12345, held, and held again.
    assert_eq!(value("received_total"), 5);
    assert_eq!(value("received_bytes_total"), 3 + 27 + 5 + 4 + 4);
    assert_eq!(value("duplicates_total"), 1);
    assert_eq!(value("stale_acks_total"), 1);
    assert_eq!(value("acks_total"), 4);

    // The journal: two messages, one of them too large, then no room for a third when it stops.
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    hand.record_bytes_max(40);
    hand.cap(Some(1));
    let spec = MqttSource::new(peer.config(), Line).topic("a");
    let mut shard = Shard::open_in(&spec, &hand.context());
    let mut from = peer.accept(false);
    from.publish("a", 1, 1, "x");
    assert_eq!(from.acks(PUBACK, 1), [1]);
    // Behind it nothing becomes durable any more.
    from.publish("a", 1, 2, &"y".repeat(50));
    assert_eq!(from.acks(PUBACK, 1), [2]);
    from.publish("a", 1, 3, "z");
    wait_until("no room", || f64::from_bits(value("journal_stalled")) == 1.0);
    shard.run_until(1);
    shard.stop();
    drop((shard, from));
    let mut shard = Shard::open_in(&spec, &hand.context());
    shard.run_until(1);
    shard.stop();
    assert_eq!(f64::from_bits(value("journal_stalled")), 0.0);
    assert_eq!((value("journal_appended_total"), value("journal_refused_total")), (1, 1));
    assert_eq!((value("journal_full_total"), value("journal_left_total")), (1, 1));
    assert_eq!(value("journal_replayed_total"), 1);

    let mut writer = Writer::open(&MqttSink::new(broker.config(), "out", Text));
    writer.write(["12".to_owned(), "34567".to_owned()]);
    assert!(writer.close_within(PATIENCE));
    let mut wrong = Writer::open(&MqttSink::new(broker.config(), "out/#", Text));
    wrong.write(["12".to_owned()]);
    assert!(wrong.close_within(PATIENCE));
    let letter = wrong.0.refused().expect("what is dropped is a dead letter");
    assert!(letter.reason.starts_with("topic \"out/#\": "), "{letter}");
    assert_eq!(&letter.payload[..], b"12");
    assert_eq!(value("published_total"), 2);
    assert_eq!(value("published_bytes_total"), 2 + 5);
    let dropped = "thalweg_mqtt_dropped_total job=test operator=mqtt reason=invalid_topic";
    assert_eq!(cellar.value(dropped), 1);
    assert_eq!(value("republished_total"), 0);
}
