//! What a measured process reports: [`Line`], one line of JSON, and whether its answer is right.

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::spec::{Engine, Mode, Spec};
use super::workload::Answer;
use crate::report::{Meter, Spent, peak_rss_mib};

impl Spec {
    /// The report of a run that has ended.
    ///
    /// # Errors
    /// If the peak memory cannot be read.
    pub fn line(&self, answer: &Answer, spent: Spent) -> anyhow::Result<Line> {
        let thalweg = self.engine == Engine::Thalweg;
        Ok(Line {
            engine: self.engine,
            mode: self.mode,
            cores: self.cores,
            events: self.events,
            secs: spent.secs(),
            events_per_s: spent.events_per_s(self.events),
            cpu_ns_per_event: spent.cpu_ns_per_event(self.events),
            peak_rss_mib: peak_rss_mib()?,
            results: answer.results,
            total: answer.total,
            checksum: answer.checksum_hex(),
            window_ms: self.window_ms,
            check: Check::None,
            round: 1,
            checkpoint_ms: self.checkpoint_ms.filter(|_| thalweg),
            driver: thalweg.then(|| self.driver.clone()),
            spin_us: thalweg.then_some(self.spin_us),
            latency: None,
            backlog: None,
            broker: None,
        })
    }
}

/// Runs `work` and measures it.
///
/// # Errors
/// The errors of `work`.
pub fn metered(work: impl FnOnce() -> anyhow::Result<Answer>) -> anyhow::Result<(Answer, Spent)> {
    let meter = Meter::start();
    let answer = work()?;
    Ok((answer, meter.stop()))
}

/// Whether the answer was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Not looked at.
    None,
    /// To the last bit.
    Ok,
    /// Not quite, as this engine is known to do.
    Lossy,
    /// Messages of QoS 0 did not all arrive.
    Missing,
    /// No.
    Wrong,
}

/// The report of one run: one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Who counted.
    pub engine: Engine,
    /// Where the events came from.
    pub mode: Mode,
    /// Threads, or shards.
    pub cores: usize,
    /// How many events.
    pub events: u64,
    /// Wall time.
    pub secs: f64,
    /// Events in each second of it.
    pub events_per_s: f64,
    /// CPU time of the process, user and system, for each event.
    pub cpu_ns_per_event: f64,
    /// The most memory the process had.
    pub peak_rss_mib: f64,
    /// Rows.
    pub results: u64,
    /// Views in all rows.
    pub total: u64,
    /// 16 hex digits: see [`Answer`].
    pub checksum: String,
    /// The window's length.
    pub window_ms: i64,
    /// Whether the three above are right.
    pub check: Check,
    /// The number of this run among the engine's runs, from 1.
    pub round: u32,
    /// Of thalweg: how often it took a checkpoint, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_ms: Option<u64>,
    /// Of thalweg: its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Of thalweg: how long an idle shard spun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spin_us: Option<u64>,
    /// At a rate.
    #[serde(flatten)]
    pub latency: Option<Latency>,
    /// At a rate, from memory.
    #[serde(flatten)]
    pub backlog: Option<Backlog>,
    /// Through a broker.
    #[serde(flatten)]
    pub broker: Option<Delivery>,
}

/// Whether a total is right but for two in a thousand.
fn near(total: u64, expected: u64) -> bool {
    total.abs_diff(expected) <= expected / 500
}

impl Line {
    /// Compares the answer with the right one.
    pub fn judge(&mut self, expected: &Answer) {
        let right = (self.results, self.total, &self.checksum)
            == (expected.results, expected.total, &expected.checksum_hex());
        let incomplete = self.broker.as_ref().is_some_and(|delivery| delivery.missing > 0);
        self.check = match () {
            () if right => Check::Ok,
            () if self.engine.is_lossy() && near(self.total, expected.total) => Check::Lossy,
            () if incomplete && self.broker.as_ref().is_some_and(|at| at.qos == 0) => {
                Check::Missing
            }
            () => Check::Wrong,
        };
    }

    /// What is wrong with it, if something is.
    pub fn fault(&self, expected: &Answer) -> Option<String> {
        (self.check == Check::Wrong).then(|| {
            format!(
                "{} on {} cores counted wrong: results {}, total {}, checksum {}; right are results \
                 {}, total {}, checksum {}",
                self.engine.name(),
                self.cores,
                self.results,
                self.total,
                self.checksum,
                expected.results,
                expected.total,
                expected.checksum_hex()
            )
        })
    }
}

/// How late things were, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Events a second.
    pub rate: u64,
    /// How many latencies were recorded.
    pub recorded: u64,
    /// Half of them were no longer.
    pub p50_us: f64,
    /// 99 in 100 were no longer.
    pub p99_us: f64,
    /// 999 in 1,000 were no longer.
    pub p999_us: f64,
    /// 9,999 in 10,000 were no longer.
    pub p9999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// What loops that only read the clock saw, at p99.9, at this rate on these cores, before and after: see
    /// [`open_loops`](crate::spin::open_loops).
    pub noise_p999_us: f64,
}

impl Latency {
    /// The figures of what was recorded.
    ///
    /// # Errors
    /// If nothing was recorded.
    pub fn new(
        rate: u64,
        recorded: &crate::quantiles::Durations,
        noise: &crate::quantiles::Durations,
    ) -> anyhow::Result<Self> {
        let some = (!recorded.is_empty()).then_some(recorded);
        let at = some.context("no latency was recorded: run for longer, or at a higher rate")?;
        Ok(Self {
            rate,
            recorded: at.len(),
            p50_us: at.micros_at(0.5),
            p99_us: at.micros_at(0.99),
            p999_us: at.micros_at(0.999),
            p9999_us: at.micros_at(0.9999),
            max_us: at.micros_at(1.0),
            noise_p999_us: noise.micros_at(0.999),
        })
    }
}

/// How far the source was behind its schedule at the least, in two quarters of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backlog {
    /// In the second quarter.
    pub behind_middle_ms: f64,
    /// In the last quarter.
    pub behind_end_ms: f64,
}

impl Backlog {
    /// How much more it was behind in the end.
    pub fn growth_ms(&self) -> f64 {
        self.behind_end_ms - self.behind_middle_ms
    }
}

/// What went through the broker, and how late rows were.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// The quality of service of publisher and source.
    pub qos: u8,
    /// The broker.
    #[serde(default)]
    pub broker: String,
    /// Events that were sent and did not arrive.
    pub missing: u64,
    /// How late the publisher handed 99 in 100 events to its client, at the most.
    #[serde(default)]
    pub sender_p99_us: f64,
    /// Rows that were recorded.
    pub ysb_recorded: u64,
    /// Half of the rows were written this long after the end of their window, at the most.
    pub ysb_p50_us: f64,
    /// 99 in 100.
    pub ysb_p99_us: f64,
    /// All of them.
    pub ysb_max_us: f64,
}
