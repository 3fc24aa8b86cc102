//! Who is at the other end, where it does not answer as a broker does. It may expect TLS and be spoken to without, or the
//! other way round.

use std::time::Duration;

use thalweg_io::{Reactor, Tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Trouble;

/// How long the other end may take.
const PROBE_MS_MAX: u64 = 2_000;

/// A ClientHello of TLS 1.2, as short as can be: with one cipher suite, which nobody need accept.
const CLIENT_HELLO: &[u8] = &[
    0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3, // record, handshake, version
    b't', b'h', b'a', b'l', b'w', b'e', b'g', b' ', b'a', b's', b'k', b's', b' ', b'f', b'o', b'r',
    b' ', b'T', b'L', b'S', b' ', b'h', b'e', b'r', b'e', 0, 0, 0, 0, 0, 0, 0, // random
    0, 0, 2, 0xc0, 0x2f, 1, 0, // session, cipher suite, compression
];
/// CONNECT of MQTT 3.1.1, without a client id, for a clean session.
const CONNECT: &[u8] = &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0];
const DISCONNECT: &[u8] = &[0xe0, 0];

/// What those say first who are no broker that is spoken to without TLS.
pub(super) fn stranger(first: &[u8], port: u16) -> Option<Trouble> {
    match first {
        [0x15 | 0x16, 3, ..] => Some(expects_tls(port)),
        [b'H', b'T', b'T', b'P', ..] => {
            let what = format!("a web server answers at port {port}, where a broker was expected");
            Some(Trouble::weather("protocol", what))
        }
        _ => None,
    }
}

pub(super) fn expects_tls(port: u16) -> Trouble {
    Trouble::Fatal(format!("the broker speaks TLS at port {port}: write mqtts:// (tls=true)"))
}

pub(super) fn expects_plain(port: u16) -> Trouble {
    Trouble::Fatal(format!(
        "the broker speaks no TLS at port {port}: write mqtt:// (tls=false), or the port at which it does, mostly 8883"
    ))
}

/// Whether TLS is spoken there.
pub(super) async fn speaks_tls(reactor: &Reactor, host: &str, port: u16) -> bool {
    matches!(ask(reactor, host, port, CLIENT_HELLO).await, Some([0x15 | 0x16, 3]))
}

/// Whether MQTT is spoken there without TLS.
pub(super) async fn speaks_plain(reactor: &Reactor, host: &str, port: u16) -> bool {
    matches!(ask(reactor, host, port, CONNECT).await, Some([0x20, 2]))
}

/// The first bytes of the answer.
async fn ask(reactor: &Reactor, host: &str, port: u16, question: &[u8]) -> Option<[u8; 2]> {
    let ask = async {
        let mut tcp = Tcp::connect(reactor, host, port).await.ok()?;
        tcp.write_all(question).await.ok()?;
        let mut answer = [0; 2];
        tcp.read_exact(&mut answer).await.ok()?;
        if answer[0] == 0x20 {
            tcp.write_all(DISCONNECT).await.ok()?;
        }
        Some(answer)
    };
    reactor.timeout(Duration::from_millis(PROBE_MS_MAX), ask).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_of_what_is_asked_are_right() {
        let [_, _, _, high, low, _, a, b, c, ..] = *CLIENT_HELLO else { panic!("a record") };
        let record = usize::from(u16::from_be_bytes([high, low]));
        assert_eq!(record, CLIENT_HELLO.len() - 5);
        assert_eq!(u32::from_be_bytes([0, a, b, c]) as usize, record - 4);
        assert_eq!(usize::from(CONNECT[1]), CONNECT.len() - 2);
    }

    #[test]
    fn strangers_are_known_by_their_first_bytes() {
        let text = |first: &[u8]| format!("{:?}", stranger(first, 8883));
        assert!(text(&[0x15, 3, 3, 0, 2]).contains("write mqtts://"));
        assert!(text(b"HTTP/1.1 400").contains("web server"));
        assert!(stranger(&[0x20, 3, 0], 1).is_none() && stranger(&[], 1).is_none());
    }
}
