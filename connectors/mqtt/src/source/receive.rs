//! The work of a source's connection: its chunks and its acknowledgements. It is done on the shard that reads the source,
//! or on a thread ([`thalweg_io`]).
//!
//! **Acknowledgements.** A message is acknowledged when its [mode](crate::Mode) allows it. The shard has returned
//! its chunk, a checkpoint has covered it, or the journal is durable behind it. In each case in receive order, on
//! the connection that delivered it. If that connection has gone meanwhile, nothing is sent. On the new connection
//! the acknowledgement could hit another message of that packet id. The broker repeats the message instead. The
//! ledger keeps what is owed; what comes in is taken in module `intake`. What goes into the journal may
//! [gather](super::acks::gather) first.
//!
//! **Chunks** circulate: free -> filled here -> read by the shard -> back. A chunk is sent on as soon as the
//! connection has nothing more to give at once. So a quiet stream waits for nothing, and a fast one is read in
//! gulps ([`Pace`]). A chunk that has nothing to acknowledge comes back in silence, and is found when it is
//! needed. When none is free the socket is not read, and the broker queues (or, for QoS 0, drops).
//!
//! **Back-pressure.** While no chunk is free, or much waits for room, the socket is not read. What the broker has
//! sent waits there, and pings go on, so the connection stays. With MQTT 5 and QoS 1 or 2 the broker should stop
//! before that, at `inflight` unacknowledged messages, and mosquitto nearly does. (2.0.11 sent 21 for a window of
//! 16, and hundreds after resuming a session.)
//!
//! **Stopping.** Nothing more is taken; what was taken is handed over and acknowledged; then `offline`,
//! DISCONNECT, and the end. What arrives in between is not acknowledged, so a persistent session keeps it for the
//! next start. For that reason we do not unsubscribe either. Where a checkpoint must come first, the shard is told
//! of the end as soon as all is handed over. The connection stays until that checkpoint exists or the shard has
//! gone.

mod intake;
mod refused;
mod session;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_io::Reactor;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{OpenContext, Timestamp};
use tracing::{error, info, warn};

use crate::config::Qos;
use crate::fault::Fault;
use crate::io_signal::IoSignal;
use crate::link::{Accepted, Event, Link, OFFLINE, ONLINE, Plan, Trouble};
use crate::metrics::SourceMeters;
use crate::pace::{Pace, SOURCE_PAUSE};
use crate::retry::Retry;
use crate::source::Hook;
use crate::source::acks::{Answer, Keeping, Ledger, OWED_MAX};
use crate::source::chunk::{CHUNKS_MAX, Chunk};
use crate::source::copies::{Asked, Copies};
use crate::source::known::Known;
use crate::source::mode::Mode;
use crate::source::partition::ToShard;
use crate::source::progress::Progress;
use crate::source::repeats::Repeats;
use crate::source::replay::Place;
use crate::topic::TopicFilter;
use intake::{Oversized, Stall};
pub use intake::{STALLED_BYTES_MAX, STALLED_MESSAGES_MAX};
use refused::Refused;

/// How long the last messages may take to become durable, and then the last acknowledgements to be
/// written, when the source stops.
const STOP_MS_MAX: u64 = 5_000;
/// How long the broker may then take to close the connection, which it does when it has read them all. To close it
/// ourselves with unread input in the socket would be a reset, which can take the acknowledgements with it. A
/// broker that resumes a session sends its whole queue at once (mosquitto 2.0.11), so there can be tens of
/// thousands of them.
const LINGER_MS_MAX: u64 = 5_000;

/// What the work is given.
pub(crate) struct Setup {
    pub(crate) plan: Arc<Plan>,
    pub(crate) filters: Arc<[TopicFilter]>,
    pub(crate) skip_retained: bool,
    /// Whether a message of QoS 1 that comes again is to be recognised.
    pub(crate) recognise_repeats: bool,
    pub(crate) on_subscribed: Hook,
    pub(crate) to_shard: flume::Sender<ToShard>,
    pub(crate) from_shard: flume::Receiver<Chunk>,
    pub(crate) signal: Arc<IoSignal>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) mode: Mode,
    /// The journal, in that mode.
    pub(crate) place: Option<Place>,
    pub(crate) cx: OpenContext,
}

