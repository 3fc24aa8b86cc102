//! Connections to a broker, one after the other: MQTT 3.1.1 and 5, with rumqttc's packets and a loop of our own.
//!
//! rumqttc's event loop sends each acknowledgement and each publish by itself: a system call and a wake-up of the
//! broker for every one. It clones each packet, cannot ping without reading, and forgets what it knew of QoS 2 and
//! of publishes when a connection is lost. It takes no connected stream, as TLS would need. At QoS 1 those calls
//! were most of what a message cost. Its codec has none of that, so the codec is what we use.
//!
//! - **Polled, not awaited.** [`Link::poll`] borrows nothing between calls: acknowledgements may be added whenever there
//!   are some. What was added goes out in one write, before the next read.
//! - **Nothing of a connection outlives it**: its buffers, packet ids and unanswered pings go with it. So no event
//!   of the old one can be mistaken for one of the new.
//! - **What was received counts.** All that a connection delivered is returned before its end is, also if writing to it
//!   has failed already.
//! - **What a broker says of itself is heeded**: see [`accepted`]. How it is spoken to is learnt: see [`manner`].
//! - **A message over the limit is read past**, in pieces: see [`past`].
//! - A PUBREL is answered with PUBCOMP whether we know its id or not, as the standard wants: we may have forgotten it. When,
//!   its receiver says.

pub(crate) mod accepted;
mod connection;
pub(crate) mod dialer;
mod manner;
mod message;
mod mqtt3;
mod mqtt5;
pub(crate) mod packet_ids;
mod past;
mod probe;

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thalweg_io::{Reactor, Tcp};

use crate::config::{MqttConfig, Qos, Secret, Version};
use crate::link::dialer::Dialer;
pub(crate) use accepted::Accepted;
use connection::{Connection, Stream};
use manner::{Manner, Terms, Verdict};

/// How long TCP may take, and then CONNECT, in seconds.
const CONNECT_S_MAX: u64 = 5;
/// How long the last bytes may take when the connection is closed.
const CLOSE_MS_MAX: u64 = 1_000;
/// Packets that are not yet written take at most about this many bytes; publishes wait then.
const UNWRITTEN_BYTES_MAX: usize = 64 * 1024;

/// The payloads of the status topic.
pub(crate) const ONLINE: &str = "online";
pub(crate) const OFFLINE: &str = "offline";

/// Everything a connection needs, checked.
pub(crate) struct Plan {
    pub(crate) config: MqttConfig,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) login: Option<(String, Secret)>,
    pub(crate) tls: Option<Dialer>,
    /// The job can do nothing with messages that have no user properties.
    pub(crate) needs_properties: bool,
    /// Its results have ids, which MQTT 3.1.1 cannot carry.
    pub(crate) gives_ids: bool,
}

/// Why a connection failed. A [`Link`] tells of the first two alone.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Waiting cannot mend it: this attempt of the job ends.
    Fatal(String),
    /// To be tried again. Attempts that fail alike are logged once.
    Weather { class: &'static str, text: String },
    /// The broker does not speak this version: it has told so, or it has not answered.
    Version { told: bool, text: String },
    /// The broker does not take our last will, since that is to be retained or else for its quality of service.
    Will { retain: bool, text: String },
    /// The broker sends us to another server.
    Moved { to: Option<String>, for_good: bool, text: String },
}

impl Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fatal(text)
            | Self::Weather { text, .. }
            | Self::Version { text, .. }
            | Self::Will { text, .. }
            | Self::Moved { text, .. } => f.write_str(text),
        }
    }
}

impl Trouble {
    pub(crate) fn weather(class: &'static str, text: impl Display) -> Self {
        Self::Weather { class, text: text.to_string() }
    }
}

/// A message from the broker.
pub(crate) struct Delivery {
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) packet_id: u16,
    /// The broker says that it sends this again.
    pub(crate) dup: bool,
    /// The identifiers of the subscriptions that it came for.
    pub(crate) subscriptions: Vec<usize>,
    /// Found by the source: of this message another copy counts.
    pub(crate) is_copy: bool,
    pub(crate) retained: bool,
    pub(crate) user_properties: Vec<(String, String)>,
    /// It was over the limit, and is no whole message: bytes of the payload or its properties were left out.
    pub(crate) is_cut: bool,
    /// The bytes of the payload that were left out.
    pub(crate) left_out: u64,
}

