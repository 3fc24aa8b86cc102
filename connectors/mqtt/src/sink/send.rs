//! The work of a sink's connection takes batches from the shards and publishes them. It gives the batches back once the
//! broker has acknowledged all that was in them. So the batches bound what is under way. While the broker is away
//! the shards run out of batches and the pressure travels to the sources.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use thalweg_io::Reactor;
use thalweg_kernel::OpenContext;
use thalweg_kernel::defects::{Defect, seeded};
use tracing::{error, info, warn};

use crate::config::Qos;
use crate::link::{Accepted, Event, Link, OFFLINE, ONLINE, Plan, Publish, Trouble};
use crate::metrics::{self, DropReason, SinkMeters};
use crate::pace::{Pace, SINK_PAUSE};
use crate::retry::Retry;
use crate::sink::batches::{Port, ResultBatch};
use crate::sink::drops::Drops;
use crate::sink::outbox::{ID_BYTES_MAX, ID_PROPERTY};
use crate::sink::shared::Common;
use crate::sink::suspects::{Finding, STRIKES_MAX, Suspects};
use crate::sink::unacked::Unacked;
use crate::sink::writer::PACKET_OVERHEAD_BYTES;
use crate::topic::check_topic;

/// A result that is held is tried once more after this time if nothing comes behind it.
const LONE_MS_MIN: u64 = 60_000;
/// More of them than that tell of the broker, not of the results.
const LONE_RESULTS_MAX: usize = 3;
/// A stop takes this many times its limit at most, however steadily the broker acknowledges.
const STOP_TIMEOUTS_MAX: u32 = 10;
/// How long the last packets may take.
const STOP_MS_MAX: u64 = 5_000;
/// How long the broker may then take to close the connection; see the source's thread.
const LINGER_MS_MAX: u64 = 1_000;

/// What the work is given.
pub(crate) struct Setup {
    pub(crate) plan: Arc<Plan>,
    pub(crate) retain: bool,
    /// How long the broker may be silent once the job is to end, while something is under way.
    pub(crate) stop_timeout: Duration,
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
    /// Results in whose wake the connection ends.
    aside: Drops,
    /// Results of an earlier run whose topics this one would not publish to.
    invalid: Drops,
    suspects: Suspects,
    /// The status message of this connection, while the broker has not answered for it.
    status: Option<u16>,
    /// Connections in a row that ended before that answer.
    status_ended: u8,
    connected: bool,
    /// The broker has accepted what this sink needs once.
    has_run: bool,
    /// The broker has answered for a result.
    has_acked: bool,
    /// When a result was held last.
    held_at: Option<Instant>,
    /// With which results go out.
    qos: Qos,
    /// The result for which that was lowered: connections ended with it.
    lowered_for: Option<u64>,
    packet_bytes_max: usize,
    /// The most unacknowledged publishes of this connection.
    window: usize,
    pace: Pace,
    /// The socket is left alone until then.
    rests_until: Option<Instant>,
    /// Set when all shards have closed: the last moment of the orderly end.
    stopping: Option<Instant>,
    /// Set when the job is to end: until when the broker may be silent, and until when all must be over.
    patience: Option<(Instant, Instant)>,
}

enum Step {
    Link(Result<Event, Trouble>),
    Done,
    /// What is under way has taken too long, and the job is to end.
    Late,
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
        let dropped = |reason| Drops::new(metrics::dropped(&setup.cx, reason));
        let mut sender = Self {
            who: crate::name_of(&setup.cx.operator, &setup.plan.config),
            refused: dropped(DropReason::Refused),
            aside: dropped(DropReason::Ends),
            invalid: dropped(DropReason::Topic),
            suspects: Suspects::new(),
            status: None,
            status_ended: 0,
            meters,
            link: Link::new(Arc::clone(&setup.plan), reactor.clone()),
            unacked: Unacked::new(),
            connected: false,
            has_run: false,
            has_acked: false,
            held_at: None,
            qos: setup.plan.config.qos,
            lowered_for: None,
            packet_bytes_max: usize::MAX,
            window: 0,
            pace: Pace::new(reactor.now(), SINK_PAUSE),
            rests_until: None,
            stopping: None,
            patience: None,
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
        let mut retry = Retry::new(self.setup.plan.config.reconnect_max);
        loop {
            match self.step().await {
                Step::Done => return Ok(true),
                // The broker has closed its side too, or the connection broke at the very end.
                Step::Link(Err(_)) if self.stopping.is_some() => return Ok(true),
                Step::Abandoned => return Ok(false),
                Step::Late => return Err(self.leftovers()),
                Step::Link(Ok(event)) => {
                    match event {
                        Event::Connected(_) => retry.connected(self.reactor.now()),
                        Event::Acked { .. } => retry.progressed(),
                        _ => {}
                    }
                    self.handle(event);
                    while let Some(event) = self.link.received() {
                        self.handle(event);
                    }
                }
                Step::Link(Err(trouble)) => {
                    if self.disconnected(&trouble) {
                        retry.progressed();
                    }
                    let wait = retry.failed(self.reactor.now(), &self.who, trouble)?;
                    if !self.pause(wait).await {
                        return if self.is_late() { Err(self.leftovers()) } else { Ok(true) };
                    }
                }
            }
        }
    }

