//! A sink is done when the broker is; what cannot be published is dropped and the job goes on.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{Line, PATIENCE, Shard, Text, Writer, context, subscribed, wait_for_log};
use thalweg_kernel::{OpenContext, PartitionId, Sink, SinkSpec, SourceSpec, Timestamp};
use thalweg_mqtt::testing::{Mosquitto, free_port};
use thalweg_mqtt::{
    BATCH_MESSAGES_MAX, BATCHES_MAX, MqttConfig, MqttSink, MqttSource, Retained, Version,
};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// A topic for each value: the part before its first blank.
#[allow(clippy::ptr_arg)] // what the sink calls it with
fn first_word(value: &String, topic: &mut String) {
    topic.push_str(value.split(' ').next().unwrap_or_default());
}

#[test]
fn close_waits_for_the_broker() {
    let Some(mut broker) = Mosquitto::start() else { return };
    for version in VERSIONS {
        let mut writer = Writer::open(&MqttSink::new(broker.config().version(version), "a", Text));
        writer.write(["first".to_owned()]);
        broker.kill();
        writer.write((0..10).map(|n| n.to_string()));
        assert!(
            !writer.close_within(Duration::from_millis(300)),
            "nobody has acknowledged anything"
        );
        broker.restart();
        assert!(writer.close_within(PATIENCE));
        // One of these was written to a broker that died before it could tell.
        wait_for_log(&broker, "Received PUBLISH", 10);
        wait_for_log(&broker, "Received DISCONNECT", 1);
    }
}

/// Goal: a broker's restart costs the sink nothing at QoS 1.
/// Method: a durable subscription counts; the broker, which keeps what it acknowledged, restarts
/// amid the stream, again and again.
#[test]
fn results_survive_restarts_of_the_broker() {
    for version in VERSIONS {
        let Some(mut broker) = Mosquitto::options().persistent().start() else { return };
        let reader = broker.config().client_id("reader");
        subscribed(&broker, reader.clone(), "a").stop();
        let mut writer = Writer::open(&MqttSink::new(broker.config().version(version), "a", Text));
        for round in 1..=3 {
            writer.write((round * 2_000 - 2_000..round * 2_000).map(|n| n.to_string()));
            // Some are acknowledged, some are on their way, some have not been sent.
            wait_for_log(&broker, "Sending PUBACK", round * 2_000 - 1_500);
            broker.terminate();
            broker.restart();
        }
        assert!(writer.close_within(PATIENCE));
        let mut shard = subscribed(&broker, reader, "a");
        let mut distinct = std::collections::BTreeSet::new();
        let mut read = 0;
        shard
            .run(|seen| {
                distinct.extend(
                    seen.lines[read..].iter().filter_map(|line| line[2..].parse::<u32>().ok()),
                );
                read = seen.lines.len();
                distinct.len() == 6_000
            })
            .expect("everything arrives");
        let first_of_each: Vec<_> = {
            let mut known = std::collections::HashSet::new();
            shard.seen.lines.iter().filter(|line| known.insert(line.as_str())).collect()
        };
        let expected: Vec<_> = (0..6_000).map(|n| format!("a {n}")).collect();
        assert!(
            first_of_each.iter().copied().eq(&expected),
            "{version:?}: in order but for repetitions"
        );
        assert!(
            read < 9_000,
            "{version:?}: only what was not acknowledged is repeated, not {read}"
        );
    }
}

#[test]
fn a_sink_without_a_broker_pushes_back_and_then_delivers() {
    let Some(mut broker) = Mosquitto::start() else { return };
    broker.kill();
    let mut writer = Writer::open(&MqttSink::new(broker.config(), "a", Text));
    let mut taken = 0;
    while writer.0.ready().expect("weather is no error") {
        writer.0.write(Timestamp::default(), taken.to_string()).expect("write");
        taken += 1;
        assert!(taken <= BATCHES_MAX * BATCH_MESSAGES_MAX, "bounded");
    }
    assert_eq!(taken, BATCHES_MAX * BATCH_MESSAGES_MAX);
    broker.restart();
    writer.write(["last".to_owned()]);
    assert!(writer.close_within(PATIENCE));
    wait_for_log(&broker, "Received PUBLISH", taken + 1);
}

