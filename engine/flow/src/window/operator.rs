//! The window operator: adds each record to its window's pane, and fires panes as time passes.

use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::aggregate::Aggregate;
use super::local::{Partial, Slice};
use super::pane::{Opened, Panes};
use super::tumbling::Tumbling;
use super::{Limits, Windowed};
use crate::counters::Counter;
use crate::exchange::local::LocalEdge;
use crate::pipeline::Operator;

/// See the module's documentation.
pub struct WindowOperator<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    aggregate: Rc<A>,
    watermark: Timestamp,
    panes: Panes<K, A::Accumulator>,
    /// Open (key, window) pairs.
    keys: usize,
    keys_max: usize,
    late: Option<LocalEdge<T>>,
    dropped: Dropped,
}

/// Records that take part in no result, by reason.
pub(super) struct Dropped {
    pub(super) late: Counter,
    pub(super) keys_over_limit: Counter,
    pub(super) windows_over_limit: Counter,
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> WindowOperator<K, T, F, A> {
    pub(super) fn new(
        key: Rc<F>,
        windows: Tumbling,
        aggregate: Rc<A>,
        limits: Limits,
        late: Option<LocalEdge<T>>,
        dropped: Dropped,
    ) -> Self {
        Self {
            key,
            aggregate,
            watermark: Timestamp::MIN,
            panes: Panes::new(windows, limits.windows_max),
            keys: 0,
            keys_max: limits.keys_max,
            late,
            dropped,
        }
    }

    #[inline]
    fn add(&mut self, time: Timestamp, hash: u64, value: T) {
        let pane = match self.panes.find(time) {
            Some(pane) => pane,
            None => match self.panes.open(time, self.watermark) {
                Opened::Pane(pane) => pane,
                Opened::Closed => return self.late(time, value),
                Opened::TooMany => return self.dropped.windows_over_limit.add(1),
            },
        };
        let key = (self.key)(&value);
        if let Some(accumulator) = pane.get(hash, &key) {
            self.aggregate.add(accumulator, value);
        } else if self.keys < self.keys_max {
            self.keys += 1;
            let mut accumulator = self.aggregate.create();
            self.aggregate.add(&mut accumulator, value);
            pane.insert(hash, key, accumulator);
        } else {
            self.dropped.keys_over_limit.add(1);
        }
    }

    fn merge(&mut self, time: Timestamp, partial: Partial<K, A::Accumulator>) {
        let Partial { hash, key, accumulator, records } = partial;
        let pane = match self.panes.find(time) {
            Some(pane) => pane,
            // The sender passed it on before the watermark that closes its window.
            None => match self.panes.open(time, self.watermark) {
                Opened::Pane(pane) => pane,
                Opened::Closed => return debug_assert!(false, "a partial result came late"),
                Opened::TooMany => return self.dropped.windows_over_limit.add(records as usize),
            },
        };
        if let Some(into) = pane.get(hash, &key) {
            self.aggregate.merge(into, accumulator);
        } else if self.keys < self.keys_max {
            self.keys += 1;
            pane.insert(hash, key, accumulator);
        } else {
            self.dropped.keys_over_limit.add(records as usize);
        }
    }

    #[cold]
    fn late(&self, time: Timestamp, value: T) {
        match &self.late {
            Some(edge) => edge.push(time, value),
            None => self.dropped.late.add(1),
        }
    }

    fn fire(&mut self, watermark: Timestamp, out: &mut impl Collector<Windowed<K, A::Output>>) {
        while let Some(mut pane) = self.panes.close_due(watermark) {
            let (start, end) = (pane.start, pane.end);
            self.keys -= pane.len();
            for (_, key, accumulator) in pane.drain() {
                let value = self.aggregate.result(accumulator);
                out.record(end.minus_ms(1), Windowed { key, start, end, value });
            }
            self.panes.recycle(pane);
        }
    }
}

impl<K, T, F, A> Operator<Slice<T, K, A::Accumulator>> for WindowOperator<K, T, F, A>
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
        slice: Slice<T, K, A::Accumulator>,
        _out: &mut impl Collector<Self::Out>,
    ) {
        match slice {
            Slice::Record { hash, value } => self.add(time, hash, value),
            Slice::Partial(partial) => self.merge(time, partial),
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
