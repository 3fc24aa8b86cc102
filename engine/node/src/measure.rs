//! The job of `thalweg run`: per-key count, average, minimum and maximum of one field over tumbling
//! windows of event time, from a broker or files to a sink.

mod reading;

use std::sync::Arc;

use serde::Serialize;
use thalweg_file::{FileSink, FileSource, StdoutSink};
use thalweg_flow::{Chain, Flow, Stats, StatsValue, Stream, Tumbling, Watermarks, Windowed};
use thalweg_format::{Csv, JsonLines, JsonSeed};
use thalweg_kernel::{ConfigError, Str, Timestamp};
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource};
use thalweg_runtime::Job;

use self::reading::{Reading, ReadingFields};
use crate::settings::{Settings, Sink, within};
use crate::shutdown::drain_on_signals;

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
    let config = settings.engine.runtime()?;
    let running = job(settings)?.start(&config)?;
    drain_on_signals(&running);
    let metrics = running.wait()?;
    tracing::info!(
        records = metrics.of("readings", "numRecordsOut"),
        late = metrics.total("numLateRecordsDropped"),
        dead_letters = metrics.total("numDeadLetters"),
        rows = metrics.of("rows", "numRecordsIn"),
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
    Mqtt(Box<MqttSource<JsonSeed<ReadingFields>>>),
    Files(FileSource<JsonSeed<ReadingFields>>),
}

impl Input {
    fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let source = &settings.source;
        let decoder = JsonSeed::new(ReadingFields::new(&settings.fields))
            .payload_bytes_max(source.payload_bytes_max);
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
    Mqtt { broker: MqttConfig, topic: Arc<str> },
}

impl Output {
    fn of(sink: &Sink) -> Result<Self, ConfigError> {
        Ok(match sink {
            Sink::Stdout {} => Self::Stdout,
            Sink::File { path } if path.extension().is_some_and(|end| end == "csv") => {
                Self::Csv(FileSink::new(path, Csv::default()))
            }
            Sink::File { path } => Self::JsonLines(FileSink::new(path, JsonLines)),
            Sink::Mqtt { url, topic } => {
                let broker = url.parse::<MqttConfig>();
                let broker = broker.map_err(|error| within("sink.mqtt.url", error))?;
                broker.check().map_err(|error| within("sink.mqtt.url", error))?;
                Self::Mqtt { broker, topic: topic.as_str().into() }
            }
        })
    }
}

fn describe(flow: &Flow, settings: &Settings, input: &Input, output: &Output) {
    let window = &settings.window;
    let watermarks = Watermarks::bounded_out_of_orderness(window.out_of_orderness)
        .timestamps(|reading: &Reading| reading.time)
        .idle_after(window.idle_after)
        .clock_guard(window.clock_guard);
    match input {
        Input::Mqtt(source) => {
            let readings = flow.source(MqttSource::clone(source), watermarks);
            averages(readings, settings, output);
        }
        Input::Files(source) => averages(flow.source(source.clone(), watermarks), settings, output),
    }
    if let Some(path) = &settings.dead_letters.path {
        flow.dead_letters().sink(FileSink::new(path, JsonLines).append());
    }
}

fn averages(readings: Stream<impl Chain<Out = Reading>>, settings: &Settings, output: &Output) {
    let rows = readings
        .name("readings")
        .key_by(|reading| reading.key.clone())
        .window(Tumbling::of(settings.window.size))
        .aggregate(Stats::of(|reading: &Reading| reading.value))
        .map(Row::from)
        .name("rows");
    match output {
        Output::Stdout => rows.sink(StdoutSink::new()),
        Output::JsonLines(file) => rows.sink(file.clone()),
        Output::Csv(file) => rows.sink(file.clone()),
        Output::Mqtt { broker, topic } => {
            let topic = Arc::clone(topic);
            let topic = move |row: &Row, out: &mut String| *out = topic.replace("{key}", &row.key);
            rows.sink(MqttSink::new(broker.clone(), topic, JsonLines));
        }
    }
}