/// A message to the broker. Its topic must be valid, and its packet no larger than the broker takes.
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// MQTT 5 only.
    pub(crate) user_property: Option<(&'a str, &'a str)>,
}

/// How a publish went into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// QoS 0: it is with the socket at the next [`Event::Flushed`].
    Plain,
    /// The broker will answer for this packet id.
    Tracked(u16),
}

/// What happened on the connection.
pub(crate) enum Event {
    Connected(Box<Accepted>),
    Delivery(Delivery),
    /// QoS 2: the broker will not repeat this message any more. To be [completed](Link::complete).
    Released(u16),
    /// For each filter of our subscription, what was granted, or why it was refused.
    Subscribed(Vec<Result<Qos, String>>),
    /// A publish of ours is with the broker, or was refused by it.
    Acked {
        packet_id: u16,
        refused: Option<String>,
    },
    /// Everything was written, publishes of QoS 0 among it; there is room for more.
    Flushed,
    /// Our DISCONNECT was written.
    Closed,
}

/// A packet from the broker.
enum Incoming {
    Accepted(Box<Accepted>),
    Delivery(Delivery),
    /// PUBREC for this id.
    Received(u16),
    /// PUBREL for this id.
    Released(u16),
    /// PUBACK or PUBCOMP for this id, or a PUBREC that refuses.
    Acked {
        packet_id: u16,
        refused: Option<String>,
    },
    Subscribed {
        packet_id: u16,
        grants: Vec<Result<Qos, String>>,
    },
    /// UNSUBACK for this id.
    Unsubscribed(u16),
    Pong,
    /// What comes next is over the limit. It has not been taken out.
    TooLarge,
}

