//! What a broker sends again counts once: after a lost connection, and after a crash at any point. Broker and
//! journal are moved by hand.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use common::hand::Hand;
use common::peer::{Connection, PUBACK, PUBCOMP, PUBREC, Peer};
use common::{Line, Shard, wait_until};
use thalweg_kernel::{Epoch, Source};
use thalweg_mqtt::{Mode, MqttSource, Qos, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn source(peer: &Peer, qos: Qos) -> MqttSource<Line> {
    MqttSource::new(peer.config().qos(qos), Line).topic("a")
}

/// A start of the job from the beginning of its journal, with a session that is kept.
fn start(peer: &Peer, hand: &Hand, qos: Qos) -> (Shard, Connection) {
    let shard = Shard::open_in(&source(peer, qos), &hand.context());
    (shard, peer.accept(true))
}

/// The broker goes, and the job ends without waiting for it.
fn end(shard: &mut Shard, broker: Connection) {
    drop(broker);
    shard.stop();
}

/// The process is killed; of what was not durable, `more` records survive.
fn kill(shard: Shard, broker: Connection, hand: &Hand, more: u64) {
    let durable = hand.durable();
    drop(shard);
    drop(broker);
    wait_until("the journal is closed", || !hand.is_open());
    hand.crash_at(durable + more);
}

#[test]
fn at_qos_1_what_was_not_acknowledged_counts_once_in_every_mode() {
    for (version, mode) in VERSIONS.into_iter().flat_map(|version| {
        [Mode::Journal, Mode::AckOnCheckpoint, Mode::None].map(|mode| (version, mode))
    }) {
        let (peer, hand) = (Peer::new(version), Hand::default());
        let spec = source(&peer, Qos::AtLeastOnce).durability(mode);
        let mut shard = Shard::open_in(&spec, &hand.context());
        let mut broker = peer.accept(true);
        // Without a poll of the shard nothing is handed over, hence acknowledged.
        broker.publish("a", 1, 1, "x");
        broker.publish("a", 1, 2, "y");
        shard.run_until(2);
        drop(broker);
        let mut broker = peer.accept(true);
        broker.publish_again("a", 1, 1, "x");
        broker.publish_again("a", 1, 2, "y");
        // Not heard the first time, and one that is new: the last was acknowledged, for all the broker knows.
        broker.publish_again("a", 1, 3, "z");
        broker.publish("a", 1, 2, "y");
        shard.run_until(4);
        assert_eq!(shard.seen.lines, ["a x", "a y", "a z", "a y"], "{version:?} {mode}");
        match mode {
            Mode::Journal => hand.sync_to(4),
            Mode::AckOnCheckpoint => {
                shard.source.snapshot(Epoch::new(2), &mut Vec::new());
                shard.source.committed(Epoch::new(2), Epoch::new(2));
            }
            Mode::None => shard.run_for(std::time::Duration::from_millis(20)),
        }
        assert_eq!(broker.acks(PUBACK, 4), [1, 2, 3, 2], "all on the connection that is there");
        broker.is_silent();
    }
}

#[test]
fn a_repetition_on_the_same_connection_is_acknowledged_once() {
    let (peer, hand) = (Peer::new(Version::V311), Hand::default());
    let (mut shard, mut broker) = start(&peer, &hand, Qos::AtLeastOnce);
    broker.publish("a", 1, 1, "x");
    broker.publish_again("a", 1, 1, "x");
    broker.publish("a", 1, 2, "y");
    shard.run_until(2);
    hand.sync_to(2);
    assert_eq!(broker.acks(PUBACK, 2), [1, 2], "a second answer could hit another message");
    broker.publish_again("a", 1, 2, "y");
    broker.is_silent();
    end(&mut shard, broker);
    assert_eq!(shard.seen.lines, ["a x", "a y"]);
}

/// Goal: a broker that gives the lowest free id, as HiveMQ does, loses no equal message with a connection that was quiet.
#[test]
fn at_qos_1_an_equal_message_of_the_id_is_news_once_an_answered_ping_has_proved_the_first() {
    let check = |version, mode| {
        let (peer, hand) = (Peer::new(version), Hand::swift());
        let config = peer.config().keep_alive_s(5);
        let spec = MqttSource::new(config, Line).topic("a").durability(mode);
        let mut shard = Shard::open_in(&spec, &hand.context());
        let mut broker = peer.accept(true);
        broker.publish("a", 1, 1, "21.5");
        shard.run_until(1);
        shard.run_for(std::time::Duration::from_millis(20));
        assert_eq!(broker.acks(PUBACK, 1), [1]);
        broker.pinged();
        // It answers in turn, so this one comes after the answer to the ping.
        broker.publish("a", 1, 7, "over");
        shard.run_until(2);
        shard.run_for(std::time::Duration::from_millis(20));
        assert_eq!(broker.acks(PUBACK, 1), [7]);
        // The next message has the id 1 and went into a dead link. That of id 7 may have been acknowledged in vain.
        drop(broker);
        let mut broker = peer.accept(true);
        broker.publish_again("a", 1, 7, "over");
        broker.publish_again("a", 1, 1, "21.5");
        shard.run_until(3);
        shard.run_for(std::time::Duration::from_millis(20));
        assert_eq!(broker.acks(PUBACK, 2), [7, 1]);
        end(&mut shard, broker);
        assert_eq!(shard.seen.lines, ["a 21.5", "a over", "a 21.5"], "{version:?} {mode}");
    };
    std::thread::scope(|scope| {
        for version in VERSIONS {
            for mode in [Mode::Journal, Mode::None] {
                scope.spawn(move || check(version, mode));
            }
        }
    });
}

#[test]
fn repetitions_are_counted_as_messages_where_that_is_wanted() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    let spec = source(&peer, Qos::AtLeastOnce).recognise_repeats(false);
    let mut shard = Shard::open_in(&spec, &hand.context());
    let mut broker = peer.accept(true);
    broker.publish("a", 1, 1, "x");
    shard.run_until(1);
    drop(broker);
    let mut broker = peer.accept(true);
    broker.publish_again("a", 1, 1, "x");
    shard.run_until(2);
    end(&mut shard, broker);
    assert_eq!(shard.seen.lines, ["a x", "a x"]);
}

