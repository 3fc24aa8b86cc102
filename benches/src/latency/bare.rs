//! The yardstick: an MQTT client on its own thread that looks at the clock for each message. It has
//! the options of the job's source: MQTT 5, TCP_NODELAY, one thread with one connection.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming};

use super::publisher::{number_of, options};
use super::schedule::{Recorder, Schedule, Stream, Tally};
use crate::broker::Broker;

/// A subscriber on its own thread.
pub struct Bare {
    client: AsyncClient,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Bare {
    /// Subscribes to what comes of a stream's messages; returns once the broker has confirmed it.
    ///
    /// # Errors
    /// If there is no connection within five seconds.
    pub fn start(
        broker: &Broker,
        schedule: &Arc<Schedule>,
        stream: Stream,
        qos: u8,
        tally: &Tally,
    ) -> anyhow::Result<Self> {
        let recorder = Recorder::new(schedule, stream, tally)?;
        let (client, event_loop) =
            AsyncClient::new(options(broker, &format!("{stream:?}")).0, 2_048);
        let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        client.try_subscribe(stream.results(), qos)?;
        let (subscribed, is_subscribed) = flume::bounded(1);
        let thread = thread::Builder::new().name("bare".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(receive(event_loop, recorder, &subscribed))
        })?;
        let bare = Self { client, thread };
        match is_subscribed.recv_timeout(Duration::from_secs(5)) {
            Ok(()) => Ok(bare),
            Err(_) => Err(bare
                .stop()
                .err()
                .unwrap_or_else(|| anyhow!("no answer in time"))
                .context(format!("the bare client cannot subscribe at {broker}"))),
        }
    }

    /// Disconnects, and hands the figures in.
    ///
    /// # Errors
    /// If the connection broke on the way.
    pub fn stop(self) -> anyhow::Result<()> {
        let _ended_already = self.client.try_disconnect();
        self.thread.join().map_err(|_| anyhow!("the bare client panicked"))?
    }
}

async fn receive(
    mut event_loop: EventLoop,
    mut recorder: Recorder,
    subscribed: &flume::Sender<()>,
) -> anyhow::Result<()> {
    loop {
        match event_loop.poll().await.context("the bare client lost its connection")? {
            Event::Incoming(Incoming::Publish(publish)) => {
                let now = Instant::now();
                if let Some(n) = number_of(&publish.payload) {
                    recorder.record(n, now);
                }
            }
            Event::Incoming(Incoming::SubAck(_)) => {
                let _nobody_waits = subscribed.try_send(());
            }
            Event::Outgoing(Outgoing::Disconnect) => return Ok(()),
            _ => {}
        }
    }
}
