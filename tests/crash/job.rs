//! The job that is killed, in a process of its own. Readings come from MQTT. Repetitions are removed by the
//! publisher's numbers, or the source recognises them. Every reading goes to a sink, sums per device and second of event time to another, and the
//! changelog of a table to a third.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use thalweg::flow::{Context, Process, ValueState};
use thalweg::kernel::{Changed, Collector};
use thalweg::prelude::*;
use thalweg::runtime::{
    DriverKind, JournalConfig, RestartStrategy, StateConfig, StateDirectory, StoreOptions,
};
use thalweg_file::RollingFiles;
use thalweg_mqtt::{Mode, Qos};
use thalweg_postgres::{PostgresConfig, PostgresSink};
use thalweg_sqlite::{RowSink, Server, SqliteSink};
use thalweg_store::FoldPolicy;

use crate::Once as By;
use crate::ledger::{DISORDER, WINDOW_MS};
use crate::reading::Reading;
use crate::sinks::{READINGS, STANDINGS, SUMS, SinkKind, out_dir, postgres_url};
use crate::standings::{Standing, Standings};

/// Numbers of a device that are remembered below its highest.
const REMEMBERED: u64 = 2_048;

/// What a life of the job is told on its command line.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Where everything is.
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    /// Where the broker for results is reached.
    pub(crate) uplink: u16,
    pub(crate) sink: SinkKind,
    pub(crate) once: By,
    pub(crate) durability: Mode,
    pub(crate) shards: usize,
    /// On which its connections and its journal have threads, or are the shard's.
    pub(crate) driver: DriverKind,
    pub(crate) checkpoint_ms: u64,
}

/// Lets each number of a device through once, or all of them. The state: the highest number so far, then a bit for each of the last
/// [`REMEMBERED`] numbers. Older ones are taken for seen.
struct Once {
    seen: Option<ValueState<Str, Vec<u64>>>,
}

impl Process<Str, Reading> for Once {
    type Out = Reading;

    fn record(
        &mut self,
        reading: Reading,
        cx: &mut Context<'_, Str>,
        out: &mut impl Collector<Reading>,
    ) {
        let Self { seen } = self;
        if seen.as_ref().is_none_or(|seen| seen.update(cx, |seen| is_new(seen, reading.sequence))) {
            out.record(cx.time(), reading);
        }
    }
}

/// Whether `sequence` was not seen before; notes that it has been now.
fn is_new(seen: &mut Vec<u64>, sequence: u64) -> bool {
    seen.resize(1 + (REMEMBERED / 64) as usize, 0);
    let Some((highest, bits)) = seen.split_first_mut() else { return false };
    let place = |number: u64| (((number % REMEMBERED) / 64) as usize, 1_u64 << (number % 64));
    if sequence + REMEMBERED <= *highest {
        return false;
    }
    // Numbers that were skipped have not been seen.
    for skipped in (*highest + 1..=sequence).take(REMEMBERED as usize) {
        let (word, bit) = place(skipped);
        bits[word] &= !bit;
    }
    *highest = sequence.max(*highest);
    let (word, bit) = place(sequence);
    let new = bits[word] & bit == 0;
    bits[word] |= bit;
    new
}

/// Where the state of the job is.
pub(crate) fn state_dir(dir: &Path) -> PathBuf {
    dir.join("job")
}

/// Made when the broker has confirmed the subscription.
pub(crate) fn subscribed_file(dir: &Path) -> PathBuf {
    dir.join("subscribed")
}

/// Runs a life of the job to its end: killed, or suspended on SIGTERM.
pub(crate) fn live(life: &Life) -> Result<()> {
    thalweg_tests::life::run(&job(life)?, &config(life))
}

fn config(life: &Life) -> RuntimeConfig {
    // Small, so that segments, folds and rolled files come many times a second.
    let journal = JournalConfig {
        segment_bytes: 256 << 10,
        cap_bytes: 64 << 20,
        group_bytes_max: 64 << 10,
        record_bytes_max: 16 << 10,
        ..JournalConfig::default()
    };
    let fold = FoldPolicy { bytes_min: 256 << 10, bytes_max: 4 << 20, base_ratio: 1.0 };
    let store = StoreOptions { fold, fold_changes_max: 64, map_bytes: 1 << 30, retained: 2 };
    let backend = StateDirectory::new(state_dir(&life.dir)).journal(journal).store(store).backend();
    let mut state = StateConfig::new(backend);
    state.checkpoints.interval = Duration::from_millis(life.checkpoint_ms);
    RuntimeConfig {
        shards: life.shards,
        driver: life.driver,
        state: Some(state),
        // A failure must be seen by whoever runs this.
        restart: RestartStrategy::Never,
        ..RuntimeConfig::default()
    }
}

