//! The window operator: adds each record to its window's pane, and fires panes as time passes.

use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::Windowed;
use super::aggregate::Aggregate;
use super::local::{Partial, Slice};
use super::pane::{Pane, Panes};
use super::tumbling::Tumbling;
use crate::counters::Counter;
use crate::exchange::local::LocalEdge;
use crate::pipeline::Operator;

/// See the module's documentation.
pub struct WindowOperator<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    aggregate: Rc<A>,
    watermark: Timestamp,
    panes: Panes<K, A::Accumulator>,
    keys: Keys,
    late: Option<LocalEdge<T>>,
    late_dropped: Counter,
}

/// Open (key, window) pairs, and how many there may be.
struct Keys {
    open: usize,
    max: usize,
    over_limit_dropped: Counter,
}

impl Keys {
    /// Adds a key to `pane`, unless there are too many; `records` are dropped then.
    fn insert<K: Eq, A>(
        &mut self,
        pane: &mut Pane<K, A>,
        hash: u64,
        key: K,
        accumulator: A,
        records: usize,
    ) {
        if self.open < self.max {
            self.open += 1;
            pane.insert(hash, key, accumulator);
        } else {
            self.over_limit_dropped.add(records);
        }
    }
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> WindowOperator<K, T, F, A> {
    pub(super) fn new(
        key: Rc<F>,
        windows: Tumbling,
        aggregate: Rc<A>,
        keys_max: usize,
        late: Option<LocalEdge<T>>,
        late_dropped: Counter,
        over_limit_dropped: Counter,
    ) -> Self {
        Self {
            key,
            aggregate,
            watermark: Timestamp::MIN,
            panes: Panes::new(windows),
            keys: Keys { open: 0, max: keys_max, over_limit_dropped },
            late,
            late_dropped,
        }
    }

    #[inline]
    fn add(&mut self, time: Timestamp, hash: u64, value: T) {
        let pane = match self.panes.find(time) {
            Some(pane) => pane,
            None => match self.panes.open(time, self.watermark) {
                Some(pane) => pane,
                None => return self.late(time, value),
            },
        };
        let key = (self.key)(&value);
        if let Some(accumulator) = pane.get(hash, &key) {
            self.aggregate.add(accumulator, value);
        } else {
            let mut accumulator = self.aggregate.create();
            self.aggregate.add(&mut accumulator, value);
            self.keys.insert(pane, hash, key, accumulator, 1);
        }
    }

    fn merge(&mut self, time: Timestamp, partial: Partial<K, A::Accumulator>) {
        let Partial { hash, key, accumulator, records } = partial;
        let pane = match self.panes.find(time) {
            Some(pane) => pane,
            // The sender passed it on before the watermark that closes its window.
            None => match self.panes.open(time, self.watermark) {
                Some(pane) => pane,
                None => return debug_assert!(false, "a partial result came late"),
            },
        };
        if let Some(into) = pane.get(hash, &key) {
            self.aggregate.merge(into, accumulator);
        } else {
            self.keys.insert(pane, hash, key, accumulator, records as usize);
        }
    }

    #[cold]
    fn late(&self, time: Timestamp, value: T) {
        match &self.late {
            Some(edge) => edge.push(time, value),
            None => self.late_dropped.add(1),
        }
    }

    fn fire(&mut self, watermark: Timestamp, out: &mut impl Collector<Windowed<K, A::Output>>) {
        while let Some(mut pane) = self.panes.close_due(watermark) {
            let (start, end) = (pane.start, pane.end);
            self.keys.open -= pane.len();
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
