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
    /// It was handed to a connection.
    again: bool,
    /// It is on its way on this connection.
    on_way: bool,
}

/// Parcels by sequence number: those in `base..next` are sent or passed over, later ones are not yet.
pub(crate) struct Unacked<P> {
    parcels: VecDeque<Parcel<P>>,
    base: u64,
    next: u64,
    /// Sent at QoS 0, and perhaps not yet written.
    unwritten: VecDeque<u64>,
    /// The parcel behind each packet id in flight.
    by_packet_id: Vec<Option<u64>>,
    /// How many these are.
    on_way: usize,
}

impl<P> Unacked<P> {
    pub(crate) fn new() -> Self {
        Self {
            parcels: VecDeque::new(),
            base: 0,
            next: 0,
            unwritten: VecDeque::new(),
            by_packet_id: Vec::new(),
            on_way: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.parcels.len()
    }

    /// The number of the parcel that is pushed next.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.parcels.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    pub(crate) fn push(&mut self, (topic, payload): (Bytes, Bytes), id: Option<Box<str>>, port: P) {
        let (done, again, on_way) = (false, false, false);
        self.parcels.push_back(Parcel { topic, payload, id, port, done, again, on_way });
    }

    /// The parcel of this number, if it is still here.
    pub(crate) fn get(&self, seq: u64) -> Option<&Parcel<P>> {
        self.parcels.get(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    /// The number of the next parcel that may be sent.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<u64> {
        loop {
            let at = usize::try_from(self.next - self.base).ok()?;
            let parcel = self.parcels.get(at)?;
            if !parcel.done && !parcel.on_way {
                return Some(self.next);
            }
            self.next += 1;
        }
    }

    /// Others go before the parcel that [`Unacked::next`] gave.
    pub(crate) fn pass_over(&mut self) {
        self.next += 1;
    }

    /// What was passed over is next again.
    pub(crate) fn look_again(&mut self) {
        self.next = self.base;
    }

    /// This parcel, which is not on its way, has been sent. Whether it had been before.
    #[inline]
    pub(crate) fn sent(&mut self, seq: u64, how: Sent) -> bool {
        match how {
            Sent::Plain => self.unwritten.push_back(seq),
            Sent::Tracked(packet_id) => {
                let at = usize::from(packet_id);
                if at >= self.by_packet_id.len() {
                    self.by_packet_id.resize(at + 1, None);
                }
                self.by_packet_id[at] = Some(seq);
                self.on_way += 1;
            }
        }
        let Some(parcel) = self.at(seq) else { return false };
        parcel.on_way = true;
        std::mem::replace(&mut parcel.again, true)
    }

    /// This parcel can never be sent: it only waits for those before it.
    pub(crate) fn give_up(&mut self, seq: u64) -> Option<&Parcel<P>> {
        self.finish(seq)
    }

    /// All that was sent is written: a parcel that this completes, if there is one more (QoS 0).
    pub(crate) fn written(&mut self) -> Option<&Parcel<P>> {
        let seq = self.unwritten.pop_front()?;
        self.finish(seq)
    }

    /// The broker has answered for this id: the parcel of ours behind it and its number, if there is one.
    pub(crate) fn acked(&mut self, packet_id: u16) -> Option<(u64, &Parcel<P>)> {
        let seq = self.by_packet_id.get_mut(usize::from(packet_id))?.take()?;
        self.on_way -= 1;
        self.finish(seq).map(|parcel| (seq, parcel))
    }

    fn at(&mut self, seq: u64) -> Option<&mut Parcel<P>> {
        self.parcels.get_mut(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    /// The parcel, if this completes it.
    fn finish(&mut self, seq: u64) -> Option<&Parcel<P>> {
        let parcel = self.at(seq).filter(|parcel| !parcel.done)?;
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

    /// How many are on their way, and which is the first of them.
    pub(crate) fn on_way(&self) -> (usize, Option<u64>) {
        (self.on_way, self.by_packet_id.iter().copied().flatten().min())
    }

    /// How many that is.
    #[inline]
    pub(crate) fn on_way_count(&self) -> usize {
        self.on_way
    }

    /// The topic of the first.
    pub(crate) fn first_topic(&self) -> Option<&[u8]> {
        self.parcels.front().map(|parcel| &*parcel.topic)
    }

    /// The connection has gone: everything that was not acknowledged is to be sent again.
    pub(crate) fn rewind(&mut self) {
        self.next = self.base;
        self.on_way = 0;
        self.unwritten.clear();
        self.by_packet_id.fill(None);
        self.parcels.iter_mut().for_each(|parcel| parcel.on_way = false);
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
        while let Some(seq) = unacked.next() {
            let again = unacked.sent(seq, Sent::Tracked(packet_id));
            seen.push((unacked.get(seq).unwrap().port, again));
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
        assert_eq!((unacked.on_way(), unacked.on_way_count()), ((2, Some(0)), 2));
        unacked.rewind();
        assert_eq!(unacked.on_way(), (0, None));
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
        unacked.sent(0, Sent::Plain);
        assert_eq!(unacked.next(), Some(1));
        assert!(unacked.give_up(1).is_some());
        assert_eq!(unacked.next(), Some(2));
        unacked.sent(2, Sent::Plain);
        assert!(popped(&mut unacked).is_empty(), "nothing is written yet");
        assert!(unacked.written().is_some() && unacked.written().is_some());
        assert_eq!(popped(&mut unacked), [0, 1, 2]);
        assert!(unacked.written().is_none());
    }

    #[test]
    fn what_is_passed_over_comes_again_and_keeps_those_behind_it_from_leaving() {
        let mut unacked = unacked(4);
        assert_eq!(unacked.next(), Some(0));
        unacked.pass_over();
        assert_eq!(unacked.next(), Some(1));
        unacked.sent(1, Sent::Tracked(1));
        unacked.sent(2, Sent::Tracked(2));
        assert!(unacked.acked(1).is_some_and(|(seq, parcel)| (seq, parcel.port) == (1, 1)));
        assert!(popped(&mut unacked).is_empty());
        unacked.look_again();
        assert_eq!((unacked.next(), unacked.on_way()), (Some(0), (1, Some(2))));
        unacked.sent(0, Sent::Tracked(3));
        assert_eq!(unacked.next(), Some(3), "neither what is done nor what is on its way");
        assert!(unacked.acked(3).is_some());
        assert_eq!(popped(&mut unacked), [0, 1]);
        assert_eq!(unacked.first_topic(), Some(&b""[..]));
        assert!(unacked.get(1).is_none() && unacked.get(3).is_some() && unacked.get(4).is_none());
    }
}
