//! What the sink has taken and the broker has not acknowledged. Pure: no I/O.
//!
//! A connection that is lost takes what it has not delivered with it. So the sink keeps its results here and,
//! after each new connection, sends again in order what was not acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::link::Sent;

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

/// Parcels by sequence number: those in `base..next` are sent, later ones are not yet.
pub(crate) struct Unacked<P> {
    parcels: VecDeque<Parcel<P>>,
    base: u64,
    next: u64,
    /// Sent at QoS 0, and perhaps not yet written.
    unwritten: VecDeque<u64>,
    /// The parcel behind each packet id in flight.
    by_packet_id: Vec<Option<u64>>,
}

impl<P> Unacked<P> {
    pub(crate) fn new() -> Self {
        Self {
            parcels: VecDeque::new(),
            base: 0,
            next: 0,
            unwritten: VecDeque::new(),
            by_packet_id: Vec::new(),
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

    /// The next parcel to send, and whether it was sent on an earlier connection.
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

    /// The parcel that [`Unacked::next`] gave has been sent.
    pub(crate) fn sent(&mut self, how: Sent) {
        match how {
            Sent::Plain => self.unwritten.push_back(self.next),
            Sent::Tracked(packet_id) => {
                let at = usize::from(packet_id);
                if at >= self.by_packet_id.len() {
                    self.by_packet_id.resize(at + 1, None);
                }
                self.by_packet_id[at] = Some(self.next);
            }
        }
        self.next += 1;
    }

    /// The parcel that [`Unacked::next`] gave can never be sent.
    pub(crate) fn give_up(&mut self) {
        let seq = self.next;
        self.next += 1;
        self.finish(seq);
    }

    /// All that was sent is written: a parcel that this completes, if there is one more (QoS 0).
    pub(crate) fn written(&mut self) -> Option<&Parcel<P>> {
        let seq = self.unwritten.pop_front()?;
        self.finish(seq)
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

    /// The first that is not done, if it has been sent: its number and itself.
    pub(crate) fn stuck(&self) -> Option<(u64, &Parcel<P>)> {
        let first = self.parcels.front().filter(|parcel| parcel.again && !parcel.done)?;
        Some((self.base, first))
    }

    /// The connection has gone: everything that was not acknowledged is to be sent again.
    pub(crate) fn rewind(&mut self) {
        self.next = self.base;
        self.unwritten.clear();
        self.by_packet_id.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unacked(count: u8) -> Unacked<u8> {
        let mut unacked = Unacked::new();
        for port in 0..count {
            unacked.push((Bytes::new(), Bytes::new()), None, port);
        }
        unacked
    }

    /// Sends all there are, with packet ids from this on.
    fn send_all(unacked: &mut Unacked<u8>, mut packet_id: u16) -> Vec<(u8, bool)> {
        let mut seen = Vec::new();
        while let Some((parcel, again)) = unacked.next() {
            seen.push((parcel.port, again));
            unacked.sent(Sent::Tracked(packet_id));
            packet_id += 1;
        }
        seen
    }

    fn popped(unacked: &mut Unacked<u8>) -> Vec<u8> {
        std::iter::from_fn(|| unacked.pop_done()).map(|parcel| parcel.port).collect()
    }

    #[test]
    fn parcels_leave_in_order_whatever_the_order_of_the_acks() {
        let mut unacked = unacked(3);
        assert_eq!(send_all(&mut unacked, 1), [(0, false), (1, false), (2, false)]);
        assert!(unacked.acked(2).is_some() && popped(&mut unacked).is_empty());
        assert!(unacked.acked(1).is_some() && popped(&mut unacked) == [0, 1]);
        assert!(unacked.acked(1).is_none(), "an id counts once");
        assert!(unacked.acked(3).is_some() && popped(&mut unacked) == [2] && unacked.is_empty());
    }

    #[test]
    fn a_new_connection_repeats_what_was_not_acknowledged() {
        let mut unacked = unacked(3);
        send_all(&mut unacked, 1);
        unacked.acked(2);
        assert_eq!(unacked.stuck().map(|(seq, parcel)| (seq, parcel.port)), Some((0, 0)));
        unacked.rewind();
        assert!(unacked.acked(1).is_none(), "ids of the old connection mean nothing now");
        unacked.push((Bytes::new(), Bytes::new()), None, 3);
        // A status message has taken the first id of the new connection.
        assert_eq!(send_all(&mut unacked, 2), [(0, true), (2, true), (3, false)]);
        assert!(unacked.acked(1).is_none(), "the status message is no parcel");
        assert!(
            unacked.acked(2).is_some()
                && unacked.acked(3).is_some()
                && popped(&mut unacked) == [0, 1, 2]
        );
        assert!(unacked.acked(4).is_some() && popped(&mut unacked) == [3]);
    }

    #[test]
    fn at_qos_0_written_is_done_and_what_cannot_be_sent_is_passed_over() {
        let mut unacked = unacked(3);
        assert!(unacked.next().is_some());
        unacked.sent(Sent::Plain);
        assert!(unacked.next().is_some());
        unacked.give_up();
        assert!(unacked.next().is_some());
        unacked.sent(Sent::Plain);
        assert!(popped(&mut unacked).is_empty(), "nothing is written yet");
        assert!(unacked.written().is_some() && unacked.written().is_some());
        assert_eq!(popped(&mut unacked), [0, 1, 2]);
        assert!(unacked.written().is_none());
    }
}
