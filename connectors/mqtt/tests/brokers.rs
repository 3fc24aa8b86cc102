//! Brokers as they are: with limits, of another version, behind TLS, refusing for a while, sending us elsewhere. What they
//! say of themselves is heeded, and what they do not say is found out.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::hand::Hand;
use common::peer::{accepted, read};
use common::{Line, PATIENCE, Shard, Text, Writer, publish, subscribed, wait_for_log};
use thalweg_kernel::Sink;
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource, Qos, Version};

/// Listens, and plays `script` for each connection. It is given the number of the connection and the level of the protocol
/// in its CONNECT: 4 is MQTT 3.1.1. The last returns something.
fn peer<T: Send + 'static>(
    mut script: impl FnMut(usize, u8, &mut TcpStream) -> Option<T> + Send + 'static,
) -> (MqttConfig, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let thread = thread::spawn(move || {
        for round in 0.. {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let (kind, body) = read(&mut stream).expect("a packet");
            assert_eq!(kind, 0x10, "CONNECT");
            if let Some(result) = script(round, body[6], &mut stream) {
                return result;
            }
        }
        unreachable!("it listens for ever")
    });
    (MqttConfig::new("127.0.0.1").port(port), thread)
}

/// Accepts in the version of the level, and with these properties.
fn accept(stream: &mut TcpStream, level: u8, properties: &[u8]) {
    let answer = match level {
        4 => accepted(Version::V311, false),
        _ => {
            let length = properties.len() as u8;
            [&[0x20, 3 + length, 0, 0, length], properties].concat()
        }
    };
    stream.write_all(&answer).expect("CONNACK");
}

/// Grants a subscription to one filter.
fn grant(stream: &mut TcpStream, level: u8, code: u8) {
    let (kind, subscribe) = read(stream).expect("a packet");
    assert_eq!(kind, 0x82, "SUBSCRIBE");
    let id = &subscribe[..2];
    let answer = match level {
        4 => [&[0x90, 3], id, &[code]].concat(),
        _ => [&[0x90, 4], id, &[0, code]].concat(),
    };
    stream.write_all(&answer).expect("SUBACK");
}

fn source(config: MqttConfig) -> Shard {
    Shard::open(&MqttSource::new(config, Line).topic("a/{x}"))
}

#[allow(clippy::ptr_arg)] // what the sink calls it with
fn topic_of_first_word(value: &String, topic: &mut String) {
    topic.push_str(value.split(' ').next().unwrap_or_default());
}

