//! The other side: the process that is not measured. It has the broker, starts the measured process,
//! sends the events, and knows what the answer must be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{Client, Connection, Event, Incoming, MqttOptions};
use rumqttc::{NetworkOptions, Outgoing};

use super::{Delivery, SUBSCRIBED, TOPIC, due_us, now_us};
use crate::broker::Broker;
use crate::process::Measured;
use crate::quantiles::Durations;
use crate::yahoo::json::write_event;
use crate::yahoo::line::Line;
use crate::yahoo::spec::Spec;
use crate::yahoo::workload::{Ads, Answer, naive};

/// Events wait here for their turn. When it is full the publisher waits, and its events are late.
const REQUESTS_MAX: usize = 10_000;

/// From the decision to begin until the first event is due.
const LEAD_US: i64 = 20_000;

/// How long the last events may take to reach the broker.
const DELIVERED_MAX: Duration = Duration::from_secs(10);

/// Measures `spec` in a process that is called with `arguments`. Returns its report, and the right
/// answer.
///
/// # Errors
/// If the process or the publisher fails.
pub fn measure(
    spec: &Spec,
    arguments: Vec<String>,
    broker: &Broker,
) -> anyhow::Result<(Line, Answer)> {
    let rate = spec.rate.context("mode mqtt needs a rate")?;
    let mut measured = Measured::start(arguments)?;
    measured.wait_for(SUBSCRIBED)?;
    let (begun_us, late) = publish(spec, rate, broker)?;
    measured.close_stdin();
    let mut line: Line = measured.finish()?;
    line.broker = line.broker.map(|delivery| Delivery {
        broker: broker.to_string(),
        sender_p99_us: late.micros_at(0.99),
        ..delivery
    });
    let event_time = |i| due_us(begun_us, rate, i) / 1_000;
    Ok((line, naive(spec.events, event_time, spec.window_ms)))
}

/// Sends the events when they are due. Returns when the first one was, and how late each was handed to
/// the client.
fn publish(spec: &Spec, rate: u64, broker: &Broker) -> anyhow::Result<(i64, Durations)> {
    let name = format!("thalweg-bench-yahoo-{}", std::process::id());
    let mut options = MqttOptions::new(name, &broker.host, broker.port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_start(true);
    options.set_outgoing_inflight_upper_limit(1_024);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, connection) = Client::new(options, REQUESTS_MAX);
    let delivered = Arc::new(AtomicU64::new(0));
    let (connected, is_connected) = flume::bounded(1);
    let (counts, qos) = (Arc::clone(&delivered), spec.qos);
    let driver = thread::Builder::new()
        .name("publisher".into())
        .spawn(move || drive(connection, qos, &connected, &counts))?;
    is_connected
        .recv_timeout(Duration::from_secs(5))
        .map_err(|_| anyhow!("the publisher cannot connect to {broker}"))?;

    let (ads, mut late) = (Ads, Durations::new()?);
    let begun_us = now_us() + LEAD_US;
    let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    for i in 0..spec.events {
        let due = due_us(begun_us, rate, i);
        // A sleep wakes some 50 us late; what has become due by then goes at once. To spin instead
        // would take a core from what is measured.
        if let Ok(early) = u64::try_from(due - now_us()) {
            thread::sleep(Duration::from_micros(early));
        }
        let mut payload = String::with_capacity(256);
        let more = format!(r#","due_us":"{due}""#);
        write_event(&ads.event(i, due / 1_000), &more, &mut payload);
        late.record(super::since(due, now_us()));
        client.publish(TOPIC, qos, false, payload).context("the publisher's connection is gone")?;
    }
    let deadline = Instant::now() + DELIVERED_MAX;
    while delivered.load(Ordering::Acquire) < spec.events {
        if driver.is_finished() || Instant::now() > deadline {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let _ended_already = client.try_disconnect();
    match driver.join() {
        Ok(Ok(())) => Ok((begun_us, late)),
        Ok(Err(error)) => Err(error.context(format!("the publisher's connection to {broker}"))),
        Err(_) => bail!("the publisher's thread panicked"),
    }
}

/// Moves the client's packets, and counts the events that have been delivered: acknowledged by the
/// broker, or with QoS 0 written to the socket.
fn drive(
    mut connection: Connection,
    qos: u8,
    connected: &flume::Sender<()>,
    delivered: &AtomicU64,
) -> anyhow::Result<()> {
    for event in connection.iter() {
        match event? {
            Event::Incoming(Incoming::ConnAck(_)) => {
                let _nobody_waits = connected.try_send(());
            }
            Event::Incoming(Incoming::PubAck(_)) => {
                delivered.fetch_add(1, Ordering::Release);
            }
            Event::Outgoing(Outgoing::Publish(_)) if qos == 0 => {
                delivered.fetch_add(1, Ordering::Release);
            }
            Event::Outgoing(Outgoing::Disconnect) => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}
