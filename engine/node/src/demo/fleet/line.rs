//! One MQTT connection of the fleet, and the messages it owes an acknowledgement for.
//!
//! A message moves `waiting -> flight -> counted`: it waits until the window has room, flies until its
//! PUBACK comes. The client library's own bookkeeping is not relied upon: with a clean session it
//! forgets on reconnect what it had not delivered. So each connection attempt gets a fresh client.
//! What was in flight when a connection broke goes back to the head of the queue, in order.
//!
//! Acknowledgements are matched by packet id. The library assigns ids in the order in which messages
//! were handed to it, and announces each (`Outgoing::Publish`) before its PUBACK can come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};

use super::generator::{Message, OVERSIZED_BYTES};
use super::{Sending, WAITING_MESSAGES_MAX};

/// Unacknowledged messages per connection.
const WINDOW: usize = 64;
/// Packet ids in use, many more than fly at a time, so that one is never needed twice.
const PACKET_IDS: u16 = 1_024;
const PACKET_BYTES_MAX: usize = OVERSIZED_BYTES + 4_096;
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 1_000;

/// Sets those options that the accounting depends on.
pub(super) fn claim(options: &mut MqttOptions) {
    options.set_clean_session(true);
    options.set_inflight(PACKET_IDS);
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
}

/// A connection that reconnects by itself until it is told goodbye.
pub(super) struct Line {
    options: MqttOptions,
    sending: Arc<Sending>,
    queue: RefCell<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Present while connected.
    client: Option<AsyncClient>,
    waiting: VecDeque<Flight>,
    flight: VecDeque<Flight>,
    /// How many of `flight`, from the front, have a packet id.
    numbered: usize,
    leaving: bool,
}

struct Flight {
    message: Message,
    /// Zero until the library has assigned one.
    packet_id: u16,
    /// It was on its way once before.
    again: bool,
}

impl Line {
    pub(super) fn new(options: MqttOptions, sending: Arc<Sending>) -> Self {
        Self { options, sending, queue: RefCell::default() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.borrow().waiting.len() < WAITING_MESSAGES_MAX
    }

    /// Nothing waits and nothing flies.
    pub(super) fn is_empty(&self) -> bool {
        let queue = self.queue.borrow();
        queue.waiting.is_empty() && queue.flight.is_empty()
    }

    pub(super) fn push(&self, message: Message) {
        let mut queue = self.queue.borrow_mut();
        queue.waiting.push_back(Flight { message, packet_id: 0, again: false });
        queue.pump();
    }

    /// Sends DISCONNECT and does not come back.
    pub(super) fn goodbye(&self) {
        let mut queue = self.queue.borrow_mut();
        queue.leaving = true;
        if let Some(client) = &queue.client {
            let _ = client.try_disconnect();
        }
    }

    /// Connects, and connects again.
    pub(super) async fn serve(self: Rc<Self>) {
        let mut retry_ms = RETRY_MS_MIN;
        loop {
            // Room for the window and a DISCONNECT: handing over never has to wait.
            let (client, mut events) = AsyncClient::new(self.options.clone(), WINDOW + 1);
            events.network_options.set_tcp_nodelay(true);
            let error = loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        retry_ms = RETRY_MS_MIN;
                        self.connected(client.clone());
                    }
                    Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                    Ok(event) => self.handle(&event),
                    Err(error) => break error,
                }
            };
            // What had arrived before the connection broke still counts.
            for event in std::mem::take(&mut events.state.events) {
                self.handle(&event);
            }
            if self.broken() {
                return;
            }
            self.sending.note(error.to_string());
            tokio::time::sleep(Duration::from_millis(retry_ms)).await;
            retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
        }
    }

    fn handle(&self, event: &Event) {
        let mut queue = self.queue.borrow_mut();
        match event {
            Event::Outgoing(Outgoing::Publish(packet_id)) => {
                let repeats = queue.number(*packet_id);
                self.sending.resent.fetch_add(u64::from(repeats), Ordering::AcqRel);
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                if let Some(message) = queue.acknowledged(ack.pkid) {
                    self.sending.sent[message.class as usize].fetch_add(1, Ordering::AcqRel);
                }
                queue.pump();
            }
            _ => {}
        }
    }

    fn connected(&self, client: AsyncClient) {
        let mut queue = self.queue.borrow_mut();
        queue.client = Some(client);
        queue.pump();
    }

    /// Takes the connection down and its messages back; says whether it is not to be renewed.
    fn broken(&self) -> bool {
        let mut queue = self.queue.borrow_mut();
        queue.broken();
        queue.leaving
    }
}