fn fails<W: Sink<String>>(writer: &mut Writer<W>) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match writer.0.ready() {
            Ok(_) => assert!(Instant::now() < deadline, "it never failed"),
            Err(error) => return error.to_string(),
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Goal: a sink obeys the broker's maximum where it promises as much, whether the broker tells it (5) or not (3.1.1).
#[test]
fn results_go_out_with_the_quality_of_service_that_there_is() {
    let Some(broker) = Mosquitto::options().line("max_qos 1").start() else { return };
    for version in [Version::V5, Version::V311] {
        let mut reader = subscribed(&broker, broker.config(), "out");
        let config = broker.config().version(version).qos(Qos::ExactlyOnce);
        let mut writer = Writer::open(&MqttSink::new(config, "out", Text));
        writer.write(["a", "b"].map(str::to_owned));
        assert!(writer.close_within(PATIENCE), "{version:?}");
        reader.run_until(2);
        reader.stop();
        assert_eq!(reader.seen.lines, ["out a", "out b"], "{version:?}");
    }
    assert!(broker.log().contains("(d0, q1, r0"), "with QoS 1");
}

/// Goal: a job whose results could be lost, or not be retained, although it has not asked for that, ends with words.
#[test]
fn a_broker_that_takes_less_than_was_promised_ends_the_job() {
    let options = Mosquitto::options().line("max_qos 0").line("retain_available false");
    let Some(broker) = options.start() else { return };
    let error = fails(&mut Writer::open(&MqttSink::new(broker.config(), "out", Text)));
    assert!(error.contains("qos=1") && error.contains("Write qos=0"), "{error}");
    let config = broker.config().qos(Qos::AtMostOnce).status_topic("status");
    let error = fails(&mut Writer::open(&MqttSink::new(config.clone(), "out", Text).retain(true)));
    assert!(error.contains("retain=false"), "{error}");
    // What asks for no more than there is works, and its status message takes what there is.
    let mut reader = subscribed(&broker, broker.config().qos(Qos::AtMostOnce), "+");
    let mut writer = Writer::open(&MqttSink::new(config, "out", Text));
    writer.write(["a".to_owned()]);
    assert!(writer.close_within(PATIENCE));
    reader.run_until(3);
    let mut lines = std::mem::take(&mut reader.seen.lines);
    lines.sort();
    assert_eq!(lines, ["out a", "status offline", "status online"]);
}

#[test]
fn a_source_whose_filters_need_what_the_broker_has_not_says_so() {
    for (property, expected) in [(0x28, "\"a/+\" has a wildcard"), (0x2a, "")] {
        let (config, peer) = peer(move |_, level, stream| {
            accept(stream, level, &[property, 0]);
            if property == 0x2a {
                grant(stream, level, 1);
            }
            let _end = read(stream);
            Some(())
        });
        let mut shard = source(config);
        if expected.is_empty() {
            shard.run_for(Duration::from_millis(100));
            shard.stop();
        } else {
            let error = shard.fail();
            assert!(error.contains(expected), "{error}");
        }
        drop(shard);
        peer.join().expect("the script ran");
    }
}

/// Goal: one that speaks 3.1.1 alone is spoken to so, whichever way it says that; one that speaks neither ends the job.
#[test]
fn a_broker_of_the_other_version_is_recognised() {
    let answers: [&[u8]; 3] = [&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0], &[]];
    for answer in answers {
        let (config, peer) = peer(move |round, level, stream| {
            if level == 5 {
                stream.write_all(answer).expect("CONNACK");
                return None;
            }
            accept(stream, level, &[]);
            grant(stream, level, 1);
            stream.write_all(b"\x30\x06\x00\x03a/1x").expect("PUBLISH");
            assert_eq!(read(stream).expect("a packet").0, 0xe0, "DISCONNECT");
            Some(round)
        });
        let mut shard = source(config);
        shard.run_until(1);
        shard.stop();
        assert_eq!(shard.seen.lines, ["a/1 x x=1"]);
        let rounds = peer.join().expect("the script ran");
        assert_eq!(rounds, if answer.is_empty() { 2 } else { 1 }, "{answer:?}");
    }
    for version in [None, Some(Version::V5), Some(Version::V311)] {
        let (config, peer) = peer(move |round, _, stream| {
            stream.write_all(&[0x20, 2, 0, 1]).expect("CONNACK");
            (round == usize::from(version.is_none())).then_some(())
        });
        let config = version.into_iter().fold(config, MqttConfig::version);
        let error = source(config).fail();
        assert!(error.contains("unsupported protocol version"), "{error}");
        let hint = match version {
            None => "MQTT 5 and 3.1.1",
            Some(Version::V5) => "try version=3.1.1",
            Some(Version::V311) => "try version=5",
        };
        assert!(error.contains(hint), "{error}");
        peer.join().expect("the script ran");
    }
}

#[test]
fn a_login_that_is_refused_ends_a_start_and_not_a_job_that_has_run() {
    let (config, peer) = peer(move |round, level, stream| {
        if (1..4).contains(&round) {
            stream.write_all(&[0x20, 3, 0, 0x87, 0]).expect("CONNACK");
            return None;
        }
        accept(stream, level, &[]);
        grant(stream, level, 1);
        if round == 0 {
            return None;
        }
        stream.write_all(b"\x30\x07\x00\x03a/1\x00x").expect("PUBLISH");
        assert_eq!(read(stream).expect("a packet").0, 0xe0, "DISCONNECT");
        Some(())
    });
    let mut shard = source(config.reconnect_max(Duration::from_millis(100)));
    shard.run_until(1);
    shard.stop();
    peer.join().expect("the script ran");
    assert_eq!(shard.seen.lines, ["a/1 x x=1"]);
}

