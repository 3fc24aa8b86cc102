//! As much of MQTT 5 as a loop on a raw socket needs: CONNECT, SUBSCRIBE, PUBLISH and PUBACK, at QoS 0 and 1.
//! What comes in at QoS 1 is acknowledged at once, the messages of one read in one write. Acknowledgements that come
//! in are not looked at, and properties are stepped over. No pings, no second attempt.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A connection, and what has been read and not yet taken.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// For what came in the last read.
    acks: Vec<u8>,
    stopped: Arc<AtomicBool>,
}

/// At first; it grows with the packets.
const BUFFER_BYTES: usize = 64 * 1024;

impl Wire {
    /// Connects as `client`.
    ///
    /// # Errors
    /// If the broker is not there or refuses.
    pub fn connect(host: &str, port: u16, client: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect((host, port))?;
        stream.set_nodelay(true)?;
        let mut packet = Vec::new();
        // MQTT, level 5, clean start, a ping within 18 hours, and as much of QoS 1 on its way to us as there may be.
        let header = [0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0xff, 0xff, 3, 0x21, 0xff, 0xff];
        frame(0x10, header.len() + 2 + client.len(), &mut packet);
        packet.extend(header);
        text(client, &mut packet);
        stream.write_all(&packet)?;
        match &answer(&mut stream)?[..] {
            [0x20, _flags, 0, ..] => {}
            refusal => {
                let what = format!("the broker refused the connection: {refusal:?}");
                return Err(io::Error::other(what));
            }
        }
        Ok(Self::of(stream))
    }

    fn of(stream: TcpStream) -> Self {
        let (buffer, acks) = (vec![0; BUFFER_BYTES], Vec::new());
        Self { stream, buffer, filled: 0, acks, stopped: Arc::default() }
    }

    /// Subscribes to `filter` at this quality of service, and waits for the broker's word.
    ///
    /// # Errors
    /// If the broker refuses or the connection breaks.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut packet = Vec::new();
        frame(0x82, 3 + 2 + filter.len() + 1, &mut packet);
        packet.extend([0, 1, 0]);
        text(filter, &mut packet);
        packet.push(qos);
        self.stream.write_all(&packet)?;
        match &answer(&mut self.stream)?[..] {
            [0x90, 0, 1, .., granted] if *granted == qos => Ok(()),
            refusal => Err(io::Error::other(format!("the broker refused {filter:?}: {refusal:?}"))),
        }
    }

    /// This connection for someone who writes.
    ///
    /// # Errors
    /// If there is no further file descriptor.
    pub fn writer(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Ends [`read`](Self::read) from another thread.
    ///
    /// # Errors
    /// If there is no further file descriptor.
    pub fn stopper(&self) -> io::Result<impl FnOnce() + Send + 'static> {
        let (stream, stopped) = (self.writer()?, Arc::clone(&self.stopped));
        Ok(move || {
            stopped.store(true, Ordering::Relaxed);
            // If the broker has ended it already there is nothing to end.
            let _ended = stream.shutdown(Shutdown::Both);
        })
    }

    /// Writes `packets` and empties them.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn write(&mut self, packets: &mut Vec<u8>) -> io::Result<()> {
        let written = self.stream.write_all(packets);
        packets.clear();
        if self.stopped.load(Ordering::Relaxed) { Ok(()) } else { written }
    }

    /// Reads once, calls `each` with topic and payload of every publish that is complete, and acknowledges. False
    /// at the end of the connection: the broker's, or one that was asked for.
    ///
    /// # Errors
    /// If the connection breaks, a packet is malformed, or `each` fails.
    pub fn read(&mut self, each: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<bool> {
        match self.read_once(each) {
            // A broker that was still sending answers our end with a reset, and writes fail from then.
            Err(_) if self.stopped.load(Ordering::Relaxed) => Ok(false),
            read => read,
        }
    }

    fn read_once(
        &mut self,
        mut each: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        let fresh = match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Ok(false),
            Ok(fresh) => fresh,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.filled += fresh;
        let mut at = 0;
        while let Some((header, size)) = packet(&self.buffer[at..self.filled])? {
            let bytes = &self.buffer[at..at + size];
            if bytes[0] >> 4 == 3 {
                let body = &bytes[header..];
                let malformed = || io::Error::from(ErrorKind::InvalidData);
                let (size, rest) = body.split_first_chunk().ok_or_else(malformed)?;
                let size = usize::from(u16::from_be_bytes(*size));
                let (topic, mut rest) = rest.split_at_checked(size).ok_or_else(malformed)?;
                if bytes[0] & 0b110 != 0 {
                    let (id, behind) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
                    self.acks.extend([0x40, 2]);
                    self.acks.extend(id);
                    rest = behind;
                }
                let (from, properties) = length(rest)?.ok_or_else(malformed)?;
                each(topic, rest.get(from + properties..).ok_or_else(malformed)?)?;
            }
            at += size;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        if !self.acks.is_empty() {
            self.stream.write_all(&self.acks)?;
            self.acks.clear();
        }
        Ok(true)
    }
}

/// The first byte and the body of a short packet, which is waited for.
fn answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 2];
    stream.read_exact(&mut header)?;
    let mut answer = vec![header[0]; 1 + usize::from(header[1] & 0x7f)];
    stream.read_exact(&mut answer[1..])?;
    Ok(answer)
}

