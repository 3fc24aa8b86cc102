//! From publish to result: a job that keeps state and journals what comes in. It publishes what comes out when the
//! checkpoint that holds it exists. The figures of a run are here, too.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use thalweg::flow::{Context, Process, ValueState};
use thalweg::kernel::Collector;
use thalweg::mqtt::{Mode, Qos};
use thalweg::prelude::*;
use thalweg::runtime::{RuntimeConfig, StateConfig, StateDirectory};

use super::bare::Bare;
use super::publisher::publish;
use super::schedule::{Schedule, Stream, Tally};
use super::{Line, SUBSCRIBED_MAX};
use crate::broker::Broker;
use crate::disk::syncs;
use crate::quantiles::Quantiles;
use crate::report::Table;
use crate::spin::{Gaps, gaps};

/// How long the last results are waited for: a disk may be slow.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// What to measure.
pub struct Plan {
    /// Messages per second on each of the two streams.
    pub rate: u32,
    /// For how long, after a second of warm-up.
    pub seconds: f64,
    /// The time between two checkpoints.
    pub checkpoint: Duration,
    /// How long the machine's noise is watched, before and after.
    pub noise: Duration,
}

/// What came of it. Times in microseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    bench: &'static str,
    broker: String,
    rate: u32,
    seconds: f64,
    checkpoint_ms: f64,
    driver: String,
    shards: usize,
    /// Checkpoints that were completed, a second.
    checkpoints_per_s: f64,
    /// To an MQTT client and no further.
    bare: Line,
    /// From publish to result.
    outbox: Line,
    /// How late the sender was.
    sender: Quantiles,
    /// A sync of 4 KiB by itself.
    sync_before: Quantiles,
    sync_after: Quantiles,
    noise_before: Gaps,
    noise_after: Gaps,
}

#[derive(Deserialize)]
struct Reading {
    n: u64,
    device: Str,
    temp: f64,
}

/// What is published for each reading.
#[derive(Clone, Serialize)]
struct Total {
    n: u64,
    readings: u64,
    temp: f64,
}

/// Counts and adds up per device.
struct Totals {
    so_far: ValueState<Str, (u64, f64)>,
}

impl Process<Str, Reading> for Totals {
    type Out = Total;

    fn record(
        &mut self,
        reading: Reading,
        cx: &mut Context<'_, Str>,
        out: &mut impl Collector<Total>,
    ) {
        let (readings, temp) = self.so_far.update(cx, |(readings, temp)| {
            *readings += 1;
            *temp += reading.temp;
            (*readings, *temp)
        });
        out.record(cx.time(), Total { n: reading.n, readings, temp });
    }
}

fn job(broker: &Broker, subscribed: &Arc<AtomicBool>) -> Job {
    let config = broker.config().qos(Qos::AtLeastOnce);
    let subscribed = Arc::clone(subscribed);
    Job::new("outbox", move |flow| {
        let subscribed = Arc::clone(&subscribed);
        let readings = MqttSource::new(config.clone(), Json::<Reading>::new())
            .topic(Stream::Outbox.topic())
            .durability(Mode::Journal)
            .on_subscribed(move || subscribed.store(true, Ordering::Release));
        flow.source(readings, Watermarks::monotonous())
            .key_by(|reading| reading.device.clone())
            .process(|states| Totals { so_far: states.value("so_far") })
            .sink(MqttSink::new(config.clone(), Stream::Outbox.results(), JsonLines));
    })
}

/// Measures; the state is in `dir`, which is empty.
///
/// # Errors
/// If a connection breaks or the job fails.
pub fn run(
    broker: &Broker,
    plan: &Plan,
    mut config: RuntimeConfig,
    dir: &Path,
) -> anyhow::Result<Report> {
    let noise_before = gaps(plan.noise);
    let sync_before = syncs(dir, plan.noise)?.quantiles();
    let schedule = Arc::new(Schedule::new(Stream::TO_RESULT, plan.rate, plan.seconds));
    let [bare, outbox] = [Tally::new()?, Tally::new()?];
    let bare_client = Bare::start(broker, &schedule, Stream::Bare, 1, &bare)?;
    let result_client = Bare::start(broker, &schedule, Stream::Outbox, 1, &outbox)?;
    let mut state = StateConfig::new(StateDirectory::new(dir.join("job")).backend());
    state.checkpoints.interval = plan.checkpoint;
    config.state = Some(state);
    let subscribed = Arc::new(AtomicBool::new(false));
    let running = job(broker, &subscribed).start(&config)?;
    let driver = running.driver();
    let begun = Instant::now();
    while !subscribed.load(Ordering::Acquire) {
        if running.is_finished() || begun.elapsed() > SUBSCRIBED_MAX {
            running.stop();
            running.wait()?;
            bail!("the job did not subscribe at {broker} within {SUBSCRIBED_MAX:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let (begun, before) = (Instant::now(), running.checkpoints().completed);
    let sender = publish(broker, &schedule, 1)?.quantiles();
    let completed = running.checkpoints().completed - before;
    let checkpoints_per_s = completed as f64 / begun.elapsed().as_secs_f64();
    for tally in [&bare, &outbox] {
        tally.wait_for(schedule.recorded(), ARRIVAL_MAX);
    }
    running.stop();
    running.wait().context("the job failed")?;
    bare_client.stop()?;
    result_client.stop()?;
    let sync_after = syncs(dir, plan.noise)?.quantiles();
    let line = |tally: &Tally| Line::new(&tally.take(), schedule.recorded());
    Ok(Report {
        bench: "outbox",
        broker: broker.to_string(),
        rate: plan.rate,
        seconds: plan.seconds,
        checkpoint_ms: plan.checkpoint.as_secs_f64() * 1e3,
        driver: driver.to_string(),
        shards: config.shards,
        checkpoints_per_s: checkpoints_per_s.round(),
        bare: line(&bare),
        outbox: line(&outbox),
        sender,
        sync_before,
        sync_after,
        noise_before,
        noise_after: gaps(plan.noise),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "broker: {}", self.broker)?;
        writeln!(
            f,
            "{} msg/s on each stream for {} s, QoS 1; driver {}, {} shards; a checkpoint every {} ms, {} a second \
             were completed",
            self.rate,
            self.seconds,
            self.driver,
            self.shards,
            self.checkpoint_ms,
            self.checkpoints_per_s
        )?;
        let mut table = Table::new(["ms", "messages", "missing", "p50", "p99", "p99.9", "max"]);
        let mut row = |name: &str, counts: [String; 2], quantiles: &Quantiles| {
            let Quantiles { p50_us, p99_us, p999_us, max_us } = *quantiles;
            let times = [p50_us, p99_us, p999_us, max_us];
            let times = times.map(|micros| format!("{:.2}", micros / 1e3));
            table.row([name.to_owned()].into_iter().chain(counts).chain(times));
        };
        for (name, line) in [("bare client", &self.bare), ("outbox", &self.outbox)] {
            let counts = [line.messages.to_string(), line.missing.to_string()];
            row(name, counts, &line.quantiles);
        }
        for (name, quantiles) in [
            ("the sender was late by", &self.sender),
            ("one sync of 4 KiB, before", &self.sync_before),
            ("one sync of 4 KiB, after", &self.sync_after),
        ] {
            row(name, [String::new(), String::new()], quantiles);
        }
        write!(f, "{table}")?;
        writeln!(f, "a bare spin loop before: {}", self.noise_before)?;
        writeln!(f, "a bare spin loop after: {}", self.noise_after)
    }
}