/// A packet of ours.
enum Outgoing<'a> {
    /// PUBACK or PUBREC.
    Ack(u16, Qos),
    /// PUBREL.
    Release(u16),
    /// PUBCOMP.
    Complete(u16),
    /// With its packet id; 0 at QoS 0.
    Publish(u16, Publish<'a>),
    Subscribe {
        packet_id: u16,
        filters: Vec<&'a str>,
        qos: Qos,
        identifier: Option<u32>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Ping,
    Disconnect,
}

type Dialed = (Box<Connection>, Box<Accepted>);
type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, Trouble>> + Send>>;

enum State {
    Down,
    Dialing(Dialing),
    Up(Box<Connection>),
}

/// One connection after the other, to one broker.
pub(crate) struct Link {
    plan: Arc<Plan>,
    reactor: Reactor,
    state: State,
    manner: Manner,
    /// What was to be told of the last broker: it is told once.
    told: Vec<String>,
    /// Met while looking for events that were there already.
    trouble: Option<Trouble>,
}

impl Link {
    pub(crate) fn new(plan: Arc<Plan>, reactor: Reactor) -> Self {
        let manner = Manner::new(&plan.config, plan.needs_properties).giving_ids(plan.gives_ids);
        Self { plan, reactor, state: State::Down, manner, told: Vec::new(), trouble: None }
    }

    /// What happens next; connects first where there is no connection. Writes what waits to be written. Reads only if
    /// `reads`, and pings in any case. After an error there is no connection; the next call makes one.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
    ) -> Poll<Result<Event, Trouble>> {
        if let Some(trouble) = self.trouble.take() {
            return Poll::Ready(Err(trouble));
        }
        loop {
            match &mut self.state {
                State::Down => {
                    let terms = self.manner.terms().clone();
                    let dial = dial(Arc::clone(&self.plan), terms, self.reactor.clone());
                    self.state = State::Dialing(Box::pin(dial));
                }
                State::Dialing(dialing) => match std::task::ready!(dialing.as_mut().poll(cx)) {
                    Ok((connection, mut accepted)) => {
                        self.state = State::Up(connection);
                        accepted.remarks.extend(self.manner.accepted());
                        accepted.remark(&self.plan.config, self.plan.clean);
                        let told = std::mem::replace(&mut self.told, accepted.remarks.clone());
                        accepted.remarks.retain(|remark| !told.contains(remark));
                        return Poll::Ready(Ok(Event::Connected(accepted)));
                    }
                    Err(trouble) => {
                        self.state = State::Down;
                        match self.manner.failed(trouble) {
                            Verdict::Again => {}
                            Verdict::Tell(trouble) => return Poll::Ready(Err(trouble)),
                        }
                    }
                },
                State::Up(connection) => {
                    return Poll::Ready(match std::task::ready!(connection.poll(cx, reads)) {
                        Ok(event) => Ok(event),
                        Err(trouble) => Err(self.end(trouble)),
                    });
                }
            }
        }
    }

    /// The connection has ended; what is to be said of that.
    fn end(&mut self, trouble: Trouble) -> Trouble {
        self.state = State::Down;
        self.manner.ended(trouble)
    }

    /// Ends the connection, since it is of no use: the next [`Link::poll`] tells why. That ends a job at its start, and not
    /// one that has run before.
    pub(crate) fn reject(&mut self, why: String, has_run: bool) {
        self.state = State::Down;
        let fatal = Trouble::Fatal(why);
        self.trouble = Some(if has_run { self.manner.ended(fatal) } else { fatal });
    }

    /// An event that was received already. To be asked until there is none: cheaper than [`Link::poll`].
    pub(crate) fn received(&mut self) -> Option<Event> {
        match self.up()?.received() {
            Ok(event) => event,
            Err(trouble) => {
                self.trouble = Some(self.end(trouble));
                None
            }
        }
    }

    fn standing(&self) -> Option<&Connection> {
        match &self.state {
            State::Up(connection) => Some(connection),
            State::Down | State::Dialing(_) => None,
        }
    }

    fn up(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Up(connection) => Some(connection),
            State::Down | State::Dialing(_) => None,
        }
    }

    /// Acknowledges a delivery of this connection.
    pub(crate) fn ack(&mut self, packet_id: u16, qos: Qos) {
        if let Some(connection) = self.up() {
            connection.ack(packet_id, qos);
        }
    }

    /// Answers a PUBREL of this connection with PUBCOMP.
    pub(crate) fn complete(&mut self, packet_id: u16) {
        if let Some(connection) = self.up() {
            connection.write(Outgoing::Complete(packet_id));
        }
    }

    /// A delivery of this connection is not acknowledged: another acknowledgement of its packet id is on its way.
    pub(crate) fn waive(&mut self) {
        if let Some(connection) = self.up() {
            connection.waive();
        }
    }

    /// Publishes. `None` without a connection, or if every packet id is in use.
    pub(crate) fn publish(&mut self, publish: Publish<'_>) -> Option<Sent> {
        self.up()?.publish(publish)
    }

    /// Publishes to the status topic, if there is one, as well as the broker takes it. The packet id that it answers for, if it
    /// will answer.
    pub(crate) fn status(&mut self, payload: &'static str) -> Option<u16> {
        let plan = Arc::clone(&self.plan);
        let (topic, connection) = (plan.config.status_topic.as_deref()?, self.up()?);
        let (qos_max, retain) = connection.takes();
        let sent = connection.publish(Publish {
            topic,
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce.min(qos_max),
            retain,
            user_property: None,
        });
        match sent? {
            Sent::Tracked(packet_id) => Some(packet_id),
            Sent::Plain => None,
        }
    }

    /// Messages of this connection that we have not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.standing().map_or(0, Connection::unacknowledged)
    }

    /// The pings written on this connection, and those that the broker has answered. The stream is ordered: it has what was
    /// written before an answered one.
    pub(crate) fn pings(&self) -> (u64, u64) {
        self.standing().map_or((0, 0), Connection::pings)
    }

    /// Publishes of ours, and subscriptions, that the broker has not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.standing().map_or(0, Connection::in_flight)
    }

    /// Whether publishes need not wait for the socket.
    pub(crate) fn has_room(&self) -> bool {
        self.standing().is_some_and(|it| it.unwritten_bytes() < UNWRITTEN_BYTES_MAX)
    }

    /// Subscribes to all `filters`, with one identifier (MQTT 5) or none.
    pub(crate) fn subscribe<'a>(
        &mut self,
        filters: impl Iterator<Item = &'a str>,
        qos: Qos,
        identifier: Option<u32>,
    ) {
        if let Some(connection) = self.up() {
            connection.subscribe(filters.collect(), qos, identifier);
        }
    }

    /// Takes subscriptions back, which the session may hold or not.
    pub(crate) fn unsubscribe(&mut self, filters: &[String]) {
        if let Some(connection) = self.up() {
            connection.unsubscribe(filters.to_vec());
        }
    }

    /// Ends the connection in good order once all that was asked for before has been written.
    pub(crate) fn disconnect(&mut self) {
        if let Some(connection) = self.up() {
            connection.disconnect();
        }
    }

    /// Lets the last bytes out after [`Event::Closed`].
    pub(crate) async fn close(&mut self) {
        if let State::Up(connection) = std::mem::replace(&mut self.state, State::Down) {
            let limit = Duration::from_millis(CLOSE_MS_MAX);
            let _ended = self.reactor.timeout(limit, connection.shut_down()).await;
        }
    }
}

