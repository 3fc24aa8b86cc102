//! The journal mode, against a journal and a broker that are moved by hand. What is durable is acknowledged, in
//! receive order, on the connection that delivered it.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::hand::Hand;
use common::peer::{Connection, PUBACK, PUBCOMP, PUBREC, Peer};
use common::{Line, PATIENCE, Shard, wait_until};
use thalweg_kernel::{Cause, Epoch, PartitionId, Source, SourceStatus};
use thalweg_mqtt::record::Record;
use thalweg_mqtt::{CHUNKS_MAX, Mode, MqttSource, Qos, Retained, STALLED_MESSAGES_MAX, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn source(peer: &Peer) -> MqttSource<Line> {
    MqttSource::new(peer.config(), Line).topic("a")
}

fn open(peer: &Peer, hand: &Hand) -> (Shard, Connection) {
    let shard = Shard::open_in(&source(peer), &hand.context());
    (shard, peer.accept(true))
}

fn position(shard: &mut Shard, epoch: u64) -> Vec<u8> {
    let mut position = Vec::new();
    shard.source.snapshot(Epoch::new(epoch), &mut position);
    position
}

fn number(position: &[u8]) -> u64 {
    assert_eq!((position.len(), position[0]), (9, 1));
    u64::from_le_bytes(position[1..].try_into().unwrap())
}

#[test]
fn the_shard_has_a_message_at_once_and_the_broker_its_answer_when_it_is_durable() {
    for version in VERSIONS {
        let (peer, hand) = (Peer::new(version), Hand::default());
        let (mut shard, mut broker) = open(&peer, &hand);
        // Packet ids in no order: it is the receive order that counts.
        let ids = [7, 3, 65_535, 1, 20];
        for id in ids {
            broker.publish("a", 1, id, &id.to_string());
        }
        shard.run_until(5);
        assert_eq!(shard.seen.lines, ids.map(|id| format!("a {id}")), "{version:?}");
        assert_eq!(hand.appended(), 5);
        broker.is_silent();
        hand.sync_to(2);
        assert_eq!(broker.acks(PUBACK, 2), ids[..2]);
        broker.is_silent();
        hand.sync_to(5);
        assert_eq!(broker.acks(PUBACK, 3), ids[2..]);
        broker.is_silent();
        assert_eq!(hand.name(), "sensors-0", "the operator's stable name, and the partition");
    }
}

#[test]
fn at_qos_2_the_answer_waits_too_and_a_repetition_is_neither_kept_nor_emitted() {
    for version in VERSIONS {
        let (peer, hand) = (Peer::new(version), Hand::default());
        let spec = MqttSource::new(peer.config().qos(Qos::ExactlyOnce), Line).topic("a");
        let mut shard = Shard::open_in(&spec, &hand.context());
        let mut broker = peer.accept(true);
        broker.publish("a", 2, 4, "x");
        broker.publish("a", 1, 5, "y");
        shard.run_until(2);
        broker.is_silent();
        drop(broker);
        // Not answered before the connection went: it comes again.
        let mut broker = peer.accept(true);
        broker.publish("a", 2, 4, "x");
        broker.publish("a", 2, 6, "z");
        shard.run_until(3);
        assert_eq!(shard.seen.lines, ["a x", "a y", "a z"], "{version:?}");
        assert_eq!(hand.appended(), 3);
        hand.sync_to(1);
        broker.is_silent();
        hand.sync_to(2);
        assert_eq!(broker.acks(PUBREC, 1), [4], "behind what was received before it");
        hand.sync_to(3);
        assert_eq!(broker.acks(PUBREC, 1), [6]);
        broker.ask_release(4);
        broker.is_silent();
        hand.sync_to(4);
        assert_eq!(broker.acks(PUBCOMP, 1), [4]);
    }
}

/// Goal: what becomes durable after its connection has gone is not acknowledged on the next one, where that packet
/// id is another message's.
#[test]
fn an_acknowledgement_never_crosses_to_another_connection() {
    for version in VERSIONS {
        let (peer, hand) = (Peer::new(version), Hand::default());
        let (mut shard, mut broker) = open(&peer, &hand);
        broker.publish("a", 1, 1, "first");
        broker.publish("a", 1, 2, "second");
        shard.run_until(2);
        drop(broker);
        let mut broker = peer.accept(true);
        hand.sync_to(2);
        broker.is_silent();
        broker.publish("a", 1, 1, "other");
        shard.run_until(3);
        broker.is_silent();
        hand.sync_to(3);
        assert_eq!(broker.acks(PUBACK, 1), [1], "{version:?}");
        broker.is_silent();
        assert_eq!(shard.seen.lines, ["a first", "a second", "a other"]);
    }
}

#[test]
fn what_needs_no_record_does_not_overtake_what_does() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::default());
    let (mut shard, mut broker) = open(&peer, &hand);
    broker.publish("a", 1, 1, "x");
    broker.publish("a", 0, 0, "kept though nobody waits for it");
    broker.publish("not subscribed", 1, 2, "y");
    shard.run_until(2);
    wait_until("three records", || hand.appended() == 3);
    hand.sync_to(1);
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    broker.is_silent();
    hand.sync_to(3);
    assert_eq!(broker.acks(PUBACK, 1), [2]);
}