#[test]
fn what_cannot_be_published_is_dropped_and_the_rest_arrives() {
    let rules = "topic readwrite ok/#\ntopic readwrite ok\n";
    let options = Mosquitto::options()
        .file("acl", rules)
        .line("acl_file {dir}/acl")
        .line("max_packet_size 3000");
    let Some(broker) = options.start() else { return };
    for version in VERSIONS {
        let mut shard = subscribed(&broker, broker.config().version(version), "ok/{n}");
        let spec = MqttSink::new(
            broker.config().version(version).packet_bytes_max(10_000),
            first_word,
            Text,
        );
        let mut writer = Writer::open(&spec);
        let long = "x".repeat(65_536);
        let big = "y".repeat(11_000);
        let middling = "z".repeat(4_000);
        writer.write(
            ["ok/1", "", " empty", "a/# x", "a/+/b x", "nul\0 x", &format!("{long} x"), "ok/2"]
                .map(str::to_owned),
        );
        writer.write(
            ["ok/\u{7} x", "ok/\u{85} x", "ok/\u{fdd0} x", "ok/\u{fffe} x"].map(str::to_owned),
        );
        let deep = "/".repeat(200);
        writer.write([format!("ok{deep} x")]);
        writer.write([format!("ok/3 {big}"), "ok/4".to_owned(), "ok/5".to_owned()]);
        // Only an MQTT 5 broker can refuse, and tell its limit. (mosquitto 2.0.11 also ends the
        // connection on a forbidden topic, and the sink connects again.)
        if version == Version::V5 {
            writer.write(["forbidden x".to_owned(), format!("ok/6 {middling}")]);
        }
        writer.write(["ok/7".to_owned()]);
        assert!(writer.close_within(PATIENCE), "{version:?}");
        shard.run_until(5);
        shard.stop();
        let expected = [1, 2, 4, 5, 7].map(|n| format!("ok/{n} ok/{n} n={n}"));
        assert_eq!(shard.seen.lines, expected, "{version:?}");
    }
}

#[test]
fn shards_share_one_connection_and_each_sees_its_own_end() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut shard = subscribed(&broker, broker.config(), "{shard}");
    let spec = MqttSink::new(broker.config().client_id("gw"), first_word, Text);
    let first = OpenContext { shards: 2, instances: 2, ..context() };
    let second = OpenContext { shard: 1, ..first.clone() };
    let mut one = Writer(spec.open(&first).expect("opens"));
    let mut two = Writer(spec.open(&second).expect("opens"));
    one.write((0..1_000).map(|n| format!("one {n}")));
    two.write((0..1_000).map(|n| format!("two {n}")));
    // The connection is the first one's: it sees it off when all have closed.
    assert!(two.close_within(PATIENCE), "the second does not wait for the first");
    one.write((1_000..1_100).map(|n| format!("one {n}")));
    assert!(one.close_within(PATIENCE));
    wait_for_log(&broker, "Received DISCONNECT from gw-out", 1);
    shard.run_until(2_100);
    shard.stop();
    let of = |name: &str| -> Vec<&String> {
        shard.seen.lines.iter().filter(|line| line.starts_with(name)).collect()
    };
    let expected: Vec<_> = (0..1_100).map(|n| format!("one one {n} shard=one")).collect();
    assert_eq!(of("one"), expected.iter().collect::<Vec<_>>());
    assert_eq!(of("two").len(), 1_000);
    assert_eq!(broker.log().matches(" as gw-out ").count(), 1);
}

#[test]
fn retained_results_and_an_idle_sink() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut writer = Writer::open(&MqttSink::new(broker.config(), "a", Text).retain(true));
    writer.write(["kept".to_owned()]);
    assert!(writer.close_within(PATIENCE));
    let source = MqttSource::new(broker.config(), Line).topic("a").retained(Retained::Deliver);
    let mut shard = Shard::open(&source);
    shard.run_until(1);
    shard.stop();
    assert_eq!(shard.seen.lines, ["a kept retained"]);
    let mut idle = Writer::open(&MqttSink::new(broker.config(), "a", Text));
    assert!(idle.close_within(PATIENCE));
    let mut nowhere =
        Writer::open(&MqttSink::new(MqttConfig::new("127.0.0.1").port(free_port()), "a", Text));
    assert!(nowhere.close_within(PATIENCE), "with nothing to deliver it needs no broker");
}

