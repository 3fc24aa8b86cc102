//! The rounds. In each one every row of the report has its turn, and in a row every contender. So those that are
//! compared run right after each other.
//!
//! Each run has a broker of its own, unless one was given. In a broker that is behind, messages of one run would
//! reach the contender of the next.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::WARM_UP;
use super::contender::Report;
use super::cost::{BEGIN, END, READY};
use super::load::{DRAINED, MEASURING, Outcome};
use super::options::Options;
use super::order::{Cell, Contender, Order};
use super::syscalls::{Calls, Counter};
use crate::broker::{Broker, Choice};
use crate::process::Measured;
use crate::report::{json_line, median, rounded};

/// A process under strace is slow, and a count needs no long run.
const SYSCALLS_SECONDS_MAX: f64 = 2.0;
/// What a run takes beside sending: two processes start, and one drains.
const OVERHEAD: Duration = Duration::from_millis(500);

/// What `mqtt` is told beside its [`Options`].
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Which broker.
    pub broker: &'a Choice,
    /// How long to send in each run.
    pub seconds: f64,
    /// Of how many devices.
    pub devices: u64,
    /// How often every contender runs.
    pub rounds: u32,
    /// Shards of a job.
    pub shards: usize,
    /// Where lines of JSON are appended.
    pub json: Option<&'a Path>,
}

/// One run of a contender.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// `rates`.
    pub mode: &'static str,
    /// Who.
    pub contender: String,
    /// Which row.
    #[serde(flatten)]
    pub cell: Cell,
    /// Of which round; the first is 0.
    pub round: u32,
    /// Shards of a job.
    pub shards: usize,
    /// CPU time of a message that was sent.
    pub cpu_us_per_message: f64,
    /// Context switches of a message that was sent.
    pub switches_per_message: f64,
    /// What the process is charged with writing for a message that was sent. Where the kernel has large folios, this
    /// is more than is written: each page is charged with its folio.
    pub written_bytes_per_message: f64,
    /// What came of the messages.
    pub outcome: Outcome,
    /// What the process says.
    pub report: Report,
}

/// A count of system calls.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// `syscalls`.
    pub mode: &'static str,
    /// Who.
    pub contender: String,
    /// Which row.
    #[serde(flatten)]
    pub cell: Cell,
    /// For each message that was sent.
    pub per_message: f64,
    /// The most frequent calls, for each message that was sent.
    pub by_name: Vec<(String, f64)>,
}

/// All runs.
pub struct Series {
    /// In the order in which they ran.
    pub runs: Vec<Run>,
    /// One for each row and contender, if they were asked for.
    pub counted: Vec<Counted>,
    /// How many runs failed.
    pub failed: usize,
}

impl Series {
    /// The runs of a contender in a row of the report.
    pub fn of<'a>(&'a self, cell: &'a Cell, who: &'a Contender) -> impl Iterator<Item = &'a Run> {
        let who = who.to_string();
        self.runs.iter().filter(move |run| run.cell == *cell && run.contender == who)
    }

    /// The median of a figure; none without runs.
    pub fn median(&self, cell: &Cell, who: &Contender, what: impl Fn(&Run) -> f64) -> Option<f64> {
        let figures: Vec<f64> = self.of(cell, who).map(what).collect();
        (!figures.is_empty()).then(|| median(figures))
    }

    /// The median over the rounds of what two contenders compare to.
    pub fn against(
        &self,
        cell: &Cell,
        who: &Contender,
        base: &Contender,
        compare: impl Fn(&Run, &Run) -> f64,
    ) -> Option<f64> {
        let pairs = self.of(cell, who).filter_map(|run| {
            let beside = self.of(cell, base).find(|beside| beside.round == run.round)?;
            Some(compare(run, beside))
        });
        let figures: Vec<f64> = pairs.collect();
        (!figures.is_empty()).then(|| median(figures))
    }
}

/// The rows of the report.
pub fn cells(options: &Options) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &task in &options.jobs {
        for &state in &options.state {
            cells.extend(options.rates.iter().map(|&rate| Cell { task, state, rate }));
        }
    }
    cells
}

/// Who takes part.
pub fn contenders(options: &Options) -> Vec<Contender> {
    let each = options.drivers.iter().flat_map(|driver| {
        let driver = driver.to_string();
        options
            .budgets
            .iter()
            .map(move |&budget| Contender::Thalweg { driver: driver.clone(), budget })
    });
    [Contender::Handloop, Contender::Rumqttc].into_iter().chain(each).collect()
}

