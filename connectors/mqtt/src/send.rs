//! The I/O thread of a sink: takes loads from the shards, publishes them, and gives the loads back
//! once the broker has acknowledged all that was in them. So the loads bound what is under way:
//! while the broker is away the shards run out of loads and the pressure travels to the sources.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thalweg_kernel::OpenContext;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use crate::config::Qos;
use crate::held::{ID_BYTES_MAX, ID_PROPERTY};
use crate::link::{Event, Link, OFFLINE, ONLINE, Plan, Requests, Trouble};
use crate::loads::{Load, Port};
use crate::meters::SinkMeters;
use crate::office::Common;
use crate::outbox::Outbox;
use crate::retry::Retry;
use crate::tally::Tally;
use crate::writer::PACKET_OVERHEAD_BYTES;

/// Publishes requested and not yet written, at most. Few, so that acknowledgements that come in
/// between are seen soon.
const REQUESTED_MAX: usize = 256;
/// The lost connections after which a result at the head of the line is named.
const SUSPECT_LOUD: u32 = 3;
/// How long the last packets may take.
const STOP_MS_MAX: u64 = 5_000;
/// How long the broker may then take to close the connection; see the source's thread.
const LINGER_MS_MAX: u64 = 1_000;

/// What the thread is given.
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) retain: bool,
    pub(crate) loads: flume::Receiver<Box<Load>>,
    pub(crate) common: Arc<Common>,
    pub(crate) cx: OpenContext,
}

/// To whom a parcel belongs; its load comes back with the last.
struct Sender {
    port: Arc<Port>,
    load: Option<Box<Load>>,
}

/// The state beside the connection.
pub(crate) struct Send {
    setup: Setup,
    who: String,
    requests: Requests,
    meters: SinkMeters,
    outbox: Outbox<Sender>,
    refused: Tally,
    connected: bool,
    packet_bytes_max: usize,
    /// Packet ids that rumqttc does not give back: a refused QoS 2 publish keeps its place in the
    /// window until the next connection.
    leaked: u16,
    /// The most unacknowledged publishes of this connection.
    window: u16,
    /// The result that was first in line when the connection last ended, and how often it was.
    suspect: (u64, u32),
    /// Set when all shards have closed: the last moment of the orderly end.
    stopping: Option<Instant>,
}

enum Step {
    Link(Result<Event, Trouble>),
    Done,
    Abandoned,
}

