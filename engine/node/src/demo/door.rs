//! One port for clients of any version, in front of a broker that has a port for each.
//!
//! A client says its version in its first packet. The door reads that far, and then passes bytes on, both ways, between the
//! client and the port of that version. It costs each message a hop more, so what is measured goes past it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A client must say its version within this time.
const VERSION_WAIT: Duration = Duration::from_secs(10);
/// The version stands within this number of bytes of a CONNECT: a type, a length of four, and the name `MQIsdp` with its length.
const HEAD_BYTES_MAX: usize = 14;
/// The version that a CONNECT of MQTT 5 names.
const LEVEL_5: u8 = 5;

/// Opens the door in front of the ports of MQTT 3.1.1 and 5. Its address; it stays open until the process ends.
pub(super) fn open(v4: SocketAddr, v5: SocketAddr) -> io::Result<SocketAddr> {
    let (opened, address) = mpsc::sync_channel(1);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    thread::Builder::new().name("demo-door".into()).spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = match listener {
                Ok(listener) => listener,
                Err(error) => return drop(opened.send(Err(error))),
            };
            let _gone = opened.send(listener.local_addr());
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(let_in(client, v4, v5))),
                    // No descriptor is free, say: others may go.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
    })?;
    address.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")))
}

/// Passes a client on to the port of its version.
async fn let_in(mut client: TcpStream, v4: SocketAddr, v5: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    let level = tokio::time::timeout(VERSION_WAIT, async {
        loop {
            if let Some(level) = level(&head) {
                return Ok::<_, io::Error>(level);
            }
            if head.len() == HEAD_BYTES_MAX || client.read_buf(&mut head).await? == 0 {
                // Its broker will say what is wrong with it.
                return Ok(4);
            }
        }
    });
    let level = level.await??;
    let mut broker = TcpStream::connect(if level == LEVEL_5 { v5 } else { v4 }).await?;
    broker.set_nodelay(true)?;
    broker.write_all(&head).await?;
    copy_bidirectional(&mut client, &mut broker).await?;
    Ok(())
}

/// The version in the beginning of a CONNECT, if it is there.
fn level(head: &[u8]) -> Option<u8> {
    let length = head.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let name = head.get(1 + length..)?;
    let name_bytes = usize::from(u16::from_be_bytes([*name.first()?, *name.get(1)?]));
    name.get(2 + name_bytes).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_first_bytes_of_any_client() {
        let v5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c";
        let v311 = b"\x10\x80\x01\x00\x04MQTT\x04\x02\x00\x3c";
        let v31 = b"\x10\x20\x00\x06MQIsdp\x03\x02";
        assert_eq!((level(v5), level(v311), level(v31)), (Some(5), Some(4), Some(3)));
        for cut in 0..9 {
            assert_eq!(level(&v311[..cut.min(9)]), None, "{cut}");
        }
        assert!(v31.len() <= HEAD_BYTES_MAX && level(&[0xff; HEAD_BYTES_MAX]).is_none());
    }
}