/// Where the body of the first packet begins, and where it ends; `None` while it is not complete.
fn packet(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some((header, size)) = length(bytes.get(1..).unwrap_or_default())? else { return Ok(None) };
    let (header, end) = (1 + header, 1 + header + size);
    Ok((bytes.len() >= end).then_some((header, end)))
}

/// How many bytes a length takes, and the length; `None` while it is not complete.
fn length(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut length = 0;
    for place in 0..4 {
        let Some(&byte) = bytes.get(place) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((place + 1, length)));
        }
    }
    Err(ErrorKind::InvalidData.into())
}

/// Appends a packet's first byte and the length of the rest.
fn frame(first: u8, mut length: usize, out: &mut Vec<u8>) {
    out.push(first);
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// The packet ids of a connection that publishes.
pub struct PacketIds {
    qos: u8,
    last: u16,
}

impl PacketIds {
    /// For publishes at this quality of service.
    pub const fn new(qos: u8) -> Self {
        Self { qos, last: 0 }
    }

    /// The id of the next publish, which has none at QoS 0. Ids come again after 65,535 publishes.
    pub const fn take(&mut self) -> Option<u16> {
        if self.qos == 0 {
            return None;
        }
        self.last = self.last % u16::MAX + 1;
        Some(self.last)
    }
}

/// Appends a publish: at QoS 1 with an id, at QoS 0 without.
pub fn publish(topic: &str, id: Option<u16>, payload: &[u8], out: &mut Vec<u8>) {
    let (first, id_bytes) = if id.is_some() { (0x32, 2) } else { (0x30, 0) };
    frame(first, 2 + topic.len() + id_bytes + 1 + payload.len(), out);
    text(topic, out);
    out.extend(id.into_iter().flat_map(u16::to_be_bytes));
    out.push(0);
    out.extend(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn packets_are_found_wherever_reads_cut_them() {
        let mut sent = Vec::new();
        let long = vec![b'x'; 100_000];
        publish("a/b", None, b"one", &mut sent);
        sent.extend([0xd0, 0]);
        publish("c", Some(258), &long, &mut sent);
        publish("d", None, b"", &mut sent);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        let writer = std::thread::spawn(move || {
            for part in [&sent[..1], &sent[1..9], &sent[9..]] {
                far.write_all(part).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let mut ack = [0; 4];
            far.read_exact(&mut ack).unwrap();
            ack
        });
        let mut wire = Wire { buffer: vec![0; 16], ..Wire::of(stream) };
        let mut seen = Vec::new();
        while wire
            .read(|topic, payload| {
                seen.push((String::from_utf8_lossy(topic).into_owned(), payload.len()));
                Ok(())
            })
            .unwrap()
        {}
        assert_eq!(writer.join().unwrap(), [0x40, 2, 1, 2], "that of QoS 1 is acknowledged");
        assert_eq!(seen, [("a/b".into(), 3), ("c".into(), 100_000), ("d".into(), 0)]);
    }

    #[test]
    fn packet_ids_are_never_zero_and_absent_at_qos_0() {
        assert_eq!(PacketIds::new(0).take(), None);
        let mut ids = PacketIds { qos: 1, last: u16::MAX - 1 };
        assert_eq!([ids.take(), ids.take()], [Some(u16::MAX), Some(1)]);
    }

    #[test]
    fn a_reset_is_an_end_where_an_end_was_asked_for_and_an_error_elsewhere() {
        for asked_for in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let far = listener.accept().unwrap().0;
            let mut wire = Wire::of(stream);
            wire.writer().unwrap().write_all(b"never read").unwrap();
            // Closed with something unread, it is reset.
            far.peek(&mut [0]).unwrap();
            drop(far);
            if asked_for {
                wire.stopped.store(true, Ordering::Relaxed);
            }
            let read = wire.read(|_, _| Ok(()));
            assert_eq!(read.map_err(|error| error.kind()).ok(), asked_for.then_some(false));
        }
    }
}