fn job(life: &Life) -> Result<Job> {
    let out = out_dir(&life.dir);
    std::fs::create_dir_all(&out).context("cannot make the directory for results")?;
    let marker = subscribed_file(&life.dir);
    let qos = if life.once == By::Qos2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
    let broker = MqttConfig::new("127.0.0.1").port(life.port).client_id("gateway").qos(qos);
    let source = MqttSource::new(broker, Json::<Reading>::new())
        .topic("fleet/{device}/reading")
        .durability(life.durability)
        .recognise_repeats(life.once != By::Numbers)
        .on_subscribed(move || {
            if std::fs::write(&marker, "").is_err() {
                tracing::error!("cannot write {}", marker.display());
            }
        });
    let (kind, uplink, numbered) = (life.sink, life.uplink, life.once == By::Numbers);
    let server = match kind {
        SinkKind::Postgres => Some(postgres_url(&life.dir)?.parse::<PostgresConfig>()?),
        SinkKind::Sqlite | SinkKind::Files | SinkKind::Mqtt => None,
    };
    Ok(Job::new("crash", move |flow: &Flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(DISORDER).without_clock_guard();
        let once = flow
            .source(source.clone(), watermarks.timestamps(|r: &Reading| r.time_ms))
            .key_by(|r| r.device.clone())
            .process(move |states| Once { seen: numbered.then(|| states.value("seen")) });
        let [all, sums, standings] = once.split();
        let standings = standings
            .key_by(|r| r.device.clone())
            .process(|states| Standings { sums: states.value("sums") });
        let sums = sums
            .key_by(|r| r.device.clone())
            .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
            .aggregate(Fold::new(
                || (0_u64, 0_i64),
                |sum, r: Reading| *sum = (sum.0 + 1, sum.1 + r.value),
                |sum, other| *sum = (sum.0 + other.0, sum.1 + other.1),
            ));
        match kind {
            SinkKind::Sqlite => {
                let path = out.join("results.db");
                all.sink(readings(SqliteSink::new(path.clone(), "readings")));
                sums.sink(totals(SqliteSink::new(path.clone(), "sums")));
                standings.sink(table(SqliteSink::new(path, "standings")));
            }
            SinkKind::Postgres => {
                // Of another kind it would have been refused above.
                let Some(server) = &server else { return };
                all.sink(readings(PostgresSink::new(server.clone(), "readings")));
                sums.sink(totals(PostgresSink::new(server.clone(), "sums")));
                standings.sink(table(PostgresSink::new(server.clone(), "standings")));
            }
            SinkKind::Files => {
                let files = |name: &str| {
                    RollingFiles::new(out.join(name), JsonLines)
                        .suffix(".jsonl")
                        .roll_bytes(32 * 1024)
                        .roll_after(Duration::from_millis(200))
                        .roll_idle(Duration::from_millis(100))
                };
                all.sink(files("readings"));
                sums.sink(files("sums"));
                standings.sink(files("standings"));
            }
            SinkKind::Mqtt => {
                // Each has a name of its own: two connections under one would push each other out.
                let broker = |name: &str| MqttConfig::new("127.0.0.1").port(uplink).client_id(name);
                let topic = |r: &Reading, topic: &mut String| {
                    topic.push_str(READINGS);
                    topic.push_str(&r.device);
                };
                all.sink(MqttSink::new(broker("readings"), topic, JsonLines));
                sums.sink(MqttSink::new(broker("sums"), SUMS, JsonLines));
                let topic = |s: &Standing, topic: &mut String| {
                    // Writing to a string does not fail.
                    let _ = write!(topic, "{STANDINGS}{}/{}", s.device, s.grade);
                };
                standings.sink(MqttSink::new(broker("standings"), topic, JsonLines).changelog());
            }
        }
    }))
}

/// A row of the second sink.
type Sums = Windowed<Str, (u64, i64)>;

/// Without keys: a row that comes twice must be there twice.
fn readings<S: Server>(sink: RowSink<Reading, S>) -> RowSink<Reading, S> {
    sink.text("device", |r: &Reading| r.device.as_str())
        .column("sequence", |r| r.sequence)
        .column("time_ms", |r| r.time_ms)
        .column("value", |r| r.value)
}

fn totals<S: Server>(sink: RowSink<Sums, S>) -> RowSink<Sums, S> {
    sink.text("device", |w: &Sums| w.key.as_str())
        .column("start", |w| w.start)
        .column("count", |w| w.value.0)
        .column("sum", |w| w.value.1)
}

/// The table that follows the changelog.
fn table<S: Server>(sink: RowSink<Standing, S>) -> RowSink<Changed<Standing>, S> {
    sink.key_text("device", |s: &Standing| s.device.as_str())
        .key("grade", |s| s.grade)
        .column("count", |s| s.count)
        .column("sum", |s| s.sum)
        .changelog()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_number_is_new_once_also_out_of_order_and_after_gaps() {
        let (mut seen, mut known) = (Vec::new(), BTreeSet::new());
        let mut chance = thalweg_testing::Random::of(7, 0);
        let mut base = 1;
        for _ in 0..20_000 {
            if chance.one_in(500) {
                base += chance.below(2 * REMEMBERED);
            }
            base += chance.below(2);
            let number = base + chance.below(100);
            assert_eq!(is_new(&mut seen, number), known.insert(number), "{number}");
        }
    }
}
