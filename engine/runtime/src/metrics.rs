//! Publishing the shards' numbers. They go from plain cells to a board that the job's handle reads, and to the `metrics`
//! facade, which Prometheus scrapes. That happens at most a second after they have changed, and not while a shard sleeps.
//!
//! Names are Flink's with the prefix `thalweg_`; labels are the job, the operator with its number,
//! the shard, and the cause of dead letters. There is never a label per key.
//!
//! The endpoint takes a series that was not published for [`IDLE_AFTER`] for one of a job that has ended, and forgets
//! it. So a process that runs one job after the other does not gather their series. Where there is an endpoint, shards
//! therefore publish all they have each [`REPUBLISH_EVERY`], changed or not.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Label, counter, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::MetricKindMask;
use thalweg_flow::{Metric, MetricKind, Shard};
use thalweg_kernel::time::millis;
use thalweg_kernel::{DeadLetter, Epoch, Str, Timestamp};

/// A series that was not published for so long is one of a job that has ended.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// How often a shard publishes while it moves.
pub(crate) const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// How often a shard publishes where metrics are served: twice before its series would be forgotten.
pub(crate) const REPUBLISH_EVERY: Duration = Duration::from_secs(25);

/// The log says at most once in this time how many dead letters have come.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Whether this process serves metrics.
static SERVED: AtomicBool = AtomicBool::new(false);

/// Whether this process serves metrics.
pub(crate) fn is_served() -> bool {
    SERVED.load(Ordering::Relaxed)
}

/// One number of one operator on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSample {
    /// Flink's name: `numRecordsIn`.
    pub name: &'static str,
    /// The operator.
    pub operator: Str,
    /// Its number in the job graph.
    pub operator_id: u32,
    /// The cause, for dead letters.
    pub label: Option<(&'static str, &'static str)>,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// The shard.
    pub shard: usize,
    /// The value; watermarks are milliseconds since the epoch.
    pub value: i64,
    /// When the shard published it; where it has not changed since, the time of the [`Snapshot`].
    pub published: Timestamp,
}

/// The checkpoints of a job so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// The newest epoch that is stored.
    pub newest: Epoch,
    /// How many were stored since the job was started.
    pub completed: u64,
    /// How many were not complete in time.
    pub failed: u64,
    /// How long the newest took, from its beginning until it was stored.
    pub duration: Duration,
    /// The bytes that the newest has changed.
    pub bytes: u64,
    /// How often the job was started again after a failure.
    pub restarts: u64,
    /// The epoch that the job was resumed from at its start, or restart.
    pub restored: Option<Epoch>,
}

/// The metrics of a job at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(pub Vec<MetricSample>);

impl Snapshot {
    /// The sum of a counter over all operators and shards.
    pub fn total(&self, name: &str) -> u64 {
        self.sum(|sample| sample.name == name)
    }

    /// The sum of a counter of one operator over all shards.
    pub fn of(&self, operator: &str, name: &str) -> u64 {
        self.sum(|sample| sample.name == name && sample.operator == operator)
    }

    /// Dead letters by cause, those that occurred.
    pub fn dead_letters(&self) -> Vec<(&'static str, u64)> {
        let mut causes: Vec<(&str, u64)> = Vec::new();
        for sample in self.0.iter().filter(|sample| sample.name == "numDeadLetters") {
            let Some((_, cause)) = sample.label else { continue };
            match causes.iter_mut().find(|(known, _)| *known == cause) {
                Some((_, count)) => *count += sample.value as u64,
                None => causes.push((cause, sample.value as u64)),
            }
        }
        causes.retain(|&(_, count)| count > 0);
        causes
    }

    /// How far the watermark of a source called `operator` was behind the clock when it was published, in milliseconds. If
    /// it has not changed since, how far behind it was at the time of this snapshot. `None` before the first record and after the last.
    pub fn watermark_lag_ms(&self, operator: &str) -> Option<i64> {
        let watermarks = self.0.iter().filter(|sample| {
            sample.name == "currentOutputWatermark" && sample.operator == operator
        });
        let lag = |sample: &MetricSample| match Timestamp::from_millis(sample.value) {
            Timestamp::MIN | Timestamp::MAX => None,
            watermark => Some(sample.published.ms_since(watermark)),
        };
        watermarks.filter_map(lag).max()
    }