#[test]
fn a_wrong_password_ends_the_job() {
    let Some(broker) = Mosquitto::options().user("u", "right").start() else { return };
    let mut writer =
        Writer::open(&MqttSink::new(broker.config().credentials("u", "no"), "a", Text));
    let deadline = std::time::Instant::now() + PATIENCE;
    let error = loop {
        match writer.0.ready() {
            Ok(_) => assert!(std::time::Instant::now() < deadline, "it never failed"),
            Err(error) => break error.to_string(),
        }
        sleep(Duration::from_millis(5));
    };
    assert!(error.contains("check user and password"), "{error}");
}

/// What is retained on the status topic, as seen by mosquitto's own client.
fn watch_status(broker: &Mosquitto, count: usize) -> std::process::Child {
    Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-t", "status", "-q", "1"])
        .args(["-C", &count.to_string(), "-W", "20"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub")
}

#[test]
fn the_status_topic_tells_online_offline_and_a_crash() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut subacks = 0;
    for version in VERSIONS {
        let config = broker.config().version(version).status_topic("status");
        let watch = watch_status(&broker, if subacks == 0 { 4 } else { 5 });
        subacks += 1;
        wait_for_log(&broker, "Sending SUBACK", subacks);
        let mut shard = subscribed(&broker, config.clone(), "a");
        subacks += 1;
        shard.stop();
        // Dropped without a stop: a crash, as the broker sees it. Not before it has said that it is online.
        let shard = subscribed(&broker, config, "a");
        subacks += 1;
        wait_for_log(&broker, "r1, m2, 'status', ... (6 bytes)", subacks / 3 * 2);
        drop(shard);
        let output = watch.wait_with_output().expect("mosquitto_sub ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let expected = "online\noffline\nonline\noffline\n";
        assert!(text.ends_with(expected), "{version:?}: {text}");
    }
    let mut writer =
        Writer::open(&MqttSink::new(broker.config().status_topic("status"), "a", Text));
    writer.write(["x".to_owned()]);
    assert!(writer.close_within(PATIENCE));
    let last = watch_status(&broker, 1).wait_with_output().expect("mosquitto_sub ends");
    assert_eq!(String::from_utf8_lossy(&last.stdout), "offline\n");
}

#[test]
fn a_sink_has_no_use_for_a_sources_durability() {
    let config: thalweg_mqtt::MqttConfig = "mqtt://h?durability=journal".parse().expect("a URL");
    let error = MqttSink::new(config, "out", Text).check().expect_err("refused").to_string();
    assert!(error.contains("durability = \"journal\"") && error.contains("sink"), "{error}");
}

/// Goal: two connectors that would push each other out for ever do not start; their ids tell who has the name.
#[test]
fn a_client_id_belongs_to_one_connector_of_a_job() {
    let config = MqttConfig::new("127.0.0.1").port(free_port()).client_id("gw");
    let sink = |config: &MqttConfig| MqttSink::new(config.clone(), "a", Text);
    let first = context();
    let of = |operator_id: u32, operator: &str| OpenContext {
        operator_id,
        operator: operator.into(),
        ..first.clone()
    };
    let _alarms = sink(&config).open(&of(1, "alarms")).expect("the first");
    let _its_other_shard = sink(&config).open(&of(1, "alarms")).expect("the same sink");
    let source = |config: &MqttConfig| MqttSource::new(config.clone(), Line).topic("a");
    let _source = source(&config)
        .open(&PartitionId::numbered(0), &of(2, "source"))
        .expect("it has another name");

    let second = sink(&config).open(&of(3, "averages")).err().expect("refused");
    let text = second.to_string();
    assert!(
        text.contains("client_id = \"gw\" is not allowed") && text.contains("alarms"),
        "{text}"
    );
    assert!(second.lasting, "a wrong setting stays one");
    let second =
        source(&config).open(&PartitionId::numbered(0), &of(4, "again")).err().expect("refused");
    assert!(second.to_string().contains("source of this job connects as \"gw\""), "{second}");

    let _other_name = sink(&config.clone().client_id("gw2")).open(&of(5, "b")).expect("another id");
    let _random = sink(&MqttConfig::new("127.0.0.1").port(free_port())).open(&of(6, "c"));
    let _other_job = sink(&config).open(&context()).expect("another job's are not known here");
}
