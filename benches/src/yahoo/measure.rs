//! Runs are checked, and each has a process of its own. With peers they take turns, so that what else the machine
//! does meets all of them alike.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::line::Line;
use super::mqtt;
use super::spec::{Engine, Mode, Spec};
use super::workload::Answer;
use crate::broker::Broker;
use crate::process;
use crate::report::{Table, median};

/// The hidden option that makes the binary a measured process; its value is a [`Spec`] in JSON.
pub const MEASURE: &str = "--measure";

/// Measures runs, and keeps their reports, also if a later run fails.
#[derive(Default)]
pub struct Runs {
    /// The reports so far.
    pub lines: Vec<Line>,
    broker: Option<Broker>,
    /// The right answers that are known, by events and rate; all runs have one window.
    expected: BTreeMap<(u64, Option<u64>), Answer>,
}

impl Runs {
    /// Runs that go through `broker`, if they go through one.
    pub fn new(broker: Option<Broker>) -> Self {
        Self { broker, ..Self::default() }
    }

    /// Measures one run and checks its answer.
    ///
    /// # Errors
    /// If it fails, or counts wrong.
    pub fn measure(&mut self, spec: &Spec, round: u32) -> anyhow::Result<&Line> {
        let arguments = vec![MEASURE.to_owned(), serde_json::to_string(spec)?];
        let what =
            format!("{} on {} cores, {} events", spec.engine.name(), spec.cores, spec.events);
        let (mut line, expected) = while_showing(&what, || match (spec.mode, &self.broker) {
            (Mode::Mqtt, Some(broker)) => mqtt::publish::measure(spec, arguments, broker),
            (Mode::Mqtt, None) => bail!("mode mqtt needs a broker"),
            _ => {
                let line = process::measure(arguments)?;
                let known = self.expected.entry((spec.events, spec.rate));
                Ok((line, *known.or_insert_with(|| spec.expected())))
            }
        })?;
        line.round = round;
        line.judge(&expected);
        let fault = line.fault(&expected);
        self.lines.push(line);
        match fault {
            Some(fault) => bail!(fault),
            None => self.lines.last().context("there is one"),
        }
    }

    /// Measures `spec` with each of `engines` in turn for `rounds` rounds, each time another one first. With
    /// checkpoints thalweg runs without them, too.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn rounds(&mut self, spec: &Spec, engines: &[Engine], rounds: u32) -> anyhow::Result<()> {
        let mut turns: Vec<_> =
            engines.iter().map(|&engine| Spec { engine, ..spec.clone() }).collect();
        if spec.checkpoint_ms.is_some() {
            turns.push(Spec { checkpoint_ms: None, ..spec.clone() });
        }
        for round in 1..=rounds {
            for turn in &turns {
                self.measure(turn, round)?;
            }
            turns.rotate_left(1);
        }
        Ok(())
    }

    /// The reports as a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            "engine",
            "mode",
            "cores",
            "events",
            "s",
            "M events/s",
            "CPU ns/event",
            "RSS MiB",
            "results",
            "total",
            "checksum",
            "check",
        ]);
        for line in &self.lines {
            let checkpoints = line.checkpoint_ms.map(|ms| format!(", checkpoints each {ms} ms"));
            table.row([
                format!("{}{}", line.engine.name(), checkpoints.unwrap_or_default()),
                line.mode.name().to_owned(),
                line.cores.to_string(),
                line.events.to_string(),
                format!("{:.3}", line.secs),
                format!("{:.3}", line.events_per_s / 1e6),
                format!("{:.1}", line.cpu_ns_per_event),
                format!("{:.1}", line.peak_rss_mib),
                line.results.to_string(),
                line.total.to_string(),
                line.checksum.clone(),
                format!("{:?}", line.check).to_lowercase(),
            ]);
        }
        table
    }

    /// The latencies as a table, in microseconds; `None` if there are none.
    pub fn latencies(&self) -> Option<Table> {
        let mut table = Table::new([
            "us at events/s",
            "p50",
            "p99",
            "p99.9",
            "p99.99",
            "max",
            "noise p99.9",
            "behind ms",
        ]);
        let mut any = false;
        for line in &self.lines {
            let Some(at) = line.latency else { continue };
            any = true;
            let behind = line.backlog.map(|backlog| format!("{:.1}", backlog.behind_end_ms));
            let us = |value: f64| format!("{value:.1}");
            let quantiles = [at.p50_us, at.p99_us, at.p999_us, at.p9999_us, at.max_us].map(us);
            let first = std::iter::once(at.rate.to_string());
            let last = [us(at.noise_p999_us), behind.unwrap_or_else(|| "-".into())];
            table.row(first.chain(quantiles).chain(last));
        }
        any.then_some(table)
    }

    /// How much later than the machine's own noise in that round the tail of each run at a rate was. The
    /// median over the rounds, and the least and the most; `None` if there were none.
    pub fn tail(&self) -> Option<String> {
        let over = || {
            let at_rate = self.lines.iter().filter_map(|line| line.latency);
            at_rate.map(|at| at.p999_us - at.noise_p999_us)
        };
        let rounds = over().count();
        (rounds > 0).then(|| {
            let (least, most) = over().fold((f64::MAX, f64::MIN), |(least, most), over| {
                (least.min(over), most.max(over))
            });
            format!(
                "p99.9 less that of the machine's noise in the same round: {:.0} us, the median of {rounds} \
                 rounds ({least:.0} to {most:.0})",
                median(over())
            )
        })
    }

    /// How thalweg compares with each peer, and with checkpoints to itself without: the median over the
    /// rounds of their ratios in each.
    pub fn ratios(&self, peers: &[Engine]) -> Vec<String> {
        let most = self.lines.iter().filter_map(|line| line.checkpoint_ms).max();
        let of = |engine: Engine, checkpoint_ms: Option<u64>| {
            let ours = move |line: &&Line| {
                engine != Engine::Thalweg || line.checkpoint_ms == checkpoint_ms
            };
            self.lines.iter().filter(move |line| line.engine == engine).filter(ours)
        };
        let without = most.map(|_| (Engine::Thalweg, "itself without checkpoints"));
        let peers = peers.iter().map(|&peer| (peer, peer.name())).chain(without);
        let compared = peers.map(|(peer, name)| {
            let pairs = || of(Engine::Thalweg, most).zip(of(peer, None));
            let cpu =
                median(pairs().map(|(ours, peer)| ours.cpu_ns_per_event / peer.cpu_ns_per_event));
            let speed = median(pairs().map(|(ours, peer)| ours.events_per_s / peer.events_per_s));
            format!(
                "thalweg over {}: {cpu:.2} times the CPU time of an event, {speed:.2} times the \
                 throughput (medians of {} rounds)",
                name,
                pairs().count()
            )
        });
        compared.collect()
    }
}

/// Does `work`; if standard error is a terminal, shows meanwhile for how long.
fn while_showing<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if !stderr().is_terminal() {
        return work();
    }
    let (done, is_done) = flume::bounded::<()>(0);
    thread::scope(|scope| {
        scope.spawn(move || {
            let begun = Instant::now();
            while is_done.recv_timeout(Duration::from_millis(500))
                == Err(flume::RecvTimeoutError::Timeout)
            {
                let _not_shown = write!(stderr(), "\r{what}: {} s ", begun.elapsed().as_secs());
            }
            let _not_shown = write!(stderr(), "\r\x1b[K");
        });
        let result = work();
        drop(done);
        result
    })
}
