//! The job of `thalweg run`: per-key count, average, minimum and maximum of one field over tumbling
//! windows of event time, from a broker or files to a sink.

mod reading;

use std::sync::Arc;

use serde::Serialize;
use thalweg_file::{FileSink, FileSource, RollingFiles, StdoutSink};
use thalweg_flow::{BoxedStream, Flow, Stats, StatsValue, Tumbling, Watermarks, Windowed};
use thalweg_format::{Csv, JsonLines};
use thalweg_kernel::{ConfigError, Str, Timestamp};
use thalweg_mqtt::topic::TOPIC_BYTES_MAX;
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource};
use thalweg_runtime::Job;
use thalweg_sqlite::{RowSink, Server, SqliteSink};

use self::reading::{Reading, Readings};
use crate::control::Control;
use crate::settings::{Deduplicate, Settings, Sink, within};
use crate::shutdown::Shutdown;

/// One row of the result, as it is written.
#[derive(Clone, Debug, Serialize)]
struct Row {
    key: Str,
    start: Timestamp,
    end: Timestamp,
    count: u64,
    avg: f64,
    min: f64,
    max: f64,
}

impl From<Windowed<Str, StatsValue>> for Row {
    fn from(Windowed { key, start, end, value }: Windowed<Str, StatsValue>) -> Self {
        let StatsValue { count, avg, min, max } = value;
        Self { key, start, end, count, avg, min, max }
    }
}

/// Runs the job until it ends or a signal drains it.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let config = settings.runtime()?;
    let state = settings.state.as_ref().map(|state| state.dir.clone());
    let keeps_dead_letters = settings.dead_letters.path.is_some();
    let shutdown = Shutdown::watch();
    let running = Arc::new(job(settings)?.start(&config)?);
    let _watch = shutdown.ends(&running);
    // Without it the job runs all the same.
    let control = state.and_then(|dir| {
        let control = Control::listen(&dir, &running);
        control.inspect_err(|error| tracing::warn!("no savepoints from outside: {error:#}")).ok()
    });
    let metrics = running.join()?;
    drop(control);
    let dead_letters = metrics.total("numDeadLetters");
    // `rows` is fused to the windows and counts nothing of its own; the sinks do.
    let sinks = metrics
        .0
        .iter()
        .filter(|sample| sample.name == "numRecordsIn" && sample.operator.starts_with("Sink: "));
    let written = sinks.map(|sample| sample.value as u64).sum::<u64>();
    let rows = if keeps_dead_letters { written.saturating_sub(dead_letters) } else { written };
    tracing::info!(
        records = metrics.of("readings", "numRecordsOut"),
        late = metrics.total("numLateRecordsDropped"),
        dead_letters,
        rows,
        repeated = metrics.total("numRepetitionsDropped"),
        "job ended"
    );
    Ok(())
}

/// The job that `settings` describe, with everything checked that needs no connection.
pub(crate) fn job(settings: Settings) -> Result<Job, ConfigError> {
    let input = Input::of(&settings)?;
    let output = Output::of(&settings.sink)?;
    let name = settings.name.clone();
    Ok(Job::new(&name, move |flow| describe(flow, &settings, &input, &output)))
}

/// A source whose settings have been parsed and checked.
enum Input {
    Mqtt(Box<MqttSource<Readings>>),
    Files(FileSource<Readings>),
}

impl Input {
    fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let source = &settings.source;
        let decoder = Readings::new(settings);
        if source.mqtt.is_none() {
            return Ok(Self::Files(FileSource::all(&source.files, decoder)));
        }
        let mut mqtt = MqttSource::new(source.broker()?, decoder);
        for topic in &source.topics {
            mqtt = mqtt.topic(topic);
        }
        mqtt.check().map_err(|error| within("source", error))?;
        Ok(Self::Mqtt(Box::new(mqtt)))
    }
}

/// A sink whose settings have been parsed and checked.
enum Output {
    Stdout,
    JsonLines(FileSink<JsonLines>),
    Csv(FileSink<Csv>),
    Files(Box<RollingFiles<JsonLines>>),
    Sqlite(Box<SqliteSink<Row>>),
    #[cfg(feature = "postgres")]
    Postgres(Box<thalweg_postgres::PostgresSink<Row>>),
    Mqtt {
        broker: MqttConfig,
        topic: Arc<str>,
    },
}