#[test]
fn a_full_journal_stops_the_stream_and_room_continues_it_without_loss_or_disorder() {
    for version in VERSIONS {
        let (peer, hand) = (Peer::new(version), Hand::swift());
        hand.cap(Some(3));
        let (mut shard, mut broker) = open(&peer, &hand);
        for id in 1..=8 {
            broker.publish("a", 1, id, &id.to_string());
        }
        shard.run_until(3);
        assert_eq!(broker.acks(PUBACK, 3), [1, 2, 3]);
        broker.is_silent();
        shard.run_for(Duration::from_millis(50));
        assert_eq!(shard.seen.lines.len(), 3, "what is not kept is not emitted");
        // A checkpoint makes room.
        assert_eq!(number(&position(&mut shard, 1)), 3);
        assert!(shard.source.durable(Epoch::new(1)).unwrap());
        shard.source.committed(Epoch::new(1), Epoch::new(1));
        assert_eq!(broker.acks(PUBACK, 3), [4, 5, 6], "{version:?}");
        hand.cap(None);
        assert_eq!(broker.acks(PUBACK, 2), [7, 8]);
        shard.run_until(8);
        assert_eq!(shard.seen.lines, (1..=8).map(|n| format!("a {n}")).collect::<Vec<_>>());
        assert_eq!(hand.oldest(), 3);
    }
}

/// Goal: a journal without room costs bounded memory, however much the broker sends, and no message.
#[test]
fn without_room_no_more_is_read_than_may_wait() {
    let (peer, hand) = (Peer::new(Version::V311), Hand::swift());
    hand.cap(Some(0));
    let (mut shard, mut broker) = open(&peer, &hand);
    let count = 3 * STALLED_MESSAGES_MAX as u16;
    let publisher = std::thread::spawn(move || {
        for id in 1..=count {
            broker.publish("a", 1, id, &id.to_string());
        }
        broker
    });
    shard.run_for(Duration::from_millis(200));
    assert!(shard.seen.lines.is_empty());
    hand.cap(None);
    shard.run_until(count.into());
    let mut broker = publisher.join().unwrap();
    assert_eq!(broker.acks(PUBACK, count.into()), (1..=count).collect::<Vec<_>>());
    assert_eq!(shard.seen.lines, (1..=count).map(|n| format!("a {n}")).collect::<Vec<_>>());
}

