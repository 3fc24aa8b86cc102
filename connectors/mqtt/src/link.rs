//! One connection to a broker over rumqttc's event loop: the only module that knows MQTT 3.1.1
//! from MQTT 5, and the place where the event loop's traps are kept from the rest.
//!
//! - What was buffered when a connection fails is taken out at once ([`Link::leftovers`]), so no
//!   event of the old connection can be mistaken for one of the new.
//! - Requests and pending publishes of the old connection are dropped: rumqttc would send stale
//!   acknowledgements, and forgets publishes by itself whenever the broker has no session. The
//!   source acknowledges per connection; the sink has an outbox of its own.
//! - rumqttc forgets incoming QoS 2 ids on reconnect and then takes the broker's PUBREL for a
//!   protocol error, for ever. The standard wants a PUBCOMP. So before a connection is made every
//!   id is marked as received ([`Link::recover`]).
//! - Before each attempt over TLS, the [`Bridge`] connects first.

mod mqtt3;
mod mqtt5;

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use rumqttc::{NetworkOptions, Outgoing, QoS, Transport, v5};
use tokio_rustls::rustls::ClientConfig;
use v5::mqttbytes as codec5;

use crate::config::{MqttConfig, Qos, Secret, Version};
use crate::tls::Bridge;

/// rumqttc's request queue grows as needed; this bound is never met, because there are at most as
/// many acknowledgements as packet ids and the sink has a window of its own.
const REQUESTS_MAX: usize = 2 * 65_536;
/// How long TCP and CONNECT may take, in seconds.
const CONNECT_S_MAX: u64 = 5;

/// The payloads of the status topic.
pub(crate) const ONLINE: &str = "online";
pub(crate) const OFFLINE: &str = "offline";

/// Everything a connection needs, checked.
pub(crate) struct Plan {
    pub(crate) config: MqttConfig,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) login: Option<(String, Secret)>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
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
    pub(crate) retained: bool,
    pub(crate) user_properties: Vec<(String, String)>,
}

/// What happened on the connection.
pub(crate) enum Event {
    Connected {
        session_present: bool,
        /// The largest packet the broker takes.
        packet_bytes_max: Option<u32>,
        /// The most unacknowledged publishes the broker takes.
        receive_max: Option<u16>,
    },
    Delivery(Delivery),
    /// QoS 2: the broker will not repeat this message any more.
    Released(u16),
    /// For each filter of our subscription, why it was refused.
    Subscribed(Vec<Option<String>>),
    /// A publish of ours was written; 0 for QoS 0.
    Sent(u16),
    /// A publish of ours is with the broker, or was refused by it.
    Acked {
        packet_id: u16,
        refused: Option<String>,
    },
    /// An acknowledgement of ours was written.
    AckWritten,
    /// Our DISCONNECT was written.
    Closed,
    Other,
}

enum Loop {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// Puts packets into the queue that the event loop sends from. None of these waits.
pub(crate) enum Requests {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// One connection after the other, to one broker.
pub(crate) struct Link {
    event_loop: Loop,
    bridge: Option<Bridge>,
    connected: bool,
    qos: Qos,
}

impl Link {
    /// Prepares the connection; [`Link::next`] makes it. Must be called within the I/O thread's
    /// runtime.
    pub(crate) fn new(plan: &Plan) -> Result<(Self, Requests), String> {
        let bridge =
            plan.tls.as_ref().map(|tls| Bridge::new(&plan.config, Arc::clone(tls))).transpose()?;
        let (host, transport) = match &bridge {
            Some(bridge) => (bridge.path.clone(), Transport::unix()),
            None => (plan.config.host.clone(), Transport::tcp()),
        };
        let (event_loop, requests) = match plan.config.version {
            Version::V311 => mqtt3::client(plan, host, transport),
            Version::V5 => mqtt5::client(plan, host, transport),
        };
        let mut link = Self { event_loop, bridge, connected: false, qos: plan.config.qos };
        link.recover();
        Ok((link, requests))
    }