#[test]
fn a_broker_that_has_moved_is_named_and_followed_if_that_is_allowed() {
    for follows in [false, true] {
        let (new, there) = peer(move |_, level, stream| {
            accept(stream, level, &[]);
            grant(stream, level, 1);
            assert_eq!(read(stream).expect("a packet").0, 0xe0, "DISCONNECT");
            Some(())
        });
        let address = new.to_string().replace("mqtt://", "");
        let reference = [&[0x1c, 0, address.len() as u8], address.as_bytes()].concat();
        let (old, here) = peer(move |_, _, stream| {
            let length = reference.len() as u8;
            let answer = [&[0x20, 3 + length, 0, 0x9d, length], &reference[..]].concat();
            stream.write_all(&answer).expect("CONNACK");
            Some(())
        });
        let mut shard = source(old.follow_redirects(follows));
        here.join().expect("the script ran");
        if follows {
            shard.run_for(Duration::from_millis(200));
            shard.stop();
            there.join().expect("the script ran");
        } else {
            let error = shard.fail();
            let hint = format!("write {address}, or follow_redirects=true");
            assert!(error.contains("server moved") && error.contains(&hint), "{error}");
        }
    }
}

/// Goal: a result that the broker cannot take, and of which nobody can know that, holds up nothing. Nothing else is lost
/// for it.
#[test]
fn what_ends_each_connection_becomes_a_dead_letter_and_the_others_arrive() {
    for version in [Version::V311, Version::V5] {
        let (to_us, published) = std::sync::mpsc::channel();
        // Nothing is left to publish when it ends: it may never see another connection.
        let (config, _peer) = peer(move |_, level, stream| {
            accept(stream, level, &[]);
            while let Ok((kind, body)) = read(stream) {
                if kind >> 4 != 3 {
                    return Some(());
                }
                let topic_end = 2 + usize::from(body[1]);
                let topic = String::from_utf8_lossy(&body[2..topic_end]).into_owned();
                if topic == "bad" {
                    return None;
                }
                to_us.send(topic).expect("a listener");
                let id = &body[topic_end..topic_end + 2];
                stream.write_all(&[&[0x40, 2], id].concat()).expect("PUBACK");
            }
            None
        });
        let config = config.version(version);
        let spec = MqttSink::new(config, topic_of_first_word, Text);
        let mut writer = Writer::open(&spec);
        writer.write(["ok1 x", "bad y", "ok2 z"].map(str::to_owned));
        let end = Instant::now() + PATIENCE;
        let letter = loop {
            writer.0.flush().expect("no failure");
            match writer.0.refused() {
                Some(letter) => break letter,
                None => assert!(Instant::now() < end, "no letter"),
            }
            thread::park_timeout(Duration::from_millis(10));
        };
        assert!(
            letter.reason.contains("\"bad\"") && letter.reason.contains("took others"),
            "{letter}"
        );
        assert_eq!(&letter.payload[..], b"bad y");
        // The last one: nothing comes behind it that could show what the broker takes.
        writer.write(["bad z".to_owned()]);
        assert!(writer.close_within(PATIENCE), "nothing is left");
        assert_eq!(&writer.0.refused().expect("a letter").payload[..], b"bad z");
        let mut topics: Vec<_> = published.try_iter().collect();
        topics.dedup();
        assert_eq!(topics, ["ok1", "ok2"], "{version:?}");
    }
}

/// Goal: a right that is taken from a job that runs costs the filter it is for alone, and until it is given back.
#[test]
fn a_filter_that_is_refused_at_a_reconnect_leaves_the_others_and_is_asked_for_again() {
    let (config, peer) = peer(|round, level, stream| {
        accept(stream, level, &[]);
        for part in 0..3 {
            let (kind, subscribe) = read(stream).expect("a packet");
            let id = &subscribe[..2];
            let answer = match (round, part) {
                (0, _) => [&[0x90, 5], id, &[0, 1, 1]].concat(),
                (_, 0) => [&[0x90, 5], id, &[0, 1, 0x87]].concat(),
                // It is asked for alone.
                _ => [&[0x90, 4], id, &[0, if part == 1 { 0x87 } else { 1 }]].concat(),
            };
            assert_eq!(kind, 0x82, "SUBSCRIBE");
            stream.write_all(&answer).expect("SUBACK");
            if round == 0 {
                return None;
            }
            let topic = if part == 2 { b"shut" } else { b"open" };
            let publish = [&[0x30, 8, 0, 4], &topic[..], &[0, b'0' + part as u8]].concat();
            stream.write_all(&publish).expect("PUBLISH");
        }
        assert_eq!(read(stream).expect("a packet").0, 0xe0, "DISCONNECT");
        Some(())
    });
    let config = config.version(Version::V5).reconnect_max(Duration::from_millis(100));
    let mut shard = Shard::open(&MqttSource::new(config, Line).topic("open").topic("shut"));
    shard.run_until(3);
    assert_eq!(shard.seen.lines, ["open 0", "open 1", "shut 2"]);
    shard.stop();
    peer.join().expect("the script ran");
}

