//! What the sink has taken and the broker has not acknowledged. Pure: no I/O.
//!
//! rumqttc forgets its publishes when the broker has no session for us, so the sink keeps them
//! here and, after each new connection, sends again in order what was not acknowledged.
//!
//! rumqttc chooses the packet ids. It handles requests one at a time in the order in which they
//! were made and reports each as sent with its id, so the order tells which id belongs to which
//! publish.

use std::collections::VecDeque;

use bytes::Bytes;

/// A result on its way to the broker. `P` is what to tell once it has arrived.
pub(crate) struct Parcel<P> {
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    /// The id that it is published with, if it has one.
    pub(crate) id: Option<Box<str>>,
    pub(crate) port: P,
    /// Acknowledged, or given up: it only waits for those before it.
    done: bool,
    /// It was handed to an earlier connection.
    again: bool,
}

/// Parcels by sequence number: those in `base..next` are requested, later ones are not yet.
pub(crate) struct Outbox<P> {
    parcels: VecDeque<Parcel<P>>,
    base: u64,
    next: u64,
    /// Requested and not yet reported as sent; `None` for publishes that are not results.
    requested: VecDeque<Option<u64>>,
    /// The parcel behind each packet id in flight.
    by_packet_id: Vec<Option<u64>>,
}

impl<P> Outbox<P> {
    /// Packet ids run from 1 to `inflight`.
    pub(crate) fn new(inflight: u16) -> Self {
        Self {
            parcels: VecDeque::new(),
            base: 0,
            next: 0,
            requested: VecDeque::new(),
            by_packet_id: vec![None; usize::from(inflight) + 1],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.parcels.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    pub(crate) fn push(&mut self, (topic, payload): (Bytes, Bytes), id: Option<Box<str>>, port: P) {
        self.parcels.push_back(Parcel { topic, payload, id, port, done: false, again: false });
    }

    /// The number of publishes requested and not reported as sent.
    pub(crate) fn requested(&self) -> usize {
        self.requested.len()
    }

    /// The next parcel to request, and whether it was requested on an earlier connection.
    pub(crate) fn next(&mut self) -> Option<(&Parcel<P>, bool)> {
        loop {
            let at = usize::try_from(self.next - self.base).ok()?;
            if !self.parcels.get(at)?.done {
                let parcel = self.parcels.get_mut(at)?;
                let again = std::mem::replace(&mut parcel.again, true);
                return Some((parcel, again));
            }
            self.next += 1;
        }
    }

    /// The parcel that [`Outbox::next`] gave has been requested.
    pub(crate) fn request(&mut self) {
        self.requested.push_back(Some(self.next));
        self.next += 1;
    }

    /// The parcel that [`Outbox::next`] gave can never be sent.
    pub(crate) fn give_up(&mut self) {
        let seq = self.next;
        self.next += 1;
        self.finish(seq);
    }

    /// A publish that is not a result was requested.
    pub(crate) fn request_other(&mut self) {
        self.requested.push_back(None);
    }

    /// rumqttc reports the next publish as sent with this id: the parcel that this completes, if it
    /// does (QoS 0).
    pub(crate) fn sent(&mut self, packet_id: u16) -> Option<&Parcel<P>> {
        let seq = self.requested.pop_front()?;
        if packet_id == 0 {
            return self.finish(seq?);
        }
        if let Some(slot) = self.by_packet_id.get_mut(usize::from(packet_id)) {
            *slot = seq;
        }
        None
    }

    /// The broker has answered for this id: the parcel of ours behind it, if there is one.
    pub(crate) fn acked(&mut self, packet_id: u16) -> Option<&Parcel<P>> {
        let seq = self.by_packet_id.get_mut(usize::from(packet_id))?.take()?;
        self.finish(seq)
    }

    /// The parcel, if this completes it.
    fn finish(&mut self, seq: u64) -> Option<&Parcel<P>> {
        let at = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        let parcel = self.parcels.get_mut(at).filter(|parcel| !parcel.done)?;
        parcel.done = true;
        Some(parcel)
    }

    /// Takes out the first parcel if it is done.
    pub(crate) fn pop_done(&mut self) -> Option<Parcel<P>> {
        let done = self.parcels.pop_front_if(|parcel| parcel.done)?;
        self.base += 1;
        self.next = self.next.max(self.base);
        Some(done)
    }

    /// The first that is not done, if it has been requested: its number and itself.
    pub(crate) fn stuck(&self) -> Option<(u64, &Parcel<P>)> {
        let first = self.parcels.front().filter(|parcel| parcel.again && !parcel.done)?;
        Some((self.base, first))
    }

    /// The connection has gone: everything that was not acknowledged is to be requested again.
    pub(crate) fn rewind(&mut self) {
        self.next = self.base;
        self.requested.clear();
        self.by_packet_id.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(count: u8) -> Outbox<u8> {
        let mut outbox = Outbox::new(4);
        for port in 0..count {
            outbox.push((Bytes::new(), Bytes::new()), None, port);
        }
        outbox
    }

    fn request_all(outbox: &mut Outbox<u8>) -> Vec<(u8, bool)> {
        let mut seen = Vec::new();
        while let Some((parcel, again)) = outbox.next() {
            seen.push((parcel.port, again));
            outbox.request();
        }
        seen
    }

    fn popped(outbox: &mut Outbox<u8>) -> Vec<u8> {
        std::iter::from_fn(|| outbox.pop_done()).map(|parcel| parcel.port).collect()
    }

    #[test]
    fn parcels_leave_in_order_whatever_the_order_of_the_acks() {
        let mut outbox = outbox(3);
        assert_eq!(request_all(&mut outbox), [(0, false), (1, false), (2, false)]);
        for packet_id in 1..=3 {
            assert!(outbox.sent(packet_id).is_none());
        }
        assert!(outbox.acked(2).is_some() && popped(&mut outbox).is_empty());
        assert!(outbox.acked(1).is_some() && popped(&mut outbox) == [0, 1]);
        assert!(outbox.acked(1).is_none(), "an id counts once");
        assert!(outbox.acked(3).is_some() && popped(&mut outbox) == [2] && outbox.is_empty());
    }

    #[test]
    fn a_new_connection_repeats_what_was_not_acknowledged() {
        let mut outbox = outbox(3);
        request_all(&mut outbox);
        for packet_id in 1..=3 {
            outbox.sent(packet_id);
        }
        outbox.acked(2);
        assert_eq!(outbox.stuck().map(|(seq, parcel)| (seq, parcel.port)), Some((0, 0)));
        outbox.rewind();
        assert!(outbox.acked(1).is_none(), "ids of the old connection mean nothing now");
        outbox.push((Bytes::new(), Bytes::new()), None, 3);
        assert_eq!(request_all(&mut outbox), [(0, true), (2, true), (3, false)]);
        // The new connection numbers anew, and a status message comes in between.
        outbox.sent(1);
        outbox.sent(2);
        outbox.request_other();
        outbox.sent(3);
        assert!(outbox.sent(4).is_none());
        assert!(
            outbox.acked(1).is_some()
                && outbox.acked(2).is_some()
                && popped(&mut outbox) == [0, 1, 2]
        );
        assert!(outbox.acked(3).is_some() && popped(&mut outbox) == [3]);
        assert!(outbox.acked(4).is_none(), "the status message is no parcel");
    }

    #[test]
    fn at_qos_0_sent_is_done_and_what_cannot_be_sent_is_passed_over() {
        let mut outbox = outbox(3);
        assert!(outbox.next().is_some());
        outbox.request();
        assert!(outbox.next().is_some());
        outbox.give_up();
        assert_eq!(request_all(&mut outbox), [(2, false)]);
        assert!(outbox.sent(0).is_some() && outbox.sent(0).is_some());
        assert_eq!(popped(&mut outbox), [0, 1, 2]);
        assert!(outbox.sent(0).is_none(), "nothing was requested");
    }
}