impl Setup {
    /// Whether messages of QoS 1 that come again are recognised. Without a session they do not come again.
    fn recognises(&self) -> bool {
        self.recognise_repeats && !self.plan.clean
    }

    /// The quality of service whose packet ids the journal is to tell, if it is.
    fn keeps_ids(&self) -> Option<Qos> {
        let qos = self.plan.config.qos;
        let keeps = !self.plan.clean && (self.recognise_repeats || qos == Qos::ExactlyOnce);
        keeps.then_some(qos)
    }
}

/// A source's connection, and all that it owes to both sides.
pub(crate) struct Receive {
    setup: Setup,
    reactor: Reactor,
    who: String,
    link: Link,
    meters: SourceMeters,
    ledger: Ledger,
    /// Messages that the ledger has no room for.
    stall: Option<Stall>,
    oversized: Oversized,
    /// The broker has granted our subscriptions once.
    has_run: bool,
    /// Why it cannot go on.
    fault: Option<Fault>,
    free: Vec<Chunk>,
    filling: Option<Chunk>,
    /// Counts connections; each chunk holds messages of one.
    generation: u64,
    connected: bool,
    /// What the broker may send again.
    known: Known,
    /// The answered pings of this connection from which that was concluded.
    pongs: u64,
    repeats: Repeats,
    begins: Begins,
    /// When subscriptions that wait for that go out in any case.
    subscribe_at: Option<Instant>,
    /// What is asked of the broker, and what comes of it more than once.
    copies: Copies,
    /// The part of our subscriptions that the broker has not answered.
    part: usize,
    /// Filters that the broker has refused on this connection, of a job that has run.
    refused: Refused,
    /// The session may have subscriptions that are not asked for.
    takes_back: bool,
    /// Released by the broker (QoS 2), and there is no room to note it.
    unnoted: VecDeque<u16>,
    stop: Stop,
    pace: Pace,
    /// The socket is left alone until then.
    rests_until: Option<Instant>,
}

/// How far the journal knows of a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// It has no need to.
    Not,
    /// There was no room to tell it.
    Unsaid,
    /// It does when it is durable up to here. Until then nothing is taken, and for a second nothing is subscribed to.
    At(u64),
}

/// How far an orderly end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Nobody asked for one.
    No,
    /// The shard has chunks to read.
    Draining,
    /// It has read all; acknowledgements are owed. Until the end of patience, if there is one.
    Settling(Option<Instant>),
    /// How long the last packets may be on their way.
    Closing(Instant),
}

/// Why waiting for the connection ended.
enum Step {
    Link(Result<Event, Trouble>),
    /// The orderly end is complete, or has taken too long.
    Done,
    Abandoned,
    Failed(Fault),
}

impl Receive {
    /// All of it, to the end.
    pub(crate) async fn run(setup: Setup, reactor: Reactor) {
        // Also when it panics: the shard then finds its queue without a sender.
        let _wakes_at_the_end = Waking(setup.cx.waker.clone());
        let (to_shard, progress) = (setup.to_shard.clone(), Arc::clone(&setup.progress));
        let outcome = Self::serve(setup, reactor).await;
        progress.close(outcome.as_ref().err());
        let last = match outcome {
            Ok(()) => ToShard::Ended,
            Err(what) => ToShard::Failed(what),
        };
        // The shard may have gone; the end is then nobody's business.
        let _gone = to_shard.try_send(last);
    }

