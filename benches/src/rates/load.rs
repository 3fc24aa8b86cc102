//! The devices, in a process of their own: paced messages in on one connection, and the results that come back on a
//! second one. It says `measuring` when the warm-up is over, and `drained` when the last result is back.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::thread::{clock_nanosleep_absolute, set_current_timer_slack};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use super::WARM_UP;
use super::order::{Order, Task};
use crate::devices::account::Account;
use crate::devices::load::{ARRIVAL_MAX, receive};
use crate::devices::seen::{Ages, Seen, write_due};
use crate::devices::wire::{PacketIds, Wire, publish};
use crate::devices::{READINGS, RESULTS, now_us};
use crate::quantiles::{Durations, Quantiles};
use crate::sensors::data::Sample;

/// What it says when the warm-up is over.
pub const MEASURING: &str = "measuring";
/// What it says when the last result is back, or given up.
pub const DRAINED: &str = "drained";

/// From the decision to begin until the first message is due.
const LEAD: Duration = Duration::from_millis(20);
/// How often the sender looks whether all results are back.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Messages sent in all.
    pub sent: u64,
    /// Those sent after the warm-up.
    pub measured: u64,
    /// Messages whose results did not come back.
    pub lost: u64,
    /// How old messages were when their results were back.
    pub back: Quantiles,
    /// How late the sender was.
    pub sender: Quantiles,
}

/// When messages are due.
#[derive(Clone, Copy)]
struct Pace {
    /// The first, in nanoseconds of the monotonic clock.
    begin_ns: u64,
    /// The first, by the wall clock.
    begin_us: i64,
    rate: u64,
}

impl Pace {
    fn from_now(rate: u64) -> Self {
        let lead_us = LEAD.as_micros() as i64;
        let begin_ns = monotonic_ns() + LEAD.as_nanos() as u64;
        Self { begin_ns, begin_us: now_us() + lead_us, rate }
    }

    /// After the first one, in nanoseconds.
    const fn offset_ns(&self, n: u64) -> u64 {
        (n as u128 * 1_000_000_000 / self.rate as u128) as u64
    }

    /// How many are due by then.
    const fn due_by(&self, now_ns: u64) -> u64 {
        match now_ns.checked_sub(self.begin_ns) {
            Some(ns) => (ns as u128 * self.rate as u128 / 1_000_000_000) as u64 + 1,
            None => 0,
        }
    }