/// Goal: one bad result does not cost the others their QoS 2.
#[test]
fn a_result_that_ends_connections_at_qos_1_as_well_leaves_the_others_their_qos_2() {
    let (to_us, published) = std::sync::mpsc::channel();
    let (config, _peer) = peer(move |_, level, stream| {
        accept(stream, level, &[]);
        while let Ok((kind, body)) = read(stream) {
            let answer = match kind >> 4 {
                3 => {
                    let topic_end = 2 + usize::from(body[1]);
                    let (topic, qos) = (&body[2..topic_end], (kind >> 1) & 3);
                    if topic == b"bad" {
                        return None;
                    }
                    to_us.send(qos).expect("a listener");
                    [&[if qos == 2 { 0x50 } else { 0x40 }, 2], &body[topic_end..topic_end + 2]]
                        .concat()
                }
                6 => [&[0x70, 2], &body[..2]].concat(),
                _ => return Some(()),
            };
            stream.write_all(&answer).expect("an answer");
        }
        None
    });
    let spec = MqttSink::new(config.qos(Qos::ExactlyOnce), topic_of_first_word, Text);
    let mut writer = Writer::open(&spec);
    writer.write(["bad x", "ok1 y", "ok2 z"].map(str::to_owned));
    assert!(writer.close_within(PATIENCE));
    assert_eq!(published.try_iter().collect::<Vec<_>>(), [2, 2]);
    assert_eq!(&writer.0.refused().expect("a letter").payload[..], b"bad x");
}

/// Goal: a broker that ends each connection on the status message says nothing of results by that.
#[test]
fn no_result_goes_behind_a_status_message_that_ends_connections() {
    const ENDED: usize = 5;
    let (config, peer) = peer(|round, level, stream| {
        accept(stream, level, &[]);
        let (kind, body) = read(stream).expect("a packet");
        let end = 2 + usize::from(body[1]);
        assert_eq!((kind >> 4, &body[2..end]), (3, &b"status"[..]), "the status comes first");
        if (1..=ENDED).contains(&round) {
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            assert!(read(stream).is_err(), "a result behind it");
        }
        if round < ENDED {
            return None;
        }
        let mut results = 0;
        stream.write_all(&[&[0x40, 2], &body[end..end + 2]].concat()).expect("PUBACK");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        while let Ok((kind, body)) = read(stream) {
            if kind >> 4 == 3 {
                let end = 2 + usize::from(body[1]);
                results += usize::from(&body[2..end] == b"out");
                stream.write_all(&[&[0x40, 2], &body[end..end + 2]].concat()).expect("PUBACK");
            }
        }
        Some(results)
    });
    let config = config.status_topic("status").reconnect_max(Duration::from_millis(100));
    let mut writer = Writer::open(&MqttSink::new(config, "out", Text));
    writer.write(["a", "b"].map(str::to_owned));
    assert!(writer.close_within(PATIENCE));
    assert!(writer.0.refused().is_none(), "no result is to blame");
    assert_eq!(peer.join().expect("the script ran"), 2);
}

