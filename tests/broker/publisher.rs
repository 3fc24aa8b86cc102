//! A publisher that keeps at a message until the broker has acknowledged it. It speaks MQTT 3.1.1 at QoS 1, one
//! message at a time, on a plain socket. So a test knows exactly which messages a broker has promised to deliver,
//! whatever happens to the connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Publisher {
    port: u16,
    stream: Option<TcpStream>,
    /// Messages that were sent again because no PUBACK came. A broker may have taken both.
    pub(crate) resent: u64,
}

impl Publisher {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, stream: None, resent: 0 }
    }

    /// Returns once the broker has acknowledged the message. `failed` hears of each attempt that
    /// did not get there.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str, mut failed: impl FnMut()) {
        let deadline = Instant::now() + PATIENCE;
        let mut sent = false;
        loop {
            self.resent += u64::from(sent);
            match self.attempt(topic, payload, &mut sent) {
                Ok(()) => return,
                Err(error) => {
                    assert!(Instant::now() < deadline, "never acknowledged: {error}");
                    self.stream = None;
                    failed();
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn attempt(&mut self, topic: &str, payload: &str, sent: &mut bool) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.port)?,
        };
        let length = 2 + topic.len() + 2 + payload.len();
        assert!(length < 128, "one byte of length is enough for this test");
        let mut packet = vec![0x32, length as u8, 0, topic.len() as u8];
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(&[0, 1]);
        packet.extend_from_slice(payload.as_bytes());
        *sent = true;
        stream.write_all(&packet)?;
        expect(&mut stream, [0x40, 2, 0, 1])?;
        self.stream = Some(stream);
        Ok(())
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")?;
    expect(&mut stream, [0x20, 2, 0, 0])?;
    Ok(stream)
}

fn expect(stream: &mut TcpStream, wanted: [u8; 4]) -> io::Result<()> {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer == wanted { Ok(()) } else { Err(io::Error::other(format!("{answer:02x?}"))) }
}