impl Queue {
    fn pump(&mut self) {
        let Some(client) = &self.client else { return };
        while self.flight.len() < WINDOW {
            let Some(next) = self.waiting.pop_front() else { return };
            let Message { topic, payload, .. } = &next.message;
            if client.try_publish(topic, QoS::AtLeastOnce, false, payload.as_slice()).is_err() {
                // The connection has just broken; `serve` is about to find out.
                self.waiting.push_front(next);
                return;
            }
            self.flight.push_back(next);
        }
    }

    /// The first message without a packet id gets this one; says whether it is a repeat.
    fn number(&mut self, packet_id: u16) -> bool {
        let Some(flight) = self.flight.get_mut(self.numbered) else { return false };
        self.numbered += 1;
        flight.packet_id = packet_id;
        flight.again
    }

    /// An id that nobody has is ignored: it cannot be a message of ours.
    fn acknowledged(&mut self, packet_id: u16) -> Option<Message> {
        let mut numbered = self.flight.iter().take(self.numbered);
        let at = numbered.position(|flight| flight.packet_id == packet_id)?;
        self.numbered -= 1;
        self.flight.remove(at).map(|flight| flight.message)
    }

    fn broken(&mut self) {
        self.client = None;
        for flight in &mut self.flight {
            // Without a packet id it was never written to the connection.
            flight.again |= flight.packet_id != 0;
            flight.packet_id = 0;
        }
        self.numbered = 0;
        self.flight.append(&mut self.waiting);
        std::mem::swap(&mut self.flight, &mut self.waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::Class;
    use super::*;

    fn queue(flying: u32, waiting: u32) -> Queue {
        let flight = |device| Flight {
            message: Message {
                device,
                class: Class::OnTime,
                topic: "t".into(),
                payload: Vec::new(),
            },
            packet_id: 0,
            again: false,
        };
        Queue {
            flight: (0..flying).map(flight).collect(),
            waiting: (flying..flying + waiting).map(flight).collect(),
            ..Queue::default()
        }
    }

    fn devices(flights: &VecDeque<Flight>) -> Vec<u32> {
        flights.iter().map(|flight| flight.message.device).collect()
    }

    #[test]
    fn acknowledgements_out_of_order_meet_their_messages() {
        let mut queue = queue(3, 0);
        for id in [7, 8, 9] {
            assert!(!queue.number(id));
        }
        let mut acknowledged = |id| queue.acknowledged(id).map(|message| message.device);
        assert_eq!(acknowledged(8), Some(1));
        assert_eq!(acknowledged(8), None);
        assert_eq!(acknowledged(9), Some(2));
        assert_eq!(acknowledged(0), None);
        assert_eq!(acknowledged(7), Some(0));
    }

    #[test]
    fn a_message_not_yet_numbered_is_never_acknowledged() {
        let mut queue = queue(2, 0);
        queue.number(1);
        assert!(queue.acknowledged(0).is_none());
        assert_eq!(queue.acknowledged(1).unwrap().device, 0);
        queue.number(1);
        assert_eq!(queue.acknowledged(1).unwrap().device, 1);
    }

    #[test]
    fn a_break_puts_everything_back_in_order_and_marks_what_was_written() {
        let mut queue = queue(3, 2);
        queue.number(1);
        queue.number(2);
        queue.acknowledged(1);
        queue.broken();
        assert!(queue.flight.is_empty());
        assert_eq!(devices(&queue.waiting), [1, 2, 3, 4]);
        // Device 1's message had been written, the others had not.
        queue.flight.append(&mut queue.waiting);
        assert_eq!([1, 2, 3, 4].map(|id| queue.number(id)), [true, false, false, false]);
    }

    #[test]
    fn ids_that_nobody_asked_for_are_ignored() {
        let mut queue = queue(1, 0);
        assert!(!queue.number(5) && !queue.number(6));
        assert_eq!(queue.numbered, 1);
    }
}
