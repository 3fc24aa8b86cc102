//! The events as JSON through a broker, at a rate; the job in the measured process, publisher and
//! broker outside of it.
//!
//! An event is due `i / rate` seconds after the beginning. That is its event time, by this machine's
//! clock, and stands in it to the microsecond as one more field, `"due_us":"…"`. Two latencies:
//!
//! | keys | what |
//! |---|---|
//! | `p50_us` ... `max_us` | **of an event**: from when it was due until the end of a branch of the job without window (source, filter, split, sink) has it; views only |
//! | `ysb_p50_us`, `ysb_p99_us`, `ysb_max_us` | **of a row, as the benchmark defines it**: from the end of its window until it is written. It waits for the next event, which must come before anyone can know that the window is complete |
//!
//! What the publisher and the broker take is in both; how late the publisher was is reported beside
//! them. The first fifth of the run, a second at the most, is not recorded, and neither are rows that
//! the end of the job completes. All rows are counted, and checked.
//!
//! Both clocks are one as long as all processes are on this machine; a broker elsewhere does not matter. The clock
//! must not be set during a run.

pub mod publish;

use std::io::{Read, Write, stdin, stdout};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde::Deserialize;
use thalweg::flow::Flow;
use thalweg::mqtt::Qos;
use thalweg::prelude::*;

use super::json::{campaign_of_ad, decimal};
use super::line::{Delivery, Latency, Line};
use super::spec::Spec;
use super::watch::{Observe, Watched};
use super::workload::{Answer, EventType};
use crate::quantiles::Durations;
use crate::report::Meter;
use crate::spin;

/// The window through a broker, unless asked otherwise.
pub const WINDOW_MS: i64 = 1_000;

/// What the measured process prints when events may come.
pub const SUBSCRIBED: &str = "subscribed";

/// Where the events are.
const TOPIC: &str = "thalweg-bench/yahoo";

/// How long the source may take to subscribe.
const SUBSCRIBED_MAX: Duration = Duration::from_secs(10);

/// After the last event was sent, silence for this long means that the rest is lost.
const SILENCE: Duration = Duration::from_secs(10);

/// Microseconds since the epoch, by this machine's clock.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// When event `i` is due, in microseconds since the epoch.
pub fn due_us(begun_us: i64, rate: u64, i: u64) -> i64 {
    begun_us + (u128::from(i) * 1_000_000 / u128::from(rate.max(1))) as i64
}

/// What the job reads of an event.
#[derive(Clone, Deserialize)]
struct Sent {
    ad_id: Str,
    event_type: EventType,
    #[serde(deserialize_with = "decimal")]
    event_time: i64,
    #[serde(deserialize_with = "decimal")]
    due_us: i64,
}

/// Which latencies are recorded: what follows from the first event that came.
struct Recorded {
    /// When the first event was due; `i64::MAX` until it came.
    begun_us: AtomicI64,
    /// What is due so soon after is not recorded.
    warm_up_us: i64,
    /// The last event is due this long after.
    last_us: i64,
}

/// What the sinks have seen.
struct Seen {
    answer: Answer,
    rows: Durations,
    events: Durations,
}

/// Both observers: how late rows and events are by the clock.
struct Clock {
    recorded: Arc<Recorded>,
    window_ms: i64,
    seen: Seen,
    all: Arc<Mutex<Seen>>,
}

impl Clock {
    fn fresh() -> anyhow::Result<Seen> {
        Ok(Seen { answer: Answer::default(), rows: Durations::new()?, events: Durations::new()? })
    }
}

impl Clone for Clock {
    fn clone(&self) -> Self {
        // Made before anything is seen, so there is nothing to count twice.
        let Seen { answer, rows, events } = &self.seen;
        Self {
            recorded: Arc::clone(&self.recorded),
            window_ms: self.window_ms,
            seen: Seen { answer: *answer, rows: rows.clone(), events: events.clone() },
            all: Arc::clone(&self.all),
        }
    }
}

impl Observe<Windowed<u64, u64>> for Clock {
    fn see(&mut self, row: Windowed<u64, u64>) {
        let now = now_us();
        self.seen.answer.add(row.key, row.start.as_millis(), self.window_ms, row.value);
        let Recorded { begun_us, warm_up_us, last_us } = &*self.recorded;
        let end_us = row.end.as_millis() * 1_000;
        let after = end_us.saturating_sub(begun_us.load(Ordering::Relaxed));
        if (*warm_up_us..=*last_us).contains(&after) {
            self.seen.rows.record(since(end_us, now));
        }
    }
}

