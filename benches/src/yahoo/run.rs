//! One measured run: what a process of its own is told to do, and what it reports.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use thalweg::prelude::*;

use super::workload::{Answer, event_time, naive, published};
use super::{job, json, mqtt, peers, rate, source};
use crate::report::{Meter, Spent, peak_rss_mib};

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This one.
    Thalweg,
    /// A loop written by hand for this workload.
    Handloop,
    /// timely dataflow.
    Timely,
    /// renoir.
    Renoir,
}

impl Engine {
    /// Its name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thalweg => "thalweg",
            Self::Handloop => "handloop",
            Self::Timely => "timely",
            Self::Renoir => "renoir",
        }
    }

    /// Whether it is known to lose counts: see [`peers::renoir`].
    const fn is_lossy(self) -> bool {
        matches!(self, Self::Renoir)
    }
}

/// Where the events come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// From a generator inside the engine
    #[default]
    Memory,
    /// As JSON lines from memory
    Json,
    /// As JSON through an MQTT broker
    Mqtt,
}

impl Mode {
    /// Its name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Json => "json",
            Self::Mqtt => "mqtt",
        }
    }
}

/// What a measured process is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Who counts.
    pub engine: Engine,
    /// Where the events come from.
    pub mode: Mode,
    /// Threads, or shards.
    pub cores: usize,
    /// How many events.
    pub events: u64,
    /// The window's length.
    pub window_ms: i64,
    /// Events a second; as fast as it goes without.
    pub rate: Option<u64>,
    /// The driver of thalweg.
    pub driver: String,
    /// How long an idle shard spins.
    pub spin_us: u64,
    /// How long to watch a bare spin loop before and after a run at a rate.
    pub noise_ms: u64,
    /// Host and port of the broker, in mode `mqtt`.
    pub broker: Option<(String, u16)>,
    /// The quality of service, in mode `mqtt`.
    pub qos: u8,
    /// How often thalweg takes a checkpoint, to a directory of its own; never without.
    pub checkpoint_ms: Option<u64>,
}

impl Spec {
    /// How thalweg is run, and its state directory, which goes with the handle.
    ///
    /// # Errors
    /// If the driver is not one, or there is no room for temporary files.
    pub fn config(&self) -> anyhow::Result<(RuntimeConfig, Option<TempDir>)> {
        let dir = self.checkpoint_ms.map(|_| tempfile::tempdir()).transpose()?;
        let state = dir.as_ref().zip(self.checkpoint_ms).map(|(dir, interval_ms)| {
            let mut state = StateConfig::new(StateDirectory::new(dir.path()).backend());
            state.checkpoints.interval = Duration::from_millis(interval_ms);
            state
        });
        let config = RuntimeConfig {
            state,
            shards: self.cores,
            driver: DriverKind::from_str(&self.driver)?,
            spin: Duration::from_micros(self.spin_us),
            ..RuntimeConfig::default()
        };
        Ok((config, dir))
    }

    /// The window.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms.unsigned_abs())
    }

    /// The right answer, where it is known beforehand: the published one for the published sizes, a
    /// naive count for others. Through a broker it depends on when the events were sent.
    pub fn expected(&self) -> Answer {
        match self.rate {
            Some(rate) => naive(self.events, rate::event_times(rate), self.window_ms),
            None => published(self.events, self.window_ms)
                .unwrap_or_else(|| naive(self.events, event_time, self.window_ms)),
        }
    }

    /// Does it, in this process.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&self) -> anyhow::Result<Line> {
        let Self { engine, mode, cores, events, window_ms, .. } = *self;
        let (answer, spent) = match (engine, mode, self.rate) {
            (Engine::Thalweg, Mode::Mqtt, Some(_)) => return mqtt::run(self),
            (Engine::Thalweg, Mode::Memory, Some(_)) => return rate::run(self),
            (Engine::Thalweg, Mode::Memory, None) => self.thalweg()?,
            (Engine::Thalweg, Mode::Json, None) => json::thalweg(self)?,
            (Engine::Handloop, Mode::Json, None) => json::handloop(cores, events, window_ms)?,
            (Engine::Handloop, Mode::Memory, None) => {
                metered(|| peers::handloop::run(cores, events, window_ms))?
            }
            (Engine::Timely, Mode::Memory, None) => {
                metered(|| peers::timely::run(cores, events, window_ms))?
            }
            (Engine::Renoir, Mode::Memory, None) => {
                metered(|| peers::renoir::run(cores, events, window_ms))?
            }
            _ => bail!("{} does not do mode {} at a rate", engine.name(), mode.name()),
        };
        self.line(&answer, spent)
    }

    fn thalweg(&self) -> anyhow::Result<(Answer, Spent)> {
        let source = source::Generator { events: self.events, partitions: self.cores };
        let (job, rows) = job::job(source, self.window());
        let (config, _state) = self.config()?;
        let meter = Meter::start();
        job.run_with(&config)?;
        let spent = meter.stop();
        let mut answer = Answer::default();
        for row in rows.take() {
            answer.add(row.key, row.start.as_millis(), self.window_ms, row.value);
        }
        Ok((answer, spent))
    }

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
/// Those of `work`.
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
    /// The how manieth run of this engine.
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
    pub backlog: Option<rate::Backlog>,
    /// Through a broker.
    #[serde(flatten)]
    pub broker: Option<mqtt::Delivery>,
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
    /// What loops that only read the clock saw, at p99.9, at the same rate on the same cores, before and
    /// after: see [`open_loops`](crate::spin::open_loops).
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
