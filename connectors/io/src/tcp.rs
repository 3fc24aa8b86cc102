//! A TCP connection that never blocks.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use thalweg_kernel::{Readiness, Watch};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::reactor::Reactor;
use crate::resolve::resolve;

/// What one read takes at most, in bytes: some hundreds of readings.
const READ_BYTES: usize = 32 * 1024;

/// A TCP connection. It belongs to the work of its [`Reactor`], whichever context it is polled with.
#[derive(Debug)]
pub struct Tcp {
    /// Before the socket: to be dropped is to be watched no more.
    watch: Arc<Watch>,
    reactor: Reactor,
    socket: Arc<TcpStream>,
    /// What is read passes through here, so that nobody's buffer must be filled with zeros first.
    buffer: Box<[u8]>,
}

impl Tcp {
    /// Connects to `host`, a name or an address, at `port`. It sends at once, without Nagle's delay.
    ///
    /// # Errors
    /// That of the last address of the name, or of the search for it.
    pub async fn connect(reactor: &Reactor, host: &str, port: u16) -> io::Result<Self> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in resolve(host, port).await? {
            match Self::connect_to(reactor, &address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_to(reactor: &Reactor, address: &SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
        let begun = connect(&socket, address);
        let socket = Arc::new(TcpStream::from(socket));
        let watch = reactor.watch(Arc::clone(&socket) as _);
        let tcp =
            Self { watch, reactor: reactor.clone(), socket, buffer: vec![0; READ_BYTES].into() };
        match begun {
            Ok(()) => {}
            Err(Errno::INPROGRESS) => {
                tcp.watch.used_up(Readiness::Write);
                std::future::poll_fn(|_| tcp.poll_ready(Readiness::Write)).await;
                sockopt::socket_error(&tcp.socket)??;
            }
            Err(error) => return Err(error.into()),
        }
        tcp.socket.set_nodelay(true)?;
        Ok(tcp)
    }

    /// Whether it may be ready. If not, the work goes on when it is.
    fn poll_ready(&self, readiness: Readiness) -> Poll<()> {
        if self.watch.is_ready(readiness) {
            return Poll::Ready(());
        }
        self.watch.want(readiness);
        Poll::Pending
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tcp = self.get_mut();
        std::task::ready!(tcp.poll_ready(Readiness::Read));
        if !tcp.reactor.may_read() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = out.remaining().min(tcp.buffer.len());
        loop {
            match (&*tcp.socket).read(&mut tcp.buffer[..most]) {
                Ok(read) => {
                    // There was no more. (At its end there never is, and it stays ready.)
                    if 0 < read && read < most {
                        tcp.watch.used_up(Readiness::Read);
                    }
                    out.put_slice(&tcp.buffer[..read]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tcp.watch.used_up(Readiness::Read);
                    return tcp.poll_ready(Readiness::Read).map(Ok);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_ready(Readiness::Write));
        loop {
            match (&*self.socket).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.used_up(Readiness::Write);
                    return self.poll_ready(Readiness::Write).map(|()| Ok(0));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}
