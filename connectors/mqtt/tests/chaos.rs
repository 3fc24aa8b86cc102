//! Connections are cut at any byte, in either direction, and the session goes on: each message counts once.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use common::hand::Hand;
use common::{Line, PATIENCE, Shard, Text, Writer, wait_for_log};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{Mode, MqttConfig, MqttSink, MqttSource, Qos, Topic, Version};
use thalweg_testing::Random;

/// The cuts of each source; `THALWEG_MQTT_CUTS` says otherwise.
const CUTS: usize = 5;
/// The messages between two cuts, as far as they are published.
const MESSAGES: usize = 400;

/// Passes connections on to a broker, and cuts each of the first ones behind some bytes.
struct Proxy {
    port: u16,
    cuts: Arc<AtomicUsize>,
    calm: Arc<AtomicBool>,
}

/// Copies until the end, or until `left` bytes have passed; then both ends are closed, without a word.
fn pass(mut from: TcpStream, mut to: TcpStream, mut left: usize, calm: &AtomicBool) -> bool {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let passed = if calm.load(SeqCst) { read } else { read.min(left) };
        if to.write_all(&bytes[..passed]).is_err() {
            break;
        }
        left -= passed.min(left);
        if left == 0 && !calm.load(SeqCst) {
            let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return true;
        }
    }
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    false
}

impl Proxy {
    fn start(broker: u16, cuts_max: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (cuts, calm) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let proxy = Self { port, cuts: Arc::clone(&cuts), calm: Arc::clone(&calm) };
        thread::spawn(move || {
            let mut random = Random::new(seed);
            for source in listener.incoming() {
                let (source, broker) = (source.unwrap(), TcpStream::connect(("127.0.0.1", broker)));
                let broker = broker.unwrap();
                // Both small and large, behind CONNECT and SUBSCRIBE in most cases.
                let mut limit = |most: u64| (random.below(most) + random.below(200)) as usize + 1;
                let (up, down) = (limit(3_000), limit(12_000));
                let ends = [
                    (source.try_clone().unwrap(), broker.try_clone().unwrap(), up),
                    (broker, source, down),
                ];
                for (from, to, left) in ends {
                    let (cuts, calm) = (Arc::clone(&cuts), Arc::clone(&calm));
                    thread::spawn(move || {
                        if pass(from, to, left, &calm) && cuts.fetch_add(1, SeqCst) + 1 >= cuts_max
                        {
                            calm.store(true, SeqCst);
                        }
                    });
                }
            }
        });
        proxy
    }
}

/// A topic of its own for each source.
#[derive(Clone)]
struct Of(usize);

impl Topic<String> for Of {
    fn write(&self, _: &String, out: &mut String) {
        out.push_str(&self.0.to_string());
    }
}

/// Goal: 0 lost, 0 repeated. Method: sources in both versions, with QoS 1 and 2, in two modes. The connection of each is cut
/// again and again while messages come. Then a calm one brings the rest.
#[test]
fn cuts_at_any_byte_lose_and_repeat_nothing() {
    let cuts = std::env::var("THALWEG_MQTT_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let mut kinds = Vec::new();
    for version in [Version::V311, Version::V5] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            kinds.extend([Mode::Journal, Mode::None].map(|mode| (version, qos, mode)));
        }
    }
    let Some(broker) = Mosquitto::start() else { return };
    let broker = &broker;
    let all: usize = thread::scope(|scope| {
        let sources: Vec<_> = kinds
            .into_iter()
            .enumerate()
            .map(|(me, (version, qos, mode))| {
                scope.spawn(move || cut_often(broker, me, cuts, version, qos, mode))
            })
            .collect();
        sources.into_iter().map(|source| source.join().expect("a source")).sum()
    });
    println!("{all} cuts, lost 0, repeated 0");
}

fn cut_often(
    broker: &Mosquitto,
    me: usize,
    cuts: usize,
    version: Version,
    qos: Qos,
    mode: Mode,
) -> usize {
    let name = format!("gw{me}");
    // The session is there before anything is published.
    let spec = |port: u16| {
        let config = MqttConfig::new("127.0.0.1").port(port).version(version).qos(qos);
        MqttSource::new(config.client_id(&name), Line).topic(me.to_string()).durability(mode)
    };
    let mut first = Shard::open_in(&spec(broker.port()), &Hand::swift().context());
    wait_for_log(broker, &format!("Sending SUBACK to {name}"), 1);
    first.stop();
    drop(first);
    let proxy = Proxy::start(broker.port(), cuts, me as u64);
    let mut shard = Shard::open_in(&spec(proxy.port), &Hand::swift().context());
    let mut published = 0;
    let mut publisher = Writer::open(&MqttSink::new(broker.config().qos(qos), Of(me), Text));
    let deadline = std::time::Instant::now() + PATIENCE * (1 + cuts as u32 / 4);
    while !proxy.calm.load(SeqCst) || published == 0 {
        assert!(std::time::Instant::now() < deadline, "{} cuts", proxy.cuts.load(SeqCst));
        // What is there is read before more comes: each cut is amid messages.
        publisher.write((published..published + MESSAGES).map(|n| n.to_string()));
        published += MESSAGES;
        shard.run(|seen| seen.lines.len() >= published).unwrap();
    }
    publisher.write((published..published + MESSAGES).map(|n| n.to_string()));
    published += MESSAGES;
    assert!(publisher.close_within(PATIENCE));
    shard.run(|seen| seen.lines.len() >= published).unwrap();
    shard.run_for(std::time::Duration::from_millis(100));
    shard.stop();
    let mut counts = vec![0_usize; published];
    for line in &shard.seen.lines {
        counts[line.split(' ').nth(1).unwrap().parse::<usize>().unwrap()] += 1;
    }
    let wrong: Vec<_> = counts.iter().enumerate().filter(|(_, count)| **count != 1).collect();
    assert!(wrong.is_empty(), "{version:?} {qos:?} {mode}, number and count: {wrong:?}");
    proxy.cuts.load(SeqCst)
}
