//! What flows along a channel: records in batches, and marks between them.
//!
//! A batch is whatever is ready: one record when it is quiet, a thousand under load. It is
//! columnar in time (`times` stands beside `values`), and carries its marks as (position, mark)
//! pairs, only where something changed. So lateness is decided record by record whatever the
//! batch size, and a thousand events within one millisecond cost one mark.
//!
//! The grammar of a channel, asserted in debug builds by the receiving end:
//!
//! ```text
//! channel = (record | watermark | barrier | idle | active)* end barrier*
//! ```
//!
//! Watermarks of one channel only grow, and so do the epochs of its barriers. Between `idle` and
//! `active` there are no records; a record implies `active`, so a sender marks it first. A barrier ends
//! its batch: what stands behind it comes in another one, which the receiver can leave where it is. A sender that
//! has ended takes part in one more epoch, whose barrier its receivers do not wait for.

use crate::{Epoch, Timestamp};

/// A mark between two records of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No record with a timestamp at or below this one is expected any more; those that come are late.
    Watermark(Timestamp),
    /// What stands before this belongs to the epoch, what stands behind it does not.
    Barrier(Epoch),
    /// The sender has been silent for its idle timeout: do not wait for its watermark.
    Idle,
    /// The sender speaks again: its watermark counts again.
    Active,
    /// The last mark of a channel.
    End,
}

/// Receives records and marks in order. Operators push into one; the implementation is the rest
/// of a fused chain, so a call is usually inlined away.
pub trait Collector<T> {
    /// Whether an operator in it puts records aside and passes them on together: one in a chain is enough.
    #[doc(hidden)]
    const GATHERS: bool = false;

    /// Takes one record with its event time.
    fn record(&mut self, time: Timestamp, value: T);
    /// Takes a mark that stands after all records so far.
    fn mark(&mut self, mark: Mark);
}

/// A batch that has been emptied keeps buffers for this many records at most: a burst must not hold
/// its memory for ever.
const KEPT_RECORDS_MAX: usize = 16_384;

/// Records with their event times, and the marks between them. Emptied, it keeps its buffers.
#[derive(Debug)]
pub struct Batch<T> {
    values: Vec<T>,
    times: Vec<Timestamp>,
    marks: Vec<(u32, Mark)>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { values: Vec::new(), times: Vec::new(), marks: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// An empty batch with room for `records` records.
    pub fn with_capacity(records: usize) -> Self {
        Self {
            values: Vec::with_capacity(records),
            times: Vec::with_capacity(records),
            marks: Vec::with_capacity(8),
        }
    }

    /// The number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are neither records nor marks.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.marks.is_empty()
    }

    /// Forgets the content and keeps the buffers, but for those of a burst.
    #[inline]
    pub fn clear(&mut self) {
        self.values.clear();
        self.times.clear();
        self.marks.clear();
        if self.values.capacity().max(self.marks.capacity()) > KEPT_RECORDS_MAX {
            *self = Self::default();
        }
    }

    /// The records' event times, in order.
    pub fn times(&self) -> &[Timestamp] {
        &self.times
    }

    /// The records, in order.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The marks: each stands before the record at its position.
    pub fn marks(&self) -> &[(u32, Mark)] {
        &self.marks
    }

    /// Whether it is a barrier and nothing else.
    #[inline]
    pub fn is_barrier(&self) -> bool {
        self.values.is_empty() && matches!(self.marks[..], [(_, Mark::Barrier(_))])
    }

    /// Whether it ends with a barrier, and so must be closed.
    #[inline]
    pub fn ends_with_barrier(&self) -> bool {
        matches!(self.marks.last(), Some(&(at, Mark::Barrier(_))) if at as usize == self.values.len())
    }

    /// Pushes the whole content into `out` in order, and leaves the batch empty with its buffers.
    #[inline]
    pub fn drain_into(&mut self, out: &mut impl Collector<T>) {
        self.pour(out);
        self.clear();
    }

    #[inline]
    fn pour(&mut self, out: &mut impl Collector<T>) {
        let mut marks = self.marks.drain(..);
        let mut next = marks.next();
        let records = self.times.drain(..).zip(self.values.drain(..));
        if next.is_none() {
            // The common case under load: no position to compare with.
            records.for_each(|(time, value)| out.record(time, value));
            return;
        }
        for (position, (time, value)) in records.enumerate() {
            while let Some((at, mark)) = next
                && at as usize <= position
            {
                out.mark(mark);
                next = marks.next();
            }
            out.record(time, value);
        }
        while let Some((_, mark)) = next {
            out.mark(mark);
            next = marks.next();
        }
    }
}

