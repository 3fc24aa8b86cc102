//! The sender: one thread that knows when each message is due, and one that writes to the broker.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{Client, ConnectionError, Event, MqttOptions};

use super::schedule::Schedule;
use crate::broker::Broker;
use crate::quantiles::Durations;

/// A sleeping thread may wake this much too late, so the rest is spun.
const SPIN: Duration = Duration::from_micros(120);

/// Publishes wait here for their turn; more than this and the broker does not keep up.
const REQUESTS_MAX: usize = 10_000;

/// The options of a bare client: as the job's source has them.
pub(crate) fn options(broker: &Broker, name: &str) -> (MqttOptions, NetworkOptions) {
    let name = format!("thalweg-bench-{name}-{}", std::process::id());
    let mut options = MqttOptions::new(name, &broker.host, broker.port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_start(true);
    options.set_receive_maximum(Some(1_024)).set_outgoing_inflight_upper_limit(1_024);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network.clone());
    (options, network)
}

/// The quality of service by its number.
pub(crate) const fn qos_of(number: u8) -> QoS {
    if number == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

/// Sends every message of the schedule at its time, which begins now. Returns how late each was
/// handed to the client.
///
/// # Errors
/// If the connection breaks, or messages pile up because the broker does not keep up.
pub fn publish(broker: &Broker, schedule: &Schedule, qos: u8) -> anyhow::Result<Durations> {
    let (client, mut connection) = Client::new(options(broker, "publisher").0, REQUESTS_MAX);
    let (connected, is_connected) = flume::bounded(1);
    let writer = thread::Builder::new().name("publisher".into()).spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(Event::Incoming(rumqttc::v5::Incoming::ConnAck(_))) => {
                    let _nobody_waits = connected.try_send(());
                }
                Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<_, ConnectionError>(())
    })?;
    let sent = match is_connected.recv_timeout(Duration::from_secs(5)) {
        Ok(()) => send(&client, schedule, qos_of(qos)),
        Err(_) => Err(anyhow::anyhow!("the publisher cannot connect to {broker}")),
    };
    let _ended_already = client.try_disconnect();
    if let Ok(Err(error)) = writer.join() {
        bail!("the publisher lost its connection: {error}");
    }
    sent
}

fn send(client: &Client, schedule: &Schedule, qos: QoS) -> anyhow::Result<Durations> {
    let mut lateness = Durations::new()?;
    schedule.begin();
    for n in 0..schedule.count() {
        for &stream in schedule.streams() {
            let payload = payload(n);
            let Some(due) = schedule.due(stream, n) else { continue };
            wait_until(due);
            lateness.record(due.elapsed());
            client
                .try_publish(stream.topic(), qos, false, payload)
                .context("the broker does not keep up with this rate")?;
        }
    }
    Ok(lateness)
}

fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > SPIN {
        thread::sleep(left - SPIN);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

/// A sensor's reading, with the message's number.
fn payload(n: u64) -> String {
    let (device, temp) = (n % 100, 1_500 + n % 1_000);
    format!(
        r#"{{"n":{n},"device":"d{device:05}","temp":{}.{:02},"humidity":40.1,"status":"ok"}}"#,
        temp / 100,
        temp % 100
    )
}

/// The number in a payload, the cheapest way.
pub(super) fn number_of(payload: &[u8]) -> Option<u64> {
    number_behind(br#"{"n":"#, payload)
}

/// The number in a payload that begins like this.
#[inline]
pub(crate) fn number_behind(beginning: &[u8], payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_prefix(beginning)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_number() {
        for n in [0, 9, 12_345] {
            assert_eq!(number_of(payload(n).as_bytes()), Some(n), "{}", payload(n));
        }
        assert_eq!(number_of(b"{}"), None);
    }
}
