//! The job of `thalweg run`: count, average, minimum and maximum of one field, per key, over
//! tumbling windows of event time. It goes from a broker or files to a sink.

pub(crate) mod reading;
mod repetitions;
pub(crate) mod row;

use std::sync::Arc;

use thalweg_file::FileSink;
use thalweg_flow::{AtEnd, BoxedStream, Stats, Tumbling};
use thalweg_format::JsonLines;
use thalweg_runtime::Job;

use self::reading::Reading;
use self::repetitions::Repetitions;
use self::row::Row;
use crate::control;
use crate::registry::Output;
use crate::settings::{Deduplicate, Settings, Window};
use crate::shutdown::Shutdown;
use crate::status::Reporter;

/// Runs the job until it ends or a signal drains it.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let config = settings.runtime()?;
    let state = settings.state.as_ref().map(|state| state.dir.clone());
    let at_end = settings.at_end;
    let keeps_dead_letters = settings.dead_letters.path.is_some();
    let log_every = settings.metrics.log_every;
    if settings.forgets_windows {
        tracing::warn!(
            "without [state] windows begin anew at each start: after a restart in the middle of a window, its row in the sink is \
             replaced by one of what has come since"
        );
    }
    let sinks = settings.outputs.len();
    let shutdown = Shutdown::watch();
    let running = Arc::new(job(settings).start(&config)?);
    let reporter = Reporter::start(&running, log_every);
    let _watch = shutdown.ends_and_prints(&running, reporter);
    let control = control::beside(state.as_deref(), &running);
    let metrics = running.join()?;
    drop(control);
    let dead_letters = metrics.total("numDeadLetters");
    // `rows` is fused to the windows and counts nothing of its own; the sinks do.
    let counted = metrics
        .0
        .iter()
        .filter(|sample| sample.name == "numRecordsIn" && sample.operator.starts_with("Sink: "));
    let written = counted.map(|sample| sample.value as u64).sum::<u64>();
    let written = if keeps_dead_letters { written.saturating_sub(dead_letters) } else { written };
    // Each sink gets each row.
    let rows = written / sinks.max(1) as u64;
    tracing::info!(
        records = metrics.of("readings", "numRecordsOut"),
        late = metrics.total("numLateRecordsDropped"),
        dead_letters,
        rows,
        repeated = metrics.total("numRepetitionsDropped"),
        "job ended"
    );
    if at_end == AtEnd::Suspend {
        tracing::info!(
            "windows that are not over have given no row: they stay open in the state, and the next start goes on with them \
             ([window] at_end = \"finish\" writes them)"
        );
    }
    Ok(())
}

/// The job that `settings` describe.
pub(crate) fn job(settings: Settings) -> Job {
    let Settings { name, input, window, at_end, deduplicate, outputs, dead_letters, .. } = settings;
    let repetitions = Repetitions::default();
    Job::new(&name, move |flow| {
        flow.at_end(at_end);
        // Behind pointers at both ends: what lies between is compiled once, and not for each source with each sink.
        let readings = input.begin(flow, &window).name("readings");
        Output::end_all(&outputs, averages(readings, &window, deduplicate.as_ref(), &repetitions));
        if let Some(path) = &dead_letters.path {
            let file = FileSink::new(path, JsonLines).append();
            flow.dead_letters().sink_as("dead letters", file.rotate_at(dead_letters.bytes_max / 2));
        }
    })
}

/// Drops what has been sent twice, if readings are numbered, and adds up the windows: on the same shards, by one key.
fn averages(
    readings: BoxedStream<Reading>,
    window: &Window,
    deduplicate: Option<&Deduplicate>,
    repetitions: &Repetitions,
) -> BoxedStream<Row> {
    let readings = readings.key_by(|reading| reading.key.clone());
    let windows = Tumbling::of(window.size);
    let stats = Stats::of(|reading: &Reading| reading.value);
    let windows = match deduplicate {
        None => readings.window(windows).aggregate(stats).boxed(),
        Some(deduplicate) => {
            let repetitions = repetitions.clone();
            let tell = move |key: &_, what| repetitions.tell(key, what);
            let news =
                readings.deduplicate_by(deduplicate.numbers(), |reading| reading.number, tell);
            news.uid("deduplicate").window(windows).aggregate(stats).boxed()
        }
    };
    windows.uid("windows").map(Row::from).name("rows").boxed()
}
