//! What no real broker does on demand: peers of a few scripted bytes.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::peer::{accepted, read};
use common::{Line, Shard};
use thalweg_mqtt::{CHUNK_MESSAGES_MAX, CHUNKS_MAX, MqttConfig, MqttSource, Qos, Version};

/// Listens, and plays `script` for each connection after reading its CONNECT.
fn peer<T: Send + 'static>(
    script: impl FnMut(usize, &mut TcpStream) -> Option<T> + Send + 'static,
) -> (MqttConfig, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let mut script = script;
    let thread = thread::spawn(move || {
        for round in 0.. {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout");
            let (kind, _) = read(&mut stream).expect("a packet");
            assert_eq!(kind, 0x10, "CONNECT");
            if let Some(result) = script(round, &mut stream) {
                return result;
            }
        }
        unreachable!("it listens for ever")
    });
    (MqttConfig::new("127.0.0.1").port(port), thread)
}

/// Goal: the broker may ask for the end of a QoS 2 exchange that this process never saw, and gets it. A reconnect
/// for ever is what others do (rumqtt issues 664 and 1053).
#[test]
fn an_unknown_pubrel_is_answered_with_pubcomp() {
    for version in [Version::V311, Version::V5] {
        let (config, peer) = peer(move |round, stream| {
            stream.write_all(&accepted(version, true)).expect("CONNACK");
            for id in [7, 999] {
                let [high, low] = u16::to_be_bytes(id);
                stream.write_all(&[0x62, 2, high, low]).expect("PUBREL");
                loop {
                    let (kind, body) = read(stream).expect("the connection holds");
                    if kind == 0x70 {
                        assert_eq!(body[..2], [high, low], "PUBCOMP for the same id");
                        break;
                    }
                }
            }
            // Once more after a reconnect, which must not make a difference.
            (round == 1).then_some(())
        });
        let config = config.version(version).qos(Qos::ExactlyOnce).client_id("gw");
        let mut shard = Shard::open(&MqttSource::new(config, Line).topic("a"));
        while !peer.is_finished() {
            shard.run_for(Duration::from_millis(20));
        }
        peer.join().expect("the script ran");
    }
}

#[test]
fn a_refused_subscription_names_the_filter() {
    for (version, code, body) in
        [(Version::V311, 0x80_u8, vec![0x90_u8, 4]), (Version::V5, 0x87, vec![0x90, 5])]
    {
        let (config, peer) = peer(move |_, stream| {
            stream.write_all(&accepted(version, false)).expect("CONNACK");
            let (kind, subscribe) = read(stream).expect("a packet");
            assert_eq!(kind, 0x82, "SUBSCRIBE");
            let mut answer = body.clone();
            answer.extend(&subscribe[..2]);
            if version == Version::V5 {
                answer.push(0);
            }
            answer.extend([1, code]);
            stream.write_all(&answer).expect("SUBACK");
            let _end = stream.read(&mut [0; 64]);
            Some(())
        });
        let source = MqttSource::new(config.version(version), Line).topic("open").topic("shut/{x}");
        let error = Shard::open(&source).fail();
        assert!(error.contains("\"shut/+\""), "{error}");
        peer.join().expect("the script ran");
    }
}

