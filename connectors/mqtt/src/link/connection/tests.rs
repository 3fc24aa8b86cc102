//! A connection over a pipe in memory, and a broker at its other end that does little.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::config::{MqttConfig, Secret};
use crate::link::manner::Manner;

/// A connection that has written nothing yet, the broker's end of it, and a runtime for both.
fn connection(bytes: usize) -> (Connection, DuplexStream, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let config = MqttConfig::new("broker").packet_bytes_max(1_024);
    let login = None::<(String, Secret)>;
    let (client_id, clean, tls, needs_properties) = ("gw".into(), true, None, false);
    let plan = Plan { config, client_id, clean, login, tls, needs_properties, gives_ids: false };
    let (ours, broker) = duplex(bytes);
    let terms = Manner::new(&plan.config, false).terms().clone();
    let reactor = Reactor::by_hand().unwrap();
    let connection = Connection::new(Box::new(ours), &plan, &terms, reactor).unwrap();
    (connection, broker, runtime)
}

/// What happens at once.
async fn now<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| {
        Poll::Ready(match poll(cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}

/// Goal: what was not read because nobody had room for it is no silence of the broker.
#[test]
fn an_answer_that_waits_in_the_socket_is_one_and_without_any_the_connection_ends() {
    let (mut connection, mut broker, runtime) = connection(1 << 16);
    runtime.block_on(async {
        let mut time = connection.ping_at;
        let mut passes = |connection: &Connection| {
            time += connection.keep_alive;
            connection.reactor.begin_at(time);
        };
        assert!(now(|cx| connection.poll(cx, false)).await.is_none() && !connection.waits_for_pong);
        passes(&connection);
        assert!(now(|cx| connection.poll(cx, false)).await.is_none() && connection.waits_for_pong);
        broker.write_all(&[0xd0, 0]).await.unwrap();
        passes(&connection);
        let met = now(|cx| connection.poll(cx, true)).await;
        assert!(met.is_none(), "there is an answer");
        passes(&connection);
        let met = now(|cx| connection.poll(cx, true)).await;
        assert!(met.is_none(), "a ping is on its way");
        passes(&connection);
        let ended = now(|cx| connection.poll(cx, true)).await.unwrap();
        assert!(matches!(ended, Err(Trouble::Weather { class: "ping", .. })));
    });
}

/// Goal: a window of large messages is one window, not one round trip for each.
#[test]
fn a_publish_that_takes_all_room_tells_when_there_is_some_again() {
    let (mut connection, _broker, runtime) = connection(1 << 20);
    runtime.block_on(async {
        for (bytes, tells) in [(1_000, false), (UNWRITTEN_BYTES_MAX, true), (1_000, false)] {
            let publish = Publish {
                topic: "a",
                payload: Bytes::from(vec![0; bytes]),
                qos: Qos::AtLeastOnce,
                retain: false,
                user_property: None,
            };
            assert!(connection.publish(publish).is_some());
            let met = now(|cx| connection.poll(cx, true)).await;
            assert_eq!(matches!(met, Some(Ok(Event::Flushed))), tells, "{bytes}");
            assert_eq!((met.is_some(), connection.unwritten_bytes()), (tells, 0));
        }
    });
}

/// Goal: a broker that sends for ever and reads nothing does not fill the memory.
#[test]
fn who_does_not_take_its_answers_is_not_read_until_it_does() {
    let (mut connection, mut broker, runtime) = connection(1 << 12);
    runtime.block_on(async {
        let publishes = [0x32, 6, 0, 1, b'a', 0, 1, 0].repeat(100);
        let (mut taken, mut most) = (0, 0);
        for round in 0..3 {
            let begun = taken;
            loop {
                tokio::task::yield_now().await;
                let mut sent = Pin::new(&mut broker);
                let sent = now(|cx| sent.as_mut().poll_write(cx, &publishes)).await;
                let before = taken;
                while let Some(event) = now(|cx| connection.poll(cx, true)).await {
                    assert!(matches!(event, Ok(Event::Delivery(_))), "{}", taken);
                    connection.ack(1, Qos::AtLeastOnce);
                    taken += 1;
                }
                most = most.max(connection.unwritten_bytes());
                assert!(most < 2 * ANSWERS_BYTES_MAX, "{most} bytes");
                if sent.is_none() && taken == before {
                    break;
                }
            }
            assert!(taken > begun, "{round}: it goes on when answers are taken");
            broker.read_exact(&mut [0; 1 << 12]).await.unwrap();
        }
        assert!(most >= ANSWERS_BYTES_MAX, "{most} bytes");
    });
}

/// Goal: a packet that the codec takes out of the stream and cannot read does not vanish in silence.
#[test]
fn a_packet_that_is_too_short_within_ends_the_connection() {
    for (packet, expected) in [
        (&[0xe0, 1, 0x8e][..], "taken over"),
        (&[0xe0, 1, 0x8b], "disconnect"),
        (&[0xe0, 1, 0xff], "protocol"),
        (&[0x30, 3, 0, 1, b'a'], "protocol"),
    ] {
        let (mut connection, mut broker, runtime) = connection(1 << 12);
        runtime.block_on(async {
            broker.write_all(packet).await.unwrap();
            let met = now(|cx| connection.poll(cx, true)).await;
            let Some(Err(Trouble::Weather { class, .. })) = met else { panic!("{packet:?}") };
            assert_eq!(class, expected, "{packet:?}");
        });
    }
}
