//! The uplink of the outbox: a relay to the broker whose connections break. Often the way back falls silent first,
//! so that results arrive and the job never hears of it; now and then nobody answers at all.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thalweg_testing::Random;

/// How long a connection holds, in the mean.
const LIFE: Duration = Duration::from_millis(250);
/// How long before the end the way back falls silent, at most.
const SILENCE_MS_MAX: u64 = 60;
/// How often a silent connection looks whether its end has come.
const LOOK: Duration = Duration::from_millis(5);

/// A relay, until the program ends.
pub(crate) struct Uplink {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    calm: AtomicBool,
    cuts: AtomicU64,
}

impl Uplink {
    /// Begins to relay to the broker at this port.
    pub(crate) fn start(broker: u16, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port for the uplink")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let relay = {
            let shared = Arc::clone(&shared);
            move || {
                let mut chance = Random::of(seed, 2);
                for near in listener.incoming().flatten() {
                    let calm = shared.calm.load(Relaxed);
                    if !calm && chance.one_in(8) {
                        shared.cuts.fetch_add(1, Relaxed);
                        continue;
                    }
                    let (end, silence) = (
                        chance.exponential(LIFE),
                        Duration::from_millis(chance.below(SILENCE_MS_MAX)),
                    );
                    let silence = if chance.one_in(2) { silence } else { Duration::ZERO };
                    // A job that cannot be served is one whose connection has broken.
                    let _broken = relay(near, broker, end, silence, &shared);
                }
            }
        };
        thread::Builder::new()
            .name("uplink".into())
            .spawn(relay)
            .context("cannot start a thread")?;
        Ok(Self { port, shared })
    }

    /// Where the job reaches the broker.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on connections hold.
    pub(crate) fn calm(&self) {
        self.shared.calm.store(true, Relaxed);
    }

    /// How many connections were cut, or not taken.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Relaxed)
    }
}

/// Relays a connection that ends after `life`, its way back `silence` earlier.
fn relay(
    near: TcpStream,
    broker: u16,
    life: Duration,
    silence: Duration,
    shared: &Arc<Shared>,
) -> std::io::Result<()> {
    let far = TcpStream::connect(("127.0.0.1", broker))?;
    let end = Instant::now() + life;
    let cut = Arc::new(AtomicBool::new(false));
    for (from, to, until) in [(&near, &far, end), (&far, &near, end - silence.min(life))] {
        from.set_nodelay(true)?;
        from.set_read_timeout(Some(LOOK))?;
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        let (shared, cut) = (Arc::clone(shared), Arc::clone(&cut));
        thread::Builder::new().name("relay".into()).spawn(move || {
            let mut buffer = [0; 16 * 1024];
            let calm = || shared.calm.load(Relaxed);
            let count = || {
                if !cut.swap(true, Relaxed) {
                    shared.cuts.fetch_add(1, Relaxed);
                }
            };
            loop {
                let now = Instant::now();
                if now >= end && !calm() {
                    count();
                    break;
                }
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    // What was swallowed is missing: such a connection cannot go on.
                    Ok(_) if now >= until && !calm() => {
                        thread::sleep(end.saturating_duration_since(now));
                        count();
                        break;
                    }
                    Ok(bytes) if to.write_all(&buffer[..bytes]).is_ok() => {}
                    Err(error)
                        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    _ => break,
                }
            }
            // The other direction ends with this one.
            let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        })?;
    }
    Ok(())
}
