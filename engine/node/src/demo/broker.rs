//! An MQTT broker inside the process, for demonstrations and tests: `rumqttd`, configured in code.
//!
//! It listens on three free ports of 127.0.0.1, one for MQTT 3.1.1, one for MQTT 5, and a [door](super::door) for both.
//! It has no console, no metrics endpoint, no bridge, and no file on disk.
//!
//! # Limits, read from its source and worth knowing
//! - **A slow subscriber loses messages only beyond a bound.** Messages wait in one in-memory log per
//!   topic *filter*, shared by its subscribers. When a log outgrows [`BrokerConfig::log_bytes_max`],
//!   its oldest tenth is dropped, and a subscriber that had not read it skips it without notice (one
//!   log line). Topic plus payload plus four bytes count against the bound; in memory a small message
//!   costs about five times that. The default, 16 MiB, is 98 s of 2,000 messages of 85 bytes a second.
//!   Being read does not shorten a log, so a long demo settles at this size, some 80 MB of memory.
//! - **At most 100 unacknowledged QoS 1 messages per subscriber**; the next one waits for a PUBACK. A
//!   subscriber that acknowledges after `d` ms therefore gets at most `100,000 / d` messages a second.
//! - PUBACKs of a subscriber must come in order, or it is disconnected. Redelivery after a reconnect
//!   carries neither the DUP flag nor the old packet id, and a session lives only in memory.
//! - A keep-alive of 0 is refused: the connection closes without a CONNACK.
//! - A message that nobody subscribes to is acknowledged and forgotten. Subscribe first.
//! - It does not disable Nagle's algorithm: single small messages may wait for the peer's TCP ACK.
//! - **It cannot be stopped.** Its threads end with the process; dropping a [`Broker`] leaves it running.
//!   Start one per process or per test.
//!
//! It logs through `tracing` with the target `rumqttd`, an error for each client that merely goes
//! away. Add [`LOG_FILTER`] to the log filter of the program.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use super::door;

/// Directives that silence the broker (and the client that the fleet uses) in an `EnvFilter`.
pub const LOG_FILTER: &str = "rumqttd=off,rumqttc=off";

/// A log consists of this many segments and loses one when it is full.
const LOG_SEGMENTS: usize = 10;
/// The smallest bound that `rumqttd` takes: it wants 1 KiB in each segment.
const LOG_BYTES_MIN: usize = LOG_SEGMENTS * 1024;
/// Messages moved to a QoS 0 subscriber at a time; the rest waits in the log.
const OUTGOING_MESSAGES_MAX: u64 = 200;
/// Packets taken from one connection before the router gets its turn.
const INCOMING_PACKETS_MAX: usize = 200;
/// A client that has connected must introduce itself within this time.
const CONNECT_MS_MAX: u16 = 10_000;

/// What a [`Broker`] is willing to hold. [`Default`] suits a demo.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Bytes of messages (topic + payload + 4) that one topic filter's log keeps for subscribers that
    /// lag. Default 16 MiB; at least 10 KiB.
    pub log_bytes_max: usize,
    /// The largest MQTT packet accepted, in bytes; a larger one closes its connection. Default 1 MiB.
    pub packet_bytes_max: usize,
    /// Clients at a time; one more is not answered. Default 256.
    pub connections_max: usize,
    /// How long to wait for both listeners to answer, in milliseconds. Default 5,000.
    pub ready_ms_max: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            log_bytes_max: 16 << 20,
            packet_bytes_max: 1 << 20,
            connections_max: 256,
            ready_ms_max: 5_000,
        }
    }
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No port, or no thread.
    #[error(
        "the built-in MQTT broker cannot listen on 127.0.0.1: {0}; \
         use a broker of your own by giving its address"
    )]
    Listen(#[source] io::Error),
    /// A listener did not accept a connection in time.
    #[error(
        "the built-in MQTT broker did not answer on {address} within {waited_ms} ms: {cause}; \
         is the machine overloaded, or a firewall active on the loopback interface?"
    )]
    NotReady {
        /// Where an answer was expected.
        address: SocketAddr,
        /// How long, in milliseconds.
        waited_ms: u64,
        /// What the last attempt said.
        #[source]
        cause: io::Error,
    },
}

/// A broker that has answered on both its ports. It runs until the process ends.
#[derive(Debug)]
pub struct Broker {
    v4: SocketAddr,
    v5: SocketAddr,
    door: SocketAddr,
}

impl Broker {
    /// Starts a broker with the default limits; returns when both listeners accept MQTT clients.
    ///
    /// # Errors
    /// If no port of 127.0.0.1 can be had or the listeners do not answer in time.
    pub fn start() -> Result<Self, BrokerError> {
        Self::with(&BrokerConfig::default())
    }

    /// The same with chosen limits; a `log_bytes_max` below 10 KiB counts as 10 KiB.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn with(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let ports =
            [reserve().map_err(BrokerError::Listen)?, reserve().map_err(BrokerError::Listen)?];
        let [v4, v5] = [ports[0].1, ports[1].1];
        let mut broker = rumqttd::Broker::new(settings(config, v4, v5));
        thread::Builder::new()
            .name("demo-broker".into())
            .spawn(move || {
                // Returns only if both listeners fail, which the wait below then reports.
                let _ = broker.start();
                drop(ports);
            })
            .map_err(BrokerError::Listen)?;

