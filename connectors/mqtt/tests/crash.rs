//! A real process with a real journal behind a real broker is killed at any moment with messages of QoS 1 or 2 under
//! way. Each message has its effect, once.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Line, PATIENCE, Shard, Text, Writer, wait_for_log, wait_until};
use thalweg_journal::{FileJournals, JournalConfig};
use thalweg_kernel::{Durability, Epoch, JournalReader, OpenContext, Source};
use thalweg_mqtt::record::Content;
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource, Qos, Topic, Version};

const PLACE: &str = "THALWEG_MQTT_CRASH_PLACE";
const PORT: &str = "THALWEG_MQTT_CRASH_PORT";
const QOS: &str = "THALWEG_MQTT_CRASH_QOS";
const ROUNDS: usize = 12;
/// Messages published in each round, and before the first.
const MESSAGES: usize = 1_500;

fn journals(place: &str) -> FileJournals {
    let config =
        JournalConfig { segment_bytes: 256 << 10, cap_bytes: 64 << 20, ..Default::default() };
    FileJournals::new(place, config).unwrap()
}

/// The child is a job that emits what it reads to its output. Now and then it takes a checkpoint, written as the
/// line `epoch POSITION`, which counts once it is there whole. Its parent restores it from there.
#[test]
fn child() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let port = std::env::var(PORT).unwrap().parse().unwrap();
    let stored: Option<Vec<u8>> = std::fs::read(format!("{place}/position")).ok();
    let durability = Durability {
        operator: "sensors".into(),
        checkpoints: true,
        restored: stored.as_ref().map(|_| Epoch::new(1)),
        position: stored.map(Into::into),
        journals: Some(Arc::new(journals(&place))),
        ..Durability::default()
    };
    let (qos, version) = kind(&std::env::var(QOS).unwrap());
    let config = MqttConfig::new("127.0.0.1").port(port).client_id("gw").qos(qos).version(version);
    let spec = MqttSource::new(config, Line).topic("a/{n}");
    let mut shard = Shard::open_in(&spec, &OpenContext { durability, ..common::context() });
    let mut out = std::io::stdout().lock();
    for epoch in 2.. {
        shard.run_for(Duration::from_millis(15));
        for line in shard.seen.lines.drain(..) {
            writeln!(out, "{line}").unwrap();
        }
        let mut position = Vec::new();
        shard.source.snapshot(Epoch::new(epoch), &mut position);
        while !shard.source.durable(Epoch::new(epoch)).unwrap() {
            thread::park_timeout(Duration::from_millis(50));
        }
        let hex: String = position.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "epoch {hex}.").unwrap();
        shard.source.committed(Epoch::new(epoch), Epoch::new(epoch));
    }
}

/// A quality and a version, each once.
fn kind(qos: &str) -> (Qos, Version) {
    match qos {
        "1" => (Qos::AtLeastOnce, Version::V5),
        _ => (Qos::ExactlyOnce, Version::V311),
    }
}

fn start(place: &str, broker: &Mosquitto, qos: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(PLACE, place)
        .env(PORT, broker.port().to_string())
        .env(QOS, qos)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The number in a line `n n n=n`.
fn number(line: &str) -> Option<u64> {
    line.split(' ').next()?.parse().ok()
}

/// Reads what a child says as it says it, until it is killed.
fn listen(child: &mut Child) -> JoinHandle<Vec<String>> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    thread::spawn(move || lines.map(|line| line.unwrap()).collect())
}

/// What a child did until it was killed: its effects up to its last checkpoint. That is kept for the next
/// one; what it emitted behind it is as if it had not been.
fn effects_of(said: &[String], place: &str) -> Vec<u64> {
    let (mut effects, mut open) = (Vec::new(), Vec::new());
    for line in said {
        if let Some(n) = line.strip_prefix("a/").and_then(number) {
            open.push(n);
        } else if let Some(hex) = line.strip_prefix("epoch ").and_then(|hex| hex.strip_suffix('.'))
        {
            effects.append(&mut open);
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let position: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            if !position.is_empty() {
                std::fs::write(format!("{place}/position"), position).unwrap();
            }
        }
    }
    effects
}

/// Each message has a topic of its own, so that the broker's log tells them apart.
#[derive(Clone)]
struct Numbered;