    /// Whether what is under way has taken too long.
    fn is_late(&mut self) -> bool {
        if self.patience.is_none() && self.setup.common.is_stopping() {
            let (now, longest) = (self.reactor.now(), self.setup.stop_timeout);
            self.patience = Some((now + longest, now + longest * STOP_TIMEOUTS_MAX));
        }
        let ends = self.stopping.is_some()
            || self.unacked.is_empty()
            || seeded(Defect::MqttStopWaitsForEver);
        !ends && self.patience.is_some_and(|(until, _)| self.reactor.poll_until(until).is_ready())
    }

    /// The broker takes results: a stop waits on for the next ones.
    fn wait_on(&mut self) {
        if let Some((until, last)) = &mut self.patience {
            *until = (self.reactor.now() + self.setup.stop_timeout).min(*last);
        }
    }

    /// What is said of results that are left when patience ends.
    fn leftovers(&self) -> String {
        let topic = String::from_utf8_lossy(self.unacked.first_topic().unwrap_or_default());
        let topic: String = topic.chars().take(200).collect();
        format!(
            "{} results were not delivered within the {} of stop_timeout, the first for topic {topic:?}: the broker {}. \
             A job with a state directory keeps such results, and its next start delivers them",
            self.unacked.len(),
            thalweg_kernel::options::units::show_duration(self.setup.stop_timeout),
            if self.connected { "has not acknowledged them" } else { "is away" }
        )
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
            if self.is_late() {
                return Poll::Ready(Step::Late);
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
        let unchecked = std::mem::take(&mut batch.unchecked);
        let begun = self.unacked.end();
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
        if unchecked {
            self.check_from(begun);
        }
    }

    /// Drops those results from this on that an earlier run has left and that no broker need take.
    #[cold]
    fn check_from(&mut self, begun: u64) {
        for seq in begun..self.unacked.end() {
            let Some(parcel) = self.unacked.get(seq) else { continue };
            let topic = str::from_utf8(&parcel.topic).unwrap_or_default();
            if let Err(why) = check_topic(topic) {
                let port = &parcel.port.port;
                self.invalid.drop(&self.who, port, topic, &parcel.payload, &why);
                self.unacked.give_up(seq);
            }
        }
        self.settle();
    }

    /// Sends as many publishes as the window and the socket allow.
    fn publish(&mut self) {
        // What ends the connection may be the status message. Until that is known nothing goes behind it.
        if self.status_ended > 0 && self.status.is_some() {
            return;
        }
        let mut gave_up = false;
        let window = self.window.min(self.suspects.window());
        while self.connected
            && self.link.has_room()
            && (self.qos == Qos::AtMostOnce
                || (self.link.in_flight() < self.window && self.unacked.on_way_count() < window))
            && let Some(seq) = self.choose()
            && let Some(parcel) = self.unacked.get(seq)
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
                self.unacked.give_up(seq);
                self.suspects.withdraw(seq);
                gave_up = true;
                continue;
            }
            let sent = self.link.publish(Publish {
                topic,
                payload: parcel.payload.clone(),
                qos: self.qos,
                retain: self.setup.retain,
                user_property: parcel.id.as_deref().map(|id| (ID_PROPERTY, id)),
            });
            let Some(sent) = sent else { break };
            if self.unacked.sent(seq, sent) {
                self.meters.republished.increment(1);
            }
        }
        if gave_up {
            self.settle();
        }
    }

    /// The number of the result that is to be sent next, if one may be.
    #[inline]
    fn choose(&mut self) -> Option<u64> {
        if self.suspects.is_empty() { self.unacked.next() } else { self.choose_among_suspects() }
    }

    #[cold]
    fn choose_among_suspects(&mut self) -> Option<u64> {
        if let Some(seq) = self.suspects.ripe() {
            // Alone, so that what happens is about it.
            return (self.unacked.on_way_count() == 0).then_some(seq);
        }
        while let Some(seq) = self.unacked.next() {
            if !self.suspects.holds(seq) && !self.waits_behind_held(seq) {
                return Some(seq);
            }
            self.unacked.pass_over();
        }
        let is_lone = self.has_acked
            && self.unacked.on_way_count() == 0
            && self.suspects.held().count() <= LONE_RESULTS_MAX;
        if is_lone && (self.setup.common.is_closing() || self.has_held_long()) {
            self.suspects.ripen();
        }
        self.suspects.ripe()
    }

    /// Whether nothing has come behind a result that is held for long.
    fn has_held_long(&self) -> bool {
        let long = Duration::from_millis(LONE_MS_MIN);
        self.held_at.is_some_and(|at| self.reactor.poll_until(at + long).is_ready())
    }

    /// Whether a result is to come after one that is held: what a broker retains of a topic is the last that came.
    fn waits_behind_held(&self, seq: u64) -> bool {
        let topic = |seq| self.unacked.get(seq).map(|parcel| &parcel.topic);
        self.setup.retain && self.suspects.held().any(|held| topic(held) == topic(seq))
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
                self.link.status(OFFLINE);
                self.link.disconnect();
            }
        }
        self.stopping
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected(accepted) => self.connect(&accepted),
            Event::Closed => {
                self.stopping = Some(self.reactor.now() + Duration::from_millis(LINGER_MS_MAX));
            }
            Event::Flushed => {
                while let Some(parcel) = self.unacked.written() {
                    self.meters.published(parcel.payload.len());
                }
                self.wait_on();
                self.settle();
            }
            Event::Acked { packet_id, refused } => {
                self.pace.count(Qos::AtLeastOnce);
                if self.status == Some(packet_id) {
                    (self.status, self.status_ended) = (None, 0);
                    if let Some(reason) = refused {
                        warn!("{}: the broker refused the status message: {reason}", self.who);
                    }
                    return;
                }
                if let Some((seq, parcel)) = self.unacked.acked(packet_id) {
                    self.has_acked = true;
                    let frees = self.suspects.acked(seq);
                    match refused {
                        None => self.meters.published(parcel.payload.len()),
                        Some(reason) => {
                            let topic = String::from_utf8_lossy(&parcel.topic);
                            let why = format!("the broker refused it ({reason})");
                            let port = &parcel.port.port;
                            self.refused.drop(&self.who, port, &topic, &parcel.payload, &why);
                        }
                    }
                    if frees {
                        self.unacked.look_again();
                    }
                    self.settle();
                    self.wait_on();
                }
            }
            Event::Released(packet_id) => self.link.complete(packet_id),
            Event::Delivery(_) | Event::Subscribed(_) => {}
        }
    }

    fn connect(&mut self, accepted: &Accepted) {
        let Plan { config, client_id, .. } = &*self.setup.plan;
        accepted.remarks.iter().for_each(|remark| warn!("{}: {remark}", self.who));
        match accepted.publishing(config.qos, self.setup.retain) {
            // What was found out of a broker that cannot say so stays.
            Ok(qos) => self.qos = self.qos.min(qos),
            Err(why) => {
                self.link.reject(why, self.has_run);
                return;
            }
        }
        if self.qos < config.qos && !self.has_run {
            warn!(
                "{}: qos=2: this broker takes QoS 1 at most, so results go out with QoS 1. To a sink that promises as \
                 much: each arrives, and may arrive again after a lost connection",
                self.who
            );
        }
        let inflight = config.inflight;
        self.window = accepted.receive_max.unwrap_or(inflight).min(inflight).into();
        (self.connected, self.has_run) = (true, true);
        self.pace.connected();
        self.packet_bytes_max =
            accepted.packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize);
        self.meters.connects.increment(1);
        self.meters.connected.set(1.0);
        info!(
            "{}: connected as {client_id:?}, MQTT {}, {} results waiting",
            self.who,
            accepted.version.name(),
            self.unacked.len()
        );
        self.status = self.link.status(ONLINE);
    }

    /// The connection has gone. Whether the next one is to come soon, since it is being found out what ends them.
    fn disconnected(&mut self, trouble: &Trouble) -> bool {
        let (on_way, first) = self.unacked.on_way();
        let was_connected = std::mem::replace(&mut self.connected, false);
        self.unacked.rewind();
        self.meters.connected.set(0.0);
        // A silent network, and another client of our name, say nothing of results.
        let for_another_reason =
            matches!(trouble, Trouble::Weather { class: "ping" | "taken over" | "moved", .. });
        let of_status = self.status.take().is_some() && was_connected && !for_another_reason;
        if of_status {
            self.status_ended(trouble);
        }
        if !was_connected || for_another_reason || of_status {
            return false;
        }
        let finding = self.suspects.ended(on_way, first);
        match finding {
            Finding::Nothing | Finding::Closer => {}
            Finding::Hold(seq) => self.hold(seq, trouble),
            Finding::SetAside(seq) => self.set_aside(seq, trouble),
        }
        finding != Finding::Nothing
    }

    /// The broker had not answered for the status message: the end of the connection says nothing of results.
    #[cold]
    fn status_ended(&mut self, trouble: &Trouble) {
        self.status_ended = self.status_ended.saturating_add(1);
        if self.status_ended == STRIKES_MAX {
            error!(
                "{}: {STRIKES_MAX} connections ended before the broker had answered for the message on status_topic = {:?} \
                 ({trouble}): results wait behind it. Check that this user may publish there, and retained",
                self.who,
                self.setup.plan.config.status_topic.as_deref().unwrap_or_default()
            );
        }
    }

    /// Lets others go before a result in whose wake connections end.
    #[cold]
    fn hold(&mut self, seq: u64, trouble: &Trouble) {
        let asked = self.setup.plan.config.qos;
        if self.lowered_for == Some(seq) && self.qos < asked && !self.has_acked {
            self.qos = asked;
            warn!(
                "{}: qos=2: connections end on this result with QoS 1 just as well, so results go out with QoS 2 again",
                self.who
            );
        } else if self.qos == Qos::ExactlyOnce && !self.has_acked && self.lowered_for != Some(seq) {
            self.qos = Qos::AtLeastOnce;
            self.lowered_for = Some(seq);
            self.suspects.forget();
            warn!(
                "{}: qos=2: the broker ends each connection on which a result comes with QoS 2, so results go out with QoS \
                 1. To a sink that promises as much: each arrives, and may arrive again after a lost connection",
                self.who
            );
            return;
        }
        self.held_at = Some(self.reactor.now());
        let topic = self.unacked.get(seq).map(|parcel| String::from_utf8_lossy(&parcel.topic));
        error!(
            "{}: {STRIKES_MAX} connections ended right after a result for topic {:?} was published ({trouble}): others go \
             first, and if the broker takes them and not this one, it becomes a dead letter. Check that this user may \
             publish there, and the broker's limits",
            self.who,
            topic.unwrap_or_default()
        );
    }

    /// Gives up a result that the broker does not take, while it takes others.
    #[cold]
    fn set_aside(&mut self, seq: u64, trouble: &Trouble) {
        let Some(parcel) = self.unacked.give_up(seq) else { return };
        let topic = String::from_utf8_lossy(&parcel.topic);
        let why = format!(
            "{} connections ended right after it was published, and the broker took others ({trouble})",
            STRIKES_MAX + 1
        );
        self.aside.drop(&self.who, &parcel.port.port, &topic, &parcel.payload, &why);
        self.settle();
    }

    /// Waits between two attempts; false if the sink is to end.
    async fn pause(&mut self, wait: Duration) -> bool {
        let until = self.reactor.now() + wait;
        poll_fn(|cx| {
            if self.attend(cx) || self.conclude().is_some() || self.is_late() {
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