        let deadline = Instant::now() + Duration::from_millis(config.ready_ms_max);
        for address in [v4, v5] {
            await_open(address, deadline).map_err(|cause| BrokerError::NotReady {
                address,
                waited_ms: config.ready_ms_max,
                cause,
            })?;
        }
        let door = door::open(v4, v5).map_err(BrokerError::Listen)?;
        Ok(Self { v4, v5, door })
    }

    /// Where clients of any version connect: `mqtt://127.0.0.1:PORT`.
    #[must_use]
    pub fn url_of_any(&self) -> String {
        format!("mqtt://{}", self.door)
    }

    /// Where MQTT 3.1.1 clients connect: `mqtt://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.v4)
    }

    /// Where MQTT 5 clients connect: `mqtt://127.0.0.1:PORT`.
    #[must_use]
    pub fn url_v5(&self) -> String {
        format!("mqtt://{}", self.v5)
    }

    /// The address of the MQTT 3.1.1 listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.v4
    }

    /// The address of the MQTT 5 listener.
    #[must_use]
    pub fn address_v5(&self) -> SocketAddr {
        self.v5
    }
}

/// A free port, held by a socket that is bound but does not listen. Nobody else is given the port,
/// yet `rumqttd`, which also sets `SO_REUSEADDR`, can bind it. So there is no gap in which another
/// process could take it.
fn reserve() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

fn settings(config: &BrokerConfig, v4: SocketAddr, v5: SocketAddr) -> rumqttd::Config {
    /// Brokers of one process differ in the names of their threads.
    static BROKERS: AtomicUsize = AtomicUsize::new(0);
    let server = |name: &str, listen| {
        let connections = rumqttd::ConnectionSettings {
            connection_timeout_ms: CONNECT_MS_MAX,
            max_payload_size: config.packet_bytes_max,
            max_inflight_count: INCOMING_PACKETS_MAX,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        };
        let settings = rumqttd::ServerSettings {
            name: name.to_owned(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections,
        };
        Some(HashMap::from([(name.to_owned(), settings)]))
    };
    rumqttd::Config {
        id: BROKERS.fetch_add(1, Ordering::Relaxed),
        router: rumqttd::RouterConfig {
            max_connections: config.connections_max,
            max_outgoing_packet_count: OUTGOING_MESSAGES_MAX,
            max_segment_size: config.log_bytes_max.max(LOG_BYTES_MIN) / LOG_SEGMENTS,
            max_segment_count: LOG_SEGMENTS,
            ..rumqttd::RouterConfig::default()
        },
        v4: server("demo-broker-v4", v4),
        v5: server("demo-broker-v5", v5),
        ..rumqttd::Config::default()
    }
}

/// Retries until the port accepts connections or the deadline passes.
///
/// Not with an MQTT handshake. Rumqttd announces the end of a connection twice, and the second time
/// can hit the next client, which has got its number by then. (That was seen once in some ten starts
/// on a loaded machine.) A connection that never says CONNECT has no number.
fn await_open(address: SocketAddr, deadline: Instant) -> io::Result<()> {
    loop {
        // A timeout of zero is an error of its own, hence the floor.
        let left = deadline.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&address, left.max(Duration::from_millis(10))) {
            Ok(_) => return Ok(()),
            Err(cause) if Instant::now() >= deadline => return Err(cause),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_on_both_ports_and_only_on_loopback() {
        let broker = Broker::start().unwrap();
        assert!(broker.address().ip().is_loopback() && broker.address_v5().ip().is_loopback());
        assert_ne!(broker.address().port(), broker.address_v5().port());
        assert_eq!(broker.url(), format!("mqtt://127.0.0.1:{}", broker.address().port()));
        let soon = Instant::now() + Duration::from_secs(5);
        await_open(broker.address(), soon).unwrap();
        await_open(broker.address_v5(), soon).unwrap();
    }

    #[test]
    fn two_brokers_do_not_meet() {
        let (one, other) = (Broker::start().unwrap(), Broker::start().unwrap());
        let mut ports = [one.address(), one.address_v5(), other.address(), other.address_v5()];
        ports.sort();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
    }

    #[test]
    fn a_reserved_port_can_be_listened_on_and_is_given_to_nobody_else() {
        let (held, address) = reserve().unwrap();
        for _ in 0..200 {
            assert_ne!(reserve().unwrap().1, address);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _guard = runtime.enter();
        runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        drop(held);
    }

    #[test]
    fn silence_is_an_error_that_names_the_address() {
        // Bound but not listening: connections are refused.
        let (_held, address) = reserve().unwrap();
        let deadline = Instant::now() + Duration::from_millis(30);
        let cause = await_open(address, deadline).unwrap_err();
        let text = BrokerError::NotReady { address, waited_ms: 30, cause }.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("30 ms"), "{text}");
    }
}