impl Observe<i64> for Clock {
    fn see(&mut self, due_us: i64) {
        let now = now_us();
        let begun_us = self.recorded.begun_us.load(Ordering::Relaxed);
        if due_us.saturating_sub(begun_us) >= self.recorded.warm_up_us {
            self.seen.events.record(since(due_us, now));
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.answer.merge(&self.seen.answer);
        all.rows.add(&self.seen.rows);
        all.events.add(&self.seen.events);
    }
}

fn since(then_us: i64, now_us: i64) -> Duration {
    Duration::from_micros(u64::try_from(now_us - then_us).unwrap_or_default())
}

/// Runs the job, in this process. It prints [`SUBSCRIBED`] when events may come. It ends when it has seen all of
/// them, or when standard input is closed and nothing comes any more.
///
/// # Errors
/// If the job fails, or nothing arrives.
pub fn run(spec: &Spec) -> anyhow::Result<Line> {
    let rate = spec.rate.unwrap_or_default();
    let noise_time = Duration::from_millis(spec.noise_ms);
    let mut noise = spin::open_loops(spec.cores, rate, noise_time)?;

    let last_us = due_us(0, rate, spec.events.saturating_sub(1));
    let recorded = Arc::new(Recorded {
        begun_us: AtomicI64::new(i64::MAX),
        warm_up_us: (last_us / 5).min(1_000_000),
        last_us,
    });
    let all = Arc::new(Mutex::new(Clock::fresh()?));
    let clock = Clock {
        recorded: Arc::clone(&recorded),
        window_ms: spec.window_ms,
        seen: Clock::fresh()?,
        all: Arc::clone(&all),
    };
    let (subscribed, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let job = describe(spec, clock, &recorded, &subscribed, &arrived)?;
    let meter = Meter::start();
    let (config, _state) = spec.config()?;
    let running = job.start(&config)?;
    let deadline = Instant::now() + SUBSCRIBED_MAX;
    while !subscribed.load(Ordering::Acquire) {
        if running.is_finished() || Instant::now() > deadline {
            running.stop();
            running.wait()?;
            bail!("the job did not subscribe within {SUBSCRIBED_MAX:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    println!("{SUBSCRIBED}");
    stdout().flush()?;
    wait_for_all(spec.events, &arrived)?;
    running.stop();
    running.wait()?;
    let spent = meter.stop();

    noise.add(&spin::open_loops(spec.cores, rate, noise_time)?);
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let mut line = spec.line(&all.answer, spent)?;
    line.latency = Some(Latency::new(rate, &all.events, &noise)?);
    line.broker = Some(Delivery {
        qos: spec.qos,
        broker: String::new(),
        missing: spec.events.saturating_sub(arrived.load(Ordering::Relaxed)),
        sender_p99_us: 0.0,
        ysb_recorded: all.rows.len(),
        ysb_p50_us: all.rows.micros_at(0.5),
        ysb_p99_us: all.rows.micros_at(0.99),
        ysb_max_us: all.rows.micros_at(1.0),
    });
    Ok(line)
}

fn describe(
    spec: &Spec,
    clock: Clock,
    recorded: &Arc<Recorded>,
    subscribed: &Arc<AtomicBool>,
    arrived: &Arc<AtomicU64>,
) -> anyhow::Result<Job> {
    let (host, port) = spec.broker.clone().context("mode mqtt needs a broker")?;
    let qos = if spec.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
    let broker = MqttConfig::new(&host).port(port).qos(qos);
    let window = spec.window();
    let (recorded, subscribed) = (Arc::clone(recorded), Arc::clone(subscribed));
    let (arrived, clock) = (Arc::clone(arrived), Mutex::new(clock));
    Ok(Job::new("yahoo", move |flow: &Flow| {
        let clock = clock.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let subscribed = Arc::clone(&subscribed);
        let source = MqttSource::new(broker.clone(), Json::<Sent>::new())
            .topic(TOPIC)
            .on_subscribed(move || subscribed.store(true, Ordering::Release));
        let (recorded, arrived) = (Arc::clone(&recorded), Arc::clone(&arrived));
        let mut count = 0;
        let campaigns = campaign_of_ad();
        let [views, times] = flow
            .source(source, Watermarks::monotonous().timestamps(|event: &Sent| event.event_time))
            .inspect(move |_time, event| {
                if count == 0 {
                    recorded.begun_us.store(event.due_us, Ordering::Relaxed);
                }
                count += 1;
                arrived.store(count, Ordering::Relaxed);
            })
            .filter(|event| event.event_type == EventType::View)
            .split();
        times.map(|event| event.due_us).sink(Watched(clock.clone()));
        views
            .map(|event| (event.ad_id, event.event_time))
            .map(move |(ad_id, event_time)| (campaigns[&ad_id], event_time))
            .key_by(|&(campaign_id, _)| campaign_id)
            .window(Tumbling::of(window))
            .aggregate(Count)
            .sink(Watched(clock));
    }))
}

/// Waits until all events have arrived, or will not any more.
fn wait_for_all(events: u64, arrived: &AtomicU64) -> anyhow::Result<()> {
    let all_sent = Arc::new(AtomicBool::new(false));
    let sent = Arc::clone(&all_sent);
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let _closed = stdin().read_to_end(&mut Vec::new());
        sent.store(true, Ordering::Release);
    })?;
    let (mut so_far, mut heard) = (0, Instant::now());
    while so_far < events {
        thread::sleep(Duration::from_millis(10));
        let now = arrived.load(Ordering::Relaxed);
        if now > so_far || !all_sent.load(Ordering::Acquire) {
            (so_far, heard) = (now, Instant::now());
        } else if heard.elapsed() > SILENCE {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_equal_distances() {
        assert_eq!(due_us(5, 1_000, 3), 3_005);
        assert_eq!(due_us(0, 3, 4), 1_333_333);
        assert_eq!(since(5, 3), Duration::ZERO);
        assert_eq!(since(3, 5), Duration::from_micros(2));
    }
}
