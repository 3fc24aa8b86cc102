//! The job under test, as a user would write it.

use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use thalweg::prelude::*;

use super::{READINGS, RESULTS, WINDOW_MS};

/// How long the source may take to subscribe.
const SUBSCRIBED_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

/// Each device's statistics of a second; `on_subscribed` is called once readings can come.
pub fn job(broker: &MqttConfig, on_subscribed: impl Fn() + Clone + Send + Sync + 'static) -> Job {
    let broker = broker.clone();
    Job::new("devices", move |flow| {
        let readings = MqttSource::new(broker.clone(), Json::<Reading>::new())
            .topic(format!("{READINGS}+"))
            .on_subscribed(on_subscribed.clone());
        let monotonous = Watermarks::monotonous().timestamps(|r: &Reading| r.ts);
        flow.source(readings, monotonous)
            .key_by(|r| r.device.clone())
            .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
            .aggregate(Stats::of(|r: &Reading| r.temp))
            .sink(MqttSink::new(broker.clone(), RESULTS, JsonLines::new()));
    })
}

/// Starts a job, does `meanwhile` once it has subscribed, and stops it. `job` is given what its source is to call.
/// Returns the driver, too.
///
/// # Errors
/// If the job fails or does not subscribe, or `meanwhile` fails.
pub fn run<T>(
    config: &RuntimeConfig,
    job: impl FnOnce(Hook) -> Job,
    meanwhile: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(DriverKind, T)> {
    let (subscribed, is_subscribed) = flume::bounded(1);
    let running = job(Hook(subscribed)).start(config)?;
    let driver = running.driver();
    is_subscribed.recv_timeout(SUBSCRIBED_MAX).context("the job did not subscribe in time")?;
    let done = meanwhile()?;
    running.stop();
    running.wait()?;
    Ok((driver, done))
}

/// Whom a source tells that it has subscribed.
#[derive(Clone)]
pub struct Hook(flume::Sender<()>);

impl Hook {
    /// It has.
    pub fn call(&self) {
        // Only the first time is waited for.
        let _known = self.0.try_send(());
    }
}