impl Topic<String> for Numbered {
    fn write(&self, value: &String, out: &mut String) {
        out.push_str("a/");
        out.push_str(value);
    }
}

/// The numbers that the broker has seen acknowledged: it logs what it sends and what comes back, by
/// packet id.
fn acknowledged(log: &str) -> BTreeSet<u64> {
    let answer = |line: &str| {
        let answers = ["Received PUBACK from gw (Mid: ", "Received PUBREC from gw (Mid: "];
        answers.iter().find_map(|answer| line.split_once(answer).map(|(_, id)| id.to_owned()))
    };
    let (mut under_way, mut acked) = (BTreeMap::new(), BTreeSet::new());
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Sending PUBLISH to gw (d") {
            let mut parts = rest.split(", ").skip(3);
            let id = parts.next().unwrap()[1..].to_owned();
            let topic = parts.next().unwrap().trim_matches('\'');
            let number: u64 = topic.strip_prefix("a/").unwrap().parse().unwrap();
            under_way.insert(id, number);
        } else if let Some(rest) = answer(line) {
            acked.extend(under_way.remove(rest.split([',', ')']).next().unwrap()));
        }
    }
    acked
}

/// The numbers in the journal behind the last checkpoint, which are still to have their effect.
fn owing(place: &str) -> Vec<u64> {
    let stored = std::fs::read(format!("{place}/position")).unwrap_or_default();
    let from = stored.get(1..).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let mut reader = journals(place).reader("sensors-0", from).unwrap();
    let mut numbers = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        let Content::Message(message) = Content::read(record.bytes).unwrap() else { continue };
        numbers.push(str::from_utf8(message.payload).unwrap().parse().unwrap());
    }
    numbers
}

/// Goal: each message has its effect once, wherever a kill hits, without any number that the source knows of. Method: the
/// broker's log says what was acknowledged. After each kill that must be among the effects up to the last checkpoint, or in the
/// journal behind it. At the end each has had its effect once.
#[test]
fn a_kill_at_any_moment_loses_and_repeats_nothing() {
    let kills = std::env::var("THALWEG_MQTT_KILLS").map_or(ROUNDS, |kills| kills.parse().unwrap());
    thread::scope(|scope| {
        for qos in ["1", "2"] {
            scope.spawn(move || kill_often(qos, kills));
        }
    });
}

fn kill_often(qos: &str, kills: usize) {
    let Some(broker) = Mosquitto::start() else { return };
    let place = tempfile::tempdir().unwrap();
    let place = place.path().to_str().unwrap();
    let total = (kills + 1) * MESSAGES;
    let mut effects = vec![0; total];
    for round in 0..=kills {
        let mut child = start(place, &broker, qos);
        let said = listen(&mut child);
        wait_for_log(&broker, "Sending SUBACK to gw", round + 1);
        let config = broker.config().qos(kind(qos).0);
        let mut publisher = Writer::open(&MqttSink::new(config, Numbered, Text));
        let numbers = round * MESSAGES..(round + 1) * MESSAGES;
        publisher.write(numbers.map(|n| n.to_string()));
        if round < kills {
            // Anywhere: on its way up, in the midst of the stream, behind it.
            thread::sleep(Duration::from_millis((round as u64 * 37) % 100));
            child.kill().unwrap();
            assert!(publisher.close_within(PATIENCE));
        } else {
            assert!(publisher.close_within(PATIENCE));
            wait_until("all is acknowledged", || acknowledged(&broker.log()).len() == total);
            // Some checkpoints more.
            thread::sleep(Duration::from_millis(200));
            child.kill().unwrap();
        }
        child.wait().unwrap();
        for n in effects_of(&said.join().unwrap(), place) {
            effects[n as usize] += 1;
        }
        let mut sure = effects.clone();
        owing(place).into_iter().for_each(|n| sure[n as usize] += 1);
        for n in acknowledged(&broker.log()) {
            assert_eq!(sure[n as usize], 1, "QoS {qos}, kill {round}: {n} was acknowledged");
        }
    }
    let count = |wrong: fn(&usize) -> bool| effects.iter().filter(|n| wrong(n)).count();
    let (lost, repeated) = (count(|n| *n == 0), count(|n| *n > 1));
    println!("QoS {qos}: {total} published, {kills} kills, lost {lost}, repeated {repeated}");
    assert_eq!((lost, repeated), (0, 0), "QoS {qos}");
}