/// Goal: after a crash, what is in the journal counts once, whether the broker heard of it or not. What is not in it counts,
/// too. Method: the crash keeps each number of records that it may.
#[test]
fn at_qos_1_a_crash_at_any_record_repeats_and_loses_nothing() {
    const MESSAGES: u64 = 5;
    for version in VERSIONS {
        for (durable, more) in (0..=MESSAGES).flat_map(|d| (0..=MESSAGES - d).map(move |m| (d, m)))
        {
            let (peer, hand) = (Peer::new(version), Hand::default());
            let (mut shard, mut broker) = start(&peer, &hand, Qos::AtLeastOnce);
            for id in 1..=MESSAGES as u16 {
                broker.publish("a", 1, id, &id.to_string());
            }
            shard.run_until(MESSAGES as usize);
            hand.sync_to(durable);
            assert_eq!(broker.acks(PUBACK, durable as usize).len(), durable as usize);
            kill(shard, broker, &hand, more);
            let (mut shard, mut broker) = start(&peer, &hand, Qos::AtLeastOnce);
            // The last acknowledgement may not have arrived.
            let heard = durable.saturating_sub(1) as u16;
            for id in heard + 1..=MESSAGES as u16 {
                broker.publish_again("a", 1, id, &id.to_string());
            }
            shard.run_until(MESSAGES as usize);
            hand.sync_to(hand.appended());
            let all: Vec<_> = (heard + 1..=MESSAGES as u16).collect();
            assert_eq!(broker.acks(PUBACK, all.len()), all, "{durable} and {more}");
            end(&mut shard, broker);
            let expected: Vec<_> = (1..=MESSAGES).map(|id| format!("a {id}")).collect();
            assert_eq!(shard.seen.lines, expected, "{version:?} {durable} and {more}");
        }
    }
}

/// Goal: at QoS 2 a message counts once, equal as messages may be, wherever the process is killed. Method: one crash at each
/// point of the exchange.
#[test]
fn at_qos_2_each_point_of_the_exchange_survives_a_crash() {
    for version in VERSIONS {
        let run = |point: u32, more: u64| {
            let (peer, hand) = (Peer::new(version), Hand::default());
            let (mut shard, mut broker) = start(&peer, &hand, Qos::ExactlyOnce);
            broker.publish("a", 2, 1, "x");
            shard.run_until(1);
            broker.is_silent();
            if point >= 1 {
                hand.sync_to(1);
                assert_eq!(broker.acks(PUBREC, 1), [1]);
            }
            if point >= 2 {
                broker.ask_release(1);
                wait_until("the release is noted", || hand.appended() == 2);
                broker.is_silent();
            }
            if point >= 3 {
                hand.sync_to(2);
                assert_eq!(broker.acks(PUBCOMP, 1), [1]);
            }
            kill(shard, broker, &hand, more);
            let (mut shard, mut broker) = start(&peer, &hand, Qos::ExactlyOnce);
            match point {
                // The broker has no PUBREC.
                0 | 1 => {
                    broker.publish_again("a", 2, 1, "x");
                    wait_until("it is in the journal", || hand.appended() == 1);
                    hand.sync_to(1);
                    assert_eq!(broker.acks(PUBREC, 1), [1]);
                    broker.ask_release(1);
                }
                // It has no PUBCOMP, as far as we know.
                _ => broker.ask_release(1),
            }
            // A release that has survived is noted once more: the broker does not know of it.
            let noted = if point >= 2 && hand.durable() == 2 { 3 } else { 2 };
            wait_until("the release is noted", || hand.appended() == noted);
            hand.sync_to(noted);
            assert_eq!(broker.acks(PUBCOMP, 1), [1]);
            // The id is another message's, which is equal and comes for the second time.
            broker.publish_again("a", 2, 1, "x");
            shard.run_until(2);
            hand.sync_to(hand.appended());
            assert_eq!(broker.acks(PUBREC, 1), [1]);
            end(&mut shard, broker);
            assert_eq!(
                shard.seen.lines,
                ["a x", "a x"],
                "{version:?}: point {point}, {more} survive"
            );
        };
        for (point, more) in [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)] {
            run(point, more);
        }
    }
}