#[test]
fn refusals_that_time_cannot_mend_end_the_job_and_others_do_not() {
    let fatal = [
        (Version::V311, 1, "version=5"),
        (Version::V311, 2, "client_id"),
        (Version::V311, 4, "user and password"),
        (Version::V311, 5, "user and password"),
        (Version::V5, 0x84, "version=3.1.1"),
        (Version::V5, 0x85, "client_id"),
        (Version::V5, 0x86, "user and password"),
        (Version::V5, 0x87, "user and password"),
        (Version::V5, 0x8a, "user and password"),
        (Version::V5, 0x9b, "qos"),
    ];
    for (version, code, help) in fatal {
        let (config, peer) = peer(move |_, stream| {
            let mut answer = accepted(version, false);
            answer[3] = code;
            stream.write_all(&answer).expect("CONNACK");
            Some(())
        });
        let source = MqttSource::new(config.version(version), Line).topic("a");
        let error = Shard::open(&source).fail();
        assert!(error.contains(help), "{version:?} {code:#x}: {error}");
        peer.join().expect("the script ran");
    }
    for (version, code) in
        [(Version::V311, 3), (Version::V5, 0x88), (Version::V5, 0x89), (Version::V5, 0x97)]
    {
        let (config, peer) = peer(move |round, stream| {
            let mut answer = accepted(version, false);
            answer[3] = if round < 2 { code } else { 0 };
            stream.write_all(&answer).expect("CONNACK");
            (round == 2).then(|| read(stream).expect("SUBSCRIBE").0)
        });
        let source = MqttSource::new(config.version(version), Line).topic("a");
        let mut shard = Shard::open(&source);
        while !peer.is_finished() {
            shard.run_for(Duration::from_millis(20));
        }
        assert_eq!(peer.join().expect("the script ran"), 0x82, "{version:?} {code:#x}");
    }
}

/// Goal: bytes that are no MQTT neither crash nor end anything.
#[test]
fn nonsense_is_weather() {
    let (config, peer) = peer(|round, stream| {
        let nonsense: &[u8] = match round {
            0 => b"HTTP/1.1 400 Bad Request\r\n\r\n",
            1 => &[0x20, 0xff, 0xff, 0xff, 0xff, 0xff],
            2 => &[0x20, 3, 0, 0, 0, 0x30, 5, 0, 9, b'a', b'b', b'c'],
            3 => &[0x20, 3, 0, 0, 0, 0xf0, 0],
            _ => return Some(()),
        };
        stream.write_all(nonsense).expect("write");
        None
    });
    let mut shard = Shard::open(&MqttSource::new(config, Line).topic("a"));
    while !peer.is_finished() {
        shard.run_for(Duration::from_millis(20));
    }
    peer.join().expect("the script ran");
    shard.stop();
    assert!(shard.seen.lines.is_empty() && shard.seen.dead.is_empty());
}

/// Goal: a shard that stands still costs neither the connection nor a message: the socket is not read any more, and pings
/// go on. What came before the end of the connection counts, also if it is read after that.
#[test]
fn pings_go_on_and_nothing_is_lost_while_nobody_reads() {
    const MESSAGES: usize = 3 * CHUNKS_MAX * CHUNK_MESSAGES_MAX;
    let check = |version| {
        let (config, peer) = peer(move |_, stream| {
            stream.write_all(&accepted(version, false)).expect("CONNACK");
            let (_, subscribe) = read(stream).expect("SUBSCRIBE");
            let answer: &[u8] = if version == Version::V5 { &[0, 0] } else { &[0] };
            let suback = [&[0x90, 2 + answer.len() as u8], &subscribe[..2], answer].concat();
            stream.write_all(&suback).expect("SUBACK");
            for n in 0..MESSAGES {
                let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
                let body = [&[0, 1, b'a'], properties, format!("{n}").as_bytes()].concat();
                let publish = [&[0x30, body.len() as u8], &body[..]].concat();
                stream.write_all(&publish).expect("PUBLISH");
            }
            for ping in 0..2 {
                assert_eq!(read(stream).expect("a packet").0, 0xc0, "PINGREQ {ping}");
            }
            Some(())
        });
        let config = config.version(version).keep_alive_s(5);
        let mut shard = Shard::open(&MqttSource::new(config, Line).topic("a"));
        // It is not polled meanwhile.
        peer.join().expect("the script ran");
        shard.run_until(MESSAGES);
        let expected: Vec<_> = (0..MESSAGES).map(|n| format!("a {n}")).collect();
        assert!(shard.seen.lines == expected, "{version:?}");
        shard.stop();
    };
    thread::scope(|scope| {
        for version in [Version::V311, Version::V5] {
            scope.spawn(move || check(version));
        }
    });
}
