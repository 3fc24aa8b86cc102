//! The window operator: adds each record to its window's pane, and fires panes as time passes.

use std::collections::VecDeque;
use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::Windowed;
use super::aggregate::Aggregate;
use super::pane::Pane;
use super::tumbling::Tumbling;
use crate::counters::Counter;
use crate::exchange::key_by::Hashed;
use crate::exchange::local::LocalEdge;
use crate::pipeline::Operator;

/// Panes that fired wait for reuse, this many at most.
const SPARE_PANES_MAX: usize = 4;

/// See the module's documentation.
pub struct WindowOperator<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    windows: Tumbling,
    aggregate: A,
    watermark: Timestamp,
    /// Open windows, oldest first.
    panes: VecDeque<Pane<K, A::Accumulator>>,
    /// Fired panes with their buffers.
    spare: Vec<Pane<K, A::Accumulator>>,
    /// Open (key, window) pairs, and how many there may be.
    keys: usize,
    keys_max: usize,
    late: Option<LocalEdge<T>>,
    late_dropped: Counter,
    over_limit_dropped: Counter,
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> WindowOperator<K, T, F, A> {
    pub(super) fn new(
        key: Rc<F>,
        windows: Tumbling,
        aggregate: A,
        keys_max: usize,
        late: Option<LocalEdge<T>>,
        late_dropped: Counter,
        over_limit_dropped: Counter,
    ) -> Self {
        Self {
            key,
            windows,
            aggregate,
            watermark: Timestamp::MIN,
            panes: VecDeque::new(),
            spare: Vec::new(),
            keys: 0,
            keys_max,
            late,
            late_dropped,
            over_limit_dropped,
        }
    }

    /// The position of the pane that begins at `start`; it is opened if it is not there.
    #[inline]
    fn pane(&mut self, start: Timestamp) -> usize {
        // Nearly every record falls into the newest window.
        let newest = self.panes.len().wrapping_sub(1);
        if self.panes.get(newest).is_some_and(|pane| pane.start == start) {
            return newest;
        }
        match self.panes.binary_search_by_key(&start, |pane| pane.start) {
            Ok(at) => at,
            Err(at) => {
                let mut pane = self.spare.pop().unwrap_or_else(|| Pane::new(start));
                pane.start = start;
                self.panes.insert(at, pane);
                at
            }
        }
    }

    #[cold]
    fn late(&self, time: Timestamp, value: T) {
        match &self.late {
            Some(edge) => edge.push(time, value),
            None => self.late_dropped.add(1),
        }
    }

    /// The last millisecond of the window that begins at `start`.
    #[inline]
    fn last_of(&self, start: Timestamp) -> Timestamp {
        self.windows.end_of(start).minus_ms(1)
    }

    fn fire(&mut self, watermark: Timestamp, out: &mut impl Collector<Windowed<K, A::Output>>) {
        while let Some(pane) = self.panes.front()
            && self.last_of(pane.start) <= watermark
            && let Some(mut pane) = self.panes.pop_front()
        {
            let (start, end) = (pane.start, self.windows.end_of(pane.start));
            self.keys -= pane.len();
            for (key, accumulator) in pane.drain() {
                let value = self.aggregate.result(accumulator);
                out.record(end.minus_ms(1), Windowed { key, start, end, value });
            }
            if self.spare.len() < SPARE_PANES_MAX {
                self.spare.push(pane);
            }
        }
    }
}

impl<K, T, F, A> Operator<Hashed<T>> for WindowOperator<K, T, F, A>
where
    K: Key,
    T: 'static,
    F: Fn(&T) -> K + 'static,
    A: Aggregate<T>,
{
    type Out = Windowed<K, A::Output>;

    #[inline]
    fn record(
        &mut self,
        time: Timestamp,
        Hashed { hash, value }: Hashed<T>,
        _out: &mut impl Collector<Self::Out>,
    ) {
        let start = self.windows.start_of(time);
        if self.last_of(start) <= self.watermark {
            return self.late(time, value);
        }
        let key = (self.key)(&value);
        let at = self.pane(start);
        let pane = &mut self.panes[at];
        if let Some(accumulator) = pane.get(hash, &key) {
            self.aggregate.add(accumulator, value);
        } else if self.keys < self.keys_max {
            self.keys += 1;
            let mut accumulator = self.aggregate.create();
            self.aggregate.add(&mut accumulator, value);
            pane.insert(hash, key, accumulator);
        } else {
            self.over_limit_dropped.add(1);
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        if let Mark::Watermark(watermark) = mark {
            self.watermark = watermark;
            self.fire(watermark, out);
        }
        if let Some(late) = &self.late {
            late.push_mark(mark);
        }
        out.mark(mark);
    }

    fn ready(&self) -> bool {
        self.late.as_ref().is_none_or(LocalEdge::has_room)
    }
}
