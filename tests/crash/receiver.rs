//! Who receives what the outbox publishes: a subscriber on a plain socket (MQTT 5, QoS 1). The broker keeps its
//! session, so that nothing is lost on this side. Each publish is written to a file, with its id, before it is
//! acknowledged.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sinks::{Received, received_file};

/// What it subscribes to.
const FILTER: &str = "out/#";
/// The user property that carries an id.
const ID: &str = "thalweg-id";
/// The broker answers within this, or the run fails.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A lost connection is made again so often.
const CONNECTS_MAX: usize = 10;

/// A subscriber on its own thread, until the program ends.
pub(crate) struct Receiver {
    thread: JoinHandle<Result<()>>,
}

impl Receiver {
    /// Subscribes, and then receives into the directory of results.
    pub(crate) fn start(port: u16, out: &Path) -> Result<Self> {
        std::fs::create_dir_all(out).context("cannot make the directory for results")?;
        let path = received_file(out);
        let file = File::options().create(true).append(true).open(&path);
        let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut stream = connect(port)?;
        let thread = thread::Builder::new().name("receiver".into());
        let receive = move || {
            for _ in 0..CONNECTS_MAX {
                match receive(stream, &mut file) {
                    Err(error) if error.kind() == ErrorKind::InvalidData => {
                        return Err(error.into());
                    }
                    _ => stream = connect(port)?,
                }
            }
            bail!("the receiver lost its connection {CONNECTS_MAX} times")
        };
        Ok(Self { thread: thread.spawn(receive).context("cannot start a thread")? })
    }

    /// Whether it still receives; it never ends by itself.
    pub(crate) fn check(&self) -> Result<()> {
        if self.thread.is_finished() {
            bail!("the receiver has ended: a connection broke, or a packet was malformed");
        }
        Ok(())
    }
}

/// Connects to the session of old, and subscribes.
fn connect(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("no broker for results")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    // Level 5, no clean start, no keep-alive; the session never expires.
    let mut connect = b"\x00\x04MQTT\x05\x00\x00\x00\x05\x11\xff\xff\xff\xff".to_vec();
    text("receiver", &mut connect);
    stream.write_all(&packet(0x10, &connect))?;
    if let (first, body) = read_packet(&mut stream)?
        && (first != 0x20 || body.get(1) != Some(&0))
    {
        bail!("not a CONNACK: {first:#04x} {body:02x?}");
    }
    let mut subscribe = vec![0, 1, 0];
    text(FILTER, &mut subscribe);
    subscribe.push(1);
    // The session may have publishes for us before the answer: they are not acknowledged here, and come again.
    stream.write_all(&packet(0x82, &subscribe))?;
    loop {
        match read_packet(&mut stream)? {
            (0x90, body) if body.last() == Some(&1) => break,
            (0x90, body) => bail!("the subscription was refused: {body:02x?}"),
            _ => {}
        }
    }
    // From now on silence is no failure.
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Receives until the connection ends.
fn receive(stream: TcpStream, file: &mut File) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut stream = BufReader::new(stream);
    loop {
        let (first, body) = read_packet(&mut stream)?;
        if first >> 4 != 3 {
            continue;
        }
        let (received, packet_id) = publish(first, &body)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a malformed PUBLISH"))?;
        let mut line = serde_json::to_vec(&received)?;
        line.push(b'\n');
        file.write_all(&line)?;
        if let Some(packet_id) = packet_id {
            answers.write_all(&packet(0x40, &packet_id))?;
        }
    }
}

/// What a PUBLISH says, and its packet id.
fn publish(first: u8, mut body: &[u8]) -> Option<(Received, Option<[u8; 2]>)> {
    let topic = take_text(&mut body)?;
    let qos = (first >> 1) & 3;
    let packet_id = if qos > 0 { Some(take::<2>(&mut body)?) } else { None };
    let length = take_length(&mut body)?;
    let (mut properties, payload) = body.split_at_checked(length)?;
    let mut id = None;
    while let [kind, rest @ ..] = properties {
        properties = rest;
        match kind {
            // A user property. The broker adds none of the other kinds to what has none.
            0x26 => {
                let (name, value) = (take_text(&mut properties)?, take_text(&mut properties)?);
                id = if name == ID { Some(value) } else { id };
            }
            _ => return None,
        }
    }
    let payload = String::from_utf8(payload.to_vec()).ok()?;
    Some((Received { topic, id, payload }, packet_id))
}

/// The first byte and the body of the next packet.
fn read_packet(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let first = byte[0];
    let mut length = 0;
    for place in 0..4 {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << (7 * place);
        if byte[0] & 0x80 == 0 {
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            return Ok((first, body));
        }
    }
    Err(io::Error::new(ErrorKind::InvalidData, "a packet without a length"))
}

/// A short packet.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first, body.len() as u8];
    packet.extend_from_slice(body);
    packet
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let length = u16::from_be_bytes(take(bytes)?);
    let (text, rest) = bytes.split_at_checked(usize::from(length))?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for place in 0..4 {
        let [byte] = take(bytes)?;
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}
