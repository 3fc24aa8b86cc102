//! The job of the demonstration, as a user would write it. It has statistics of each device over
//! one-second windows, and an alert back to MQTT for a device that is too hot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thalweg_flow::{Stats, StatsValue, Tumbling, Watermarks, Windowed};
use thalweg_format::{Json, JsonLines};
use thalweg_kernel::{Str, Timestamp};
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource};
use thalweg_runtime::{Job, Snapshot};

/// An average above this raises an alert, in degrees Celsius.
pub(super) const TOO_HOT: f64 = 80.0;
const WINDOW: Duration = Duration::from_secs(1);
/// The fleet's disorder is two seconds at most; the rest is for the network.
const OUT_OF_ORDERNESS: Duration = Duration::from_millis(2_500);
const IDLE_AFTER: Duration = Duration::from_secs(3);

/// What the job reads of a device's message; `device` comes from the topic.
#[derive(Clone, Debug, Deserialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

/// What is published for a device that is too hot.
#[derive(Clone, Debug, Serialize)]
struct Alert {
    device: Str,
    avg: f64,
    window_end: Timestamp,
}

/// One device's second.
pub(super) type Row = Windowed<Str, StatsValue>;

/// What became of the readings, counted beside the engine's own metrics.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) in_windows: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) alerts: AtomicU64,
}

impl Counts {
    /// Messages that the engine has taken in, whatever became of them.
    pub(super) fn received(&self, metrics: &Snapshot) -> u64 {
        metrics.of("readings", "numRecordsOut") + metrics.total("numDeadLetters")
    }
}

/// The job. Rows are offered to `rows` for display; `subscribed` is set once the broker has confirmed
/// the subscription.
pub(super) fn job(
    broker: &MqttConfig,
    prefix: &str,
    counts: &Arc<Counts>,
    rows: &flume::Sender<Row>,
    subscribed: &Arc<AtomicBool>,
) -> Job {
    let subscribed = Arc::clone(subscribed);
    let source = MqttSource::new(broker.clone(), Json::<Reading>::new())
        .topic(format!("{prefix}/{{device}}/temp"))
        .on_subscribed(move || subscribed.store(true, Ordering::Release));
    let alerts = format!("{prefix}/alerts/");
    let (counts, rows, broker) = (Arc::clone(counts), rows.clone(), broker.clone());
    Job::new("demo", move |flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(OUT_OF_ORDERNESS)
            .timestamps(|reading: &Reading| reading.ts)
            .idle_after(IDLE_AFTER);
        let (windows, late) = flow
            .source(source.clone(), watermarks)
            .name("readings")
            .key_by(|reading| reading.device.clone())
            .window(Tumbling::of(WINDOW))
            .late_output();
        let counted = Arc::clone(&counts);
        late.inspect(move |_, _| add(&counted.late, 1)).name("late").discard();

        let (counted, rows) = (Arc::clone(&counts), rows.clone());
        let statistics = windows.aggregate(Stats::of(|reading: &Reading| reading.temp));
        let [shown, watched] = statistics.name("averages").split();
        shown
            .inspect(move |_, row: &Row| {
                add(&counted.rows, 1);
                add(&counted.in_windows, row.value.count);
                // A view that lags misses rows; the counts above do not.
                let _ = rows.try_send(row.clone());
            })
            .name("view")
            .discard();

        let (counted, alerts) = (Arc::clone(&counts), alerts.clone());
        watched
            .filter(|row| row.value.avg > TOO_HOT)
            .map(|row| Alert { device: row.key, avg: row.value.avg, window_end: row.end })
            .inspect(move |_, _| add(&counted.alerts, 1))
            .name("alerts")
            .sink(MqttSink::new(
                broker.clone(),
                move |alert: &Alert, topic: &mut String| topic.extend([&*alerts, &*alert.device]),
                JsonLines,
            ));
    })
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
