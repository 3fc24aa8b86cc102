//! `thalweg status`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use thalweg_runtime::wall_clock;

use crate::asking::ask_for_status;
use crate::status::{RATE_OVER, Status};

/// Metrics larger than this are not read.
const METRICS_BYTES_MAX: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// The state directory of a running job, or the address that its metrics are served at: 127.0.0.1:9464
    #[arg(value_name = "STATE_DIR|ADDRESS")]
    of: String,
}

pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let text = if Path::new(&args.of).is_dir() {
        match ask_for_status(Path::new(&args.of))? {
            Some(text) => text,
            None => bail!("no job runs in {}", args.of),
        }
    } else {
        let rest = args.of.strip_prefix("http://").unwrap_or(&args.of);
        let address = rest.split('/').next().unwrap_or(rest);
        let mut addresses = address.to_socket_addrs().with_context(|| {
            format!(
                "{} is neither a state directory nor an address such as 127.0.0.1:9464",
                args.of
            )
        })?;
        let Some(address) = addresses.next() else { bail!("{address} has no address") };
        let first = look(address)?;
        std::thread::sleep(RATE_OVER);
        look(address)?.text(&first)
    };
    // A reader that has seen enough is no error.
    let _gone = write!(io::stdout(), "{text}");
    Ok(())
}

fn look(address: SocketAddr) -> anyhow::Result<Status> {
    let unreachable = || format!("no metrics at http://{address}/metrics");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.take(METRICS_BYTES_MAX).read_to_string(&mut text).with_context(unreachable)?;
    if !text.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        bail!("http://{address}/metrics answered {:?}", text.lines().next().unwrap_or_default());
    }
    Ok(Status::of_prometheus(&text, wall_clock()))
}