/// Connects, and introduces us.
async fn dial(plan: Arc<Plan>, terms: Terms, reactor: Reactor) -> Result<Dialed, Trouble> {
    let limit = Duration::from_secs(CONNECT_S_MAX);
    let late = |_| Trouble::weather("timeout", format!("no connection within {CONNECT_S_MAX} s"));
    let Terms { host, port, .. } = &terms;
    let stream: Box<dyn Stream> = match &plan.tls {
        Some(dialer) => match dialer.dial(&reactor, host, *port).await {
            Ok(stream) => Box::new(stream),
            Err(dialer::Failed { is_no_tls: true, .. })
                if probe::speaks_plain(&reactor, host, *port).await =>
            {
                return Err(probe::expects_plain(*port));
            }
            Err(failed) => return Err(failed.trouble),
        },
        None => Box::new(
            reactor
                .timeout(limit, Tcp::connect(&reactor, host, *port))
                .await
                .map_err(late)?
                .map_err(|cause| Trouble::weather("connect", cause))?,
        ),
    };
    let mut connection = Box::new(Connection::new(stream, &plan, &terms, reactor.clone())?);
    let accepted = reactor.timeout(limit, connection.accepted(*port)).await.map_err(late)?;
    let is_silent = matches!(accepted, Err(Trouble::Version { told: false, .. }));
    if is_silent
        && terms.looks
        && plan.tls.is_none()
        && probe::speaks_tls(&reactor, host, *port).await
    {
        return Err(probe::expects_tls(*port));
    }
    let mut accepted = accepted?;
    if terms.version == Version::V311 {
        accepted.receive_max = mqtt3::window(plan.config.qos);
    }
    Ok((connection, accepted))
}

const LOGIN_HELP: &str = "check user and password, and the broker's access rules";
const ID_HELP: &str = "give another client_id";

/// A reason code as words: `NotAuthorized` is "not authorized".
fn words(code: &dyn std::fmt::Debug) -> String {
    let mut words = String::new();
    for char in format!("{code:?}").replace("QoS", "Qos").chars() {
        if char.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(char.to_lowercase());
    }
    words
}

/// A reason code as words, with what the broker says of it.
fn because(code: &dyn std::fmt::Debug, reason: Option<&str>) -> String {
    let code = words(code);
    reason.map_or(code.clone(), |reason| format!("{code}: {reason}"))
}

fn refused(why: &str, help: &str) -> Trouble {
    Trouble::Fatal(format!("the broker refused the connection ({why}): {help}"))
}

fn not_now(why: &str) -> Trouble {
    Trouble::weather("refused", format!("the broker refused the connection ({why})"))
}