    /// What happens next; connects first where there is no connection. After an error, call
    /// [`Link::leftovers`] and [`Link::recover`] before the next call. Do not drop the future
    /// before it is ready while connected: rumqttc does not promise that nothing is lost then.
    pub(crate) async fn next(&mut self) -> Result<Event, Trouble> {
        if let (false, Some(bridge)) = (self.connected, &mut self.bridge) {
            bridge.open().await?;
        }
        let next = match &mut self.event_loop {
            Loop::V4(event_loop) => {
                event_loop.poll().await.map(mqtt3::event).map_err(mqtt3::trouble)
            }
            Loop::V5(event_loop) => {
                event_loop.poll().await.map(mqtt5::event).map_err(mqtt5::trouble)
            }
        };
        match next {
            Ok(event) => {
                self.connected = true;
                Ok(event)
            }
            Err(trouble) => {
                self.connected = false;
                let Some(bridge) = &mut self.bridge else { return Err(trouble) };
                Err(bridge.trouble().await.unwrap_or(trouble))
            }
        }
    }

    /// What happened at the same time as what [`Link::next`] returned: rumqttc takes up to ten packets
    /// at once and keeps them in a queue. To be asked until it has none, before the next [`Link::next`].
    #[inline]
    pub(crate) fn more(&mut self) -> Option<Event> {
        match &mut self.event_loop {
            Loop::V4(event_loop) => event_loop.state.events.pop_front().map(mqtt3::event),
            Loop::V5(event_loop) => event_loop.state.events.pop_front().map(mqtt5::event),
        }
    }

    /// The events that a failed connection left behind.
    pub(crate) fn leftovers(&mut self) -> Vec<Event> {
        match &mut self.event_loop {
            Loop::V4(event_loop) => event_loop.state.events.drain(..).map(mqtt3::event).collect(),
            Loop::V5(event_loop) => event_loop.state.events.drain(..).map(mqtt5::event).collect(),
        }
    }

    /// Makes a failed connection ready for the next attempt.
    pub(crate) fn recover(&mut self) {
        match &mut self.event_loop {
            Loop::V4(event_loop) => {
                event_loop.clean();
                event_loop.pending.clear();
                event_loop.state.collision = None;
                if self.qos == Qos::ExactlyOnce {
                    for packet_id in 1..=u16::MAX {
                        let mut seen =
                            rumqttc::Publish::from_bytes("", QoS::ExactlyOnce, Bytes::new());
                        seen.pkid = packet_id;
                        let _marked =
                            event_loop.state.handle_incoming_packet(rumqttc::Packet::Publish(seen));
                        event_loop.state.events.clear();
                    }
                }
                event_loop.state.events.clear();
            }
            Loop::V5(event_loop) => {
                event_loop.clean();
                event_loop.pending.clear();
                event_loop.state.collision = None;
                if self.qos == Qos::ExactlyOnce {
                    for packet_id in 1..=u16::MAX {
                        let mut seen = codec5::v5::Publish::new(
                            "",
                            codec5::QoS::ExactlyOnce,
                            Bytes::new(),
                            None,
                        );
                        seen.pkid = packet_id;
                        let _marked = event_loop
                            .state
                            .handle_incoming_packet(codec5::v5::Packet::Publish(seen));
                        event_loop.state.events.clear();
                    }
                }
                event_loop.state.events.clear();
            }
        }
    }

    /// Lets the last bytes out after [`Event::Closed`].
    pub(crate) async fn close(mut self) {
        drop(self.event_loop);
        if let Some(bridge) = &mut self.bridge {
            bridge.drain().await;
        }
    }
}

fn network() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    // Measured through mosquitto on loopback: 0.25 ms at 1,000 msg/s, up to a few ms without, and
    // no difference in throughput, of which the broker is the limit.
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_S_MAX);
    network
}

