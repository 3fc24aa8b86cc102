//! What an operator sees of a running job: [`Status`]. `thalweg status` prints it, and on SIGUSR1 the job does, to standard
//! error. The log tells its essence once a minute while anything moves ([`Reporter`]).
//!
//! All of it comes from numbers that the shards have published anyway, so looking costs them nothing. They publish about once a
//! second: rates are taken over the time between what was published, and not between the looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thalweg_kernel::Timestamp;
use thalweg_runtime::{Running, wall_clock};

/// The shortest time that rates are taken over.
pub(crate) const RATE_OVER: Duration = Duration::from_secs(3);

/// One published number.
struct Sample<'a> {
    name: &'a str,
    operator: &'a str,
    cause: Option<&'a str>,
    value: f64,
    /// When, in milliseconds since 1970.
    published: i64,
}

/// What a job has done so far, and how far it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Records that its sources have read, since it was started.
    pub records: u64,
    /// Results that its sinks were given.
    pub results: u64,
    /// Records that came too late for their windows.
    pub late: u64,
    /// Records that came again, and were known by their numbers.
    pub repeated: u64,
    /// Dead letters by cause.
    pub dead_letters: BTreeMap<String, u64>,
    /// How far event time is behind the clock, in milliseconds, of the source that is furthest behind; none before the first
    /// record.
    pub watermark_lag_ms: Option<i64>,
    /// The checkpoints since the job was started.
    pub checkpoints: u64,
    /// Those that were not complete in time.
    pub checkpoints_failed: u64,
    /// How long the newest took, in milliseconds.
    pub checkpoint_ms: f64,
    /// The bytes that the newest has changed.
    pub checkpoint_bytes: u64,
    /// How often the job was started again after a failure.
    pub restarts: u64,
    /// When records, and results, were published, on average over shards, in milliseconds since 1970. A look before anything was
    /// published has the time of the look.
    records_at: f64,
    results_at: f64,
}

impl Status {
    /// The status of a running job.
    pub fn of(running: &Running) -> Self {
        let snapshot = running.snapshot();
        let samples = snapshot.0.iter().map(|sample| Sample {
            name: sample.name,
            operator: &sample.operator,
            cause: sample.label.map(|(_, cause)| cause),
            value: sample.value as f64,
            published: sample.published.as_millis(),
        });
        let mut status = Self::gathered(samples, wall_clock().as_millis() as f64);
        let stats = running.checkpoints();
        status.checkpoints = stats.completed;
        status.checkpoints_failed = stats.failed;
        status.checkpoint_ms = stats.duration.as_secs_f64() * 1e3;
        status.checkpoint_bytes = stats.bytes;
        status.restarts = stats.restarts;
        status
    }