impl<T> Collector<T> for Batch<T> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        self.values.push(value);
        self.times.push(time);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        let position = self.values.len() as u32;
        // Of several watermarks in one place only the last one matters; but the end of time is not the next moment: what
        // a timer sets that fires before it is due there, and what one sets that fires there is not.
        if let (Mark::Watermark(to), Some((at, last @ Mark::Watermark(_)))) =
            (mark, self.marks.last_mut())
            && *at == position
            && to < Timestamp::MAX
        {
            *last = mark;
            return;
        }
        self.marks.push((position, mark));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Log(Vec<String>);

    impl Collector<u32> for Log {
        fn record(&mut self, time: Timestamp, value: u32) {
            self.0.push(format!("{value}@{time}"));
        }
        fn mark(&mut self, mark: Mark) {
            self.0.push(format!("{mark:?}"));
        }
    }

    #[test]
    fn drains_in_the_order_it_was_filled() {
        let mut batch = Batch::default();
        batch.mark(Mark::Active);
        batch.record(10.into(), 1);
        batch.mark(Mark::Watermark(5.into()));
        batch.mark(Mark::Watermark(9.into()));
        batch.record(11.into(), 2);
        batch.record(12.into(), 3);
        batch.mark(Mark::End);
        let mut log = Log::default();
        batch.drain_into(&mut log);
        assert_eq!(log.0, ["Active", "1@10", "Watermark(Timestamp(9))", "2@11", "3@12", "End"]);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_batch_is_closed_by_a_barrier_at_its_end() {
        let mut batch = Batch::with_capacity(4);
        assert!(batch.is_empty() && !batch.ends_with_barrier());
        batch.record(10.into(), 1_u32);
        assert!(!batch.is_empty() && !batch.ends_with_barrier());
        batch.mark(Mark::Barrier(Epoch::new(1)));
        assert!(batch.ends_with_barrier());
        batch.record(11.into(), 2);
        assert!(!batch.ends_with_barrier());
        batch.mark(Mark::Idle);
        assert!(!batch.ends_with_barrier());
        assert_eq!(
            (batch.len(), batch.values(), batch.times()),
            (2, &[1, 2][..], &[10.into(), 11.into()][..])
        );
        assert_eq!(batch.marks(), [(1, Mark::Barrier(Epoch::new(1))), (2, Mark::Idle)]);
        let mut marks = Batch::<u32>::default();
        marks.mark(Mark::Idle);
        assert!(!marks.is_empty() && marks.values().is_empty());
    }

    #[test]
    fn a_batch_keeps_its_buffers_but_not_those_of_a_burst() {
        let room = |records: usize, marks: usize| {
            let mut batch = Batch::with_capacity(100);
            (0..records).for_each(|n| batch.record((n as i64).into(), n));
            (0..marks).for_each(|_| batch.mark(Mark::Idle));
            batch.clear();
            assert!(batch.is_empty() && batch.times().is_empty());
            (batch.values.capacity() > 0, batch.times.capacity() > 0, batch.marks.capacity() > 0)
        };
        assert_eq!(room(0, 0), (true, true, true));
        assert_eq!(room(1_000, 10), (true, true, true));
        assert_eq!(room(KEPT_RECORDS_MAX + 1, 0), (false, false, false));
        assert_eq!(room(0, KEPT_RECORDS_MAX + 1), (false, false, false));
        let mut most = Batch::with_capacity(KEPT_RECORDS_MAX);
        most.record(1.into(), 1);
        most.clear();
        assert!(most.values.capacity() >= KEPT_RECORDS_MAX);
    }

    /// What a timer sets that fires at the end of time must find that time in its own place.
    #[test]
    fn watermarks_in_one_place_become_one_but_the_end_of_time_stays_apart() {
        let mut batch = Batch::<u32>::default();
        let watermark = |at: i64| Mark::Watermark(at.into());
        for mark in [watermark(1), watermark(2), Mark::Idle, Mark::Active, watermark(3)] {
            batch.mark(mark);
        }
        batch.record(4.into(), 4);
        for mark in [watermark(5), Mark::Watermark(Timestamp::MAX), Mark::End] {
            batch.mark(mark);
        }
        let places: Vec<_> = batch.marks().to_vec();
        assert_eq!(
            places,
            [
                (0, watermark(2)),
                (0, Mark::Idle),
                (0, Mark::Active),
                (0, watermark(3)),
                (1, watermark(5)),
                (1, Mark::Watermark(Timestamp::MAX)),
                (1, Mark::End),
            ]
        );
    }
}
