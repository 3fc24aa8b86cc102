//! What a message brings with it, and what a source says when it cannot go on.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Line, Shard, context, publish, publish_with, subscribed, wait_for_log};
use thalweg_kernel::{Cause, PartitionId, SourceSpec};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttConfig, MqttSource, Retained, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

#[test]
fn retained_messages_are_skipped_unless_asked_for_and_live_ones_are_not() {
    let Some(broker) = Mosquitto::start() else { return };
    publish_with(&broker, &["-t", "a/1", "-q", "1", "-r", "-m", "old"], "");
    for version in VERSIONS {
        let mut shard = subscribed(&broker, broker.config().version(version), "a/+");
        // Live, though its publisher wants it kept: not a snapshot.
        publish_with(&broker, &["-t", "a/2", "-q", "1", "-r", "-m", "new"], "");
        shard.run_until(1);
        shard.stop();
        assert_eq!(shard.seen.lines, ["a/2 new"], "{version:?}");
        publish_with(&broker, &["-t", "a/2", "-r", "-n"], "");

        let source = MqttSource::new(broker.config().version(version), Line)
            .topic("a/+")
            .retained(Retained::Deliver);
        let mut shard = Shard::open(&source);
        shard.run_until(1);
        publish(&broker, "a/1", 1, "live\n");
        shard.run_until(2);
        shard.stop();
        assert_eq!(shard.seen.lines, ["a/1 old retained", "a/1 live"], "{version:?}");
    }
}

#[test]
fn user_properties_and_several_filters() {
    let Some(broker) = Mosquitto::start() else { return };
    let source =
        MqttSource::new(broker.config(), Line).topic("s/{device}/{kind}").topic("log/{rest...}");
    let mut shard = Shard::open(&source);
    wait_for_log(&broker, "Sending SUBACK", 1);
    let v5 = ["-V", "mqttv5", "-q", "1", "-D", "PUBLISH", "user-property"];
    publish_with(&broker, &[&v5[..], &["seq", "7", "-t", "s/d1/temp", "-m", "x"]].concat(), "");
    publish(&broker, "log/a/b", 1, "y\n");
    shard.run_until(2);
    shard.stop();
    assert_eq!(shard.seen.lines, ["s/d1/temp x device=d1 kind=temp seq:7", "log/a/b y rest=a/b"]);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    for received in &shard.seen.received {
        assert!((now.as_millis() as i64 - received.as_millis()).abs() < 20_000, "{received}");
    }
    assert_eq!(
        source.describe(),
        format!("mqtt://127.0.0.1:{} s/{{device}}/{{kind}} log/{{rest...}}", broker.port())
    );
}

/// Goal: a message bears the time at which it came, however long the source had been waiting for it.
#[test]
fn a_message_after_silence_is_not_stamped_with_the_silence() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut shard = subscribed(&broker, broker.config(), "a");
    for count in 1..=3 {
        shard.run_for(Duration::from_millis(200));
        let before =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        publish(&broker, "a", 1, "x\n");
        shard.run_until(count);
        let received = shard.seen.received[count - 1].as_millis();
        assert!(received >= before.as_millis() as i64, "{received} is before {before:?}");
    }
    shard.stop();
}

#[test]
fn what_does_not_decode_is_a_dead_letter_and_is_acknowledged() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut shard = subscribed(&broker, broker.config().client_id("gw"), "a");
    let file = broker.dir().join("bytes");
    std::fs::write(&file, b"ab\xff").expect("write");
    publish_with(&broker, &["-t", "a", "-q", "1", "-f", file.to_str().expect("UTF-8")], "");
    publish(&broker, "a", 1, "fine\n");
    shard.run_until(1);
    shard.stop();
    assert_eq!(shard.seen.lines, ["a fine"]);
    let letter = &shard.seen.dead[0];
    assert_eq!(
        (letter.topic.as_str(), letter.cause, letter.position),
        ("a", Cause::InvalidUtf8, Some(2))
    );
    assert_eq!(broker.log().matches("Received PUBACK from gw").count(), 2);
}