impl Requests {
    /// Acknowledges a delivery.
    pub(crate) fn ack(&self, packet_id: u16, qos: Qos) -> bool {
        match self {
            Self::V4(client) => {
                let mut publish = rumqttc::Publish::from_bytes("", qos.v4(), Bytes::new());
                publish.pkid = packet_id;
                client.try_ack(&publish).is_ok()
            }
            Self::V5(client) => {
                let mut publish = codec5::v5::Publish::new("", qos.v5(), Bytes::new(), None);
                publish.pkid = packet_id;
                client.try_ack(&publish).is_ok()
            }
        }
    }

    /// Publishes; the topic must be valid.
    pub(crate) fn publish(&self, topic: &str, qos: Qos, retain: bool, payload: Bytes) -> bool {
        match self {
            Self::V4(client) => client.try_publish(topic, qos.v4(), retain, payload).is_ok(),
            Self::V5(client) => client.try_publish(topic, qos.v5(), retain, payload).is_ok(),
        }
    }

    /// Publishes with a user property, where the protocol has them; the topic must be valid.
    pub(crate) fn publish_with(
        &self,
        (name, value): (&str, &str),
        topic: &str,
        qos: Qos,
        retain: bool,
        payload: Bytes,
    ) -> bool {
        let Self::V5(client) = self else { return self.publish(topic, qos, retain, payload) };
        let properties = codec5::v5::PublishProperties {
            user_properties: vec![(name.to_owned(), value.to_owned())],
            ..Default::default()
        };
        client.try_publish_with_properties(topic, qos.v5(), retain, payload, properties).is_ok()
    }

    /// Subscribes to all `filters`.
    pub(crate) fn subscribe<'a>(&self, filters: impl Iterator<Item = &'a str>, qos: Qos) -> bool {
        match self {
            Self::V4(client) => client
                .try_subscribe_many(
                    filters.map(|path| rumqttc::SubscribeFilter::new(path.to_owned(), qos.v4())),
                )
                .is_ok(),
            Self::V5(client) => client
                .try_subscribe_many(filters.map(|path| {
                    let mut filter = codec5::v5::Filter::new(path, qos.v5());
                    // We subscribe again on every connection; that is no reason to see the
                    // retained messages again. (Shared subscriptions never carry them.)
                    if !path.starts_with("$share/") {
                        filter.retain_forward_rule = codec5::v5::RetainForwardRule::OnNewSubscribe;
                    }
                    filter
                }))
                .is_ok(),
        }
    }

    /// Ends the connection once all that was requested before has been written.
    pub(crate) fn disconnect(&self) -> bool {
        match self {
            Self::V4(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

impl Qos {
    fn v4(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce => QoS::AtLeastOnce,
            Self::ExactlyOnce => QoS::ExactlyOnce,
        }
    }

    fn v5(self) -> codec5::QoS {
        match self {
            Self::AtMostOnce => codec5::QoS::AtMostOnce,
            Self::AtLeastOnce => codec5::QoS::AtLeastOnce,
            Self::ExactlyOnce => codec5::QoS::ExactlyOnce,
        }
    }
}

fn sent(outgoing: &Outgoing) -> Event {
    match outgoing {
        Outgoing::Publish(packet_id) => Event::Sent(*packet_id),
        Outgoing::PubAck(_) | Outgoing::PubRec(_) => Event::AckWritten,
        Outgoing::Disconnect => Event::Closed,
        _ => Event::Other,
    }
}

const LOGIN_HELP: &str = "check user and password, and the broker's access rules";
const ID_HELP: &str = "give another client_id";

fn refused(code: &dyn std::fmt::Debug, help: &str) -> Trouble {
    Trouble::Fatal(format!("the broker refused the connection ({code:?}): {help}"))
}

fn aborted() -> Trouble {
    Trouble::weather(
        "closed",
        "the broker closed the connection (it ended, or another client took this client_id)",
    )
}

fn no_pong() -> Trouble {
    Trouble::weather("ping", "the broker did not answer a ping")
}
