//! A connection that stands: its stream, its two buffers, and what the protocol answers by itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use thalweg_io::Reactor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::manner::Terms;
use super::past::Past;
use super::{
    Accepted, Event, Incoming, Outgoing, Plan, Publish, Sent, Trouble, UNWRITTEN_BYTES_MAX, mqtt3,
    mqtt5,
};
use crate::config::{Qos, Version};
use crate::link::packet_ids::PacketIds;
use crate::link::{dialer, probe};

/// Room for one read, in bytes: some hundreds of readings.
const READ_BYTES: usize = 32 * 1024;
/// Less room than this is not worth a read, in bytes.
const READ_BYTES_MIN: usize = 4 * 1024;
/// All that a broker that keeps to the standard can be owed: two answers of four bytes for each packet id.
const ANSWERS_BYTES_MAX: usize = 8 * 65_535;
/// Packet ids beyond the window of results: a subscription, and both messages to the status topic.
const SPARE_IDS: u16 = 3;

/// What MQTT runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct Connection {
    stream: Box<dyn Stream>,
    version: Version,
    packet_bytes_max: u32,
    incoming: BytesMut,
    /// What comes in at present is read past.
    past: Option<Past>,
    outgoing: BytesMut,
    /// What the broker takes of publishes.
    qos_max: Qos,
    retains: bool,
    /// The stream may hold bytes back that it took (TLS).
    unflushed: bool,
    /// To be told once everything is written.
    afterwards: VecDeque<Event>,
    /// Why nothing can be written any more. What was received is returned first.
    mute: Option<Trouble>,
    /// Of publishes and subscriptions that the broker has not answered.
    ids: PacketIds,
    /// Messages that we have not acknowledged.
    unacknowledged: usize,
    keep_alive: Duration,
    /// When the next ping is due.
    ping_at: Instant,
    reactor: Reactor,
    /// A ping was sent, and nothing has been received since.
    waits_for_pong: bool,
    /// Pings written, and answered.
    pings: u64,
    pongs: u64,
}

impl Connection {
    /// On a fresh stream; CONNECT is about to be written.
    pub(super) fn new(
        stream: Box<dyn Stream>,
        plan: &Plan,
        terms: &Terms,
        reactor: Reactor,
    ) -> Result<Self, Trouble> {
        let config = &plan.config;
        let mut outgoing = BytesMut::new();
        match terms.version {
            Version::V311 => mqtt3::connect(plan, terms, &mut outgoing)?,
            Version::V5 => mqtt5::connect(plan, terms, &mut outgoing)?,
        }
        let keep_alive = config.keep_alive();
        Ok(Self {
            stream,
            version: terms.version,
            packet_bytes_max: config.packet_bytes_max,
            incoming: BytesMut::new(),
            past: None,
            outgoing,
            qos_max: Qos::ExactlyOnce,
            retains: true,
            unflushed: false,
            afterwards: VecDeque::new(),
            mute: None,
            ids: PacketIds::new(config.inflight.saturating_add(SPARE_IDS)),
            unacknowledged: 0,
            keep_alive,
            ping_at: reactor.now() + keep_alive,
            reactor,
            waits_for_pong: false,
            pings: 0,
            pongs: 0,
        })
    }

    /// Waits for the answer to CONNECT, which has gone to this port.
    pub(super) async fn accepted(&mut self, port: u16) -> Result<Box<Accepted>, Trouble> {
        let accepted = poll_fn(|cx| {
            loop {
                if let Some(trouble) = probe::stranger(&self.incoming, port) {
                    return Poll::Ready(Err(trouble));
                }
                match self.read() {
                    Ok(Some(Incoming::Accepted(accepted))) => return Poll::Ready(Ok(accepted)),
                    Ok(Some(_)) => {
                        let what = "its first packet is no CONNACK";
                        return Poll::Ready(Err(Trouble::weather("protocol", what)));
                    }
                    Ok(None) => {}
                    Err(trouble) => return Poll::Ready(Err(trouble)),
                }
                self.poll_write(cx);
                // Whatever ends it here ends it without an answer.
                ready!(self.poll_read(cx)).map_err(|trouble| match trouble {
                    Trouble::Weather { class: "closed", text } => Trouble::Version {
                        told: false,
                        text: format!("no answer to CONNECT: {text}"),
                    },
                    trouble => trouble,
                })?;
            }
        })
        .await?;
        if let Some(seconds) = accepted.keep_alive_s.filter(|seconds| *seconds > 0) {
            self.keep_alive = Duration::from_secs(seconds.into());
        }
        (self.qos_max, self.retains) = (accepted.qos_max, accepted.retains);
        self.ping_at = self.reactor.now() + self.keep_alive;
        Ok(accepted)
    }

