//! [`Sender`]: messages sent to a broker one by one, each acknowledged before the next. For a command that a person
//! waits for, such as one that sends dead letters again; a job's results go through [`MqttSink`](crate::MqttSink).
//!
//! # Limits
//! It speaks MQTT 5, since older brokers know no user properties. A connection that breaks is an error: what was
//! acknowledged by then is told, and the rest may be sent again.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet,
    PubAckReason, Publish, PublishProperties,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use thalweg_kernel::ConnectorError;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use crate::config::{MqttConfig, Secret};

/// How long the broker may take for each answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where to.
    pub topic: &'a str,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// User properties, in order.
    pub properties: &'a [(String, String)],
}

/// Why a message was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// The broker does not want this one, for this reason. Others may be sent.
    Message(String),
    /// Nothing more can be sent.
    Connection(ConnectorError),
}

trait Wire: Read + Write {}

impl<W: Read + Write> Wire for W {}

/// A connection to a broker, for sending.
pub struct Sender {
    name: String,
    wire: Box<dyn Wire>,
    incoming: BytesMut,
    packet_bytes_max: u32,
    packet_id: u16,
}

impl Sender {
    /// Connects, and waits for the broker's consent.
    ///
    /// # Errors
    /// If the broker is not there, or does not let us in.
    pub fn connect(config: &MqttConfig) -> Result<Self, ConnectorError> {
        let name = config.to_string();
        let failed =
            |what: &str, cause: io::Error| ConnectorError::new(&name, what).caused_by(cause);
        let login =
            config.login().map_err(|error| ConnectorError::new(&name, "login").caused_by(error))?;
        let host = config.host.trim_start_matches('[').trim_end_matches(']');
        let reach = "cannot be reached: is the broker there?";
        let mut addresses = (host, config.tcp_port())
            .to_socket_addrs()
            .map_err(|cause| failed("its name is not known", cause))?;
        let address = addresses
            .next()
            .ok_or_else(|| ConnectorError::new(&name, "its name has no address"))?;
        let tcp = TcpStream::connect_timeout(&address, ANSWER_WITHIN)
            .and_then(|tcp| {
                tcp.set_read_timeout(Some(ANSWER_WITHIN))?;
                tcp.set_write_timeout(Some(ANSWER_WITHIN))?;
                tcp.set_nodelay(true)?;
                Ok(tcp)
            })
            .map_err(|cause| failed(reach, cause))?;
        let wire: Box<dyn Wire> = if config.tls {
            let wrong = |error| ConnectorError::new(&name, "TLS").caused_by(error);
            let (tls, server) = config.tls_client().map_err(wrong)?;
            let connection = ClientConnection::new(Arc::new(tls), server)
                .map_err(|cause| ConnectorError::new(&name, "TLS cannot begin").caused_by(cause))?;
            Box::new(StreamOwned::new(connection, tcp))
        } else {
            Box::new(tcp)
        };
        let packet_bytes_max = config.packet_bytes_max;
        let mut sender =
            Self { name, wire, incoming: BytesMut::new(), packet_bytes_max, packet_id: 0 };
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(0);
        properties.max_packet_size = Some(packet_bytes_max);
        let connect = Connect {
            keep_alive: config.keep_alive_s,
            // Without one the broker gives a name: the configured one belongs to a job that may be running.
            client_id: String::new(),
            clean_start: true,
            properties: Some(properties),
        };
        let login = login.map(|(user, Secret(password))| Login::new(&user, &password));
        let mut packet = BytesMut::new();
        let written = connect.write(&None, &login, &mut packet);
        written.map_err(|_| sender.error("user or password are too long"))?;
        sender.write(&packet)?;
        match sender.answer()? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(sender),
            Packet::ConnAck(ack) => {
                let why = match ack.code {
                    ConnectReturnCode::BadUserNamePassword => {
                        "user or password are wrong: THALWEG_MQTT_USER, THALWEG_MQTT_PASSWORD or the URL"
                    }
                    ConnectReturnCode::NotAuthorized => {
                        "this user may not connect: THALWEG_MQTT_USER, THALWEG_MQTT_PASSWORD or the URL"
                    }
                    _ => "it does not let us in: does it speak MQTT 5?",
                };
                Err(sender.error(why))
            }
            _ => Err(sender.error("it answers with something else than MQTT 5")),
        }
    }

    fn error(&self, what: &str) -> ConnectorError {
        ConnectorError::new(&self.name, what)
    }

    fn write(&mut self, packet: &[u8]) -> Result<(), ConnectorError> {
        let written = self.wire.write_all(packet).and_then(|()| self.wire.flush());
        written.map_err(|cause| self.error("the connection has ended").caused_by(cause))
    }

    /// The next packet of the broker.
    fn answer(&mut self) -> Result<Packet, ConnectorError> {
        let mut buffer = [0; 4096];
        loop {
            match Packet::read(&mut self.incoming, Some(self.packet_bytes_max)) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(_) => return Err(self.error("it answers with something else than MQTT 5")),
            }
            match self.wire.read(&mut buffer) {
                Ok(0) => {
                    let what = "it has ended the connection; a broker without MQTT 5 does so";
                    return Err(self.error(what));
                }
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("no answer").caused_by(error)),
            }
        }
    }

    /// Sends a message at QoS 1, and waits until the broker has it.
    ///
    /// # Errors
    /// If the broker does not take it.
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), Refusal> {
        let Message { topic, payload, retain, properties } = *message;
        if topic.is_empty() || topic.len() > 65_535 || topic.contains(['+', '#', '\0']) {
            let why = "no topic: 1 to 65535 bytes without wildcards and NUL".to_owned();
            return Err(Refusal::Message(why));
        }
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        let properties = PublishProperties {
            user_properties: properties.to_vec(),
            ..PublishProperties::default()
        };
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain,
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            pkid: self.packet_id,
            payload: Bytes::copy_from_slice(payload),
            properties: Some(properties),
        };
        let mut packet = BytesMut::new();
        if publish.write(&mut packet).is_err() {
            return Err(Refusal::Message("it is too large for a packet".to_owned()));
        }
        self.write(&packet).map_err(Refusal::Connection)?;
        loop {
            match self.answer().map_err(Refusal::Connection)? {
                Packet::PubAck(ack) if ack.pkid == self.packet_id => {
                    return match ack.reason {
                        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
                        PubAckReason::NotAuthorized => {
                            Err(Refusal::Message("this user may not publish there".to_owned()))
                        }
                        PubAckReason::QuotaExceeded => {
                            Err(Refusal::Message("the broker has no room for it".to_owned()))
                        }
                        _ => Err(Refusal::Message("the broker does not take it".to_owned())),
                    };
                }
                Packet::Disconnect(_) => {
                    let ended = self.error("the broker has ended the connection over this message");
                    return Err(Refusal::Connection(ended));
                }
                _ => {}
            }
        }
    }

    /// Says good-bye.
    pub fn close(mut self) {
        let mut packet = BytesMut::new();
        let good_bye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        if good_bye.write(&mut packet).is_ok() {
            // All is acknowledged: nothing is lost if it does not come through.
            let _gone = self.write(&packet);
        }
    }
}