/// Goal: a stop ends, whatever the broker does.
#[test]
fn a_stop_without_a_broker_ends_in_bounded_time_and_says_what_is_left() {
    let nobody = MqttConfig::new("127.0.0.1").port(thalweg_mqtt::testing::free_port());
    let (mute, peer) = peer(|_, level, stream| {
        accept(stream, level, &[]);
        while read(stream).is_ok() {}
        Some(())
    });
    for (config, what) in [(nobody, "is away"), (mute, "has not acknowledged them")] {
        let spec = MqttSink::new(config, "out", Text).stop_timeout(Duration::from_millis(300));
        let mut writer = Writer::open(&spec);
        writer.write(["a", "b"].map(str::to_owned));
        assert!(!writer.close_within(Duration::from_millis(600)), "no stop, no limit");
        let begun = Instant::now();
        Sink::<String>::stop(&mut writer.0);
        let error = loop {
            match writer.0.close() {
                Ok(done) => assert!(!done && begun.elapsed() < PATIENCE),
                Err(error) => break error.to_string(),
            }
            thread::park_timeout(Duration::from_millis(50));
        };
        assert!(error.contains("2 results were not delivered within the 300ms"), "{error}");
        assert!(error.contains(what) && error.contains("\"out\""), "{error}");
        // It counts from the beginning of the turn in which it heard of the stop.
        assert!(begun.elapsed() >= Duration::from_millis(250), "not before");
    }
    peer.join().expect("the script ran");
}

/// Goal: a broker that is slow and goes on is not taken for one that is away.
#[test]
fn a_stop_waits_as_long_as_the_broker_goes_on() {
    const RESULTS: usize = 8;
    let (config, peer) = peer(|_, level, stream| {
        accept(stream, level, &[]);
        for _ in 0..RESULTS {
            let (kind, body) = read(stream).expect("a packet");
            assert_eq!(kind >> 4, 3, "PUBLISH");
            let end = 2 + usize::from(body[1]);
            // Its work takes that long.
            thread::sleep(Duration::from_millis(250));
            stream.write_all(&[&[0x40, 2], &body[end..end + 2]].concat()).expect("PUBACK");
        }
        while read(stream).is_ok() {}
        Some(())
    });
    let spec = MqttSink::new(config, "out", Text).stop_timeout(Duration::from_millis(1_000));
    let mut writer = Writer::open(&spec);
    writer.write((0..RESULTS).map(|n| n.to_string()));
    Sink::<String>::stop(&mut writer.0);
    assert!(writer.close_within(PATIENCE), "it is delivered");
    peer.join().expect("the script ran");
}

/// Goal: a message over the limit costs itself alone, whatever its quality of service. What is before it counts once, what
/// is behind it arrives, and the connection stays.
#[test]
fn a_message_over_the_limit_is_read_past_and_acknowledged() {
    let Some(broker) = Mosquitto::start() else { return };
    let large = format!("{}\n", "x".repeat(300_000));
    let all = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
    let versions = [Version::V311, Version::V5];
    for (version, qos) in versions.into_iter().flat_map(|it| all.map(|qos| (it, qos))) {
        let n = qos as usize;
        let id = format!("gw{n}-{version:?}");
        let config = broker.config().version(version).client_id(&id).qos(qos);
        let hand = Hand::swift();
        let source = MqttSource::new(config.packet_bytes_max(1_000), Line).topic("a");
        let before = broker.log().matches("Sending SUBACK").count();
        let mut shard = Shard::open_in(&source, &hand.context());
        wait_for_log(&broker, "Sending SUBACK", before + 1);
        for lines in ["1\n2\n", &large, "3\n"] {
            publish(&broker, "a", qos as u8, lines);
        }
        shard.run_until(3);
        shard.stop();
        assert_eq!(shard.seen.lines, ["a 1", "a 2", "a 3"]);
        assert_eq!(hand.appended(), 3, "what is cut is not for the journal");
        assert_eq!(shard.seen.dead.len(), 1);
        let letter = &shard.seen.dead[0];
        assert_eq!(
            (&*letter.topic, letter.payload_bytes, letter.payload.len()),
            ("a", 300_000, 4_096)
        );
        assert!(letter.reason.contains("300000 bytes"), "{letter}");
        assert_eq!(broker.log().matches(&format!(" as {id} ")).count(), 1, "one connection");
        let acks = ["Received PUBACK", "Received PUBACK", "Received PUBREC"][n];
        let count = broker.log().matches(&format!("{acks} from {id}")).count();
        assert_eq!(count, [0, 4, 4][n], "{qos:?}");
    }
}

