//! The work of a sink's connection takes batches from the shards and publishes them. It gives the batches back once the
//! broker has acknowledged all that was in them. So the batches bound what is under way. While the broker is away
//! the shards run out of batches and the pressure travels to the sources.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use thalweg_io::Reactor;
use thalweg_kernel::OpenContext;
use tracing::{error, info};

use crate::config::Qos;
use crate::link::{Event, Link, OFFLINE, ONLINE, Plan, Publish, Trouble};
use crate::metrics::SinkMeters;
use crate::pace::{Pace, SINK_PAUSE};
use crate::retry::Retry;
use crate::sink::batches::{Port, ResultBatch};
use crate::sink::drops::Drops;
use crate::sink::outbox::{ID_BYTES_MAX, ID_PROPERTY};
use crate::sink::shared::Common;
use crate::sink::unacked::Unacked;
use crate::sink::writer::PACKET_OVERHEAD_BYTES;

/// The lost connections after which a result at the head of the line is named.
const SUSPECT_LOUD: u32 = 3;
/// How long the last packets may take.
const STOP_MS_MAX: u64 = 5_000;
/// How long the broker may then take to close the connection; see the source's thread.
const LINGER_MS_MAX: u64 = 1_000;

/// What the work is given.
pub(crate) struct Setup {
    pub(crate) plan: Arc<Plan>,
    pub(crate) retain: bool,
    pub(crate) batches: flume::Receiver<Box<ResultBatch>>,
    pub(crate) common: Arc<Common>,
    pub(crate) cx: OpenContext,
}

/// To whom a parcel belongs; its batch comes back with the last.
struct Sender {
    port: Arc<Port>,
    batch: Option<Box<ResultBatch>>,
}

/// A sink's connection, and what is on its way.
pub(crate) struct Send {
    setup: Setup,
    reactor: Reactor,
    who: String,
    link: Link,
    meters: SinkMeters,
    unacked: Unacked<Sender>,
    refused: Drops,
    connected: bool,
    packet_bytes_max: usize,
    /// The most unacknowledged publishes of this connection.
    window: usize,
    /// The result that was first in line when the connection last ended, and how often it was.
    suspect: (u64, u32),
    pace: Pace,
    /// The socket is left alone until then.
    rests_until: Option<Instant>,
    /// Set when all shards have closed: the last moment of the orderly end.
    stopping: Option<Instant>,
}

enum Step {
    Link(Result<Event, Trouble>),
    Done,
    Abandoned,
}

impl Send {
    /// All of it, to the end.
    pub(crate) async fn run(setup: Setup, reactor: Reactor) {
        let common = Arc::clone(&setup.common);
        let mut tells_of_a_panic = Witness { common: Arc::clone(&common), ended: false };
        let outcome = Self::serve(setup, reactor).await;
        tells_of_a_panic.ended = true;
        match outcome {
            Ok(()) => common.finish(),
            Err(what) => common.fail(what),
        }
    }

    async fn serve(setup: Setup, reactor: Reactor) -> Result<(), String> {
        let meters = SinkMeters::new(&setup.cx);
        let mut sender = Self {
            who: crate::name_of(&setup.cx.operator, &setup.plan.config),
            refused: Drops::new(meters.refused.clone()),
            meters,
            link: Link::new(Arc::clone(&setup.plan), reactor.clone()),
            unacked: Unacked::new(),
            connected: false,
            packet_bytes_max: usize::MAX,
            window: 0,
            pace: Pace::new(reactor.now(), SINK_PAUSE),
            rests_until: None,
            suspect: (0, 0),
            stopping: None,
            reactor,
            setup,
        };
        let outcome = sender.work().await;
        sender.meters.connected.set(0.0);
        if outcome? {
            sender.link.close().await;
        }
        Ok(())
    }