/// Goal: the packet ids of a session that the broker has forgotten meet no message of the next one, however equal. That holds after a
/// crash, too.
#[test]
fn a_new_session_begins_with_no_id() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (peer, hand) = (Peer::new(Version::V5), Hand::default());
        let (mut shard, mut broker) = start(&peer, &hand, qos);
        let of = qos as u8;
        broker.publish("a", of, 1, "x");
        shard.run_until(1);
        hand.sync_to(1);
        broker.acks(if of == 1 { PUBACK } else { PUBREC }, 1);
        drop(broker);
        // The broker has lost its sessions. Nothing of the new one comes before a crash knows of it.
        let mut broker = peer.accept_only(false);
        wait_until("the journal hears of it", || hand.appended() == 2);
        broker.is_silent();
        hand.sync_to(2);
        broker.subscribed();
        broker.publish_again("a", of, 1, "x");
        shard.run_until(2);
        // None of it is durable.
        kill(shard, broker, &hand, 0);
        let (mut shard, mut broker) = start(&peer, &hand, qos);
        broker.publish_again("a", of, 1, "x");
        shard.run_until(2);
        hand.sync_to(hand.appended());
        end(&mut shard, broker);
        assert_eq!(shard.seen.lines, ["a x", "a x"], "{qos:?}");
    }
}

/// Goal: a disk that stands still does not keep a new session without subscriptions, and nothing of it is taken meanwhile.
#[test]
fn a_new_session_that_the_journal_has_not_noted_is_subscribed_and_nothing_of_it_is_taken() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::default());
    let (mut shard, mut broker) = start(&peer, &hand, Qos::AtLeastOnce);
    broker.publish("a", 1, 1, "x");
    shard.run_until(1);
    hand.sync_to(1);
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    drop(broker);
    let mut broker = peer.accept(false);
    broker.publish("a", 1, 1, "x");
    broker.is_silent();
    assert_eq!(hand.appended(), 2, "the beginning of the session alone");
    hand.sync_to(2);
    shard.run_until(2);
    hand.sync_to(3);
    assert_eq!(broker.acks(PUBACK, 1), [1]);
    end(&mut shard, broker);
}

#[test]
fn a_release_waits_for_room_in_the_journal() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    hand.cap(Some(1));
    let (mut shard, mut broker) = start(&peer, &hand, Qos::ExactlyOnce);
    broker.publish("a", 2, 1, "x");
    shard.run_until(1);
    assert_eq!(broker.acks(PUBREC, 1), [1]);
    broker.ask_release(1);
    broker.is_silent();
    hand.cap(None);
    assert_eq!(broker.acks(PUBCOMP, 1), [1]);
    end(&mut shard, broker);
    assert_eq!(hand.appended(), 2);
}

/// Goal: a session that ends with its connection leaves nothing to recognise, and costs the journal nothing.
#[test]
fn without_a_session_ids_are_not_kept() {
    let (peer, hand) = (Peer::new(Version::V5), Hand::swift());
    let config = peer.config().qos(Qos::ExactlyOnce).clean_session(true);
    let mut shard = Shard::open_in(&MqttSource::new(config, Line).topic("a"), &hand.context());
    let mut broker = peer.accept(false);
    broker.publish("a", 2, 1, "x");
    shard.run_until(1);
    assert_eq!(broker.acks(PUBREC, 1), [1]);
    broker.release(1);
    assert_eq!(hand.appended(), 1);
    drop(broker);
    let mut broker = peer.accept(false);
    broker.publish_again("a", 2, 1, "x");
    shard.run_until(2);
    end(&mut shard, broker);
}
