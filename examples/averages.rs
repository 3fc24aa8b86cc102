//! The whole of a job: readings from an MQTT broker in, each device's average over 10 s of *event*
//! time out. Results go to a table on a terminal, and to JSON lines in a pipe.
//!
//! ```sh
//! cargo run -p thalweg-examples --example averages                # a broker on this machine
//! cargo run -p thalweg-examples --example averages mqtt://broker:1883
//! mosquitto_pub -t sensors/d1/temp -m '{"ts": 1700000000000, "temp": 21.5}'
//! mosquitto_pub -t sensors/d1/temp -m '{"ts": 1700000012000, "temp": 22.5}'
//! ```
//!
//! The second message ends the first one's window: time is what the readings say, and 2 s are
//! granted to those that come late. `device` is read from the topic. Ctrl-C drains the job.

use serde::Deserialize;
use thalweg::prelude::*;

#[derive(Deserialize)]
struct Reading {
    device: Str,
    ts: i64,
    temp: f64,
}

fn main() -> Result<(), JobError> {
    let broker = std::env::args().nth(1).unwrap_or("mqtt://localhost".into());
    let broker: MqttConfig = broker.parse()?;
    thalweg::run(&Job::new("averages", move |flow| {
        let readings = MqttSource::new(broker.clone(), Json::<Reading>::new());
        flow.source(
            readings.topic("sensors/{device}/temp"),
            Watermarks::bounded_out_of_orderness(secs(2)).timestamps(|r: &Reading| r.ts),
        )
        .key_by(|r| r.device.clone())
        .window(Tumbling::of(secs(10)))
        .aggregate(Average::of(|r: &Reading| r.temp))
        .sink(StdoutSink::new());
    }))
}
