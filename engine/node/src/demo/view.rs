//! The live view: on a terminal a table that is redrawn each second, in a pipe one line a second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr, stdout};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use thalweg_kernel::Str;
use thalweg_runtime::Snapshot;

use crate::logging;

use super::fleet::SentCounts;
use super::pipeline::{Counts, Row, TOO_HOT};

/// Rows that may wait for the view; beyond that it misses some.
const ROWS_MAX: usize = 16_384;
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Lines of the log that wait for the next drawing.
const LOG_LINES_MAX: usize = 1_024;
/// How many devices are shown: the hottest.
const DEVICES_SHOWN: usize = 12;

/// What is told once, above the live part.
pub(super) struct Facts<'a> {
    pub(super) broker: &'a str,
    pub(super) embedded: bool,
    pub(super) devices: u32,
    pub(super) rate: u32,
    pub(super) shards: usize,
    pub(super) driver: &'a str,
    pub(super) metrics: &'a str,
    pub(super) watch: &'a str,
}

/// See the module.
pub(super) struct View {
    rows: flume::Receiver<Row>,
    /// Each device's last second.
    devices: BTreeMap<Str, Row>,
    terminal: bool,
    /// Lines of the log, which stand above what is drawn.
    log: flume::Receiver<Vec<u8>>,
    /// Nobody reads standard output any more: `| head`.
    unwatched: bool,
    /// Lines that the next drawing replaces.
    drawn: usize,
    last: Last,
}

/// The numbers at the last drawing, to make rates of.
struct Last {
    at: Instant,
    received: u64,
    rows: u64,
}

impl View {
    pub(super) fn new() -> (Self, flume::Sender<Row>) {
        let (sender, rows) = flume::bounded(ROWS_MAX);
        let last = Last { at: Instant::now(), received: 0, rows: 0 };
        let terminal = stdout().is_terminal();
        let (to_view, log) = flume::bounded(LOG_LINES_MAX);
        if terminal && stderr().is_terminal() {
            logging::divert(to_view);
        }
        let devices = BTreeMap::new();
        (Self { rows, devices, terminal, log, unwatched: false, drawn: 0, last }, sender)
    }

    /// Whether nobody reads what is shown any more.
    pub(super) fn unwatched(&self) -> bool {
        self.unwatched
    }

    /// Shows a text as it is. A reader that has gone away is noted, not an error.
    pub(super) fn say(&mut self, text: &str) {
        let mut out = stdout();
        let shown = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.unwatched |= shown.is_err();
    }

    pub(super) fn introduce(&mut self, facts: &Facts<'_>) {
        let kind = if facts.embedded { "embedded in this process" } else { "yours" };
        let shards = if facts.shards == 1 { "shard" } else { "shards" };
        self.say(&format!(
            "broker    {} ({kind})\n\
             devices   {}, {} messages/s together\n\
             engine    {} {shards} on {}\n\
             metrics   {}\n\
             alerts    {}\n\n",
            facts.broker,
            facts.devices,
            facts.rate,
            facts.shards,
            facts.driver,
            facts.metrics,
            facts.watch,
        ));
    }

    /// Gathers rows for a second, then draws.
    pub(super) fn refresh(&mut self, metrics: &Snapshot, sent: &SentCounts, counts: &Counts) {
        let until = self.last.at + REFRESH_EVERY;
        // In short waits, so that an interrupt is noticed soon.
        let wait = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
        if let Ok(row) = self.rows.recv_timeout(wait) {
            self.take(row);
        }
        while let Ok(row) = self.rows.try_recv() {
            self.take(row);
        }
        if Instant::now() < until {
            return;
        }
        let summary = self.summary(metrics, sent, counts);
        if self.terminal { self.draw(&summary) } else { self.say(&format!("{summary}\n")) }
    }

    fn take(&mut self, row: Row) {
        let last = self.devices.get(&row.key);
        if last.is_none_or(|last| last.start <= row.start) {
            self.devices.insert(row.key.clone(), row);
        }
    }

    fn summary(&mut self, metrics: &Snapshot, sent: &SentCounts, counts: &Counts) -> String {
        let (received, rows) = (counts.received(metrics), counts.rows.load(Relaxed));
        let seconds = self.last.at.elapsed().as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let lag = metrics.watermark_lag_ms("readings");
        let lag = lag.map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
        let dead = metrics.dead_letters();
        let summary = format!(
            "sent {}  received {received} ({:.0}/s)  results {rows} ({:.0}/s)  \
             watermark lag {lag}  late {}  dead letters {}  alerts {}",
            sent.total(),
            rate(received, self.last.received),
            rate(rows, self.last.rows),
            counts.late.load(Relaxed),
            dead.iter().map(|(_, count)| count).sum::<u64>(),
            counts.alerts.load(Relaxed),
        );
        self.last = Last { at: Instant::now(), received, rows };
        summary
    }

    fn draw(&mut self, summary: &str) {
        let mut rows: Vec<_> = self.devices.values().collect();
        rows.sort_by(|a, b| b.value.avg.total_cmp(&a.value.avg));
        let mut text = String::new();
        // Up over what was drawn before, and clear from there on.
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A\x1b[J", self.drawn);
        }
        for line in self.log.try_iter() {
            text += &String::from_utf8_lossy(&line);
        }
        let part = |summary: &str| summary.replace("  watermark", "\n  watermark");
        let _ = writeln!(text, "  {}\n", part(summary));
        let _ = writeln!(text, "  hottest devices     avg °C     min     max  readings");
        for row in rows.iter().take(DEVICES_SHOWN) {
            let stats = &row.value;
            let hot = if stats.avg > TOO_HOT { "  << too hot" } else { "" };
            let _ = writeln!(
                text,
                "  {:<16} {:>9.2} {:>7.2} {:>7.2} {:>9}{hot}",
                row.key, stats.avg, stats.min, stats.max, stats.count
            );
        }
        self.drawn = 4 + rows.len().min(DEVICES_SHOWN);
        self.say(&text);
    }

    pub(super) fn draining(&mut self) {
        self.say("\ndraining: the devices stop, what is in flight reaches the sinks\n");
    }

    pub(super) fn close(&mut self) {
        self.drawn = 0;
        logging::undivert();
        for line in self.log.try_iter() {
            let _gone = stderr().write_all(&line);
        }
    }
}

/// Whatever ends the demonstration, no line of the log is kept.
impl Drop for View {
    fn drop(&mut self) {
        self.close();
    }
}
