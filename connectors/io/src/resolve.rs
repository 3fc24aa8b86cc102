//! The addresses of a host. Asking for them blocks, and takes as long as a name server takes: a thread does it, which is
//! there for that long. An address needs no asking.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use thalweg_kernel::beside;

/// The addresses of `host`, a name or an address.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (tell, told) = flume::bounded(1);
    let host = host.to_owned();
    let ask = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Whoever asked may have lost patience.
        let _gone = tell.send(found);
    };
    beside::spawn("resolve", ask)?;
    let gone = |_| io::Error::other("the search for its address ended without an answer");
    told.into_recv_async().await.map_err(gone)?
}
