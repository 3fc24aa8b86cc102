//! The I/O thread of a source: one connection, its chunks and its acknowledgements.
//!
//! **Hand-over.** A message is acknowledged when the shard has returned its chunk, in receive
//! order, on the connection that delivered it. If that connection has gone meanwhile, nothing is
//! sent: an acknowledgement on the new connection could hit another message with the same packet
//! id. The broker repeats the message instead.
//!
//! **Chunks** circulate: free -> filled here -> read by the shard -> back. A chunk is sent on as
//! soon as the connection has nothing more to give at once, so a quiet stream waits for nothing, and
//! a fast one is read in gulps ([`Pace`]). A chunk that has nothing to acknowledge comes back in silence,
//! and is found when it is needed. When none is free the socket is not read, and the broker queues (or,
//! for QoS 0, drops).
//!
//! **Keep-alive under back-pressure.** rumqttc cannot ping without reading, so a socket that is
//! not read for 1.5 keep-alive periods loses its connection. It is read until the chunks are full,
//! which hold some hundreds to 4,096 messages, or 8 MiB. With MQTT 5 and QoS 1 or 2 the broker
//! should stop before that, at `inflight` unacknowledged messages, and mosquitto nearly does (2.0.11
//! sent 21 for a window of 16, and hundreds after resuming a session). Beyond, a job that stalls that
//! long is disconnected, connects again and goes on; a persistent session then loses nothing of QoS 1
//! and 2.
//!
//! **Stopping.** Nothing more is taken; what was taken is handed over and acknowledged; then
//! `offline`, DISCONNECT, and the end. What arrives in between is not acknowledged, so a
//! persistent session keeps it for the next start. We do not unsubscribe, for the same reason.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use thalweg_kernel::{OpenContext, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::bell::Bell;
use crate::chunk::{CHUNKS_MAX, Chunk};
use crate::config::Qos;
use crate::link::{Delivery, Event, Link, OFFLINE, ONLINE, Plan, Requests, Trouble};
use crate::meters::SourceMeters;
use crate::pace::Pace;
use crate::packet_ids::PacketIds;
use crate::retry::Retry;
use crate::source::{Hook, ToShard};
use crate::topic::TopicFilter;

/// How long the last acknowledgements may take to be written when the source stops.
const STOP_MS_MAX: u64 = 5_000;
/// How long the broker may then take to close the connection. To close it ourselves with unread
/// input in the socket would be a reset, which can take the acknowledgements with it.
const LINGER_MS_MAX: u64 = 1_000;

/// What the thread is given.
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) filters: Arc<[TopicFilter]>,
    pub(crate) skip_retained: bool,
    pub(crate) on_subscribed: Hook,
    pub(crate) to_shard: flume::Sender<ToShard>,
    pub(crate) from_shard: flume::Receiver<Chunk>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) cx: OpenContext,
}

/// The state beside the connection. Apart from it, because it is worked on while the
/// connection's future is waiting.
pub(crate) struct Receive {
    setup: Setup,
    who: String,
    requests: Requests,
    meters: SourceMeters,
    free: Vec<Chunk>,
    filling: Option<Chunk>,
    /// Counts connections; each chunk holds messages of one.
    generation: u64,
    connected: bool,
    /// QoS 2: delivered, and the broker has not yet promised not to repeat it.
    unreleased: PacketIds,
    /// Set when a stop was asked for; the last moment of the orderly end once that can be timed.
    stopping: Option<Option<Instant>>,
    pace: Pace,
}

/// Why waiting for the connection ended.
enum Step {
    Link(Result<Event, Trouble>),
    /// The orderly end is complete, or has taken too long.
    Done,
    Abandoned,
}