    /// The best quality of service that the broker takes, and whether it retains.
    pub(super) fn takes(&self) -> (Qos, bool) {
        (self.qos_max, self.retains)
    }

    /// See [`Link::poll`](super::Link::poll).
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
    ) -> Poll<Result<Event, Trouble>> {
        loop {
            if reads && let Some(event) = self.received()? {
                return Poll::Ready(Ok(event));
            }
            let late = self.poll_ping();
            // All that the events before called for goes in one write.
            if self.poll_write(cx)
                && let Some(event) = self.afterwards.pop_front()
            {
                return Poll::Ready(Ok(event));
            }
            if !reads {
                return Poll::Pending;
            }
            match self.poll_read_in_turn(cx)? {
                Poll::Ready(()) => {}
                // Only now: the answer may wait in the socket behind what was not read.
                Poll::Pending if late && self.reactor.has_reads_left() => {
                    let what = "the broker did not answer a ping";
                    return Poll::Ready(Err(Trouble::weather("ping", what)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next event that was received already.
    pub(super) fn received(&mut self) -> Result<Option<Event>, Trouble> {
        while let Some(packet) = self.read()? {
            match packet {
                Incoming::Delivery(delivery) => {
                    self.unacknowledged += usize::from(delivery.qos != Qos::AtMostOnce);
                    return Ok(Some(Event::Delivery(delivery)));
                }
                Incoming::Released(packet_id) => {
                    return Ok(Some(Event::Released(packet_id)));
                }
                Incoming::Received(packet_id) => {
                    self.write(Outgoing::Release(packet_id));
                }
                Incoming::Acked { packet_id, refused } => {
                    self.ids.remove(packet_id);
                    return Ok(Some(Event::Acked { packet_id, refused }));
                }
                Incoming::Subscribed { packet_id, grants } => {
                    self.ids.remove(packet_id);
                    return Ok(Some(Event::Subscribed(grants)));
                }
                Incoming::Unsubscribed(packet_id) => self.ids.remove(packet_id),
                Incoming::Pong => self.pongs = self.pings.min(self.pongs + 1),
                Incoming::TooLarge => self.past = Some(Past::begin(&mut self.incoming)?),
                Incoming::Accepted(_) => {
                    return Err(Trouble::weather("protocol", "a second CONNACK"));
                }
            }
        }
        Ok(None)
    }

    #[inline]
    fn read(&mut self) -> Result<Option<Incoming>, Trouble> {
        if self.incoming.is_empty() {
            return Ok(None);
        }
        if self.past.is_some() {
            return self.read_past();
        }
        match self.version {
            Version::V311 => mqtt3::read(&mut self.incoming, self.packet_bytes_max),
            Version::V5 => mqtt5::read(&mut self.incoming, self.packet_bytes_max),
        }
    }

    /// Reads on past a message over the limit.
    #[cold]
    fn read_past(&mut self) -> Result<Option<Incoming>, Trouble> {
        let Some(past) = self.past.take_if(|past| past.take(&mut self.incoming)) else {
            return Ok(None);
        };
        past.delivery(self.version).map(|delivery| Some(Incoming::Delivery(delivery)))
    }

    pub(super) fn write(&mut self, packet: Outgoing<'_>) -> bool {
        let before = self.outgoing.len();
        let written = match self.version {
            Version::V311 => mqtt3::write(packet, &mut self.outgoing),
            Version::V5 => mqtt5::write(packet, &mut self.outgoing),
        };
        if !written {
            // Nothing of a packet that is none.
            self.outgoing.truncate(before);
        }
        written
    }

    /// Publishes, if a packet id is free.
    pub(super) fn publish(&mut self, publish: Publish<'_>) -> Option<Sent> {
        if publish.qos == Qos::AtMostOnce {
            let written = self.write(Outgoing::Publish(0, publish));
            if written && self.afterwards.is_empty() {
                self.afterwards.push_back(Event::Flushed);
            }
            return written.then_some(Sent::Plain);
        }
        let packet_id = self.ids.take()?;
        if !self.write(Outgoing::Publish(packet_id, publish)) {
            self.ids.remove(packet_id);
            return None;
        }
        // Those behind it wait for room, and not for the broker's answer.
        if self.unwritten_bytes() >= UNWRITTEN_BYTES_MAX && self.afterwards.is_empty() {
            self.afterwards.push_back(Event::Flushed);
        }
        Some(Sent::Tracked(packet_id))
    }

    pub(super) fn ack(&mut self, packet_id: u16, qos: Qos) {
        self.write(Outgoing::Ack(packet_id, qos));
        self.waive();
    }

    pub(super) fn waive(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    pub(super) fn subscribe(&mut self, filters: Vec<&str>, qos: Qos, identifier: Option<u32>) {
        // The first thing on a connection, and one at a time: there is an id.
        if let Some(packet_id) = self.ids.take() {
            self.write(Outgoing::Subscribe { packet_id, filters, qos, identifier });
        }
    }

    pub(super) fn unsubscribe(&mut self, filters: Vec<String>) {
        if let Some(packet_id) = self.ids.take() {
            self.write(Outgoing::Unsubscribe { packet_id, filters });
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.write(Outgoing::Disconnect);
        self.afterwards.push_back(Event::Closed);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.ids.len()
    }

    /// See [`Link::pings`](super::Link::pings).
    pub(super) fn pings(&self) -> (u64, u64) {
        (self.pings, self.pongs)
    }

    pub(super) fn unwritten_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Ends the stream in good order.
    pub(super) async fn shut_down(mut self: Box<Self>) {
        let _closed = self.stream.shutdown().await;
    }

    /// Pings when it is time. Whether nothing was received since the last ping: who then has nothing to give has gone.
    fn poll_ping(&mut self) -> bool {
        let mut late = false;
        while self.reactor.poll_until(self.ping_at).is_ready() {
            late = std::mem::replace(&mut self.waits_for_pong, true);
            self.write(Outgoing::Ping);
            self.pings += 1;
            self.ping_at = self.reactor.now() + self.keep_alive;
        }
        late
    }

    /// Whether everything is written, and the connection is whole.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.mute.is_some() {
            self.outgoing.clear();
            return false;
        }
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
            Poll::Ready(Err(cause)) => {
                self.mute = Some(lost(&cause));
                false
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let stream = Pin::new(&mut self.stream);
            if ready!(poll_write_buf(stream, cx, &mut self.outgoing))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what there is, unless the broker does not take what it is owed: it would never have enough.
    fn poll_read_in_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        let unwritten_max =
            UNWRITTEN_BYTES_MAX + ANSWERS_BYTES_MAX + self.packet_bytes_max as usize;
        if self.unwritten_bytes() >= unwritten_max {
            return Poll::Pending;
        }
        self.poll_read(cx)
    }

    /// Reads what there is.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        if self.incoming.capacity() - self.incoming.len() < READ_BYTES_MIN {
            self.incoming.reserve(READ_BYTES);
        }
        let stream = Pin::new(&mut self.stream);
        let trouble = match ready!(poll_read_buf(stream, cx, &mut self.incoming)) {
            Ok(0) => Trouble::weather(
                "closed",
                "the broker closed the connection (it ended, or another client took this client_id)",
            ),
            Ok(_) => {
                self.waits_for_pong = false;
                return Poll::Ready(Ok(()));
            }
            Err(cause) => lost(&cause),
        };
        // Where TLS says why, that is better than what a write met.
        let told = matches!(trouble, Trouble::Fatal(_));
        Poll::Ready(Err(self.mute.take().filter(|_| !told).unwrap_or(trouble)))
    }
}

fn lost(cause: &io::Error) -> Trouble {
    dialer::explain(cause, "closed")
}

#[cfg(test)]
mod tests;
