//! The mode that acknowledges with the checkpoints.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::peer::{Connection, PUBACK, Peer};
use common::{Line, Shard};
use thalweg_kernel::{Durability, Epoch, OpenContext, Source, SourceStatus};
use thalweg_mqtt::{Mode, MqttSource, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn open(peer: &Peer) -> (Shard, Connection) {
    let spec = MqttSource::new(peer.config(), Line).topic("a").durability(Mode::AckOnCheckpoint);
    let durability = Durability { checkpoints: true, ..Durability::default() };
    let shard = Shard::open_in(&spec, &OpenContext { durability, ..common::context() });
    (shard, peer.accept(true))
}

/// A shard as above, with a first message "x" of packet id 1 emitted.
fn open_with_one(peer: &Peer) -> (Shard, Connection) {
    let (mut shard, mut broker) = open(peer);
    broker.publish("a", 1, 1, "x");
    shard.run_until(1);
    (shard, broker)
}

fn stop(shard: &mut Shard) {
    shard.source.stop();
    assert_eq!(shard.run(|_| false).unwrap(), SourceStatus::Ended);
}

fn snapshot(shard: &mut Shard, epoch: u64) {
    let mut position = Vec::new();
    shard.source.snapshot(Epoch::new(epoch), &mut position);
    assert!(position.is_empty(), "the broker keeps the position");
    assert!(shard.source.durable(Epoch::new(epoch)).unwrap());
}

fn commit(shard: &mut Shard, epoch: u64) {
    shard.source.committed(Epoch::new(epoch), Epoch::new(1));
}

#[test]
fn what_an_epoch_covers_is_acknowledged_when_it_exists() {
    for version in VERSIONS {
        let peer = Peer::new(version);
        let (mut shard, mut broker) = open(&peer);
        let ids = [5, 3, 9, 2, 8];
        for id in ids {
            broker.publish("a", 1, id, &id.to_string());
        }
        shard.records_max = 1;
        shard.run_until(2);
        let covered = shard.seen.lines.len();
        snapshot(&mut shard, 1);
        shard.run_until(5);
        broker.is_silent();
        commit(&mut shard, 1);
        assert_eq!(broker.acks(PUBACK, covered), ids[..covered], "{version:?}");
        broker.is_silent();
        // Epoch 2 fails; epoch 3 covers what it would have.
        snapshot(&mut shard, 2);
        snapshot(&mut shard, 3);
        broker.is_silent();
        commit(&mut shard, 3);
        assert_eq!(broker.acks(PUBACK, 5 - covered), ids[covered..]);
    }
}

#[test]
fn on_another_connection_nothing_is_acknowledged_but_what_it_delivered() {
    for version in VERSIONS {
        let peer = Peer::new(version);
        let (mut shard, broker) = open_with_one(&peer);
        snapshot(&mut shard, 1);
        drop(broker);
        let mut broker = peer.accept(true);
        commit(&mut shard, 1);
        broker.is_silent();
        broker.publish("a", 1, 1, "x");
        shard.run_until(2);
        broker.is_silent();
        snapshot(&mut shard, 2);
        commit(&mut shard, 2);
        assert_eq!(broker.acks(PUBACK, 1), [1], "{version:?}");
    }
}

/// Goal: the last messages before a stop are acknowledged by the checkpoint that comes after it.
#[test]
fn after_the_end_the_last_checkpoint_still_acknowledges() {
    let peer = Peer::new(Version::V5);
    let (mut shard, mut broker) = open_with_one(&peer);
    stop(&mut shard);
    broker.is_silent();
    snapshot(&mut shard, 1);
    commit(&mut shard, 1);
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    broker.is_left();
}

#[test]
fn without_a_last_checkpoint_the_broker_keeps_the_messages() {
    let peer = Peer::new(Version::V5);
    let (mut shard, mut broker) = open_with_one(&peer);
    stop(&mut shard);
    let rest = std::thread::spawn(move || broker.is_left());
    drop(shard);
    rest.join().expect("DISCONNECT and nothing before it");
}

#[test]
fn a_job_that_fails_leaves_without_a_word_and_the_next_gets_all_again() {
    let peer = Peer::new(Version::V5);
    let (mut shard, _broker) = open_with_one(&peer);
    snapshot(&mut shard, 1);
    drop(shard);
    let (mut shard, mut broker) = open_with_one(&peer);
    snapshot(&mut shard, 2);
    commit(&mut shard, 2);
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    shard.run_for(Duration::from_millis(20));
    assert_eq!(shard.seen.lines, ["a x"]);
}
