//! The job under test: the plain and the keyed pipeline, each ending in a sink that looks at the
//! clock for each record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use thalweg::flow::Flow;
use thalweg::kernel::{ConnectorError, OpenContext, Sink, SinkSpec};
use thalweg::mqtt::Qos;
use thalweg::prelude::*;

use super::schedule::{Recorder, Schedule, Stream, Tally};
use crate::broker::Broker;

#[derive(Deserialize)]
struct Reading {
    n: u64,
    device: Str,
    temp: f64,
}

/// The job, and how many of its two sources have subscribed.
pub fn job(
    broker: &Broker,
    schedule: &Arc<Schedule>,
    qos: u8,
    plain: &Tally,
    keyed: &Tally,
) -> (Job, Arc<AtomicUsize>) {
    let config = broker.config().qos(if qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce });
    let subscribed = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&subscribed);
    let plain = Stamp::new(schedule, Stream::Job, plain);
    let keyed = Stamp::new(schedule, Stream::Keyed, keyed);
    let describe = move |flow: &Flow| {
        let source = |stream: Stream| {
            let counts = Arc::clone(&counts);
            MqttSource::new(config.clone(), Json::<Reading>::new())
                .topic(stream.topic())
                .on_subscribed(move || {
                    counts.fetch_add(1, Ordering::Release);
                })
        };
        flow.source(source(Stream::Job), Watermarks::monotonous())
            .map(|reading| (reading.n, reading.temp))
            .filter(|&(_, temp)| temp > 0.0)
            .map(|(n, _)| n)
            .sink(plain.clone());
        // The number as event time, a millisecond apart: each message has its own window, and ends
        // the one before.
        let numbers = Watermarks::monotonous().timestamps(|reading: &Reading| reading.n);
        flow.source(source(Stream::Keyed), numbers)
            .key_by(|reading| reading.device.clone())
            .window(Tumbling::of(Duration::from_millis(1)))
            .aggregate(Sum::of(|reading: &Reading| reading.n))
            .map(|row| row.value + 1)
            .sink(keyed.clone());
    };
    (Job::new("latency", describe), subscribed)
}

/// A sink that takes the numbers of messages and records when they came.
#[derive(Clone, Debug)]
struct Stamp {
    schedule: Arc<Schedule>,
    stream: Stream,
    tally: Tally,
}

impl Stamp {
    fn new(schedule: &Arc<Schedule>, stream: Stream, tally: &Tally) -> Self {
        Self { schedule: Arc::clone(schedule), stream, tally: tally.clone() }
    }
}

impl SinkSpec<u64> for Stamp {
    type Writer = Stamping;

    fn describe(&self) -> String {
        "clock".into()
    }

    fn open(&self, _cx: &OpenContext) -> Result<Stamping, ConnectorError> {
        Recorder::new(&self.schedule, self.stream, &self.tally)
            .map(Stamping)
            .map_err(|error| ConnectorError::new("clock", error.to_string()))
    }
}

struct Stamping(Recorder);

impl Sink<u64> for Stamping {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn write(&mut self, _time: Timestamp, n: u64) -> Result<(), ConnectorError> {
        self.0.record(n, Instant::now());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}
