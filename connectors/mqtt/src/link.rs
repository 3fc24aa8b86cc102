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
//! - A PUBREL is answered with PUBCOMP whether we know its id or not, as the standard wants: we may have forgotten it. When,
//!   its receiver says.

mod connection;
pub(crate) mod dialer;
mod mqtt3;
mod mqtt5;
pub(crate) mod packet_ids;

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
use connection::{Connection, Stream};

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
}

/// Why a connection failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Waiting cannot mend it: this attempt of the job ends.
    Fatal(String),
    /// A packet over the limit came in.
    TooLarge(String),
    /// To be tried again. Attempts that fail alike are logged once.
    Weather { class: &'static str, text: String },
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

impl<'a> Publish<'a> {
    /// What goes to the status topic.
    pub(crate) fn status(config: &'a MqttConfig, payload: &'static str) -> Option<Self> {
        Some(Self {
            topic: config.status_topic.as_deref()?,
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce,
            retain: true,
            user_property: None,
        })
    }
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
    Connected(Accepted),
    Delivery(Delivery),
    /// QoS 2: the broker will not repeat this message any more. To be [completed](Link::complete).
    Released(u16),
    /// For each filter of our subscription, why it was refused.
    Subscribed(Vec<Option<String>>),
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

/// The broker has accepted our CONNECT.
pub(crate) struct Accepted {
    pub(crate) session_present: bool,
    /// The largest packet the broker takes.
    pub(crate) packet_bytes_max: Option<u32>,
    /// The most unacknowledged publishes the broker takes.
    pub(crate) receive_max: Option<u16>,
    /// A keep-alive other than ours that the broker wants, in seconds.
    keep_alive_s: Option<u16>,
    /// Whether subscriptions may have identifiers.
    pub(crate) subscription_ids: bool,
}

/// A packet from the broker.
enum Incoming {
    Accepted(Accepted),
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
        refusals: Vec<Option<String>>,
    },
    /// UNSUBACK for this id.
    Unsubscribed(u16),
    Pong,
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

type Dialing = Pin<Box<dyn Future<Output = Result<(Box<Connection>, Accepted), Trouble>> + Send>>;

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
    /// Met while looking for events that were there already.
    trouble: Option<Trouble>,
}

impl Link {
    pub(crate) fn new(plan: Arc<Plan>, reactor: Reactor) -> Self {
        Self { plan, reactor, state: State::Down, trouble: None }
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
            let event = match &mut self.state {
                State::Down => {
                    self.state = State::Dialing(Box::pin(dial(
                        Arc::clone(&self.plan),
                        self.reactor.clone(),
                    )));
                    continue;
                }
                State::Dialing(dialing) => match std::task::ready!(dialing.as_mut().poll(cx)) {
                    Ok((connection, accepted)) => {
                        self.state = State::Up(connection);
                        Ok(Event::Connected(accepted))
                    }
                    Err(trouble) => Err(trouble),
                },
                State::Up(connection) => std::task::ready!(connection.poll(cx, reads)),
            };
            if event.is_err() {
                self.state = State::Down;
            }
            return Poll::Ready(event);
        }
    }

    /// An event that was received already. To be asked until there is none: cheaper than [`Link::poll`].
    pub(crate) fn received(&mut self) -> Option<Event> {
        match self.up()?.received() {
            Ok(event) => event,
            Err(trouble) => {
                self.state = State::Down;
                self.trouble = Some(trouble);
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

    /// Messages of this connection that we have not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.standing().map_or(0, Connection::unacknowledged)
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
async fn dial(plan: Arc<Plan>, reactor: Reactor) -> Result<(Box<Connection>, Accepted), Trouble> {
    let limit = Duration::from_secs(CONNECT_S_MAX);
    let late = |_| Trouble::weather("timeout", format!("no connection within {CONNECT_S_MAX} s"));
    let stream: Box<dyn Stream> = match &plan.tls {
        Some(dialer) => Box::new(dialer.dial(&reactor, &plan.config).await?),
        None => Box::new(
            reactor
                .timeout(limit, tcp(&reactor, &plan.config))
                .await
                .map_err(late)?
                .map_err(|cause| Trouble::weather("connect", cause))?,
        ),
    };
    let mut connection = Box::new(Connection::new(stream, &plan, reactor.clone())?);
    let mut accepted = reactor.timeout(limit, connection.accepted()).await.map_err(late)??;
    if plan.config.version == Version::V311 {
        accepted.receive_max = mqtt3::window(plan.config.qos);
    }
    Ok((connection, accepted))
}

/// A connected socket that sends at once. (Measured through mosquitto on loopback: 0.25 ms at 1,000 msg/s, up to a few ms
/// with Nagle's delay.)
pub(crate) async fn tcp(reactor: &Reactor, config: &MqttConfig) -> std::io::Result<Tcp> {
    Tcp::connect(reactor, &config.host, config.tcp_port()).await
}

const LOGIN_HELP: &str = "check user and password, and the broker's access rules";
const ID_HELP: &str = "give another client_id";

fn refused(code: &dyn std::fmt::Debug, help: &str) -> Trouble {
    Trouble::Fatal(format!("the broker refused the connection ({code:?}): {help}"))
}

fn not_now(code: &dyn std::fmt::Debug) -> Trouble {
    Trouble::weather("refused", format!("the broker refused the connection ({code:?})"))
}