    fn sleep_until(&self, n: u64) -> io::Result<()> {
        let due_ns = self.begin_ns + self.offset_ns(n);
        let (tv_sec, tv_nsec) = (due_ns / 1_000_000_000, due_ns % 1_000_000_000);
        let due = Timespec { tv_sec: tv_sec as i64, tv_nsec: tv_nsec as i64 };
        loop {
            match clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &due) {
                Err(rustix::io::Errno::INTR) => {}
                slept => return Ok(slept?),
            }
        }
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What was sent, and how late.
struct Sent {
    messages: u64,
    measured: u64,
    late: Durations,
}

/// Sends the load of `order` and prints the [`Outcome`].
///
/// # Errors
/// If a connection breaks, or a result is not one.
pub fn run(order: &Order) -> anyhow::Result<()> {
    let (host, port) = &order.broker;
    let mut results = Wire::connect(host, *port, "thalweg-bench-results")?;
    results.subscribe(RESULTS, order.cell.state.qos())?;
    let stop = results.stopper()?;
    let counted = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&counted);
    let (sent, lost, back) = match order.cell.task {
        Task::Averages => {
            let receiver = thread::spawn(move || receive(results, &counting));
            let mut account = Account::default();
            let sent = send(order, |due_us| account.sent_when_due(due_us))?;
            drain(&counted, account.closed())?;
            stop();
            let rows = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
            rows.into_iter().for_each(|(at_us, row)| account.row(at_us, row));
            let figures = account.close()?;
            let [p50_us, p99_us, p999_us, max_us] =
                [figures.p50_ms, figures.p99_ms, figures.p999_ms, figures.max_ms]
                    .map(|ms| (ms * 1e3).round());
            (sent, figures.lost, Quantiles { p50_us, p99_us, p999_us, max_us })
        }
        Task::Through => {
            let ages = Ages::new()?;
            let seen = Seen::new(WARM_UP, &ages)?;
            let receiver = thread::spawn(move || take_back(results, seen, &counting));
            let sent = send(order, |_due_us| {})?;
            drain(&counted, sent.messages)?;
            stop();
            receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
            let lost = sent.messages.saturating_sub(counted.load(Ordering::Relaxed));
            (sent, lost, ages.quantiles().unwrap_or_default())
        }
    };
    let Sent { messages, measured, late } = sent;
    let outcome = Outcome { sent: messages, measured, lost, back, sender: late.quantiles() };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Waits until `counted` is `wanted`, but not for ever.
fn drain(counted: &AtomicU64, wanted: u64) -> io::Result<()> {
    let sent = Instant::now();
    while counted.load(Ordering::Relaxed) < wanted && sent.elapsed() < ARRIVAL_MAX {
        thread::sleep(LOOK_EVERY);
    }
    say(DRAINED)
}

fn take_back(mut wire: Wire, mut seen: Seen, counted: &AtomicU64) -> io::Result<()> {
    while wire.read(|_topic, payload| {
        seen.see(payload);
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })? {}
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

/// Calls `each` with when each message was due, in microseconds since the epoch.
fn send(order: &Order, mut each: impl FnMut(i64)) -> anyhow::Result<Sent> {
    let (host, port) = &order.broker;
    let (cell, devices) = (order.cell, order.devices);
    let mut wire = Wire::connect(host, *port, "thalweg-bench-devices")?;
    let mut stream = wire.writer()?;
    // Reads the broker's acknowledgements until this process ends. If the connection breaks, the next write says so.
    let _reading = thread::spawn(move || while matches!(wire.read(|_, _| Ok(())), Ok(true)) {});
    let topics: Vec<_> = (0..devices).map(|n| format!("{READINGS}d{n:05}")).collect();
    let warm_up = (cell.rate as f64 * WARM_UP.as_secs_f64()) as u64;
    let measured = (cell.rate as f64 * order.seconds).ceil() as u64;
    let messages = warm_up + measured;
    let (mut packets, mut payload, mut dated) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ids, mut late) = (PacketIds::new(cell.state.qos()), Durations::new()?);
    // Linux lets sleepers of one thread oversleep by 50 us otherwise.
    set_current_timer_slack(NonZeroU64::new(1)).context("cannot set the timer's slack")?;
    let pace = Pace::from_now(cell.rate);
    let mut sent = 0;
    while sent < messages {
        pace.sleep_until(sent)?;
        let now_ns = monotonic_ns();
        let due = pace.due_by(now_ns).clamp(sent + 1, messages);
        for n in sent..due {
            let offset_ns = pace.offset_ns(n);
            let due_us = pace.begin_us + (offset_ns / 1_000) as i64;
            let late_ns = now_ns.saturating_sub(pace.begin_ns + offset_ns);
            let sample = Sample::new(n, devices);
            payload.clear();
            sample.write(due_us.div_euclid(1_000), &mut payload);
            if cell.task == Task::Through {
                dated.clear();
                write_due(due_us, &payload, &mut dated);
                std::mem::swap(&mut payload, &mut dated);
            }
            publish(&topics[sample.device as usize], ids.take(), &payload, &mut packets);
            each(due_us);
            if n >= warm_up {
                late.record(Duration::from_nanos(late_ns));
            }
        }
        stream.write_all(&packets).context("the devices lost their broker")?;
        packets.clear();
        if (sent..due).contains(&warm_up) {
            say(MEASURING)?;
        }
        sent = due;
    }
    Ok(Sent { messages, measured, late })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_even_intervals() {
        let pace = Pace { begin_ns: 1_000, begin_us: 0, rate: 3 };
        assert_eq!([0, 1, 3].map(|n| pace.offset_ns(n)), [0, 333_333_333, 1_000_000_000]);
        assert_eq!([999, 1_000, 333_334_333, 333_334_334].map(|ns| pace.due_by(ns)), [0, 1, 1, 2]);
        let day = 86_400 * 50_000;
        assert_eq!(Pace { rate: 50_000, ..pace }.offset_ns(day), 86_400_000_000_000);
    }

    #[test]
    fn a_sleeper_wakes_when_a_message_is_due_and_not_before() {
        let pace = Pace { begin_ns: monotonic_ns(), begin_us: 0, rate: 1_000 };
        for n in [3, 1, 5] {
            pace.sleep_until(n).unwrap();
            assert!(pace.due_by(monotonic_ns()) > n);
        }
    }
}
