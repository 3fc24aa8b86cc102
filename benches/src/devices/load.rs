//! The devices send readings in bursts of a millisecond, all of a burst in one write, on a connection of their
//! own. The rows come back on a second connection.
//!
//! A burst that is late is sent at once, with the time at which it is sent. So the rate holds on average, and
//! event time never goes back.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::account::{Account, Figures, Row};
use super::wire::{Wire, publish};
use super::{READINGS, RESULTS, now_us};
use crate::sensors::data::Sample;

const BURST: Duration = Duration::from_millis(1);
/// How long the last rows may be on their way.
pub(crate) const ARRIVAL_MAX: Duration = Duration::from_secs(5);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Readings per second.
    pub rate: u64,
    /// For how long.
    pub seconds: f64,
    /// Of how many devices.
    pub devices: u64,
}

/// Sends the load to the broker and collects the rows.
///
/// # Errors
/// If a connection breaks, or a row is not one.
pub fn run(host: &str, port: u16, load: &Load) -> anyhow::Result<Figures> {
    let mut rows = Wire::connect(host, port, "thalweg-bench-rows")?;
    rows.subscribe(RESULTS, 0)?;
    let stop = rows.stopper()?;
    let counted = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&counted);
    let receiver = thread::spawn(move || receive(rows, &counting));

    let mut account = Account::default();
    let sending = send(host, port, load, &mut account).context("the devices lost their broker");
    let sent = Instant::now();
    while counted.load(Ordering::Relaxed) < account.closed() && sent.elapsed() < ARRIVAL_MAX {
        thread::sleep(BURST);
    }
    stop();
    let rows = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
    sending?;
    rows?.into_iter().for_each(|(at_us, row)| account.row(at_us, row));
    account.close()
}

/// The rows that come until the connection is stopped, and how many readings they count so far.
pub(crate) fn receive(mut wire: Wire, counted: &AtomicU64) -> io::Result<Vec<(i64, Row)>> {
    let mut rows = Vec::new();
    while wire.read(|_topic, payload| {
        let at_us = now_us();
        let row: Row = sonic_rs::from_slice(payload).map_err(io::Error::other)?;
        counted.fetch_add(row.value.count, Ordering::Relaxed);
        rows.push((at_us, row));
        Ok(())
    })? {}
    Ok(rows)
}

fn send(host: &str, port: u16, load: &Load, account: &mut Account) -> io::Result<()> {
    let mut stream = Wire::connect(host, port, "thalweg-bench-devices")?.writer()?;
    let topics: Vec<_> = (0..load.devices).map(|n| format!("{READINGS}d{n:05}")).collect();
    let total = (load.rate as f64 * load.seconds) as u64;
    let (mut packets, mut payload) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    let (mut sent, mut latest, mut tick) = (0, 0, 0);
    while sent < total {
        tick += 1;
        let due = begun + BURST * tick;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let due = (load.rate as f64 * begun.elapsed().as_secs_f64()) as u64;
        let due = due.clamp(sent, total);
        latest = latest.max(now_us() / 1_000);
        packets.clear();
        for i in sent..due {
            let sample = Sample::new(i, load.devices);
            payload.clear();
            sample.write(latest, &mut payload);
            publish(&topics[sample.device as usize], None, &payload, &mut packets);
        }
        stream.write_all(&packets)?;
        account.sent(latest, due - sent);
        sent = due;
    }
    Ok(())
}