    /// The status of the job whose metrics are `text`, as Prometheus reads it, at the time `now`.
    pub fn of_prometheus(text: &str, now: Timestamp) -> Self {
        let lines = text.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("thalweg_")?.split_once('{')?;
            let (labels, value) = rest.rsplit_once("} ")?;
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            Some(Sample {
                name,
                operator: label("operator").unwrap_or_default(),
                cause: label("cause"),
                value: value.trim().parse().ok()?,
                published: now.as_millis(),
            })
        });
        Self::gathered(lines, now.as_millis() as f64)
    }

    fn gathered<'a>(samples: impl Iterator<Item = Sample<'a>>, now: f64) -> Self {
        let samples: Vec<_> = samples.collect();
        // Whoever makes watermarks is a source.
        let makers = samples.iter().filter(|sample| sample.name == "currentOutputWatermark");
        let makers: BTreeSet<_> = makers.map(|sample| sample.operator).collect();
        let mut status = Self::default();
        let (mut sources, mut sinks) = (0_u32, 0_u32);
        for sample in &samples {
            let count = sample.value as u64;
            match sample.name {
                "numRecordsOut" if makers.contains(sample.operator) => {
                    status.records += count;
                    status.records_at += sample.published as f64;
                    sources += 1;
                }
                "numRecordsIn"
                    if sample.operator.starts_with("Sink: ")
                        && !sample.operator.contains("dead letters") =>
                {
                    status.results += count;
                    status.results_at += sample.published as f64;
                    sinks += 1;
                }
                "numLateRecordsDropped" => status.late += count,
                "numRepetitionsDropped" => status.repeated += count,
                "numDeadLetters" if count > 0 => {
                    let cause = sample.cause.unwrap_or("unknown").to_owned();
                    *status.dead_letters.entry(cause).or_default() += count;
                }
                "currentOutputWatermark" => {
                    let watermark = Timestamp::from_millis(sample.value as i64);
                    if watermark > Timestamp::MIN && watermark < Timestamp::from_millis(1 << 53) {
                        let lag = sample.published - watermark.as_millis();
                        status.watermark_lag_ms = status.watermark_lag_ms.max(Some(lag));
                    }
                }
                "numberOfCompletedCheckpoints" => status.checkpoints = count,
                "numberOfFailedCheckpoints" => status.checkpoints_failed = count,
                "lastCheckpointDuration" => status.checkpoint_ms = sample.value,
                "lastCheckpointSize" => status.checkpoint_bytes = count,
                "numRestarts" => status.restarts = count,
                _ => {}
            }
        }
        let mean = |sum: f64, count: u32| if count == 0 { now } else { sum / f64::from(count) };
        status.records_at = mean(status.records_at, sources);
        status.results_at = mean(status.results_at, sinks);
        status
    }

    /// Records and results a second since `before`.
    fn rates(&self, before: &Self) -> (f64, f64) {
        let rate = |now: u64, before: u64, at: f64, was_at: f64| {
            if at > was_at {
                now.saturating_sub(before) as f64 / ((at - was_at) / 1e3)
            } else {
                0.0
            }
        };
        (
            rate(self.records, before.records, self.records_at, before.records_at),
            rate(self.results, before.results, self.results_at, before.results_at),
        )
    }

    fn dead(&self) -> u64 {
        self.dead_letters.values().sum()
    }

    /// One line with what has happened since `before`.
    pub(crate) fn line(&self, before: &Self) -> String {
        let (records, results) = self.rates(before);
        let mut text = format!("{} records/s in, {} results/s out", Rate(records), Rate(results));
        let mut news = |name: &str, now: u64, before: u64| {
            if now > before {
                text += &format!(", {name} {now} (+{})", now - before);
            }
        };
        news("late", self.late, before.late);
        news("dead letters", self.dead(), before.dead());
        news("repeated", self.repeated, before.repeated);
        news("failed checkpoints", self.checkpoints_failed, before.checkpoints_failed);
        news("restarts", self.restarts, before.restarts);
        if let Some(lag) = self.watermark_lag_ms {
            text += &format!(", event time {}", Behind(lag));
        }
        text
    }

    /// All of it, with rates since `before`.
    pub(crate) fn text(&self, before: &Self) -> String {
        let (records, results) = self.rates(before);
        let mut text = format!(
            "  in           {} records/s, {} in all\n  out          {} results/s, {} in all\n",
            Rate(records),
            self.records,
            Rate(results),
            self.results
        );
        text += &format!("  late         {}\n  repeated     {}\n", self.late, self.repeated);
        let causes = self.dead_letters.iter().map(|(cause, count)| format!("{cause} {count}"));
        let causes = causes.collect::<Vec<_>>().join(", ");
        let causes = if causes.is_empty() { causes } else { format!(" ({causes})") };
        text += &format!("  dead letters {}{causes}\n", self.dead());
        text += &match self.watermark_lag_ms {
            Some(lag) => format!("  event time   {}\n", Behind(lag)),
            None => "  event time   no record yet\n".into(),
        };
        if self.checkpoints + self.checkpoints_failed > 0 {
            text += &format!(
                "  checkpoints  {} stored, the newest in {:.1} ms with {} bytes; {} failed\n",
                self.checkpoints,
                self.checkpoint_ms,
                self.checkpoint_bytes,
                self.checkpoints_failed
            );
        }
        text + &format!("  restarts     {}\n", self.restarts)
    }

    /// Whether anything has moved since `before`.
    fn has_moved(&self, before: &Self) -> bool {
        let numbers = |status: &Self| {
            (status.records, status.results, status.late, status.dead(), status.restarts)
        };
        numbers(self) != numbers(before) || self.checkpoints_failed != before.checkpoints_failed
    }
}

/// A rate, with as many digits as say something.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 == 0.0 || self.0 >= 10.0 { 0 } else { 2 };
        write!(f, "{:.digits$}", self.0)
    }
}

/// How far event time is behind the clock, in milliseconds.
struct Behind(i64);

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, side) = (self.0.unsigned_abs(), if self.0 < 0 { "ahead of" } else { "behind" });
        match ms / 1000 {
            0 => write!(f, "{ms} ms {side} the clock"),
            1..120 => write!(f, "{:.1} s {side} the clock", ms as f64 / 1e3),
            secs @ 120..7_200 => write!(f, "{} min {side} the clock", secs / 60),
            secs @ 7_200..172_800 => write!(f, "{} h {side} the clock", secs / 3_600),
            secs => write!(f, "{} days {side} the clock", secs / 86_400),
        }
    }
}

enum Order {
    Print,
    End,
}