    async fn serve(setup: Setup, reactor: Reactor) -> Result<(), Fault> {
        let keeping = match setup.mode {
            Mode::AckOnCheckpoint => Keeping::Checkpoint { taken: 0 },
            // The journal is opened first of all, see below.
            Mode::None | Mode::Journal => Keeping::HandOver,
        };
        let ledger = Ledger::new(keeping, Arc::clone(&setup.progress), setup.cx.waker.clone());
        let mut receiver = Self {
            who: crate::name_of(&setup.cx.operator, &setup.plan.config),
            meters: SourceMeters::new(&setup.cx),
            link: Link::new(Arc::clone(&setup.plan), reactor.clone()),
            ledger,
            stall: None,
            oversized: Oversized::default(),
            has_run: false,
            fault: None,
            free: (0..CHUNKS_MAX).map(|_| Chunk::default()).collect(),
            filling: None,
            generation: 0,
            connected: false,
            known: Known::default(),
            pongs: 0,
            repeats: Repeats::default(),
            begins: Begins::Not,
            subscribe_at: None,
            copies: Copies::of(&setup.filters),
            part: 0,
            refused: Refused::default(),
            takes_back: false,
            unnoted: VecDeque::new(),
            stop: Stop::No,
            pace: Pace::new(reactor.now(), SOURCE_PAUSE),
            rests_until: None,
            reactor,
            setup,
        };
        let ended = receiver.resume_and_receive().await;
        // On a shard nobody waits for a disk but like this.
        poll_fn(|cx| {
            receiver.setup.signal.take(cx.waker());
            if receiver.ledger.close() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        ended
    }

    async fn resume_and_receive(&mut self) -> Result<(), Fault> {
        if let Some(place) = self.setup.place.take()
            && !self.resume(&place).await?
        {
            return Ok(());
        }
        let orderly = self.receive().await;
        self.meters.connected.set(0.0);
        if orderly? {
            self.link.close().await;
        }
        Ok(())
    }

    /// Connects, receives and acknowledges until the end; whether that was an orderly one.
    async fn receive(&mut self) -> Result<bool, Fault> {
        let mut retry = Retry::new(self.setup.plan.config.reconnect_max);
        loop {
            match self.step().await {
                Step::Done => return Ok(true),
                // The broker has closed its side too, or the connection broke at the very end.
                Step::Link(Err(_)) if matches!(self.stop, Stop::Closing(_)) => return Ok(true),
                Step::Abandoned => return Ok(false),
                Step::Failed(what) => return Err(what),
                Step::Link(Ok(event)) => {
                    match event {
                        Event::Connected(_) => retry.connected(self.reactor.now()),
                        Event::Delivery(_) => retry.progressed(),
                        _ => {}
                    }
                    self.handle(event)?;
                    while self.may_take()
                        && let Some(event) = self.link.received()
                    {
                        self.handle(event)?;
                    }
                    self.flush();
                }
                Step::Link(Err(trouble)) => {
                    self.disconnected();
                    let wait = retry.failed(self.reactor.now(), &self.who, trouble)?;
                    if !self.pause(wait).await {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Waits for the connection, and meanwhile takes back chunks, acknowledges, and sends on what
    /// has been gathered as soon as nothing more is ready.
    async fn step(&mut self) -> Step {
        poll_fn(|cx| {
            if self.attend(cx) {
                return Poll::Ready(Step::Abandoned);
            }
            if let Some(what) = self.fault.take() {
                return Poll::Ready(Step::Failed(what));
            }
            while let Some(until) = self.conclude() {
                if self.reactor.poll_until(until).is_pending() {
                    break;
                }
                if matches!(self.stop, Stop::Closing(_)) {
                    return Poll::Ready(Step::Done);
                }
            }
            // One that ends has no use for a new connection: it could acknowledge nothing there.
            if self.connected || self.stop == Stop::No {
                let reads = !self.rests() && self.may_take();
                if let Poll::Ready(result) = self.link.poll(cx, reads) {
                    return Poll::Ready(Step::Link(result));
                }
            }
            self.pass_on();
            self.rest(cx);
            Poll::Pending
        })
        .await
    }

    /// What was taken goes to the disk, now or later.
    fn flush(&mut self) {
        let ends = self.stop != Stop::No || self.fault.is_some();
        if let Some(at) = self.ledger.flush(self.reactor.now(), ends) {
            let _later = self.reactor.poll_until(at);
        }
    }

    /// Leaves the socket alone for a moment where that pays ([`Pace`]). What may be acknowledged meanwhile is.
    fn rest(&mut self, cx: &Context<'_>) {
        let (unanswered, reactor) = (self.link.unacknowledged(), &self.reactor);
        if let Some(pause) = self.pace.pause(unanswered, || reactor.now()) {
            self.rests_until = Some(reactor.now() + pause);
            // To be polled again without a wish to read.
            cx.waker().wake_by_ref();
        }
    }

    /// Whether the socket is to be left alone now.
    fn rests(&mut self) -> bool {
        let Some(until) = self.rests_until else { return false };
        let ends = self.stop != Stop::No || self.fault.is_some();
        let rests = !ends && self.reactor.poll_until(until).is_pending();
        if !rests {
            self.rests_until = None;
        }
        rests
    }

    /// Takes the signal: takes back chunks, acknowledges what may be. Says whether the source was
    /// abandoned.
    fn attend(&mut self, cx: &mut Context<'_>) -> bool {
        let raised = self.setup.signal.take(cx.waker());
        let starved = self.free.is_empty();
        self.forget_proven();
        if raised || starved {
            self.take_all_back();
        }
        if raised {
            self.settle();
            self.session_noted();
            self.note_released();
        }
        self.repeats.tell(&self.who, &self.reactor);
        self.subscribe_if_late();
        self.ask_refused_again();
        if self.stop == Stop::No && self.setup.signal.stopped() {
            self.stop = Stop::Draining;
            self.give_up_stalled();
            self.send();
        }
        if self.stall.is_some() {
            if raised || starved {
                self.unstall();
            }
            self.tell_stall();
        }
        if self.ledger.is_due() {
            self.settle();
        }
        self.setup.signal.abandoned()
    }

    /// Acknowledges what may be by now.
    fn settle(&mut self) {
        let (link, known, connected) = (&mut self.link, &mut self.known, self.connected);
        let (pings, _) = link.pings();
        let settled = self.ledger.settle(|packet_id, answer| {
            // What is owed is owed on this connection.
            debug_assert!(connected, "an acknowledgement without a connection");
            match answer {
                Answer::Ack(qos) => {
                    known.acknowledged(packet_id, pings);
                    link.ack(packet_id, qos);
                }
                Answer::Complete => link.complete(packet_id),
            }
        });
        match settled {
            Ok(0) => {}
            Ok(count) => self.meters.acks.increment(count),
            Err(what) => self.fault = Some(what),
        }
    }

    /// On a stop: once all is handed over and acknowledged, asks for the last packets. Until when the
    /// present phase may take, if that is limited.
    fn conclude(&mut self) -> Option<Instant> {
        let patience = Duration::from_millis(STOP_MS_MAX);
        if self.stop == Stop::Draining && self.free.len() == CHUNKS_MAX {
            let by_checkpoint = self.ledger.is_by_checkpoint();
            self.stop = Stop::Settling((!by_checkpoint).then(|| self.reactor.now() + patience));
            if by_checkpoint {
                // There is nothing more to read; the checkpoint that covers the last of it is to come.
                let _gone = self.setup.to_shard.try_send(ToShard::Ended);
                self.setup.cx.waker.wake_by_ref();
            }
        }
        if let Stop::Settling(until) = self.stop {
            let over =
                until.is_some_and(|until| until <= self.reactor.now()) || self.setup.signal.left();
            if !over && !self.ledger.is_clear() {
                return until;
            }
            self.stop = Stop::Closing(match self.connected {
                true => self.reactor.now() + patience,
                false => self.reactor.now(),
            });
            if self.connected {
                self.link.status(OFFLINE);
                self.link.disconnect();
            }
        }
        match self.stop {
            Stop::Closing(until) => Some(until),
            _ => None,
        }
    }

    /// Takes back what is there; if that is none, the next one raises the signal.
    fn take_all_back(&mut self) {
        while let Ok(chunk) = self.setup.from_shard.try_recv() {
            self.take_back(chunk);
        }
        let wanting = self.free.is_empty();
        self.setup.signal.want(wanting);
        while wanting && let Ok(chunk) = self.setup.from_shard.try_recv() {
            self.take_back(chunk);
        }
    }

    /// A chunk is back: its messages are handed over.
    fn take_back(&mut self, chunk: Chunk) {
        let acks = chunk.acks();
        if self.connected && chunk.generation == self.generation {
            let (pings, _) = self.link.pings();
            for (packet_id, qos) in acks {
                self.known.acknowledged(*packet_id, pings);
                self.link.ack(*packet_id, *qos);
            }
            self.meters.acks.increment(acks.len() as u64);
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

    fn handle(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Connected(accepted) => {
                self.copies.connected(accepted.subscription_ids);
                self.connect(&accepted);
            }
            Event::Delivery(delivery) => self.deliver(delivery),
            Event::Released(packet_id) => self.released(packet_id),
            Event::Closed => {
                self.stop =
                    Stop::Closing(self.reactor.now() + Duration::from_millis(LINGER_MS_MAX));
            }
            Event::Subscribed(grants) => self.subscribed(&grants),
            Event::Acked { refused: Some(reason), .. } => {
                warn!("{}: the broker refused the status message: {reason}", self.who);
            }
            Event::Acked { refused: None, .. } | Event::Flushed => {}
        }
        Ok(())
    }

    fn connect(&mut self, accepted: &Accepted) {
        let session_present = accepted.session_present;
        self.connected = true;
        self.pongs = 0;
        self.pace.connected();
        self.reactor.gather();
        self.meters.connects.increment(1);
        self.meters.connected.set(1.0);
        if !session_present {
            self.session_begins();
        }
        let Plan { client_id, .. } = &*self.setup.plan;
        self.takes_back = session_present;
        let session = if session_present { "kept session" } else { "new session" };
        let version = accepted.version.name();
        info!("{}: connected as {client_id:?}, {session}, MQTT {version}", self.who);
        accepted.remarks.iter().for_each(|remark| warn!("{}: {remark}", self.who));
        let filters = self.setup.filters.iter().map(TopicFilter::subscription);
        if let Err(why) = accepted.subscribing(filters) {
            self.link.reject(why, self.has_run);
            return;
        }
        self.subscribe_when_noted();
        self.link.status(ONLINE);
    }

    fn subscribed(&mut self, grants: &[Result<Qos, String>]) {
        if self.refused.is_asked() {
            return self.subscribed_again(grants);
        }
        let asked = self.setup.plan.config.qos;
        let (identifier, filters) = self.copies.part(self.part).unwrap_or_default();
        for (filter, grant) in filters.iter().map(Asked::subscription).zip(grants) {
            match grant {
                // What has run goes on with the others.
                Err(reason) if self.has_run => self.refused.note(filter, identifier, reason),
                Err(reason) => {
                    let why = format!(
                        "the subscription to {filter:?} failed: {reason}; check that this user may \
                         read it, and that the broker allows such filters"
                    );
                    self.link.reject(why, self.has_run);
                    return;
                }
                Ok(granted) if *granted < asked && !self.has_run => {
                    warn!(
                        "{}: the broker grants QoS {} to {filter:?} where {} was asked for: {}",
                        self.who,
                        *granted as u8,
                        asked as u8,
                        match granted {
                            Qos::AtMostOnce => "what is lost on the way is not sent again",
                            _ => "what it sends again may count twice",
                        }
                    );
                }
                Ok(_) => {}
            }
        }
        self.part_subscribed();
    }

    /// The connection failed: what it delivered is handed on as before, but not acknowledged.
    fn disconnected(&mut self) {
        self.send();
        if !self.setup.plan.clean {
            self.leave_stalled_to_broker();
        }
        self.meters.stale_acks.increment(self.ledger.disconnected());
        // The broker asks again.
        self.unnoted.clear();
        self.subscribe_at = None;
        self.refused.disconnected();
        self.setup.signal.listen(false);
        self.connected = false;
        self.generation += 1;
        self.meters.connected.set(0.0);
    }

    /// Waits between two attempts, unless it is to end, which the next step sees to, with its limits. False if it was
    /// abandoned.
    async fn pause(&mut self, wait: Duration) -> bool {
        let until = self.reactor.now() + wait;
        poll_fn(|cx| {
            if self.attend(cx) {
                return Poll::Ready(false);
            }
            // What waited for room in the journal may have found it.
            self.pass_on();
            if self.stop != Stop::No || self.fault.is_some() {
                return Poll::Ready(true);
            }
            self.reactor.poll_until(until).map(|()| true)
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
