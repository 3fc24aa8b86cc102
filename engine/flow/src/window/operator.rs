//! The window operator: adds what comes through the exchange to its window, and fires windows as time
//! passes. Records of this shard's own pipelines are in the windows already: see `local.rs`.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::Windowed;
use super::aggregate::Aggregate;
use super::local::Slice;
use super::state::WindowState;
use crate::counters::Counter;
use crate::exchange::local::LocalEdge;
use crate::pipeline::Operator;

/// See the module's documentation.
pub struct WindowOperator<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    aggregate: Rc<A>,
    watermark: Timestamp,
    state: Rc<RefCell<WindowState<K, T, A>>>,
    late: Option<LocalEdge<T>>,
    dropped_late: Counter,
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> WindowOperator<K, T, F, A> {
    pub(super) fn new(
        key: Rc<F>,
        aggregate: Rc<A>,
        state: Rc<RefCell<WindowState<K, T, A>>>,
        late: Option<LocalEdge<T>>,
        dropped_late: Counter,
    ) -> Self {
        Self { key, aggregate, watermark: Timestamp::MIN, state, late, dropped_late }
    }

    #[cold]
    fn late(&self, time: Timestamp, value: T) {
        match &self.late {
            Some(edge) => edge.push(time, value),
            None => self.dropped_late.add(1),
        }
    }

    fn fire(&mut self, watermark: Timestamp, out: &mut impl Collector<Windowed<K, A::Output>>) {
        let mut state = self.state.borrow_mut();
        while let Some(mut pane) = state.close_due(watermark) {
            let (start, last) = (pane.start, pane.last);
            let end = last.plus_ms(1);
            for (key, accumulator) in pane.keys.drain() {
                let value = self.aggregate.result(accumulator);
                out.record(last, Windowed { key, start, end, value });
            }
            state.recycle(pane);
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
        let mut state = self.state.borrow_mut();
        match slice {
            Slice::Record { hash, value } => {
                let key = (self.key)(&value);
                let key = (key.table_hash_from(hash), key);
                let added = state.add(time, self.watermark, key, value);
                drop(state);
                if let Err(value) = added {
                    self.late(time, value);
                }
            }
            Slice::Partial(partial) => state.merge(time, self.watermark, partial),
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
