//! A broker with persistent sessions, and a fleet of devices that publish at QoS 1.
//!
//! A device numbers its messages and has up to [`UNACKED_MAX`] on their way. When its connection was lost it sends again
//! from the first that is not acknowledged, so the broker may have some twice. The broker has up to `window` messages
//! un-acknowledged with each subscriber. When the subscriber or the broker comes back, they are delivered again, in
//! order and before all others. Packet ids are soon used again.

use std::collections::VecDeque;
use std::task::Waker;

use thalweg_testing::Random;

use super::ledger::Ledger;

/// The most messages of a device that the broker has not acknowledged.
pub(crate) const UNACKED_MAX: usize = 16;

/// A message of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) device: u32,
    /// From 1 on.
    pub(crate) sequence: u64,
    /// Event time, in milliseconds.
    pub(crate) time: i64,
    pub(crate) value: i64,
}

impl Message {
    /// As it travels. One in [`FleetPlan::poison_one_in`] cannot be decoded.
    pub(crate) fn encode(&self, poison: bool) -> Vec<u8> {
        let Self { device, sequence, time, value } = self;
        let mark = if poison { "?" } else { "" };
        format!("{mark}{device},{sequence},{time},{value}").into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.split(',');
        let mut part = || parts.next();
        Some(Self {
            device: part()?.parse().ok()?,
            sequence: part()?.parse().ok()?,
            time: part()?.parse().ok()?,
            value: part()?.parse().ok()?,
        })
    }
}

/// What the subscriber's socket holds.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) generation: u64,
    pub(crate) packet: u16,
    pub(crate) payload: Vec<u8>,
}

struct Session {
    queue: VecDeque<Vec<u8>>,
    in_flight: VecDeque<(u16, Vec<u8>)>,
    /// How many of the messages in flight have been sent on this connection.
    sent: usize,
    generation: u64,
    connected: bool,
    socket: VecDeque<Delivery>,
    waker: Option<Waker>,
    packet: u16,
}

#[derive(Default)]
struct Device {
    messages: Vec<Vec<u8>>,
    sent: usize,
    acked: usize,
}

/// How a fleet publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FleetPlan {
    pub(crate) partitions: usize,
    pub(crate) devices: usize,
    pub(crate) messages: usize,
    /// The most milliseconds by which event times are out of order, but for those that are sometimes `beyond`.
    pub(crate) disorder_ms: usize,
    pub(crate) beyond_ms: usize,
    /// One message in this number cannot be decoded.
    pub(crate) poison_one_in: usize,
    /// Un-acknowledged messages with one subscriber.
    pub(crate) window: usize,
}

/// See the module.
pub(crate) struct Broker {
    plan: FleetPlan,
    random: Random,
    ledger: Ledger,
    sessions: Vec<Session>,
    devices: Vec<Device>,
    left: usize,
    clock_ms: i64,
    /// All distinct messages, in the order in which they were first published.
    published: Vec<Message>,
    poison: Vec<Vec<u8>>,
}

impl Broker {
    pub(crate) fn new(plan: FleetPlan, random: Random, ledger: Ledger) -> Self {
        let session = || Session {
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            sent: 0,
            generation: 0,
            connected: false,
            socket: VecDeque::new(),
            waker: None,
            packet: 0,
        };
        Self {
            plan,
            random,
            ledger,
            sessions: (0..plan.partitions).map(|_| session()).collect(),
            devices: (0..plan.devices).map(|_| Device::default()).collect(),
            left: plan.messages,
            clock_ms: 0,
            published: Vec::new(),
            poison: Vec::new(),
        }
    }

    pub(crate) fn published(&self) -> &[Message] {
        &self.published
    }

    pub(crate) fn poison(&self) -> &[Vec<u8>] {
        &self.poison
    }

    /// Whether all is published, acknowledged both ways, and nothing is on its way.
    pub(crate) fn is_drained(&self) -> bool {
        self.left == 0
            && self.devices.iter().all(|device| device.acked == device.messages.len())
            && self.sessions.iter().all(|session| {
                session.queue.is_empty()
                    && session.in_flight.is_empty()
                    && session.socket.is_empty()
            })
    }

    /// Whether a partition has ever had a message.
    pub(crate) fn has_appeared(&self, partition: usize) -> bool {
        let session = &self.sessions[partition];
        session.packet != 0 || !session.queue.is_empty()
    }

    /// Whether a partition has messages that are not acknowledged.
    pub(crate) fn has_more(&self, partition: usize) -> bool {
        let session = &self.sessions[partition];
        !session.queue.is_empty() || !session.in_flight.is_empty()
    }