/// Goal: what waits for room is not forgotten where room took the last free chunk. The next chunk that comes back
/// is news, also while the disk is slow.
#[test]
fn what_waits_for_a_chunk_has_it_when_one_comes_back() {
    // Seven chunks of one message each are with the shard, and the last one has room left.
    const OUT: usize = CHUNKS_MAX - 1;
    const KEPT: usize = OUT + 100;
    const ALL: usize = KEPT + STALLED_MESSAGES_MAX;
    let (peer, hand) = (Peer::new(Version::V5), Hand::default());
    hand.cap(Some(KEPT as u64));
    let (mut shard, mut broker) = open(&peer, &hand);
    for id in 1..=ALL {
        broker.publish("a", 1, id as u16, &id.to_string());
        if id <= OUT {
            wait_until("it is kept", || hand.appended() == id as u64);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    wait_until("the journal is full", || hand.appended() == KEPT as u64);
    // One chunk comes back, and there is room for more than it takes.
    shard.records_max = 1;
    shard.run_until(1);
    std::thread::sleep(Duration::from_millis(50));
    shard.records_max = 64;
    hand.cap(None);
    shard.run_until(ALL);
    assert_eq!(shard.seen.lines, (1..=ALL).map(|n| format!("a {n}")).collect::<Vec<_>>());
}

#[test]
fn what_waits_for_room_goes_back_to_the_broker_with_the_connection_and_at_a_stop() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    hand.cap(Some(1));
    let (mut shard, mut broker) = open(&peer, &hand);
    for id in 1..=3 {
        broker.publish("a", 1, id, &id.to_string());
    }
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    drop(broker);
    let mut broker = peer.accept(true);
    hand.cap(Some(2));
    broker.is_silent();
    assert_eq!(hand.appended(), 1, "2 and 3 are the broker's to repeat");
    for id in 2..=3 {
        broker.publish("a", 1, id, &id.to_string());
    }
    assert_eq!(broker.acks(PUBACK, 1), [2]);
    shard.stop();
    broker.is_left();
    assert_eq!(shard.seen.lines, ["a 1", "a 2"]);
}

/// Goal: what finds room while there is no connection is handed over and made durable at once, not at the next
/// attempt to connect. An end does not wait for that attempt.
#[test]
fn room_without_a_connection_is_used_at_once() {
    let before_the_next_attempt = || {
        let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
        hand.cap(Some(1));
        let spec = MqttSource::new(peer.config().clean_session(true), Line).topic("a");
        let mut shard = Shard::open_in(&spec, &hand.context());
        // The more connections end at once, the longer the waits: the next is one of 0.8 s at least.
        for _ in 0..4 {
            drop(peer.accept(false));
        }
        let mut broker = peer.accept(false);
        for id in 1..=3 {
            broker.publish("a", 1, id, &id.to_string());
        }
        assert_eq!(broker.acks(PUBACK, 1), [1]);
        shard.run_until(1);
        drop(broker);
        let lost = Instant::now();
        hand.cap(None);
        shard.run_until(3);
        shard.stop();
        assert_eq!((hand.appended(), hand.durable()), (3, 3));
        lost.elapsed() < Duration::from_millis(750)
    };
    // A machine that stands still for that long would fail this.
    assert!((0..4).any(|_| before_the_next_attempt()));
}

#[test]
fn a_failed_journal_ends_the_job_and_acknowledges_nothing() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::default());
    let (mut shard, mut broker) = open(&peer, &hand);
    broker.publish("a", 1, 1, "x");
    shard.run_until(1);
    position(&mut shard, 1);
    assert!(!shard.source.durable(Epoch::new(1)).unwrap());
    hand.fail("fdatasync: I/O error");
    hand.sync_to(1);
    let error = shard.fail();
    assert!(error.contains("fdatasync: I/O error") && error.contains("mqtt://"), "{error}");
    let error = shard.source.durable(Epoch::new(1)).expect_err("it never will be");
    assert!(error.lasting && error.to_string().contains("fdatasync"), "{error}");
    // The connection ends without a word.
    assert!(std::panic::catch_unwind(move || broker.acks(PUBACK, 1)).is_err());
}

#[test]
fn a_message_too_large_for_the_journal_is_a_dead_letter_and_acknowledged() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    hand.record_bytes_max(40);
    let (mut shard, mut broker) = open(&peer, &hand);
    broker.publish("a", 1, 1, "x");
    broker.publish("a", 1, 2, &"y".repeat(41));
    broker.publish("a", 1, 3, "z");
    assert_eq!(broker.acks(PUBACK, 3), [1, 2, 3]);
    shard.run_until(2);
    assert_eq!((shard.seen.lines.join(" "), hand.appended()), ("a x a z".into(), 2));
    let [letter] = &shard.seen.dead[..] else { panic!("{:?}", shard.seen.dead) };
    assert_eq!((letter.cause, letter.payload_bytes), (Cause::TooLarge, 41));
    assert!(letter.reason.contains("too many"), "{letter}");
    assert_eq!(number(&position(&mut shard, 1)), 2);
}