    fn sum(&self, matches: impl Fn(&MetricSample) -> bool) -> u64 {
        let counters = self.0.iter().filter(|sample| sample.kind == MetricKind::Counter);
        counters.filter(|sample| matches(sample)).map(|sample| sample.value as u64).sum()
    }
}

/// Where the shards of a job leave their numbers for its handle.
pub(crate) struct Board(Vec<Mutex<Vec<MetricSample>>>);

impl Board {
    pub(crate) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Mutex::default()).collect())
    }

    pub(crate) fn post(&self, shard: usize, metrics: &[Metric], published: Timestamp) {
        let Some(place) = self.0.get(shard) else { return };
        let mut samples = place.lock().unwrap_or_else(PoisonError::into_inner);
        samples.clear();
        samples.extend(metrics.iter().map(|metric| MetricSample {
            name: metric.name,
            operator: metric.operator.clone(),
            operator_id: metric.operator_id,
            label: metric.label,
            kind: metric.kind,
            shard,
            value: metric.value(),
            published,
        }));
    }

    /// What was published; `now` is the time, while the job runs.
    pub(crate) fn snapshot(&self, now: Option<Timestamp>) -> Snapshot {
        let shards = self.0.iter();
        let samples = shards.map(|place| place.lock().unwrap_or_else(PoisonError::into_inner));
        let mut samples: Vec<_> = samples.flat_map(|samples| samples.clone()).collect();
        if let Some(now) = now {
            // Whoever has moved has published by then.
            let unchanged = now.minus_ms(2 * millis(PUBLISH_EVERY));
            let old = samples.iter_mut().filter(|sample| sample.published < unchanged);
            old.for_each(|sample| sample.published = now);
        }
        Snapshot(samples)
    }
}

enum Handle {
    /// With what has been published of it: a job of the same name may have counted before.
    Counter(Counter, i64),
    Gauge(Gauge),
}

/// One shard's handles in the `metrics` facade, made once.
pub(crate) struct Publisher {
    handles: Vec<Handle>,
    dead_letters_logged: u64,
    /// One of which the log has not spoken, and when it may speak again, in steady time.
    dead_letter: Option<DeadLetter>,
    tell_at: Duration,
}

impl Publisher {
    pub(crate) fn new(job: &str, shard: usize, metrics: &[Metric]) -> Self {
        let handle = |metric: &Metric| {
            let mut labels = vec![
                Label::new("job", job.to_owned()),
                Label::new("operator", metric.operator.to_string()),
                Label::new("shard", shard.to_string()),
            ];
            if metric.operator_id != u32::MAX {
                labels.push(Label::new("operator_id", metric.operator_id.to_string()));
            }
            labels.extend(metric.label.map(|(key, value)| Label::new(key, value)));
            let name = format!("thalweg_{}", metric.name);
            match metric.kind {
                MetricKind::Counter => Handle::Counter(counter!(name, labels), 0),
                MetricKind::Gauge => Handle::Gauge(gauge!(name, labels)),
            }
        };
        Self {
            handles: metrics.iter().map(handle).collect(),
            dead_letters_logged: 0,
            dead_letter: None,
            tell_at: Duration::ZERO,
        }
    }

    /// Publishes the numbers of `shard`, and logs how many dead letters have come, at most once a minute. When there is
    /// something to log, in steady time.
    pub(crate) fn publish(&mut self, shard: &Shard, now: Duration) -> Option<Duration> {
        for (handle, metric) in self.handles.iter_mut().zip(shard.metrics()) {
            match handle {
                Handle::Counter(counter, published) => {
                    let before = std::mem::replace(published, metric.value());
                    counter.increment((metric.value() - before) as u64);
                }
                Handle::Gauge(gauge) => gauge.set(metric.value() as f64),
            }
        }
        self.dead_letter = shard.take_latest_dead_letter().or_else(|| self.dead_letter.take());
        if now >= self.tell_at && self.tell(shard) {
            self.tell_at = now.saturating_add(TELL_EVERY);
        }
        self.dead_letter.is_some().then_some(self.tell_at)
    }

    /// Logs how many dead letters have come since that was logged last, with an example; whether there were any.
    pub(crate) fn tell(&mut self, shard: &Shard) -> bool {
        let Some(letter) = self.dead_letter.take() else { return false };
        let dead = shard.metrics().iter().filter(|metric| metric.name == "numDeadLetters");
        let total = dead.map(|metric| metric.value() as u64).sum::<u64>();
        let new = total - std::mem::replace(&mut self.dead_letters_logged, total);
        tracing::warn!(new, total, latest = %letter, "dead letters");
        true
    }
}

