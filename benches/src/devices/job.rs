//! The job under test, as a user would write it.

use serde::Deserialize;
use thalweg::mqtt::Qos;
use thalweg::prelude::*;

use super::{READINGS, RESULTS, WINDOW_MS};

#[derive(Deserialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

/// Each device's statistics of a second; `on_subscribed` is called once readings can come.
pub fn job(broker: &MqttConfig, on_subscribed: impl Fn() + Clone + Send + Sync + 'static) -> Job {
    let broker = broker.clone().qos(Qos::AtMostOnce);
    Job::new("devices", move |flow| {
        let readings = MqttSource::new(broker.clone(), Json::<Reading>::new())
            .topic(format!("{READINGS}+"))
            .on_subscribed(on_subscribed.clone());
        let monotonous = Watermarks::monotonous().timestamps(|r: &Reading| r.ts);
        flow.source(readings, monotonous)
            .key_by(|r| r.device.clone())
            .window(Tumbling::of(std::time::Duration::from_millis(WINDOW_MS as u64)))
            .aggregate(Stats::of(|r: &Reading| r.temp))
            .sink(MqttSink::new(broker.clone(), RESULTS, JsonLines::new()));
    })
}
