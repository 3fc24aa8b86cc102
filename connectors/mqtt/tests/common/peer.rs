//! A broker played by hand, packet by packet.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use thalweg_mqtt::{MqttConfig, Version};

use super::PATIENCE;

/// Long enough for an acknowledgement that should not come to come.
const SILENCE: Duration = Duration::from_millis(150);

/// Reads one packet: its first byte and its body.
pub(crate) fn read(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let kind = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

/// The answer to CONNECT.
pub(crate) fn accepted(version: Version, session_present: bool) -> Vec<u8> {
    match version {
        Version::V311 => vec![0x20, 2, session_present.into(), 0],
        Version::V5 => vec![0x20, 3, session_present.into(), 0, 0],
    }
}

/// Where a source finds a broker.
pub(crate) struct Peer {
    listener: TcpListener,
    version: Version,
}

impl Peer {
    pub(crate) fn new(version: Version) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a port"), version }
    }

    pub(crate) fn config(&self) -> MqttConfig {
        let port = self.listener.local_addr().expect("its address").port();
        MqttConfig::new("127.0.0.1").port(port).version(self.version).client_id("gw")
    }

    /// Whether somebody wants to connect.
    pub(crate) fn is_called(&self) -> bool {
        self.listener.set_nonblocking(true).expect("a mode");
        let called = self.listener.accept().is_ok();
        self.listener.set_nonblocking(false).expect("a mode");
        called
    }

    /// Answers CONNECT and SUBSCRIBE.
    pub(crate) fn accept(&self, session_present: bool) -> Connection {
        let mut connection = self.accept_only(session_present);
        connection.subscribed();
        connection
    }

    /// Answers CONNECT.
    pub(crate) fn accept_only(&self, session_present: bool) -> Connection {
        let (mut stream, _) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        assert_eq!(read(&mut stream).expect("a packet").0, 0x10, "CONNECT");
        stream.write_all(&accepted(self.version, session_present)).expect("CONNACK");
        Connection { stream, version: self.version }
    }
}

pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBCOMP: u8 = 0x70;

/// The broker's end of a connection.
pub(crate) struct Connection {
    stream: TcpStream,
    version: Version,
}

impl Connection {
    /// Answers SUBSCRIBE, which is the next packet.
    pub(crate) fn subscribed(&mut self) {
        let (kind, subscribe) = read(&mut self.stream).expect("a packet");
        assert_eq!(kind, 0x82, "SUBSCRIBE");
        let id = &subscribe[..2];
        let answer = match self.version {
            Version::V311 => [&[0x90, 3], id, &[2]].concat(),
            Version::V5 => [&[0x90, 4], id, &[0, 2]].concat(),
        };
        self.stream.write_all(&answer).expect("SUBACK");
    }

    pub(crate) fn publish(&mut self, topic: &str, qos: u8, packet_id: u16, payload: &str) {
        self.publish_as(0, topic, qos, packet_id, payload);
    }

    /// With DUP.
    pub(crate) fn publish_again(&mut self, topic: &str, qos: u8, packet_id: u16, payload: &str) {
        self.publish_as(8, topic, qos, packet_id, payload);
    }

    fn publish_as(&mut self, dup: u8, topic: &str, qos: u8, packet_id: u16, payload: &str) {
        let mut body = u16::to_be_bytes(topic.len() as u16).to_vec();
        body.extend_from_slice(topic.as_bytes());
        if qos > 0 {
            body.extend_from_slice(&packet_id.to_be_bytes());
        }
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend_from_slice(payload.as_bytes());
        assert!(body.len() < 128, "one byte of length");
        let packet = [&[0x30 | dup | (qos << 1), body.len() as u8], &body[..]].concat();
        self.stream.write_all(&packet).expect("PUBLISH");
    }

    /// The next `count` packets, which are all acknowledgements of this kind: their packet ids.
    pub(crate) fn acks(&mut self, acknowledgement: u8, count: usize) -> Vec<u16> {
        let ids = (0..count).map(|_| {
            let (kind, body) = read(&mut self.stream).expect("an acknowledgement");
            assert_eq!(kind, acknowledgement);
            u16::from_be_bytes([body[0], body[1]])
        });
        ids.collect()
    }

    /// Ends the exchange of a message of QoS 2.
    pub(crate) fn release(&mut self, packet_id: u16) {
        self.ask_release(packet_id);
        assert_eq!(self.acks(PUBCOMP, 1), [packet_id]);
    }

    /// PUBREL.
    pub(crate) fn ask_release(&mut self, packet_id: u16) {
        let [high, low] = packet_id.to_be_bytes();
        self.stream.write_all(&[0x62, 2, high, low]).expect("PUBREL");
    }

    /// Answers a ping, which is the next packet.
    pub(crate) fn pinged(&mut self) {
        assert_eq!(read(&mut self.stream).expect("a packet").0, 0xc0, "PINGREQ");
        self.stream.write_all(&[0xd0, 0]).expect("PINGRESP");
    }

    /// Asserts that nothing comes for a moment.
    pub(crate) fn is_silent(&mut self) {
        self.stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => panic!("{other:?} {byte:?} where nothing was due"),
        }
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }

    /// The next packet is a DISCONNECT.
    pub(crate) fn is_left(&mut self) {
        assert_eq!(read(&mut self.stream).expect("a packet").0, 0xe0, "DISCONNECT");
    }
}