impl Receive {
    /// The thread's body.
    pub(crate) fn run(setup: Setup) {
        // Also when this thread panics: the shard then finds its queue without a sender.
        let _wakes_at_the_end = Waking(setup.cx.waker.clone());
        let to_shard = setup.to_shard.clone();
        let outcome = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| format!("no runtime for the I/O thread: {cause}"))
            .and_then(|runtime| runtime.block_on(Self::serve(setup)));
        let last = match outcome {
            Ok(()) => ToShard::Ended,
            Err(what) => ToShard::Failed(what),
        };
        // The shard may have gone; the end is then nobody's business.
        let _gone = to_shard.try_send(last);
    }

    async fn serve(setup: Setup) -> Result<(), String> {
        let (mut link, requests) = Link::new(&setup.plan)?;
        let mut desk = Self {
            who: crate::name_of(&setup.cx.operator, &setup.plan.config),
            meters: SourceMeters::new(&setup.cx),
            requests,
            free: (0..CHUNKS_MAX).map(|_| Chunk::default()).collect(),
            filling: None,
            generation: 0,
            connected: false,
            unreleased: PacketIds::default(),
            stopping: None,
            pace: Pace::new(std::time::Instant::now()),
            setup,
        };
        let mut retry = Retry::new();
        let outcome = loop {
            match desk.step(&mut link).await {
                Step::Done => break Ok(true),
                // The broker has closed its side too, or the connection broke at the very end.
                Step::Link(Err(_)) if matches!(desk.stopping, Some(Some(_))) => break Ok(true),
                Step::Abandoned => break Ok(false),
                Step::Link(Ok(event)) => {
                    if matches!(event, Event::Connected { .. }) {
                        retry.connected();
                    }
                    let mut outcome = desk.handle(event).await;
                    while outcome.is_ok()
                        && let Some(event) = link.more()
                    {
                        outcome = desk.handle(event).await;
                    }
                    if let Err(what) = outcome {
                        break Err(what);
                    }
                }
                Step::Link(Err(trouble)) => {
                    desk.disconnected(&mut link).await;
                    let bytes_max = desk.setup.plan.config.packet_bytes_max;
                    match retry.failed(&desk.who, bytes_max, trouble) {
                        Err(what) => break Err(what),
                        Ok(wait) => {
                            if !desk.pause(wait).await {
                                break Ok(true);
                            }
                        }
                    }
                }
            }
        };
        desk.meters.connected.set(0.0);
        match outcome {
            Ok(true) => {
                link.close().await;
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(what) => Err(what),
        }
    }

    /// Waits for the connection, and meanwhile takes back chunks, acknowledges, and sends on what
    /// has been gathered as soon as nothing more is ready.
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
            if let Poll::Ready(result) = next.as_mut().poll(cx) {
                return Poll::Ready(Step::Link(result));
            }
            // The last chunk is kept until another comes back or it is full. So a quiet stream into
            // a shard that stands still fills it, and the socket is read (and pings are sent)
            // meanwhile.
            if !self.free.is_empty() {
                self.send();
            }
            if self.stopping.is_none()
                && let Some(pause) = self.pace.pause(std::time::Instant::now)
            {
                // The thread itself: a timer of the runtime has no less than a millisecond.
                std::thread::sleep(pause);
            }
            Poll::Pending
        })
        .await
    }

    /// Answers the bell; says whether the source was abandoned.
    fn attend(&mut self, cx: &Context<'_>) -> bool {
        let rung = self.setup.bell.answer(cx.waker());
        if rung || self.free.is_empty() {
            self.take_all_back();
            let wanting = self.free.is_empty();
            self.setup.bell.want(wanting);
            if wanting {
                self.take_all_back();
            }
        }
        if self.stopping.is_none() && self.setup.bell.stopped() {
            self.stopping = Some(None);
            self.send();
        }
        self.setup.bell.abandoned()
    }

    /// On a stop: once all is handed over, asks for the last packets; then says until when they
    /// may take.
    fn conclude(&mut self) -> Option<Instant> {
        let stopping = self.stopping.as_mut()?;
        if stopping.is_none() && self.free.len() == CHUNKS_MAX {
            let grace = if self.connected { STOP_MS_MAX } else { 0 };
            *stopping = Some(Instant::now() + Duration::from_millis(grace));
            if self.connected {
                if let Some(topic) = &self.setup.plan.config.status_topic {
                    let payload = Bytes::from_static(OFFLINE.as_bytes());
                    self.requests.publish(topic, Qos::AtLeastOnce, true, payload);
                }
                self.requests.disconnect();
            }
        }
        *stopping
    }

    fn take_all_back(&mut self) {
        while let Ok(chunk) = self.setup.from_shard.try_recv() {
            self.take_back(chunk);
        }
    }

    /// A chunk is back: its messages are handed over.
    fn take_back(&mut self, chunk: Chunk) {
        let acks = chunk.acks();
        if self.connected && chunk.generation == self.generation {
            let queued = acks.iter().take_while(|(id, qos)| self.requests.ack(*id, *qos)).count();
            debug_assert_eq!(queued, acks.len(), "the request queue has room for every packet id");
            self.meters.acks.increment(queued as u64);
        } else {
            self.meters.stale_acks.increment(acks.len() as u64);
        }
        if chunk.unmatched > 0 {
            self.meters.unmatched.increment(chunk.unmatched);
        }
        self.free.push(chunk);
    }

    /// Sends what was gathered to the shard.
    fn send(&mut self) {
        let Some(chunk) = self.filling.take() else { return };
        if chunk.is_empty() {
            self.free.push(chunk);
        } else {
            // The queue holds all chunks there are. If the shard has gone, so will we.
            let _gone = self.setup.to_shard.try_send(ToShard::Chunk(chunk));
            self.setup.cx.waker.wake_by_ref();
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Connected { session_present, .. } => self.connect(session_present),
            Event::Delivery(delivery) => self.deliver(delivery).await,
            Event::Released(packet_id) => self.unreleased.remove(packet_id),
            Event::Closed => {
                self.stopping = Some(Some(Instant::now() + Duration::from_millis(LINGER_MS_MAX)))
            }
            Event::Subscribed(refusals) => return self.subscribed(&refusals),
            Event::Acked { refused: Some(reason), .. } => {
                warn!("{}: the broker refused the status message: {reason}", self.who);
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, session_present: bool) {
        self.connected = true;
        self.meters.connects.increment(1);
        self.meters.connected.set(1.0);
        if !session_present {
            self.unreleased = PacketIds::default();
        }
        let Plan { config, client_id, .. } = &self.setup.plan;
        let session = if session_present { "kept session" } else { "new session" };
        info!("{}: connected as {client_id:?}, {session}", self.who);
        // Also with a kept session: the job may have other topics than the one before.
        let filters = self.setup.filters.iter().map(TopicFilter::subscription);
        self.requests.subscribe(filters, config.qos);
        if let Some(topic) = &config.status_topic {
            let payload = Bytes::from_static(ONLINE.as_bytes());
            self.requests.publish(topic, Qos::AtLeastOnce, true, payload);
        }
    }

    fn subscribed(&self, refusals: &[Option<String>]) -> Result<(), String> {
        let filters = self.setup.filters.iter().map(TopicFilter::subscription);
        for (filter, refusal) in filters.clone().zip(refusals) {
            if let Some(reason) = refusal {
                return Err(format!(
                    "the subscription to {filter:?} failed: {reason}; check that this user may \
                     read it, and that the broker allows such filters"
                ));
            }
        }
        info!("{}: subscribed to {}", self.who, filters.collect::<Vec<_>>().join(" "));
        self.setup.on_subscribed.call();
        Ok(())
    }

    async fn deliver(&mut self, delivery: Delivery) {
        // Not acknowledged, hence not lost: a session that outlives us keeps it.
        if self.stopping.is_some() {
            return;
        }
        if self.filling.is_none() && !self.wait_for_free().await {
            return;
        }
        let Some(chunk) = &mut self.filling else { return };
        let (packet_id, qos) = (delivery.packet_id, delivery.qos);
        let repeated = qos == Qos::ExactlyOnce && !self.unreleased.insert(packet_id);
        self.pace.count(qos);
        self.meters.received.increment(1);
        self.meters.bytes.increment(delivery.payload.len() as u64);
        if repeated {
            // It is in an earlier chunk; this one comes back after that, so the answer still
            // follows the hand-over.
            self.meters.duplicates.increment(1);
        } else if delivery.retained && self.setup.skip_retained {
            self.meters.retained_skipped.increment(1);
        } else {
            chunk.push(delivery);
        }
        chunk.push_ack(packet_id, qos);
        if chunk.is_full() {
            self.send();
        }
    }

    /// Takes a free chunk to fill; waits for one if there is none. False if a stop came first.
    async fn wait_for_free(&mut self) -> bool {
        poll_fn(|cx| {
            if self.attend(cx) || self.stopping.is_some() {
                return Poll::Ready(false);
            }
            match self.free.pop() {
                None => Poll::Pending,
                Some(mut chunk) => {
                    chunk.reset(self.generation, now());
                    self.filling = Some(chunk);
                    Poll::Ready(true)
                }
            }
        })
        .await
    }

    /// The connection failed: what it delivered is handed on as before, but not acknowledged.
    async fn disconnected(&mut self, link: &mut Link) {
        let repeats = !self.setup.plan.clean;
        for event in link.leftovers() {
            match event {
                // The broker repeats it.
                Event::Delivery(delivery) if repeats && delivery.qos != Qos::AtMostOnce => {}
                Event::Delivery(delivery) => self.deliver(delivery).await,
                Event::Released(packet_id) => self.unreleased.remove(packet_id),
                _ => {}
            }
        }
        self.send();
        link.recover();
        self.connected = false;
        self.generation += 1;
        self.meters.connected.set(0.0);
    }

    /// Waits between two attempts; false if the source is to end.
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

/// Wakes when dropped.
struct Waking(Waker);

impl Drop for Waking {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

/// Read once per chunk.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(thalweg_kernel::time::millis(since))
}