/// Tells the status of a job: to the log, and to standard error when asked. It ends when it is dropped.
pub(crate) struct Reporter {
    orders: flume::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Tells the log of `running` each `every`, if that is not zero and anything has moved.
    pub(crate) fn start(running: &Arc<Running>, every: Duration) -> Option<Self> {
        let (orders, inbox) = flume::bounded(4);
        let running = Arc::downgrade(running);
        let tell = move || tell(&running, every, &inbox);
        match thread::Builder::new().name("status".into()).spawn(tell) {
            Ok(thread) => Some(Self { orders, thread: Some(thread) }),
            Err(error) => {
                tracing::warn!(%error, "the log will not tell how the job is doing");
                None
            }
        }
    }

    /// What has the status printed to standard error.
    pub(crate) fn printer(&self) -> impl Fn() + Send + 'static {
        let orders = self.orders.clone();
        // Where several wait, one more says no more.
        move || drop(orders.try_send(Order::Print))
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let _gone = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn tell(running: &Weak<Running>, every: Duration, inbox: &flume::Receiver<Order>) {
    let Some(mut before) = running.upgrade().map(|job| Status::of(&job)) else { return };
    loop {
        let order = match every.is_zero() {
            true => inbox.recv().map_err(Into::into),
            false => inbox.recv_timeout(every),
        };
        let Some(job) = running.upgrade() else { return };
        match order {
            Ok(Order::End) | Err(flume::RecvTimeoutError::Disconnected) => return,
            Ok(Order::Print) => {
                let first = Status::of(&job);
                // Whoever asks again meanwhile is answered by this; an end does not wait for it.
                let until = Instant::now() + RATE_OVER;
                while let Ok(order) = inbox.recv_deadline(until) {
                    if matches!(order, Order::End) {
                        return;
                    }
                }
                eprint!("{}", Status::of(&job).text(&first));
            }
            Err(flume::RecvTimeoutError::Timeout) => {
                let status = Status::of(&job);
                if status.has_moved(&before) {
                    tracing::info!("{}", status.line(&before));
                }
                before = status;
            }
        }
    }
}

/// Two looks at a job, far enough apart for rates.
pub(crate) fn two_looks(job: &Running) -> (Status, Status) {
    let first = Status::of(job);
    thread::sleep(RATE_OVER);
    (first, Status::of(job))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# TYPE thalweg_numRecordsOut counter
thalweg_numRecordsOut{job="met",operator="readings",shard="0",operator_id="0"} 3000
thalweg_numRecordsOut{job="met",operator="readings",shard="1",operator_id="0"} 1000
thalweg_numRecordsOut{job="met",operator="rows",shard="1",operator_id="2"} 77
thalweg_currentOutputWatermark{job="met",operator="readings",shard="1",operator_id="0"} 97500
thalweg_currentOutputWatermark{job="met",operator="readings",shard="0",operator_id="0"} -9223372036854775808
thalweg_numRecordsIn{job="met",operator="Sink: sqlite out.db r",shard="0",operator_id="3"} 20
thalweg_numRecordsIn{job="met",operator="Sink: dead letters",shard="0",operator_id="4"} 5
thalweg_numDeadLetters{job="met",operator="Dead letters",shard="0",cause="malformed"} 3
thalweg_numDeadLetters{job="met",operator="Dead letters",shard="1",cause="malformed"} 2
thalweg_numDeadLetters{job="met",operator="Dead letters",shard="1",cause="too_deep"} 0
thalweg_numLateRecordsDropped{job="met",operator="window",shard="1",operator_id="1"} 7
thalweg_numberOfCompletedCheckpoints{job="met"} 4
thalweg_lastCheckpointDuration{job="met"} 1.406749
"#;

    #[test]
    fn metrics_say_how_a_job_is_doing() {
        let status = Status::of_prometheus(METRICS, Timestamp::from_millis(100_000));
        assert_eq!((status.records, status.results, status.late), (4_000, 20, 7));
        assert_eq!(status.dead_letters, BTreeMap::from([("malformed".into(), 5)]));
        assert_eq!((status.watermark_lag_ms, status.checkpoints), (Some(2_500), 4));
        let mut later = status.clone();
        (later.records, later.late, later.records_at) = (4_500, 9, later.records_at + 2_000.0);
        assert!(later.has_moved(&status) && !status.has_moved(&status.clone()));
        let line = later.line(&status);
        assert_eq!(
            line,
            "250 records/s in, 0 results/s out, late 9 (+2), event time 2.5 s behind the clock"
        );
        let text = later.text(&status);
        assert!(text.contains("250 records/s, 4500 in all"), "{text}");
        assert!(text.contains("dead letters 5 (malformed 5)"), "{text}");
    }

    #[test]
    fn lags_are_told_in_units_that_people_use() {
        let told = |ms| Behind(ms).to_string();
        assert_eq!(told(12), "12 ms behind the clock");
        assert_eq!(told(-2_500), "2.5 s ahead of the clock");
        assert_eq!(told(240_000), "4 min behind the clock");
        assert_eq!(told(86_400_000), "24 h behind the clock");
        assert_eq!(told(5 * 86_400_000), "5 days behind the clock");
    }
}
