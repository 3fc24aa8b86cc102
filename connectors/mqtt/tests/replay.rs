//! What the journal holds is read again at a start, and what is live follows it without a gap or a
//! repetition.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use common::hand::Hand;
use common::peer::{PUBACK, Peer};
use common::{Line, Shard, numbers, publish, publish_with, wait_for_log};
use thalweg_journal::{FileJournals, JournalConfig};
use thalweg_kernel::{Durability, Epoch, Journals, OpenContext, Source, Timestamp};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttSource, Start, Version};

fn lines(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("a {n}")).collect()
}

fn position(number: u64) -> Vec<u8> {
    [&[1][..], &number.to_le_bytes()].concat()
}

/// A journal of the messages `0..count`, all durable, none checkpointed.
fn kept(peer: &Peer, count: u64) -> Hand {
    let hand = Hand::swift();
    let spec = MqttSource::new(peer.config(), Line).topic("a");
    let mut shard = Shard::open_in(&spec, &hand.context());
    let mut broker = peer.accept(false);
    for n in 0..count {
        broker.publish("a", 1, n as u16 % 1000 + 1, &n.to_string());
        if n % 100 == 99 {
            shard.run_until(n as usize + 1);
            broker.acks(PUBACK, 100);
        }
    }
    shard.run_until(count as usize);
    broker.acks(PUBACK, (count % 100) as usize);
    drop(shard);
    assert!(!hand.is_open(), "a source that is dropped has closed its journal");
    hand.crash();
    assert_eq!(hand.appended(), count);
    hand
}

/// What a source emits that starts so, with two live messages behind it.
fn replayed(hand: &Hand, peer: &Peer, stored: Option<&[u8]>, start: Start) -> Vec<String> {
    let spec = MqttSource::new(peer.config(), Line).topic("a").start_from(start);
    let mut shard = Shard::open_in(&spec, &hand.context_at(stored));
    // It may keep more than its chunks hold: then it connects only when some have been read.
    let mut broker = thread::scope(|scope| {
        let accepting = scope.spawn(|| peer.accept(true));
        while !accepting.is_finished() {
            shard.run_for(Duration::from_millis(10));
        }
        accepting.join().unwrap()
    });
    let end = hand.appended();
    for n in end..end + 2 {
        broker.publish("a", 1, n as u16 + 1, &n.to_string());
    }
    assert_eq!(broker.acks(PUBACK, 2).len(), 2);
    let last = format!("a {}", end + 1);
    shard.run(|seen| seen.lines.last() == Some(&last)).unwrap();
    let mut stored = Vec::new();
    shard.source.snapshot(Epoch::new(9), &mut stored);
    assert_eq!(stored, position(end + 2));
    shard.seen.lines
}

#[test]
fn what_is_live_follows_what_was_kept() {
    let peer = Peer::new(Version::V5);
    let hand = kept(&peer, 1_200);
    let check = |stored: Option<u64>, start, from| {
        let stored = stored.map(position);
        let end = hand.appended();
        let seen = replayed(&hand, &peer, stored.as_deref(), start);
        assert_eq!(seen, lines(from..end + 2), "{stored:?} {start:?}");
        hand.crash();
        end + 2
    };
    check(Some(700), Start::Resume, 700);
    check(Some(700), Start::Position(1), 700);
    check(Some(0), Start::Time(Timestamp::MAX), 0);
    check(None, Start::Position(1_150), 1_150);
    check(None, Start::Time(Timestamp::MIN), 0);
    let end = check(None, Start::Resume, 0);
    check(Some(end), Start::Resume, end);
    let end = check(None, Start::Resume, 0);
    check(None, Start::Time(Timestamp::MAX), end);
    // Trimmed, and the checkpoint lost: what is left.
    hand.trim_to(900);
    let seen = replayed(&hand, &peer, None, Start::Resume);
    assert_eq!(seen, lines(900..hand.appended()));
}