    /// A device publishes its next message, or one more time what it does not know to have arrived.
    pub(crate) fn publish(&mut self) {
        let at = self.random.below(self.devices.len());
        let device = &mut self.devices[at];
        if device.sent - device.acked >= UNACKED_MAX {
            return;
        }
        if device.sent == device.messages.len() {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            self.clock_ms += self.random.below(5) as i64;
            let beyond = self.plan.beyond_ms > 0 && self.random.one_in(4);
            let back = self.plan.disorder_ms + if beyond { self.plan.beyond_ms } else { 0 };
            let message = Message {
                device: at as u32,
                sequence: device.messages.len() as u64 + 1,
                time: (self.clock_ms - self.random.below(back + 1) as i64).max(0),
                value: self.random.below(100) as i64,
            };
            let poison = self.random.one_in(self.plan.poison_one_in);
            let payload = message.encode(poison);
            if poison {
                self.poison.push(payload.clone());
            } else {
                self.published.push(message);
            }
            device.messages.push(payload);
        }
        let payload = device.messages[device.sent].clone();
        device.sent += 1;
        self.sessions[at % self.plan.partitions].queue.push_back(payload);
    }

    /// A device learns what the broker has.
    pub(crate) fn acknowledge_devices(&mut self) {
        let at = self.random.below(self.devices.len());
        let device = &mut self.devices[at];
        device.acked += self.random.below(device.sent - device.acked + 1);
        if self.left == 0 {
            device.acked = device.sent;
        }
    }

    /// Devices lose their connections: they send again what was not acknowledged.
    pub(crate) fn devices_reconnect(&mut self) {
        self.devices.iter_mut().for_each(|device| device.sent = device.acked);
    }

    /// Puts one message into a subscriber's socket.
    pub(crate) fn deliver(&mut self, partition: usize) {
        let window = self.plan.window;
        let session = &mut self.sessions[partition];
        if !session.connected {
            return;
        }
        if session.sent == session.in_flight.len() && session.in_flight.len() < window {
            let Some(payload) = session.queue.pop_front() else { return };
            let used = |id| session.in_flight.iter().any(|(other, _)| *other == id) || id == 0;
            let mut packet = session.packet;
            loop {
                packet = (packet + 1) % (2 * window as u16 + 1);
                if !used(packet) {
                    break;
                }
            }
            session.packet = packet;
            session.in_flight.push_back((packet, payload));
        }
        let Some((packet, payload)) = session.in_flight.get(session.sent).cloned() else { return };
        session.sent += 1;
        let generation = session.generation;
        session.socket.push_back(Delivery { generation, packet, payload });
        if let Some(waker) = &session.waker {
            waker.wake_by_ref();
        }
    }

    /// A subscriber connects, with the session it had.
    pub(crate) fn connect(&mut self, partition: usize, waker: Waker) {
        let session = &mut self.sessions[partition];
        session.socket.clear();
        session.waker = Some(waker);
        session.connected = true;
        session.generation += 1;
        session.sent = 0;
    }

    /// A subscriber's process is gone.
    pub(crate) fn disconnect(&mut self, partition: usize) {
        let session = &mut self.sessions[partition];
        (session.connected, session.waker) = (false, None);
        session.socket.clear();
    }

    /// A connection is lost and found again, while the subscriber lives: what it has read from the old one
    /// is with it still, at times.
    pub(crate) fn reconnect(&mut self, partition: usize) {
        let keeps = self.random.one_in(2);
        let session = &mut self.sessions[partition];
        if !session.connected {
            return;
        }
        if !keeps {
            session.socket.clear();
        }
        session.generation += 1;
        session.sent = 0;
    }

    /// The generation of a subscriber's connection.
    pub(crate) fn generation(&self, partition: usize) -> u64 {
        self.sessions[partition].generation
    }

    pub(crate) fn peek(&self, partition: usize) -> Option<&Delivery> {
        self.sessions[partition].socket.front()
    }

    pub(crate) fn take(&mut self, partition: usize) {
        self.sessions[partition].socket.pop_front();
    }

    /// A PUBACK of a subscriber. `delivered` is the connection that brought the message.
    pub(crate) fn acknowledge(&mut self, partition: usize, journal: &str, delivery: &Delivery) {
        let session = &mut self.sessions[partition];
        if delivery.generation != session.generation {
            return self.ledger.violation(format!(
                "packet {} of connection {} was acknowledged on connection {}",
                delivery.packet, delivery.generation, session.generation
            ));
        }
        match session.in_flight.front() {
            Some((packet, payload)) if *packet == delivery.packet && session.sent > 0 => {
                self.ledger.acknowledged(journal, payload);
                session.in_flight.pop_front();
                session.sent -= 1;
            }
            front => {
                let due = front.map(|(packet, _)| *packet);
                self.ledger.violation(format!(
                    "packet {} was acknowledged out of order: {due:?} is due",
                    delivery.packet
                ));
            }
        }
    }
}