#[test]
fn messages_of_a_forgotten_subscription_are_left_out_and_acknowledged() {
    let Some(broker) = Mosquitto::start() else { return };
    let config = broker.config().client_id("gw");
    subscribed(&broker, config.clone(), "old").stop();
    let mut shard = subscribed(&broker, config, "new");
    publish(&broker, "old", 1, "x\n");
    publish(&broker, "new", 1, "y\n");
    shard.run_until(1);
    shard.stop();
    assert_eq!(shard.seen.lines, ["new y"]);
    assert_eq!(broker.log().matches("Received PUBACK from gw").count(), 2);
}

#[test]
fn a_wrong_password_ends_the_job_and_a_right_one_does_not() {
    let Some(broker) = Mosquitto::options().user("u", "right").start() else { return };
    for version in VERSIONS {
        for config in [broker.config(), broker.config().credentials("u", "wrong")] {
            let mut shard = Shard::open(&MqttSource::new(config.version(version), Line).topic("a"));
            let error = shard.fail();
            assert!(error.contains("check user and password"), "{version:?}: {error}");
            assert!(error.contains("mqtt://127.0.0.1"), "{error}");
            assert!(!error.contains("wrong"), "{error}");
        }
        let mut shard =
            subscribed(&broker, broker.config().version(version).credentials("u", "right"), "a");
        shard.stop();
    }
}

/// mosquitto's ACL file does not refuse subscriptions, its dynamic-security plug-in does.
const NO_SUBSCRIPTIONS: &str = r#"{
    "defaultACLAccess": { "publishClientSend": true, "publishClientReceive": true,
                          "subscribe": false, "unsubscribe": true },
    "clients": [], "groups": [{ "groupname": "all", "roles": [{ "rolename": "r" }] }],
    "roles": [{ "rolename": "r", "acls": [
        { "acltype": "subscribePattern", "topic": "open/#", "priority": 0, "allow": true }] }],
    "anonymousGroup": "all" }"#;

#[test]
fn a_forbidden_subscription_ends_the_job_and_names_the_filter() {
    let plugin = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so";
    if !std::path::Path::new(plugin).exists() {
        eprintln!("skipped: needs mosquitto's dynamic-security plug-in; see tests/scripted.rs too");
        return;
    }
    let options = Mosquitto::options()
        .file("rules.json", NO_SUBSCRIPTIONS)
        .line(&format!("plugin {plugin}"))
        .line("plugin_opt_config_file {dir}/rules.json");
    let Some(broker) = options.start() else { return };
    for version in VERSIONS {
        let source = MqttSource::new(broker.config().version(version), Line);
        let error = Shard::open(&source.topic("open/x").topic("shut/{x}")).fail();
        assert!(
            error.contains("\"shut/+\"") && error.contains("may read it"),
            "{version:?}: {error}"
        );
    }
}

/// Goal: a message over the limit is told of, loudly, and does not end the job.
#[test]
fn wrong_settings_keep_the_source_from_opening() {
    let broker = MqttConfig::new("127.0.0.1");
    let cases = [
        (MqttSource::new(broker.clone(), Line), "topic is missing"),
        (MqttSource::new(broker.clone(), Line).topic("a/b+"), "level 2"),
        (MqttSource::new(broker.clone().clean_session(false), Line).topic("a"), "client_id"),
        (
            MqttSource::new(broker.clone().password_file("/no/such"), Line).topic("a"),
            "password_file",
        ),
        (
            MqttSource::new(MqttConfig::tls("h").ca("/no/such"), Line).topic("a"),
            "ca = \"/no/such\"",
        ),
    ];
    for (source, expected) in cases {
        let error = source
            .open(&PartitionId::numbered(0), &context())
            .map(|_| ())
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