    /// Publishes until the end. True after an orderly one.
    async fn work(&mut self) -> Result<bool, String> {
        let mut retry = Retry::new();
        loop {
            match self.step().await {
                Step::Done => return Ok(true),
                // The broker has closed its side too, or the connection broke at the very end.
                Step::Link(Err(_)) if self.stopping.is_some() => return Ok(true),
                Step::Abandoned => return Ok(false),
                Step::Link(Ok(event)) => {
                    if matches!(event, Event::Connected(_)) {
                        retry.connected();
                    }
                    self.handle(event);
                    while let Some(event) = self.link.received() {
                        self.handle(event);
                    }
                }
                Step::Link(Err(trouble)) => {
                    self.disconnected();
                    let bytes_max = self.setup.plan.config.packet_bytes_max;
                    let wait = retry.failed(&self.who, bytes_max, trouble)?;
                    if !self.pause(wait).await {
                        return Ok(true);
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Step {
        poll_fn(|cx| {
            if self.attend(cx) {
                return Poll::Ready(Step::Abandoned);
            }
            if let Some(deadline) = self.conclude()
                && self.reactor.poll_until(deadline).is_ready()
            {
                return Poll::Ready(Step::Done);
            }
            let reads = !self.rests();
            if let Poll::Ready(result) = self.link.poll(cx, reads) {
                return Poll::Ready(Step::Link(result));
            }
            self.rest(cx);
            Poll::Pending
        })
        .await
    }

    /// Leaves the socket alone for a moment where that pays ([`Pace`]).
    fn rest(&mut self, cx: &Context<'_>) {
        let (in_flight, reactor) = (self.link.in_flight(), &self.reactor);
        if let Some(pause) = self.pace.pause(in_flight, || reactor.now()) {
            self.rests_until = Some(reactor.now() + pause);
            // To be polled again without a wish to read.
            cx.waker().wake_by_ref();
        }
    }

    /// Whether the socket is to be left alone now.
    fn rests(&mut self) -> bool {
        let Some(until) = self.rests_until else { return false };
        let rests = self.stopping.is_none() && self.reactor.poll_until(until).is_pending();
        if !rests {
            self.rests_until = None;
        }
        rests
    }

    /// Takes the signal; says whether the sink was abandoned.
    fn attend(&mut self, cx: &Context<'_>) -> bool {
        let raised = self.setup.common.signal.take(cx.waker());
        while raised && let Ok(batch) = self.setup.batches.try_recv() {
            self.take(batch);
        }
        self.publish();
        self.setup.common.signal.abandoned()
    }

    /// Unpacks a batch into what is unacknowledged. (How much that can be is bounded by the number of batches.)
    fn take(&mut self, mut batch: Box<ResultBatch>) {
        let Some(port) = batch.port.clone() else { return };
        let ids = batch.ids.take();
        let id = |number: usize| {
            let ids = ids.as_ref()?;
            Some(format!("{}-{}", ids.stem, ids.first + number).into_boxed_str())
        };
        let mut last = None;
        for (number, result) in batch.results.unpack().enumerate() {
            if let Some((number, result)) = last.replace((number, result)) {
                let sender = Sender { port: Arc::clone(&port), batch: None };
                self.unacked.push(result, id(number), sender);
            }
        }
        if let Some((number, result)) = last {
            self.unacked.push(result, id(number), Sender { port, batch: Some(batch) });
        }
    }

    /// Sends as many publishes as the window and the socket allow.
    fn publish(&mut self) {
        let qos = self.setup.plan.config.qos;
        let mut gave_up = false;
        while self.link.has_room()
            && (qos == Qos::AtMostOnce || self.link.in_flight() < self.window)
            && let Some((parcel, again)) = self.unacked.next()
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
                let port = &parcel.port.port;
                self.refused.drop(&self.who, port, topic, &parcel.payload, &why);
                self.unacked.give_up();
                gave_up = true;
                continue;
            }
            let sent = self.link.publish(Publish {
                topic,
                payload: parcel.payload.clone(),
                qos,
                retain: self.setup.retain,
                user_property: parcel.id.as_deref().map(|id| (ID_PROPERTY, id)),
            });
            let Some(sent) = sent else { break };
            if again {
                self.meters.republished.increment(1);
            }
            self.unacked.sent(sent);
        }
        if gave_up {
            self.settle();
        }
    }

    /// Lets go of what has arrived.
    fn settle(&mut self) {
        while let Some(parcel) = self.unacked.pop_done() {
            parcel.port.port.done();
            if let Some(batch) = parcel.port.batch {
                parcel.port.port.give_back(batch);
            }
        }
    }

    /// When all shards have closed: asks for the last packets, and says until when they may take.
    fn conclude(&mut self) -> Option<Instant> {
        if self.stopping.is_none() && self.setup.common.all_closed() && self.unacked.is_empty() {
            let grace = if self.connected { STOP_MS_MAX } else { 0 };
            self.stopping = Some(self.reactor.now() + Duration::from_millis(grace));
            if self.connected {
                self.status(OFFLINE);
                self.link.disconnect();
            }
        }
        self.stopping
    }

    fn status(&mut self, payload: &'static str) {
        if let Some(status) = Publish::status(&self.setup.plan.config, payload) {
            self.link.publish(status);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected(accepted) => {
                let inflight = self.setup.plan.config.inflight;
                self.window = accepted.receive_max.unwrap_or(inflight).min(inflight).into();
                self.connected = true;
                self.pace.connected();
                self.packet_bytes_max =
                    accepted.packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize);
                self.meters.connects.increment(1);
                self.meters.connected.set(1.0);
                let repeat = self.unacked.len();
                info!(
                    "{}: connected as {:?}, {repeat} results waiting",
                    self.who, self.setup.plan.client_id
                );
                self.status(ONLINE);
            }
            Event::Closed => {
                self.stopping = Some(self.reactor.now() + Duration::from_millis(LINGER_MS_MAX));
            }
            Event::Flushed => {
                while let Some(parcel) = self.unacked.written() {
                    self.meters.published(parcel.payload.len());
                }
                self.settle();
            }
            Event::Acked { packet_id, refused } => {
                self.pace.count(Qos::AtLeastOnce);
                if let Some(parcel) = self.unacked.acked(packet_id) {
                    match refused {
                        None => self.meters.published(parcel.payload.len()),
                        Some(reason) => {
                            let topic = String::from_utf8_lossy(&parcel.topic);
                            let why = format!("the broker refused it ({reason})");
                            let port = &parcel.port.port;
                            self.refused.drop(&self.who, port, &topic, &parcel.payload, &why);
                        }
                    }
                    self.settle();
                }
            }
            Event::Released(packet_id) => self.link.complete(packet_id),
            Event::Delivery(_) | Event::Subscribed(_) => {}
        }
    }

    fn disconnected(&mut self) {
        self.suspect();
        self.connected = false;
        self.unacked.rewind();
        self.meters.connected.set(0.0);
    }

    /// Some brokers answer a publish that they do not permit by closing the connection. To drop it
    /// on a suspicion would lose results on a bad network, so it is only named.
    fn suspect(&mut self) {
        let Some((seq, parcel)) = self.unacked.stuck().filter(|_| self.connected) else { return };
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
        let until = self.reactor.now() + wait;
        poll_fn(|cx| {
            if self.attend(cx) || self.conclude().is_some() {
                return Poll::Ready(false);
            }
            self.reactor.poll_until(until).map(|()| true)
        })
        .await
    }
}

/// Tells the shards if the work panics.
struct Witness {
    common: Arc<Common>,
    /// The work has ended: a panic that goes on meanwhile is somebody else's.
    ended: bool,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if !self.ended && std::thread::panicking() {
            let what = "the connection's work ended unexpectedly; its panic message is in the log";
            self.common.fail(what.to_owned());
        }
    }
}