impl Send {
    /// The thread's body.
    pub(crate) fn run(setup: Setup) {
        let common = Arc::clone(&setup.common);
        let _tells_of_a_panic = Witness(Arc::clone(&common));
        let outcome = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| format!("no runtime for the I/O thread: {cause}"))
            .and_then(|runtime| runtime.block_on(Self::serve(setup)));
        match outcome {
            Ok(()) => common.finish(),
            Err(what) => common.fail(what),
        }
    }

    async fn serve(setup: Setup) -> Result<(), String> {
        let (mut link, requests) = Link::new(&setup.plan)?;
        let meters = SinkMeters::new(&setup.cx);
        let mut desk = Self {
            who: crate::name_of(&setup.cx.operator, &setup.plan.config),
            refused: Tally::new(meters.refused.clone()),
            meters,
            requests,
            outbox: Outbox::new(setup.plan.config.inflight),
            connected: false,
            packet_bytes_max: usize::MAX,
            leaked: 0,
            window: setup.plan.config.inflight,
            suspect: (0, 0),
            stopping: None,
            setup,
        };
        let outcome = desk.work(&mut link).await;
        desk.meters.connected.set(0.0);
        if outcome? {
            link.close().await;
        }
        Ok(())
    }

    /// Publishes until the end. True after an orderly one.
    async fn work(&mut self, link: &mut Link) -> Result<bool, String> {
        let mut retry = Retry::new();
        loop {
            let trouble = match self.step(link).await {
                Step::Done => return Ok(true),
                // The broker has closed its side too, or the connection broke at the very end.
                Step::Link(Err(_)) if self.stopping.is_some() => return Ok(true),
                Step::Abandoned => return Ok(false),
                Step::Link(Ok(event)) => {
                    if matches!(event, Event::Connected { .. }) {
                        retry.connected();
                    }
                    self.handle(event);
                    while let Some(event) = link.more() {
                        self.handle(event);
                    }
                    if self.leaked <= self.window / 2 {
                        continue;
                    }
                    Trouble::weather("window", "too many refused QoS 2 publishes hold packet ids")
                }
                Step::Link(Err(trouble)) => trouble,
            };
            self.disconnected(link);
            let bytes_max = self.setup.plan.config.packet_bytes_max;
            let wait = retry.failed(&self.who, bytes_max, trouble)?;
            if !self.pause(wait).await {
                return Ok(true);
            }
        }
    }

    async fn step(&mut self, link: &mut Link) -> Step {
        let mut next = pin!(link.next());
        let mut limit = pin!(None);
        poll_fn(|cx| {
            if self.attend(cx) {
                return Poll::Ready(Step::Abandoned);
            }
            if let Some(deadline) = self.conclude() {
                if limit.is_none() {
                    limit.set(Some(sleep_until(deadline)));
                }
                if limit.as_mut().as_pin_mut().is_some_and(|limit| limit.poll(cx).is_ready()) {
                    return Poll::Ready(Step::Done);
                }
            }
            next.as_mut().poll(cx).map(Step::Link)
        })
        .await
    }

    /// Answers the bell; says whether the sink was abandoned.
    fn attend(&mut self, cx: &Context<'_>) -> bool {
        let rung = self.setup.common.bell.answer(cx.waker());
        while rung && let Ok(load) = self.setup.loads.try_recv() {
            self.take(load);
        }
        self.request();
        self.setup.common.bell.abandoned()
    }

    /// Unpacks a load into the outbox. (How much that can be is bounded by the number of loads.)
    fn take(&mut self, mut load: Box<Load>) {
        let port = Arc::clone(&load.port);
        let ids = load.ids.take();
        let id = |number: usize| {
            let ids = ids.as_ref()?;
            Some(format!("{}-{}", ids.stem, ids.first + number).into_boxed_str())
        };
        let mut last = None;
        for (number, result) in load.results.unpack().enumerate() {
            if let Some((number, result)) = last.replace((number, result)) {
                let sender = Sender { port: Arc::clone(&port), load: None };
                self.outbox.push(result, id(number), sender);
            }
        }
        if let Some((number, result)) = last {
            self.outbox.push(result, id(number), Sender { port, load: Some(load) });
        }
    }

    /// Requests as many publishes as the window allows.
    fn request(&mut self) {
        let Plan { config, .. } = &self.setup.plan;
        let mut gave_up = false;
        while self.connected
            && self.outbox.requested() < REQUESTED_MAX
            && let Some((parcel, again)) = self.outbox.next()
        {
            let id_bytes = parcel.id.as_ref().map_or(0, |_| ID_BYTES_MAX);
            let bytes = parcel.topic.len() + parcel.payload.len() + id_bytes;
            // The shard has checked that the topic is one.
            let topic = str::from_utf8(&parcel.topic).unwrap_or_default();
            if bytes + PACKET_OVERHEAD_BYTES > self.packet_bytes_max {
                let why = format!(
                    "its packet is over the broker's limit of {} bytes",
                    self.packet_bytes_max
                );
                self.refused.drop(&self.who, topic, &why);
                self.outbox.give_up();
                gave_up = true;
                continue;
            }
            let (payload, retain) = (parcel.payload.clone(), self.setup.retain);
            let requested = match &parcel.id {
                None => self.requests.publish(topic, config.qos, retain, payload),
                Some(id) => {
                    let property = (ID_PROPERTY, &**id);
                    self.requests.publish_with(property, topic, config.qos, retain, payload)
                }
            };
            if !requested {
                break;
            }
            if again {
                self.meters.republished.increment(1);
            }
            self.outbox.request();
        }
        if gave_up {
            self.settle();
        }
    }

    /// Lets go of what has arrived.
    fn settle(&mut self) {
        while let Some(parcel) = self.outbox.pop_done() {
            parcel.port.port.done();
            if let Some(load) = parcel.port.load {
                parcel.port.port.give_back(load);
            }
        }
    }

    /// When all shards have closed: asks for the last packets, and says until when they may take.
    fn conclude(&mut self) -> Option<Instant> {
        if self.stopping.is_none() && self.setup.common.all_closed() && self.outbox.is_empty() {
            let grace = if self.connected { STOP_MS_MAX } else { 0 };
            self.stopping = Some(Instant::now() + Duration::from_millis(grace));
            if self.connected {
                self.status(OFFLINE);
                self.requests.disconnect();
            }
        }
        self.stopping
    }

    fn status(&mut self, payload: &'static str) {
        if let Some(topic) = &self.setup.plan.config.status_topic
            && self.requests.publish(
                topic,
                Qos::AtLeastOnce,
                true,
                Bytes::from_static(payload.as_bytes()),
            )
        {
            self.outbox.request_other();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected { packet_bytes_max, receive_max, .. } => {
                let inflight = self.setup.plan.config.inflight;
                self.window = receive_max.unwrap_or(inflight).min(inflight);
                self.connected = true;
                self.packet_bytes_max = packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize);
                self.meters.connects.increment(1);
                self.meters.connected.set(1.0);
                let repeat = self.outbox.len();
                info!(
                    "{}: connected as {:?}, {repeat} results waiting",
                    self.who, self.setup.plan.client_id
                );
                self.status(ONLINE);
            }
            Event::Closed => {
                self.stopping = Some(Instant::now() + Duration::from_millis(LINGER_MS_MAX));
            }
            Event::Sent(packet_id) => self.sent(packet_id),
            Event::Acked { packet_id, refused } => {
                if let Some(parcel) = self.outbox.acked(packet_id) {
                    match refused {
                        None => self.meters.published(parcel.payload.len()),
                        Some(reason) => {
                            let topic = String::from_utf8_lossy(&parcel.topic);
                            let why = format!("the broker refused it ({reason})");
                            self.refused.drop(&self.who, &topic, &why);
                            self.leaked +=
                                u16::from(self.setup.plan.config.qos == Qos::ExactlyOnce);
                        }
                    }
                    self.settle();
                }
            }
            _ => {}
        }
    }

    fn sent(&mut self, packet_id: u16) {
        if let Some(parcel) = self.outbox.sent(packet_id) {
            self.meters.published(parcel.payload.len());
            self.settle();
        }
    }

    fn disconnected(&mut self, link: &mut Link) {
        // What came in before the end still counts: it need not be sent again.
        for event in link.leftovers() {
            if matches!(event, Event::Sent(_) | Event::Acked { .. }) {
                self.handle(event);
            }
        }
        link.recover();
        self.suspect();
        self.connected = false;
        self.leaked = 0;
        self.outbox.rewind();
        self.meters.connected.set(0.0);
    }

    /// Some brokers answer a publish that they do not permit by closing the connection. To drop it
    /// on a suspicion would lose results on a bad network, so it is only named.
    fn suspect(&mut self) {
        let Some((seq, parcel)) = self.outbox.stuck().filter(|_| self.connected) else { return };
        let times = if self.suspect.0 == seq { self.suspect.1 + 1 } else { 1 };
        self.suspect = (seq, times);
        if times.is_multiple_of(SUSPECT_LOUD) {
            error!(
                "{}: {times} connections ended before the broker acknowledged a result for topic \
                 {:?}, and those behind it wait: check that this user may publish there, and the \
                 broker's limit on packets",
                self.who,
                String::from_utf8_lossy(&parcel.topic)
            );
        }
    }

    /// Waits between two attempts; false if the sink is to end.
    async fn pause(&mut self, wait: Duration) -> bool {
        let mut wait = pin!(sleep(wait));
        poll_fn(|cx| {
            if self.attend(cx) || self.conclude().is_some() {
                return Poll::Ready(false);
            }
            wait.as_mut().poll(cx).map(|()| true)
        })
        .await
    }
}

/// Tells the shards if the thread panics.
struct Witness(Arc<Common>);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "the I/O thread ended unexpectedly; its panic message is in the log";
            self.0.fail(what.to_owned());
        }
    }
}