/// A job's own numbers in the `metrics` facade: those of its checkpoints and restarts.
pub(crate) struct JobPublisher {
    completed: Counter,
    failed: Counter,
    restarts: Counter,
    duration: Gauge,
    bytes: Gauge,
    /// What was published.
    before: CheckpointStats,
}

impl JobPublisher {
    pub(crate) fn new(job: &str) -> Self {
        let job = || job.to_owned();
        Self {
            completed: counter!("thalweg_numberOfCompletedCheckpoints", "job" => job()),
            failed: counter!("thalweg_numberOfFailedCheckpoints", "job" => job()),
            restarts: counter!("thalweg_numRestarts", "job" => job()),
            duration: gauge!("thalweg_lastCheckpointDuration", "job" => job()),
            bytes: gauge!("thalweg_lastCheckpointSize", "job" => job()),
            before: CheckpointStats::default(),
        }
    }

    pub(crate) fn publish(&mut self, stats: CheckpointStats) {
        let before = std::mem::replace(&mut self.before, stats);
        self.completed.increment(stats.completed - before.completed);
        self.failed.increment(stats.failed - before.failed);
        self.restarts.increment(stats.restarts - before.restarts);
        self.duration.set(stats.duration.as_secs_f64() * 1e3);
        self.bytes.set(stats.bytes as f64);
    }
}

/// The Prometheus endpoint could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {reason}")]
pub struct PrometheusError {
    address: SocketAddr,
    reason: String,
}

/// Serves the metrics of this process as Prometheus text at `http://{address}/metrics`. Returns the
/// address, with the port that was taken if `address` left that open with 0.
///
/// # Errors
/// If the port is taken, or metrics are being served already.
pub fn serve_prometheus(address: SocketAddr) -> Result<SocketAddr, PrometheusError> {
    let refused = |reason: String| PrometheusError { address, reason };
    // The exporter does not tell which port it got, so a free one is found first.
    let free = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    let bound = free
        .map_err(|error| refused(format!("{error}; choose another port, or 0 for any free one")))?;
    exporter(IDLE_AFTER)
        .with_http_listener(bound)
        .install()
        .map_err(|error| refused(error.to_string()))?;
    SERVED.store(true, Ordering::Relaxed);
    Ok(bound)
}

fn exporter(idle_after: Duration) -> PrometheusBuilder {
    PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(idle_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a source that is silent falls behind the clock in what is read of it, although its shard publishes nothing.
    #[test]
    fn a_lag_grows_while_nothing_is_published() {
        let (board, flow) = (Board::new(1), "readings");
        let lag = |at: i64, job_runs: bool| {
            let now = job_runs.then_some(Timestamp::from_millis(at));
            board.snapshot(now).watermark_lag_ms(flow)
        };
        board.0[0].lock().unwrap().push(MetricSample {
            name: "currentOutputWatermark",
            operator: flow.into(),
            operator_id: 0,
            label: None,
            kind: MetricKind::Gauge,
            shard: 0,
            value: 900,
            published: 1_000.into(),
        });
        assert_eq!((lag(1_500, true), lag(3_000, true)), (Some(100), Some(100)));
        assert_eq!((lag(3_001, true), lag(90_000, true)), (Some(2_101), Some(89_100)));
        assert_eq!(lag(90_000, false), Some(100), "the job has ended");
    }

    /// Goal: what a job has registered goes when the job has ended, and what is published stays, changed or not.
    #[test]
    fn series_of_jobs_that_have_ended_are_forgotten() {
        let recorder = exporter(Duration::from_millis(300)).build_recorder();
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            let mut lives = JobPublisher::new("lives");
            for number in 0..50 {
                let stats = CheckpointStats { completed: 3, ..CheckpointStats::default() };
                JobPublisher::new(&format!("ended {number}")).publish(stats);
                lives.publish(stats);
            }
            let series = || handle.render().lines().filter(|line| line.contains("job=")).count();
            assert_eq!(series(), 51 * 5);
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(100));
                lives.publish(CheckpointStats { completed: 3, ..CheckpointStats::default() });
                let _scraped = series();
            }
            assert_eq!(series(), 5, "{}", handle.render());
            assert!(
                handle.render().contains("Checkpoints{job=\"lives\"} 3"),
                "{}",
                handle.render()
            );
        });
    }
}