/// Runs all rounds. A run that fails is named and left out, so that it does not cost the others.
///
/// # Errors
/// If there is no broker, system calls cannot be counted, or a file cannot be written.
pub fn run(options: &Options, setting: &Setting<'_>) -> anyhow::Result<Series> {
    let (cells, contenders) = (cells(options), contenders(options));
    let runs = cells.len() * contenders.len() * setting.rounds as usize;
    let each = Duration::from_secs_f64(setting.seconds) + WARM_UP + OVERHEAD;
    let broker = Broker::start(setting.broker)?;
    println!("{broker}, or another one like it; state in {}", options.state_dir().display());
    drop(broker);
    println!("{runs} runs, about {} min", (each * runs as u32).as_secs().div_ceil(60));
    let mut series = Series { runs: Vec::new(), counted: Vec::new(), failed: 0 };
    for round in 0..setting.rounds {
        let mut turn = contenders.clone();
        turn.rotate_left(round as usize % contenders.len());
        for &cell in &cells {
            for who in &turn {
                let broker = Broker::start(setting.broker)?;
                let order = order(options, &broker, setting, cell, who);
                match one(&order, who, round) {
                    Ok(run) => {
                        json_line(&run, setting.json)?;
                        series.runs.push(run);
                    }
                    Err(error) => {
                        series.failed += 1;
                        eprintln!("{who} failed at {cell:?}: {error:#}");
                    }
                }
            }
        }
    }
    if let Some(counter) = options.syscalls {
        for &cell in &cells {
            for who in &contenders {
                let broker = Broker::start(setting.broker)?;
                let order = order(options, &broker, setting, cell, who);
                let counted = count(order, who, counter)
                    .with_context(|| format!("no system calls of {who} at {cell:?}"))?;
                json_line(&counted, setting.json)?;
                series.counted.push(counted);
            }
        }
    }
    Ok(series)
}

/// What the process of a contender is told.
pub fn order(
    options: &Options,
    broker: &Broker,
    setting: &Setting<'_>,
    cell: Cell,
    contender: &Contender,
) -> Order {
    Order {
        broker: (broker.host.clone(), broker.port),
        contender: Some(contender.clone()),
        cell,
        shards: setting.shards,
        seconds: setting.seconds,
        devices: setting.devices,
        state_dir: options.state_dir(),
    }
}

/// Starts a process that does what it is told.
///
/// # Errors
/// If it does not start.
pub fn start(order: &Order) -> anyhow::Result<Measured> {
    Measured::start(["--order".to_owned(), serde_json::to_string(order)?])
}

fn devices(order: &Order) -> Order {
    Order { contender: None, ..order.clone() }
}

fn one(order: &Order, contender: &Contender, round: u32) -> anyhow::Result<Run> {
    let mut engine = start(order)?;
    engine.wait_for(READY)?;
    let mut load = start(&devices(order))?;
    load.wait_for(MEASURING)?;
    engine.tell(BEGIN)?;
    load.wait_for(DRAINED)?;
    engine.tell(END)?;
    let outcome: Outcome = load.finish()?;
    let report: Report = engine.finish()?;
    let each = |figure: f64| rounded(figure / outcome.measured.max(1) as f64, 3);
    Ok(Run {
        mode: "rates",
        contender: contender.to_string(),
        cell: order.cell,
        round,
        shards: order.shards,
        cpu_us_per_message: each(report.cost.cpu_us),
        switches_per_message: each(report.cost.switches as f64),
        written_bytes_per_message: each(report.cost.written_bytes as f64),
        outcome,
        report,
    })
}

/// One run, shorter than others, under a counter.
fn count(mut order: Order, contender: &Contender, counter: Counter) -> anyhow::Result<Counted> {
    order.seconds = order.seconds.min(SYSCALLS_SECONDS_MAX);
    let mut engine = start(&order)?;
    engine.wait_for(READY)?;
    let attached = counter.attach(engine.id())?;
    let mut load = start(&devices(&order))?;
    load.wait_for(MEASURING)?;
    load.wait_for(DRAINED)?;
    let Calls { total, by_name } = attached.read()?;
    let outcome: Outcome = load.finish()?;
    let each = |calls: u64| rounded(calls as f64 / outcome.sent.max(1) as f64, 3);
    let by_name = by_name.into_iter().take(8).map(|(name, calls)| (name, each(calls)));
    // Its figures are those of a process that was watched.
    engine.tell(BEGIN)?;
    engine.tell(END)?;
    let _watched: Report = engine.finish()?;
    Ok(Counted {
        mode: "syscalls",
        contender: contender.to_string(),
        cell: order.cell,
        per_message: each(total),
        by_name: by_name.collect(),
    })
}
