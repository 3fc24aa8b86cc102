//! The job of `thalweg run`: per-key count, average, minimum and maximum of one field over tumbling
//! windows of event time, from a broker or files to a sink.

mod reading;

use std::sync::Arc;

use serde::Serialize;
use thalweg_file::FileSink;
use thalweg_flow::{BoxedStream, Flow, Stats, StatsValue, Tumbling, Watermarks, Windowed};
use thalweg_format::{Csv, JsonLines};
use thalweg_kernel::connector::{Encoder, Format};
use thalweg_kernel::format::EncodeError;
use thalweg_kernel::{
    Column, Encode, Field, FieldKind, Record, SinkSpec, SourceSpec, Str, Timestamp,
};
use thalweg_runtime::Job;

pub(crate) use self::reading::{Reading, Readings};
use crate::control::Control;
use crate::settings::{Deduplicate, Settings, Window};
use crate::shutdown::Shutdown;

/// One row of the result, as it is written.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
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

/// Its columns.
pub(crate) fn columns() -> Vec<Column> {
    let column = |name: &str, column: &str, kind, key| Column {
        name: name.into(),
        column: column.into(),
        kind,
        key,
    };
    vec![
        column("key", "key", FieldKind::Text, true),
        column("start", "window_start", FieldKind::Time, true),
        column("end", "window_end", FieldKind::Time, false),
        column("count", "count", FieldKind::Unsigned, false),
        column("avg", "avg", FieldKind::Float, false),
        column("min", "min", FieldKind::Float, false),
        column("max", "max", FieldKind::Float, false),
    ]
}

impl Record for Row {
    fn field(&self, place: usize) -> Field<'_> {
        match place {
            0 => Field::Text(&self.key),
            1 => Field::Time(self.start),
            2 => Field::Time(self.end),
            3 => Field::Unsigned(self.count),
            4 => Field::Float(self.avg),
            5 => Field::Float(self.min),
            6 => Field::Float(self.max),
            _ => Field::Null,
        }
    }
}

/// Rows in any of the formats.
#[derive(Clone, Debug)]
pub(crate) enum RowEncoder {
    Json(JsonLines),
    Csv(Csv),
}

impl Encoder<Row> for RowEncoder {
    fn of(format: Format) -> Self {
        match format {
            Format::Json => Self::Json(JsonLines),
            Format::Csv => Self::Csv(Csv::new()),
        }
    }
}

impl Encode<Row> for RowEncoder {
    fn header(&mut self, first: &Row, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Json(json) => json.header(first, out),
            Self::Csv(csv) => csv.header(first, out),
        }
    }

    fn encode(&mut self, value: &Row, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Json(json) => json.encode(value, out),
            Self::Csv(csv) => csv.encode(value, out),
        }
    }
}

/// Runs the job until it ends or a signal drains it.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let config = settings.runtime()?;
    let state = settings.state.as_ref().map(|state| state.dir.clone());
    let keeps_dead_letters = settings.dead_letters.path.is_some();
    let shutdown = Shutdown::watch();
    let running = Arc::new(job(settings).start(&config)?);
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

/// The job that `settings` describe.
pub(crate) fn job(settings: Settings) -> Job {
    let Settings { name, input, window, deduplicate, output, dead_letters, .. } = settings;
    Job::new(&name, move |flow| {
        // Behind pointers at both ends: what lies between is compiled once, and not for each source with each sink.
        let readings = input.begin(flow, &window).name("readings");
        output.end(averages(readings, &window, deduplicate.as_ref()));
        if let Some(path) = &dead_letters.path {
            flow.dead_letters().sink_as("dead letters", FileSink::new(path, JsonLines).append());
        }
    })
}

/// Readings with their event time.
pub(crate) fn begin<S: SourceSpec<Item = Reading>>(
    source: S,
    flow: &Flow,
    window: &Window,
) -> BoxedStream<Reading> {
    let watermarks = Watermarks::bounded_out_of_orderness(window.out_of_orderness)
        .timestamps(|reading: &Reading| reading.time)
        .idle_after(window.idle_after)
        .clock_guard(window.clock_guard);
    flow.source_as("source", source, watermarks).boxed()
}

/// Drops what has been sent twice, if readings are numbered, and adds up the windows: on the same shards, by one key.
fn averages(
    readings: BoxedStream<Reading>,
    window: &Window,
    deduplicate: Option<&Deduplicate>,
) -> BoxedStream<Row> {
    let readings = readings.key_by(|reading| reading.key.clone());
    let windows = Tumbling::of(window.size);
    let stats = Stats::of(|reading: &Reading| reading.value);
    let windows = match deduplicate {
        None => readings.window(windows).aggregate(stats).boxed(),
        Some(Deduplicate { window, .. }) => {
            let news = readings.deduplicate_within(*window, |reading| reading.number);
            news.uid("deduplicate").window(windows).aggregate(stats).boxed()
        }
    };
    windows.uid("windows").map(Row::from).name("rows").boxed()
}

/// Ends the results in `sink`. Its stable name is the job's own, so that a broker may move without taking state along.
pub(crate) fn end(rows: BoxedStream<Row>, sink: impl SinkSpec<Row>) {
    rows.sink_as("sink", sink);
}