/// Goal: a checkpoint waits for the journal, is told when it need not any more, and what no checkpoint
/// needs is trimmed.
#[test]
fn a_checkpoint_waits_until_its_position_is_durable() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::default());
    // Otherwise the last records are kept for what comes again.
    let spec = source(&peer).recognise_repeats(false);
    let mut shard = Shard::open_in(&spec, &hand.context());
    let mut broker = peer.accept(true);
    assert!(position(&mut shard, 1).is_empty(), "nothing emitted: a start begins as this one did");
    assert!(shard.source.durable(Epoch::new(1)).unwrap());
    for id in 1..=6 {
        broker.publish("a", 1, id, &id.to_string());
    }
    shard.records_max = 1;
    shard.run_until(4);
    let emitted = shard.seen.lines.len() as u64;
    assert_eq!(number(&position(&mut shard, 2)), emitted, "also amid a chunk");
    shard.run_until(6);
    assert_eq!(number(&position(&mut shard, 3)), 6);
    assert!(!shard.source.durable(Epoch::new(2)).unwrap());
    assert!(!shard.source.durable(Epoch::new(3)).unwrap());
    std::thread::park_timeout(Duration::ZERO);
    for (epoch, sync_to) in [(2, emitted), (3, 6)] {
        assert!(!shard.source.durable(Epoch::new(epoch)).unwrap());
        let start = Instant::now();
        hand.sync_to(sync_to);
        while !shard.source.durable(Epoch::new(epoch)).unwrap() {
            std::thread::park_timeout(PATIENCE);
        }
        assert!(start.elapsed() < Duration::from_secs(3), "a lost wake-up");
    }
    shard.source.committed(Epoch::new(3), Epoch::new(2));
    wait_until("trimmed to what the oldest retained epoch needs", || hand.oldest() == emitted);
    shard.source.committed(Epoch::new(4), Epoch::new(4));
    wait_until("trimmed to the last known before it", || hand.oldest() == 6);
}

#[test]
fn an_orderly_end_waits_for_the_disk_and_then_acknowledges() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::default());
    let (mut shard, mut broker) = open(&peer, &hand);
    broker.publish("a", 1, 1, "x");
    shard.run_until(1);
    shard.source.stop();
    shard.run_for(Duration::from_millis(100));
    let status = shard.source.poll(Default::default(), 1, &mut shard.seen).unwrap();
    assert_ne!(status, SourceStatus::Ended);
    position(&mut shard, 1);
    hand.sync_to(1);
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    broker.is_left();
    drop(broker);
    assert_eq!(shard.run(|_| false).unwrap(), SourceStatus::Ended);
    assert!(shard.source.durable(Epoch::new(1)).unwrap(), "also after the end");
    assert!(!hand.is_open());
}

#[test]
fn a_record_tells_what_the_message_was() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    let spec = source(&peer).retained(Retained::Deliver);
    let mut shard = Shard::open_in(&spec, &hand.context());
    let mut broker = peer.accept(true);
    broker.publish("a", 1, 1, "21.5");
    shard.run_until(1);
    assert_eq!(broker.acks(PUBACK, 1), [1], "it is durable");
    let mut reader = thalweg_kernel::Journals::read(&hand, "sensors-0", 0).unwrap();
    let record = reader.next().unwrap().unwrap();
    assert_eq!(record.received, shard.seen.received[0]);
    let record = Record::read(record.bytes).unwrap();
    assert_eq!((record.topic, record.payload), ("a", &b"21.5"[..]));
    assert_eq!((record.qos, record.retained), (Qos::AtLeastOnce, false));
}

#[test]
fn a_mode_that_cannot_be_is_a_wrong_setting() {
    let peer = Peer::new(Version::V5);
    let open = |spec: MqttSource<Line>, cx| {
        let opened = thalweg_kernel::SourceSpec::open(&spec, &PartitionId::numbered(0), &cx);
        opened.map(|_| ()).expect_err("refused").to_string()
    };
    let error = open(source(&peer).durability(Mode::Journal), common::context());
    assert!(error.contains("durability = \"journal\"") && error.contains("directory"), "{error}");
    let error = open(source(&peer).durability(Mode::AckOnCheckpoint), common::context());
    assert!(error.contains("takes no checkpoints"), "{error}");
    let start = thalweg_mqtt::Start::Position(1);
    let error =
        open(source(&peer).durability(Mode::None).start_from(start), Hand::swift().context());
    assert!(error.contains("start_from"), "{error}");
    assert!(!peer.is_called(), "no connection is made for it");
}