#[test]
fn an_empty_position_is_a_start_that_emitted_nothing() {
    let peer = Peer::new(Version::V5);
    let hand = kept(&peer, 5);
    assert_eq!(replayed(&hand, &peer, Some(&[]), Start::Resume), lines(0..7));
}

#[test]
fn before_anything_is_emitted_a_checkpoint_has_the_position_it_came_from() {
    let peer = Peer::new(Version::V5);
    let hand = kept(&peer, 5);
    // Otherwise the last records are kept for what comes again.
    let spec = MqttSource::new(peer.config(), Line).topic("a").recognise_repeats(false);
    let mut shard = Shard::open_in(&spec, &hand.context_at(Some(&position(3))));
    let mut stored = Vec::new();
    shard.source.snapshot(Epoch::new(2), &mut stored);
    assert_eq!(stored, position(3));
    while !shard.source.durable(Epoch::new(2)).unwrap() {
        thread::park_timeout(Duration::from_secs(1));
    }
    // It came from epoch 1, which is the oldest retained: nothing behind its position goes.
    shard.source.committed(Epoch::new(2), Epoch::new(1));
    shard.run_until(2);
    assert_eq!(shard.seen.lines, lines(3..5));
    while hand.oldest() == 0 {
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(hand.oldest(), 3);
}

#[test]
fn a_position_that_is_not_there_ends_the_job_before_it_connects() {
    let peer = Peer::new(Version::V5);
    let hand = kept(&peer, 5);
    hand.trim_to(2);
    let open = |stored: &[u8]| {
        let spec = MqttSource::new(peer.config(), Line).topic("a");
        let mut shard = Shard::open_in(&spec, &hand.context_at(Some(stored)));
        let error = shard.run(|_| false).expect_err("the source fails");
        assert!(error.lasting, "another attempt would meet it again");
        error.to_string()
    };
    assert!(open(&position(1)).contains("position 1 is not kept: 2 to 5 are"));
    assert!(open(&position(6)).contains("position 6 is not kept"));
    assert!(!peer.is_called());
}

#[test]
fn a_stop_amid_a_replay_is_a_quick_and_orderly_end() {
    let peer = Peer::new(Version::V5);
    let hand = kept(&peer, 6_000);
    let spec = MqttSource::new(peer.config(), Line).topic("a");
    let mut shard = Shard::open_in(&spec, &hand.context());
    shard.run_until(1);
    shard.stop();
    let seen = shard.seen.lines.len() as u64;
    assert!(seen < 6_000, "eight chunks at most");
    assert_eq!(shard.seen.lines, lines(0..seen));
    assert_eq!(replayed(&hand, &peer, Some(&position(seen)), Start::Resume), lines(seen..6_002));
}

/// A job that keeps its journals in real files.
fn job(journals: &Arc<FileJournals>, position: Option<Vec<u8>>) -> OpenContext {
    OpenContext {
        durability: Durability {
            operator: "sensors".into(),
            checkpoints: true,
            restored: position.as_ref().map(|_| Epoch::new(1)),
            position: position.map(Into::into),
            journals: Some(Arc::clone(journals) as Arc<dyn Journals>),
            ..Durability::default()
        },
        ..common::context()
    }
}

/// Goal: a job that restarts in its process, amid the stream, goes on from its checkpoint. Each attempt has each
/// record once, from the checkpoint on, in order.
#[test]
fn a_restart_in_the_process_goes_on_behind_the_checkpoint() {
    let Some(broker) = Mosquitto::start() else { return };
    let place = tempfile::tempdir().unwrap();
    let config =
        JournalConfig { segment_bytes: 1 << 20, cap_bytes: 64 << 20, ..Default::default() };
    let journals = Arc::new(FileJournals::new(place.path(), config).unwrap());
    let spec = MqttSource::new(broker.config().client_id("gw"), Line).topic("a/{n}");
    let (mut stored, mut effects) = (None, Vec::new());
    for round in 0..6_usize {
        let mut shard = Shard::open_in(&spec, &job(&journals, stored.take()));
        wait_for_log(&broker, "Sending SUBACK to gw", round + 1);
        let all = (round + 1) * 300;
        publish(&broker, "a/7", 1, &numbers(round * 300..all));
        let effective = effects.len();
        shard.run_until(all - effective - 100);
        let mut position = Vec::new();
        shard.source.snapshot(Epoch::new(1 + round as u64), &mut position);
        effects.append(&mut shard.seen.lines);
        stored = Some(position);
        // On: what is emitted now has no checkpoint behind it, and comes again.
        shard.run_until(all - effects.len());
        // What the broker has no acknowledgement of it would repeat.
        wait_for_log(&broker, "Received PUBACK from gw", all);
        // It goes without a stop, and the next one opens its journal at once.
    }
    let mut shard = Shard::open_in(&spec, &job(&journals, stored));
    shard.run_until(1_800 - effects.len());
    shard.stop();
    effects.append(&mut shard.seen.lines);
    let expected: Vec<_> = (0..1_800).map(|n| format!("a/7 {n} n=7")).collect();
    assert!(effects == expected, "{} effects, {:?} ...", effects.len(), effects.last());
}

#[test]
fn a_journal_that_is_still_open_elsewhere_is_waited_for() {
    let Some(broker) = Mosquitto::start() else { return };
    let place = tempfile::tempdir().unwrap();
    let journals = FileJournals::new(place.path(), JournalConfig::default()).unwrap();
    let held = journals.open("sensors-0", Waker::noop().clone()).unwrap();
    let spec = MqttSource::new(broker.config().client_id("gw"), Line).topic("a");
    let mut shard = Shard::open_in(&spec, &job(&Arc::new(journals), None));
    thread::sleep(Duration::from_millis(600));
    assert!(!broker.log().contains("Sending CONNACK to gw"), "first the journal");
    drop(held);
    wait_for_log(&broker, "Sending SUBACK to gw", 1);
    publish(&broker, "a", 1, "x\n");
    shard.run_until(1);
    shard.stop();
}

/// Goal: all that makes a message comes back with it, and is bound and decoded as it was live.
#[test]
fn a_message_that_is_read_again_is_what_it_was() {
    let Some(broker) = Mosquitto::start() else { return };
    let place = tempfile::tempdir().unwrap();
    let journals = FileJournals::new(place.path(), JournalConfig::default()).unwrap();
    let journals = Arc::new(journals);
    let spec = MqttSource::new(broker.config().client_id("gw"), Line)
        .topic("s/{device}/temp")
        .retained(thalweg_mqtt::Retained::Deliver);
    publish_with(&broker, &["-t", "s/d0/temp", "-q", "1", "-r", "-m", "old"], "");
    let mut shard = Shard::open_in(&spec, &job(&journals, None));
    wait_for_log(&broker, "Sending SUBACK to gw", 1);
    let v5 = ["-V", "mqttv5", "-q", "1", "-D", "PUBLISH", "user-property"];
    publish_with(&broker, &[&v5[..], &["seq", "7", "-t", "s/d1/temp", "-m", "x"]].concat(), "");
    let file = broker.dir().join("bytes");
    std::fs::write(&file, b"ab\xff").unwrap();
    publish_with(&broker, &["-t", "s/d2/temp", "-q", "1", "-f", file.to_str().unwrap()], "");
    shard.run(|seen| seen.lines.len() == 2 && seen.dead.len() == 1).unwrap();
    shard.stop();
    let live = std::mem::take(&mut shard.seen);
    drop(shard);
    let expected = ["s/d0/temp old device=d0 retained", "s/d1/temp x device=d1 seq:7"];
    assert_eq!(live.lines, expected);
    let mut shard = Shard::open_in(&spec, &job(&journals, None));
    shard.run(|seen| seen.lines.len() == 2 && seen.dead.len() == 1).unwrap();
    shard.stop();
    assert_eq!((&shard.seen.lines, &shard.seen.received), (&live.lines, &live.received));
    assert_eq!(shard.seen.dead, live.dead);
}
