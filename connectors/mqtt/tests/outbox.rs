//! In a job with checkpoints, a sink publishes a result after its epoch exists, and again after a crash under its
//! old id. A broker that is away costs nothing.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::peer::{accepted, read};
use common::{Shard, Text, Writer, context, subscribed, wait_for_log};
use thalweg_kernel::{
    Change, Changes, Epoch, OpenContext, Pending, PendingId, Sink, SinkSpec, StateId,
};
use thalweg_mqtt::testing::{Mosquitto, free_port};
use thalweg_mqtt::{MqttConfig, MqttSink, Version};

/// What a store would keep of the sink's notes.
#[derive(Clone, Default)]
struct Notes(BTreeMap<PendingId, Vec<u8>>);

impl Notes {
    fn seal(&mut self, sink: &mut impl Sink<String>, epoch: u64) {
        let state = StateId::of("mqtt", "pending");
        let mut changes = Changes::new();
        let mut pending = Pending::new(&mut changes, state, Epoch::new(epoch), 0);
        sink.seal(Epoch::new(epoch), &mut pending).expect("seal");
        for change in Changes::read(changes.as_bytes()) {
            let id = |key| {
                let (instance, rest) = StateId::split_key(key).expect("a key");
                PendingId::read(instance, rest).expect("an id")
            };
            match change.expect("a change") {
                Change::Put { key, value } => drop(self.0.insert(id(key), value.to_vec())),
                Change::Delete { key } => drop(self.0.remove(&id(key)).expect("it was there")),
                Change::DeleteRange { .. } => panic!("no ranges"),
            }
        }
    }

    /// The context of a sink that opens with these notes.
    fn context(&self) -> OpenContext {
        let mut cx = context();
        cx.durability.checkpoints = true;
        cx.durability.operator = "mqtt".into();
        cx.durability.pending =
            self.0.iter().map(|(id, note)| (*id, note.clone().into())).collect();
        cx
    }
}

/// A subscriber's view: payloads with the ids they came with.
fn received(shard: &Shard) -> Vec<(String, String)> {
    let line = |line: &String| {
        let mut words = line.split(' ').skip(1);
        let payload = words.next().unwrap_or_default().to_owned();
        let id = words.find_map(|word| word.strip_prefix("thalweg-id:")).unwrap_or_default();
        (payload, id.to_owned())
    };
    shard.seen.lines.iter().map(line).collect()
}

fn open(config: MqttConfig, notes: &Notes) -> Writer<impl Sink<String> + use<>> {
    let spec = MqttSink::new(config, "out", Text);
    Writer(SinkSpec::<String>::open(&spec, &notes.context()).expect("the sink opens"))
}

/// Runs the subscriber until it has `count` messages, and the sink as its shard would.
fn run_both(reader: &mut Shard, sink: &mut Writer<impl Sink<String>>, messages: usize) {
    let enough = |seen: &common::Seen| {
        sink.0.ready().expect("ready");
        seen.lines.len() >= messages
    };
    reader.run(enough).expect("everything arrives");
}

#[test]
fn results_are_published_when_their_epoch_exists_and_again_with_the_same_ids() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut reader = subscribed(&broker, broker.config().client_id("reader"), "out");
    let mut notes = Notes::default();
    let mut sink = open(broker.config(), &notes);
    sink.write(["a".to_owned(), "b".to_owned()]);
    notes.seal(&mut sink.0, 1);
    sink.write(["c".to_owned()]);
    reader.run_for(Duration::from_millis(300));
    assert_eq!(received(&reader), [], "no epoch exists");
    sink.0.commit(Epoch::new(1)).expect("commit");
    reader.run_until(2);
    let first = received(&reader);
    let payloads = |received: &[(String, String)]| -> String {
        received.iter().map(|(payload, _)| payload.as_str()).collect()
    };
    assert_eq!(payloads(&first), "ab");
    assert!(first[0].1.ends_with("-1-0-0-0") && first[1].1.ends_with("-1-0-0-1"), "{first:?}");

    // The process dies with "c" in no epoch, and it is not known that the others have arrived.
    drop(sink);
    let mut sink = open(broker.config(), &notes);
    run_both(&mut reader, &mut sink, 4);
    assert_eq!(received(&reader)[2..], first[..]);
    sink.write(["c".to_owned()]);
    notes.seal(&mut sink.0, 2);
    sink.0.commit(Epoch::new(2)).expect("commit");
    reader.run_until(5);
    assert_eq!(payloads(&received(&reader)), "ababc");
    // What has arrived is deleted with a later epoch.
    let end = Instant::now() + common::PATIENCE;
    for epoch in 3.. {
        notes.seal(&mut sink.0, epoch);
        if notes.0.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "{} notes are left", notes.0.len());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(sink.close_within(common::PATIENCE));
}

