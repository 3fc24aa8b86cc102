//! A message is acknowledged when its chunk is handed over: not earlier, in order, and only on the
//! connection that delivered it.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::thread::sleep;
use std::time::Duration;

use common::{Line, Shard, numbers, publish, subscribed, wait_for_log};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttConfig, MqttSource, Qos, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn durable(broker: &Mosquitto, version: Version) -> MqttConfig {
    broker.config().version(version).client_id("gw")
}

/// The packet ids of the acknowledgements the broker has seen, in order.
fn acked(broker: &Mosquitto) -> Vec<String> {
    let log = broker.log();
    let ids = log.lines().filter_map(|line| line.split_once("Received PUBACK from gw (Mid: "));
    ids.map(|(_, id)| id.split([',', ')']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn nothing_is_acknowledged_before_the_hand_over_and_then_all_in_order() {
    let Some(broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        let before = acked(&broker).len();
        // Not polled: the messages lie in a chunk that nobody has taken.
        let shard = subscribed(&broker, durable(&broker, version).inflight(10), "a/{n}");
        publish(&broker, "a/1", 1, &numbers(0..50));
        sleep(Duration::from_millis(200));
        assert_eq!(acked(&broker).len(), before, "{version:?}");
        drop(shard);

        // A new process in all but name: what was not acknowledged comes again.
        let mut shard = subscribed(&broker, durable(&broker, version), "a/{n}");
        shard.run_until(50);
        shard.stop();
        let expected: Vec<_> = (0..50).map(|n| format!("a/1 {n} n=1")).collect();
        assert_eq!(shard.seen.lines, expected, "{version:?}");
        let ids: Vec<u32> =
            acked(&broker)[before..].iter().filter_map(|id| id.parse().ok()).collect();
        assert_eq!(ids.len(), 50, "{version:?}");
        let sent = broker.log();
        let sent: Vec<u32> = sent
            .lines()
            .filter_map(|line| {
                line.split_once("Sending PUBLISH to gw (")?.1.split(", ").nth(3)?[1..].parse().ok()
            })
            .collect();
        assert_eq!(ids, sent[sent.len() - 50..], "{version:?}: in receive order");
    }
}

#[test]
fn a_chunk_that_was_read_in_part_is_not_acknowledged() {
    let Some(broker) = Mosquitto::start() else { return };
    subscribed(&broker, durable(&broker, Version::V5), "a").stop();
    // A backlog comes in one burst, hence in few chunks.
    publish(&broker, "a", 1, &numbers(0..20));
    let mut shard = subscribed(&broker, durable(&broker, Version::V5), "a");
    sleep(Duration::from_millis(200));
    shard.records_max = 1;
    shard.run_until(1);
    sleep(Duration::from_millis(100));
    let (acked_early, read) = (acked(&broker).len(), shard.seen.lines.len());
    assert!(acked_early <= read, "{acked_early} acknowledged, {read} read");
    drop(shard);
    let mut shard = subscribed(&broker, durable(&broker, Version::V5), "a");
    shard.run_until(20 - acked_early);
    assert_eq!(shard.seen.lines.last().map(String::as_str), Some("a 19"));
}

#[test]
fn a_stop_loses_nothing_and_repeats_nothing() {
    let Some(broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        let mut seen = Vec::new();
        for round in 0..4 {
            let mut shard = subscribed(&broker, durable(&broker, version), "a");
            // Stops amid the stream, with messages in chunks and more on their way.
            publish(&broker, "a", 1, &numbers(round * 300..(round + 1) * 300));
            shard.run_until(1);
            shard.stop();
            seen.append(&mut shard.seen.lines);
            publish(&broker, "a", 1, &format!("between {round}\n"));
        }
        let mut shard = subscribed(&broker, durable(&broker, version), "a");
        let missing = 4 * 300 + 4 - seen.len();
        shard.run_until(missing);
        shard.run_for(Duration::from_millis(100));
        shard.stop();
        seen.append(&mut shard.seen.lines);
        let mut expected = Vec::new();
        for round in 0..4 {
            expected.extend((round * 300..(round + 1) * 300).map(|n| format!("a {n}")));
            expected.push(format!("a between {round}"));
        }
        assert_eq!(seen, expected, "{version:?}");
    }
    assert!(broker.log().contains("Received DISCONNECT from gw"));
}

/// Goal: an acknowledgement never crosses from one connection to the next, and what comes again counts once.
/// Method: hold ten messages over a crash of the broker, hand them over afterwards.
#[test]
fn what_was_held_over_a_reconnect_is_acknowledged_when_it_comes_again() {
    for version in VERSIONS {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let Some(mut broker) = Mosquitto::options().persistent().start() else { return };
            let mut shard = subscribed(&broker, durable(&broker, version).qos(qos), "a");
            publish(&broker, "a", qos as u8, &numbers(0..10));
            wait_for_log(&broker, "Sending PUBLISH to gw", 10);
            broker.save();
            broker.kill();
            broker.restart();
            wait_for_log(&broker, "Sending PUBLISH to gw", 20);
            sleep(Duration::from_millis(100));
            shard.run_until(10);
            shard.run_for(Duration::from_millis(200));
            shard.stop();
            let lines: Vec<_> = (0..10).map(|n| format!("a {n}")).collect();
            assert_eq!(shard.seen.lines, lines, "{version:?} {qos:?}");
            let answer = if qos == Qos::ExactlyOnce { "PUBREC" } else { "PUBACK" };
            let answers = broker.log().matches(&format!("Received {answer} from gw")).count();
            assert_eq!(
                answers, 10,
                "{version:?} {qos:?}: one per message, on the second connection"
            );
        }
    }
}

#[test]
fn a_crash_of_the_broker_mid_stream_loses_no_queued_message() {
    for version in VERSIONS {
        let Some(mut broker) = Mosquitto::options().persistent().start() else { return };
        let mut shard = subscribed(&broker, durable(&broker, version), "a");
        publish(&broker, "a", 1, &numbers(0..1_000));
        broker.save();
        shard.run_until(100);
        broker.kill();
        broker.restart();
        shard
            .run(|seen| seen.lines.iter().any(|line| line == "a 999"))
            .expect("it goes on by itself");
        publish(&broker, "a", 1, &numbers(1_000..1_500));
        shard.run(|seen| seen.lines.iter().any(|line| line == "a 1499")).expect("and on");
        shard.stop();
        let mut distinct: Vec<u32> =
            shard.seen.lines.iter().filter_map(|line| line[2..].parse().ok()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct, (0..1_500).collect::<Vec<_>>(), "{version:?}");
    }
}

#[test]
fn a_session_that_was_taken_over_is_taken_back() {
    let Some(broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        let mut shard = subscribed(&broker, durable(&broker, version), "a");
        let before = broker.log().matches("Sending SUBACK to gw").count();
        let mut thief = std::process::Command::new("mosquitto_sub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &broker.port().to_string(),
                "-i",
                "gw",
                "-c",
                "-t",
                "other",
            ])
            .spawn()
            .expect("mosquitto_sub");
        wait_for_log(&broker, "Sending SUBACK to gw", before + 1);
        let _gone = thief.kill();
        let _status = thief.wait();
        wait_for_log(&broker, "Sending SUBACK to gw", before + 2);
        publish(&broker, "a", 1, "still here\n");
        shard.run_until(1);
        shard.stop();
        assert_eq!(shard.seen.lines, ["a still here"], "{version:?}");
    }
}

#[test]
fn a_source_may_start_before_its_broker() {
    let Some(mut broker) = Mosquitto::start() else { return };
    broker.kill();
    let mut shard = Shard::open(&MqttSource::new(durable(&broker, Version::V5), Line).topic("a"));
    shard.run_for(Duration::from_millis(300));
    broker.restart();
    wait_for_log(&broker, "Sending SUBACK to gw", 1);
    publish(&broker, "a", 1, "x\n");
    shard.run_until(1);
    shard.stop();
}

#[test]
fn a_source_without_a_broker_can_be_stopped() {
    let config = MqttConfig::new("127.0.0.1").port(thalweg_mqtt::testing::free_port());
    let mut shard = Shard::open(&MqttSource::new(config, Line).topic("a"));
    shard.run_for(Duration::from_millis(50));
    shard.stop();
}

/// Goal: a stalled shard bounds what is held, and nothing is lost when it goes on.
#[test]
fn a_stalled_shard_pushes_back() {
    let Some(broker) = Mosquitto::options().line("max_inflight_messages 0").start() else { return };
    for version in VERSIONS {
        let mut shard = subscribed(&broker, durable(&broker, version).inflight(65_535), "a");
        publish(&broker, "a", 1, &numbers(0..20_000));
        sleep(Duration::from_millis(300));
        shard.records_max = 1_000;
        shard.run_until(20_000);
        shard.stop();
        let expected: Vec<_> = (0..20_000).map(|n| format!("a {n}")).collect();
        assert!(shard.seen.lines == expected, "{version:?}");
    }
}

/// Goal: chunks with nothing to acknowledge come back without a wake-up, and are found when needed.
/// Method: more of them than there are, from a shard that stalls first, then singly, then stops.
#[test]
fn at_qos_0_chunks_come_back_in_silence_and_none_is_missed() {
    let Some(broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        let config = broker.config().version(version).qos(Qos::AtMostOnce);
        let mut shard = subscribed(&broker, config, "a");
        publish(&broker, "a", 0, &numbers(0..20_000));
        sleep(Duration::from_millis(300));
        shard.records_max = 1_000;
        shard.run_until(20_000);
        for n in 20_000..20_010 {
            publish(&broker, "a", 0, &numbers(n..n + 1));
            shard.run_until(n + 1);
        }
        shard.stop();
        let expected: Vec<_> = (0..20_010).map(|n| format!("a {n}")).collect();
        assert!(shard.seen.lines == expected, "{version:?}");
    }
}

#[test]
fn a_source_that_is_dropped_while_it_pushes_back_lets_go() {
    let options = Mosquitto::options().line("max_inflight_messages 0");
    let Some(broker) = options.start() else { return };
    let config = durable(&broker, Version::V5).inflight(65_535);
    let shard = subscribed(&broker, config.clone(), "a");
    publish(&broker, "a", 1, &numbers(0..8_000));
    sleep(Duration::from_millis(300));
    drop(shard);
    wait_for_log(&broker, "Client gw closed its connection", 1);
    let mut shard = subscribed(&broker, config, "a");
    shard.run_until(8_000);
    shard.stop();
    assert_eq!(shard.seen.lines.last().map(String::as_str), Some("a 7999"));
}

#[test]
fn a_shard_that_stands_still_costs_no_connection() {
    let Some(broker) = Mosquitto::start() else { return };
    let config = durable(&broker, Version::V5).keep_alive_s(5);
    // Not polled, and the messages come one by one: far more of them than there are chunks.
    let mut shard = subscribed(&broker, config, "a/{n}");
    for n in 0..30 {
        publish(&broker, "a/1", 1, &numbers(n..n + 1));
    }
    // The broker gives a silent client 1.5 keep-alive periods.
    sleep(Duration::from_millis(9_000));
    assert!(broker.log().contains("Received PINGREQ from gw"), "the socket is read and pinged");
    assert!(!broker.log().contains("exceeded timeout"), "{}", broker.log());
    shard.run_until(30);
    shard.stop();
    assert_eq!(acked(&broker).len(), 30);
}
