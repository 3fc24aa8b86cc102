//! The yardstick: an MQTT client on its own thread that looks at the clock for each message. It has
//! the options of the job's source: MQTT 5, TCP_NODELAY, one thread with one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming};

use super::publisher::{number_of, options, qos_of};
use super::schedule::{Recorder, Schedule, Stream, Tally};
use crate::broker::Broker;

/// What a client publishes waits here for its turn.
const REQUESTS_MAX: usize = 65_536;

/// A subscriber on its own thread.
pub struct Bare {
    client: AsyncClient,
    stopped: Arc<AtomicBool>,
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
        let mut recorder = Recorder::new(schedule, stream, tally)?;
        let each = move |_client: &AsyncClient, payload: &[u8]| {
            let now = Instant::now();
            if let Some(n) = number_of(payload) {
                recorder.record(n, now);
            }
            Ok(())
        };
        Self::listen(broker, &format!("{stream:?}"), stream.results(), qos_of(qos), each)
    }

    /// Subscribes to `filter`, and calls `each` with the payload of every message and a client that can publish.
    /// Returns once the broker has confirmed it.
    ///
    /// # Errors
    /// If there is no connection within five seconds.
    pub fn listen(
        broker: &Broker,
        name: &str,
        filter: &str,
        qos: QoS,
        each: impl FnMut(&AsyncClient, &[u8]) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (client, event_loop) = AsyncClient::new(options(broker, name).0, REQUESTS_MAX);
        client.try_subscribe(filter, qos)?;
        let (subscribed, is_subscribed) = flume::bounded(1);
        let (publisher, stopped) = (client.clone(), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&stopped);
        let thread = thread::Builder::new().name("bare".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(receive(event_loop, &publisher, each, &subscribed, &ends))
        })?;
        let bare = Self { client, stopped, thread };
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
        // A client that does not keep up has no room for one more request, and looks at this.
        self.stopped.store(true, Ordering::Relaxed);
        let _ended_already = self.client.try_disconnect();
        self.thread.join().map_err(|_| anyhow!("the bare client panicked"))?
    }
}

async fn receive(
    mut event_loop: EventLoop,
    client: &AsyncClient,
    mut each: impl FnMut(&AsyncClient, &[u8]) -> anyhow::Result<()>,
    subscribed: &flume::Sender<()>,
    stopped: &AtomicBool,
) -> anyhow::Result<()> {
    while !stopped.load(Ordering::Relaxed) {
        match event_loop.poll().await.context("the bare client lost its connection")? {
            Event::Incoming(Incoming::Publish(publish)) => each(client, &publish.payload)?,
            Event::Incoming(Incoming::SubAck(_)) => {
                let _nobody_waits = subscribed.try_send(());
            }
            Event::Outgoing(Outgoing::Disconnect) => break,
            _ => {}
        }
    }
    Ok(())
}