impl Output {
    fn of(sink: &Sink) -> Result<Self, ConfigError> {
        Ok(match sink {
            Sink::Stdout {} => Self::Stdout,
            Sink::File { path } if path.extension().is_some_and(|end| end == "csv") => {
                Self::Csv(FileSink::new(path, Csv::default()))
            }
            Sink::File { path } => Self::JsonLines(FileSink::new(path, JsonLines)),
            Sink::Files { dir } => {
                let files = RollingFiles::new(dir, JsonLines).suffix(".jsonl");
                files.check().map_err(|error| within("sink.files", error))?;
                Self::Files(Box::new(files))
            }
            Sink::Sqlite { path, table } => {
                let sink = columns(SqliteSink::new(path, table));
                sink.check().map_err(|error| within("sink.sqlite", error))?;
                Self::Sqlite(Box::new(sink))
            }
            #[cfg(feature = "postgres")]
            Sink::Postgres { url, table } => {
                let server = url.parse::<thalweg_postgres::PostgresConfig>();
                let server = server.map_err(|error| within("sink.postgres.url", error))?;
                let sink = columns(thalweg_postgres::PostgresSink::new(server, table));
                sink.check().map_err(|error| within("sink.postgres", error))?;
                Self::Postgres(Box::new(sink))
            }
            Sink::Mqtt { url, topic } => {
                let broker = url.parse::<MqttConfig>();
                let broker = broker.map_err(|error| within("sink.mqtt.url", error))?;
                broker.check().map_err(|error| within("sink.mqtt.url", error))?;
                check_topic(topic)?;
                Self::Mqtt { broker, topic: topic.as_str().into() }
            }
        })
    }
}

/// What a row's columns are called in a table.
fn columns<S: Server>(sink: RowSink<Row, S>) -> RowSink<Row, S> {
    sink.key_text("key", |row: &Row| row.key.as_str())
        .key("window_start", |row| row.start)
        .column("window_end", |row| row.end)
        .column("count", |row| row.count)
        .column("avg", |row| row.avg)
        .column("min", |row| row.min)
        .column("max", |row| row.max)
}

/// A topic that would refuse every result is a mistake; one that some keys make impossible is not.
fn check_topic(topic: &str) -> Result<(), ConfigError> {
    let rest = topic.replace("{key}", "");
    if topic.is_empty()
        || topic.len() > TOPIC_BYTES_MAX
        || rest.contains(['+', '#', '\0', '{', '}'])
    {
        let allowed = "1 to 65535 bytes without wildcards; {key} stands for the result's key";
        return Err(ConfigError::new("sink.mqtt.topic", topic, allowed));
    }
    Ok(())
}

fn describe(flow: &Flow, settings: &Settings, input: &Input, output: &Output) {
    let window = &settings.window;
    let watermarks = Watermarks::bounded_out_of_orderness(window.out_of_orderness)
        .timestamps(|reading: &Reading| reading.time)
        .idle_after(window.idle_after)
        .clock_guard(window.clock_guard);
    // Behind pointers at both ends: what lies between is compiled once, and not for each source with each sink.
    let readings = match input {
        Input::Mqtt(source) => {
            flow.source_as("source", MqttSource::clone(source), watermarks).boxed()
        }
        Input::Files(source) => flow.source_as("source", source.clone(), watermarks).boxed(),
    };
    write(averages(readings.name("readings"), settings), output);
    if let Some(path) = &settings.dead_letters.path {
        flow.dead_letters().sink_as("dead letters", FileSink::new(path, JsonLines).append());
    }
}

/// The sink's stable name. (Names are the job's own, so that a broker may move without taking state along.)
const SINK: &str = "sink";

/// Drops what has been sent twice, if readings are numbered, and adds up the windows: on the same shards, by one key.
fn averages(readings: BoxedStream<Reading>, settings: &Settings) -> BoxedStream<Row> {
    let readings = readings.key_by(|reading| reading.key.clone());
    let windows = Tumbling::of(settings.window.size);
    let stats = Stats::of(|reading: &Reading| reading.value);
    let windows = match settings.deduplicate {
        None => readings.window(windows).aggregate(stats).boxed(),
        Some(Deduplicate { window, .. }) => {
            let news = readings.deduplicate_within(window, |reading| reading.number);
            news.uid("deduplicate").window(windows).aggregate(stats).boxed()
        }
    };
    windows.uid("windows").map(Row::from).name("rows").boxed()
}

fn write(rows: BoxedStream<Row>, output: &Output) {
    match output {
        Output::Stdout => rows.sink_as(SINK, StdoutSink::new()),
        Output::JsonLines(file) => rows.sink_as(SINK, file.clone()),
        Output::Csv(file) => rows.sink_as(SINK, file.clone()),
        Output::Files(files) => rows.sink_as(SINK, RollingFiles::clone(files)),
        Output::Sqlite(sink) => rows.sink_as(SINK, SqliteSink::clone(sink)),
        #[cfg(feature = "postgres")]
        Output::Postgres(sink) => rows.sink_as(SINK, (**sink).clone()),
        Output::Mqtt { broker, topic } => {
            let topic = Arc::clone(topic);
            let topic = move |row: &Row, out: &mut String| *out = topic.replace("{key}", &row.key);
            rows.sink_as(SINK, MqttSink::new(broker.clone(), topic, JsonLines));
        }
    }
}
