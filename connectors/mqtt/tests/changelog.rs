//! A changelog ends in topics: what is retained is the table, also after crashes and on other numbers of shards.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::task::Waker;

use common::{Shard, publish};
use thalweg_commits::model::table::{Changes, Entry, check_changelog};
use thalweg_commits::model::{Engine, Random, World, play};
use thalweg_kernel::format::EncodeError;
use thalweg_kernel::{Changed, Encode, OpenContext, Sink, SinkSpec, Timestamp};
use thalweg_mqtt::testing::{Mosquitto, free_port};
use thalweg_mqtt::{MqttChangelog, MqttConfig, MqttSink, MqttSource, Retained, Topic};

/// A row's number; nothing for the number 1000.
#[derive(Clone)]
struct Number;

impl Encode<Entry> for Number {
    fn encode(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if entry.n != 1_000 {
            out.extend_from_slice(entry.n.to_string().as_bytes());
        }
        Ok(())
    }
}

/// `t<of>/<key>/<grade>`.
#[derive(Clone)]
struct Topics(u64);

impl Topic<Entry> for Topics {
    fn write(&self, entry: &Entry, out: &mut String) {
        *out += &format!("t{}/{}/{}", self.0, entry.key, entry.grade);
    }
}

type Spec = MqttChangelog<Number, Topics>;
type Writer = <Spec as SinkSpec<Changed<Entry>>>::Writer;

fn spec(config: MqttConfig, of: u64) -> Spec {
    MqttSink::new(config.client_id(format!("changelog{of}")), Topics(of), Number).changelog()
}

/// What the broker retains: topics and payloads.
fn retained(broker: &Mosquitto, of: u64) -> Vec<(String, String)> {
    let source = MqttSource::new(broker.config(), common::Line).topic(format!("t{of}/#"));
    let mut shard = Shard::open(&source.retained(Retained::Deliver));
    common::wait_for_log(broker, "Sending SUBACK", 1 + of as usize);
    publish(broker, &format!("t{of}/end"), 1, "end\n");
    let is_end = |line: &String| line.starts_with(&format!("t{of}/end"));
    shard.run(|seen| seen.lines.iter().any(is_end)).unwrap();
    let before_end = shard.seen.lines.iter().take_while(|line| !is_end(line));
    let words = before_end.map(|line| {
        assert!(line.ends_with(" retained"), "{line}");
        let mut words = line.split(' ').map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    });
    let mut rows: Vec<_> = words.collect();
    rows.sort();
    shard.stop();
    rows
}

/// A world of [`play`] whose table is looked at in the end.
struct Broker<'a> {
    broker: &'a Mosquitto,
    of: u64,
}

impl World for Broker<'_> {
    type Sink = Changes<Writer>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<Self::Sink> {
        let spec = spec(self.broker.config(), self.of);
        contexts.iter().map(|cx| Changes(spec.open(cx).unwrap())).collect()
    }

    fn step(&mut self, random: &mut Random) {
        std::thread::sleep(std::time::Duration::from_micros(random.below(400)));
    }

    fn crash(&mut self, sinks: Vec<Self::Sink>, _random: &mut Random) {
        drop(sinks);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        if all {
            let rows = retained(self.broker, self.of).into_iter();
            let mut rows: Vec<i64> = rows.map(|(_, n)| n.parse().unwrap()).collect();
            rows.sort_unstable();
            check_changelog(&rows, positions, true);
        }
    }
}

#[test]
fn what_is_retained_is_the_table_after_crashes() {
    let Some(broker) = Mosquitto::start() else { return };
    for of in 0..10 {
        play(&mut Broker { broker: &broker, of }, of, 250, 25);
    }
}

/// One epoch, in which one instance writes; to its commit.
fn epoch(engine: &mut Engine, sinks: &mut [Writer], at: usize, changes: &[Changed<Entry>]) {
    for &change in changes {
        sinks[at].write(Timestamp::default(), change).unwrap();
    }
    let epoch = engine.begin();
    for (instance, sink) in sinks.iter_mut().enumerate() {
        engine.seal(epoch, instance, sink).unwrap();
    }
    engine.exists(epoch, 0);
    sinks.iter_mut().for_each(|sink| sink.commit(epoch).unwrap());
}

/// Goal: what several runs on different numbers of shards have left is published in the order of its epochs.
#[test]
fn a_row_of_an_older_run_does_not_come_late() {
    let Some(broker) = Mosquitto::start() else { return };
    let nobody: MqttConfig = format!("mqtt://127.0.0.1:{}", free_port()).parse().unwrap();
    let mut engine = Engine::default();
    let mut random = Random::new(1);
    let mut open = |engine: &mut Engine, config: MqttConfig, shards| -> Vec<Writer> {
        let spec = spec(config, 0);
        let contexts = engine.contexts(shards, Waker::noop(), &mut random);
        contexts.iter().map(|cx| spec.open(cx).unwrap()).collect()
    };
    let row = |n| Entry { key: 7, grade: 0, n };
    // Enough to keep the first instance busy while the second has one message.
    let others = (0..5_000).map(|key| Changed::insert(Entry { key: key % 5, grade: 1, n: key }));
    let first: Vec<_> = others.chain([Changed::insert(row(1))]).collect();
    let mut sinks = open(&mut engine, nobody.clone(), 1);
    epoch(&mut engine, &mut sinks, 0, &first);
    let second = Changed::update(row(1), row(2));
    let mut sinks = open(&mut engine, nobody, 2);
    epoch(&mut engine, &mut sinks, 1, &second);
    let mut sinks = open(&mut engine, broker.config(), 3);
    epoch(&mut engine, &mut sinks, 2, &Changed::update(row(2), row(3)));
    // The last one first.
    let mut closing: Vec<_> = sinks.iter_mut().rev().collect();
    common::wait_until("all is published", || {
        closing.retain_mut(|sink| !sink.close().unwrap());
        closing.is_empty()
    });
    let rows = retained(&broker, 0);
    assert_eq!(rows.last().unwrap(), &("t0/7/0".to_owned(), "3".to_owned()));
    assert_eq!(rows.len(), 6, "{rows:?}");
}

#[test]
fn an_update_is_one_message_and_an_empty_row_is_none() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut reader = common::subscribed(&broker, broker.config(), "t9/#");
    let entry = |grade, n| Entry { key: 1, grade, n };
    let mut sink = spec(broker.config(), 9).open(&common::context()).unwrap();
    let changes = [
        vec![Changed::insert(entry(0, 1))],
        Changed::update(entry(0, 1), entry(0, 2)).into(),
        Changed::update(entry(0, 2), entry(1, 3)).into(),
        vec![Changed::insert(entry(0, 1_000))],
        vec![Changed::delete(entry(1, 3))],
    ];
    for change in changes.into_iter().flatten() {
        assert!(sink.ready().unwrap());
        sink.write(Timestamp::default(), change).unwrap();
    }
    sink.flush().unwrap();
    reader.run_until(5);
    let expected = ["t9/1/0 1", "t9/1/0 2", "t9/1/0 ", "t9/1/1 3", "t9/1/1 "];
    assert_eq!(reader.seen.lines, expected);
    common::wait_until("it closes", || sink.close().unwrap());
}

#[test]
fn without_a_name_it_does_not_open() {
    let config: MqttConfig = "mqtt://127.0.0.1".parse().unwrap();
    let why = MqttSink::new(config, Topics(0), Number).changelog().check().unwrap_err();
    assert!(why.to_string().contains("client_id"), "{why}");
}