/// Goal: a message of which nobody can hold the whole, with properties, comes in pieces and costs no memory.
#[test]
fn a_large_message_with_properties_is_read_past() {
    let (config, peer) = peer(|_, level, stream| {
        accept(stream, level, &[]);
        grant(stream, level, 2);
        // A property before the payload: 2 + 3 + 2 + 1 + 5 bytes before 1,000,000 of it.
        let body_bytes = 1_000_013_u32;
        let length = [0, 7, 14, 21].map(|shift| (body_bytes >> shift) as u8 & 127);
        let length = [length[0] | 128, length[1] | 128, length[2]];
        let head = [&[0x34][..], &length, b"\x00\x03a/1\x00\x07\x05\x02\x00\x00\x00\x09"].concat();
        stream.write_all(&head[..9]).expect("PUBLISH");
        stream.write_all(&head[9..]).expect("PUBLISH");
        for _ in 0..100 {
            stream.write_all(&[b'x'; 10_000]).expect("PUBLISH");
        }
        let (kind, body) = read(stream).expect("PUBREC");
        assert_eq!((kind, &body[..2]), (0x50, &[0, 7][..]));
        stream.write_all(&[0x62, 2, 0, 7]).expect("PUBREL");
        assert_eq!(read(stream).expect("PUBCOMP").0, 0x70);
        stream.write_all(b"\x30\x07\x00\x03a/2\x00y").expect("PUBLISH");
        assert_eq!(read(stream).expect("a packet").0, 0xe0, "DISCONNECT");
        Some(())
    });
    let mut shard = source(config.packet_bytes_max(1_000).qos(Qos::ExactlyOnce));
    shard.run_until(1);
    shard.stop();
    peer.join().expect("the script ran");
    assert_eq!(shard.seen.lines, ["a/2 y x=2"]);
    let letter = &shard.seen.dead[0];
    assert_eq!((&*letter.topic, letter.payload.len()), ("a/1", 4_096));
    assert_eq!(letter.payload_bytes, 1_000_000);
}

/// Goal: an answer with a reason that only newer brokers give is an answer.
#[test]
fn a_result_that_the_broker_refuses_by_a_rare_reason_is_a_dead_letter() {
    let Some(broker) = Mosquitto::options().line("message_size_limit 1000").start() else { return };
    let mut reader = subscribed(&broker, broker.config(), "out");
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let spec = MqttSink::new(broker.config().qos(qos), "out", Text);
        let mut writer = Writer::open(&spec);
        writer.write(["a".to_owned(), "x".repeat(2_000), "b".to_owned()]);
        assert!(writer.close_within(PATIENCE), "{qos:?}");
        let letter = writer.0.refused().expect("a letter");
        assert!(letter.reason.contains("packet too large"), "{letter}");
        assert_eq!(letter.payload_bytes, 2_000);
    }
    reader.run_until(4);
    reader.stop();
    assert_eq!(reader.seen.lines, ["out a", "out b", "out a", "out b"]);
}

/// Goal: a text that is not UTF-8, which a careless broker passes on, does not bring the connection down again and again.
#[test]
fn a_topic_that_is_no_text_stops_nothing() {
    for version in [Version::V311, Version::V5] {
        let (config, peer) = peer(move |_, level, stream| {
            accept(stream, level, &[]);
            grant(stream, level, 1);
            let properties: &[u8] = if level == 5 { &[0] } else { &[] };
            for (topic, id) in [(b"a/\xff", 7), (b"a/2", 8)] {
                let body = [&[0, 3], &topic[..], &[0, id], properties, b"x"].concat();
                let packet = [&[0x32, body.len() as u8], &body[..]].concat();
                stream.write_all(&packet).expect("PUBLISH");
                let (kind, body) = read(stream).expect("an acknowledgement");
                assert_eq!((kind, body[1]), (0x40, id));
            }
            Some(())
        });
        let mut shard = source(config.version(version));
        shard.run_until(2);
        peer.join().expect("the script ran");
        shard.stop();
        assert_eq!(shard.seen.lines, ["a/\u{fffd} x x=\u{fffd}", "a/2 x x=2"], "{version:?}");
    }
}