#[test]
fn while_the_broker_is_away_results_wait_across_lives_of_the_process() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut reader = subscribed(&broker, broker.config().client_id("reader"), "out");
    let nobody: MqttConfig = format!("mqtt://127.0.0.1:{}", free_port()).parse().expect("a URL");
    let mut notes = Notes::default();
    let expected: Vec<_> = (0..3_000).map(|n| n.to_string()).collect();
    for life in 0..3_u64 {
        let mut sink = open(nobody.clone(), &notes);
        for epoch in 0..4 {
            let number = life * 4 + epoch;
            let from = number as usize * 250;
            sink.write(expected[from..from + 250].iter().cloned());
            notes.seal(&mut sink.0, number + 1);
            sink.0.commit(Epoch::new(number + 1)).expect("commit");
        }
    }
    assert_eq!(notes.0.len(), 12);
    let mut sink = open(broker.config().version(Version::V311), &notes);
    run_both(&mut reader, &mut sink, 3_000);
    let payloads: Vec<_> = received(&reader).into_iter().map(|(payload, _)| payload).collect();
    assert_eq!(payloads, expected);
    assert!(sink.close_within(common::PATIENCE));
    wait_for_log(&broker, "Received DISCONNECT", 1);
}

#[test]
fn a_full_outbox_takes_no_more_until_results_have_arrived() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut notes = Notes::default();
    let spec = MqttSink::new(broker.config(), "out", Text).outbox_bytes_max(1_000);
    let sink = SinkSpec::<String>::open(&spec, &notes.context()).expect("the sink opens");
    let mut sink = Writer(sink);
    while sink.0.ready().expect("ready") {
        sink.0
            .write(Default::default(), "some forty bytes of a result, or so".into())
            .expect("write");
    }
    notes.seal(&mut sink.0, 1);
    assert!(!sink.0.ready().expect("ready"), "its epoch does not exist");
    sink.0.commit(Epoch::new(1)).expect("commit");
    let end = Instant::now() + common::PATIENCE;
    while !sink.0.ready().expect("ready") {
        assert!(Instant::now() < end, "never ready again");
        std::thread::park_timeout(Duration::from_secs(4));
    }
}

/// Goal: a result that an earlier program has let pass, and that no broker takes, is dropped when it comes out of the state.
#[test]
fn a_topic_in_the_state_that_no_broker_need_take_is_dropped() {
    let Some(broker) = Mosquitto::start() else { return };
    let mut reader = subscribed(&broker, broker.config().client_id("reader"), "#");
    let mut notes = Notes::default();
    let mut sink = open(broker.config(), &notes);
    sink.write(["one", "two", "three"].map(str::to_owned));
    notes.seal(&mut sink.0, 1);
    drop(sink);
    let note = notes.0.values_mut().next().expect("a note");
    let at = note.windows(6).position(|bytes| bytes == b"outtwo").expect("the second");
    note[at] = 7;
    let mut sink = open(broker.config(), &notes);
    run_both(&mut reader, &mut sink, 2);
    let payloads: Vec<_> = received(&reader).into_iter().map(|(payload, _)| payload).collect();
    assert_eq!(payloads, ["one", "three"]);
    let letter = sink.0.refused().expect("a letter");
    assert!(letter.reason.contains("U+0007"), "{letter}");
    assert!(sink.close_within(common::PATIENCE));
    assert_eq!(broker.log().matches("malformed").count(), 0);
}

/// Goal: a result that ends each connection is found again after a restart, and those behind it arrive.
#[test]
fn what_ends_each_connection_is_found_again_after_a_restart() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (to_us, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            while let Ok((kind, body)) = read(&mut stream) {
                if kind == 0x10 {
                    stream.write_all(&accepted(Version::V5, false)).expect("CONNACK");
                } else if kind >> 4 == 3 {
                    let end = 2 + usize::from(body[1]);
                    let topic = String::from_utf8_lossy(&body[2..end]).into_owned();
                    let _over = to_us.send(topic.clone());
                    if topic == "bad" {
                        break;
                    }
                    let answer = [&[0x40, 2], &body[end..end + 2]].concat();
                    stream.write_all(&answer).expect("PUBACK");
                }
            }
        }
    });
    let config = MqttConfig::new("127.0.0.1").port(port);
    let topic = |value: &String, topic: &mut String| topic.push_str(&value[..3]);
    let spec = MqttSink::new(config, topic, Text);
    let open = |notes: &Notes| {
        Writer(SinkSpec::<String>::open(&spec, &notes.context()).expect("the sink opens"))
    };
    let mut notes = Notes::default();
    let mut sink = open(&notes);
    sink.write(["bad 1", "ok2 2"].map(str::to_owned));
    notes.seal(&mut sink.0, 1);
    sink.0.commit(Epoch::new(1)).expect("commit");
    for _ in 0..2 {
        assert_eq!(seen.recv_timeout(common::PATIENCE).expect("a publish"), "bad");
    }
    drop(sink);

    let mut sink = open(&notes);
    let end = Instant::now() + common::PATIENCE;
    let letter = loop {
        sink.0.ready().expect("no failure");
        if let Some(letter) = sink.0.refused() {
            break letter;
        }
        assert!(Instant::now() < end, "no letter");
        std::thread::park_timeout(Duration::from_millis(10));
    };
    assert!(letter.reason.contains("\"bad\""), "{letter}");
    let published: Vec<_> = seen.try_iter().collect();
    assert_eq!(published.iter().filter(|topic| *topic == "ok2").count(), 1, "{published:?}");
    assert!(published.len() <= 9, "{published:?}");
    for epoch in 2.. {
        notes.seal(&mut sink.0, epoch);
        if notes.0.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "a note is left");
        sink.0.ready().expect("no failure");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(sink.close_within(common::PATIENCE));
}
