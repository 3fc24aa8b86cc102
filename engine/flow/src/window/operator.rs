//! The window operator: adds what comes through the exchange to its window, and fires windows as time
//! passes. Records of this shard's own pipelines are in the windows already: see `local.rs`.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::Windowed;
use super::aggregate::Aggregate;
use super::local::Slice;
use super::state::{Refusal, Refused, WindowState};
use crate::checkpoint::Checkpoints;
use crate::exchange::local::LocalEdge;
use crate::pipeline::Operator;
use crate::table_hash::table_hash_from;

/// See the module's documentation.
pub struct WindowOperator<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    windows: Windows<K, T, A>,
}

/// The windows of a shard, as the operator that decides and fires has them.
pub(super) struct Windows<K, T, A: Aggregate<T>> {
    aggregate: Rc<A>,
    pub(super) state: Rc<RefCell<WindowState<K, T, A>>>,
    late: Option<LocalEdge<T>>,
    checkpoints: Rc<Checkpoints>,
}

impl<K: Key, T: 'static, A: Aggregate<T>> Windows<K, T, A> {
    pub(super) fn new(
        aggregate: Rc<A>,
        state: Rc<RefCell<WindowState<K, T, A>>>,
        late: Option<LocalEdge<T>>,
        checkpoints: Rc<Checkpoints>,
    ) -> Self {
        Self { aggregate, state, late, checkpoints }
    }

    /// Adds a record to its window, or sends it where late ones go, or counts it.
    #[inline(always)]
    pub(super) fn add(
        &self,
        state: &mut WindowState<K, T, A>,
        time: Timestamp,
        key: (u64, K),
        value: T,
    ) {
        match (state.add(time, state.watermark, key, value), &self.late) {
            (Ok(()), _) => {}
            (Err(Refused { why: Refusal::Late, value, .. }), Some(late)) => late.push(time, value),
            (Err(Refused { why, .. }), _) => state.dropped(why, 1),
        }
    }

    fn fire(&self, watermark: Timestamp, out: &mut impl Collector<Windowed<K, A::Output>>) {
        let mut state = self.state.borrow_mut();
        // After a restart time may come back to where it was, and does not go further back.
        state.advance(watermark);
        while let Some(mut pane) = state.close_due() {
            let (start, last) = (pane.start, pane.last);
            let end = last.plus_ms(1);
            for (key, kept) in pane.keys.drain() {
                let value = self.aggregate.result(&kept.accumulator);
                out.record(last, Windowed { key, start, end, value });
            }
            state.recycle(pane);
        }
    }

    #[inline]
    pub(super) fn mark(&self, mark: Mark, out: &mut impl Collector<Windowed<K, A::Output>>) {
        match mark {
            Mark::Watermark(watermark) => self.fire(watermark, out),
            Mark::Barrier(epoch) => {
                self.checkpoints.take(&*self.state, epoch);
                self.state.borrow_mut().barrier_arrived();
            }
            Mark::Idle | Mark::Active | Mark::End => {}
        }
        if let Some(late) = &self.late {
            late.push_mark(mark);
        }
        out.mark(mark);
    }

    pub(super) fn ready(&self) -> bool {
        self.late.as_ref().is_none_or(LocalEdge::has_room)
    }
}

impl<K, T, F, A: Aggregate<T>> WindowOperator<K, T, F, A> {
    pub(super) fn new(key: Rc<F>, windows: Windows<K, T, A>) -> Self {
        Self { key, windows }
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
        let mut state = self.windows.state.borrow_mut();
        match slice {
            Slice::Record { hash, value, held } => {
                if held {
                    state.arrived();
                }
                let key = (self.key)(&value);
                self.windows.add(&mut state, time, (table_hash_from(&key, hash), key), value);
            }
            Slice::Partial(partial) => {
                if partial.held {
                    state.arrived();
                }
                if let Err(Refused { why, value: partial, .. }) = state.merge(time, partial) {
                    // Late only if its sender was idle and has no late output: see `local.rs`.
                    state.dropped(why, partial.records);
                }
            }
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        self.windows.mark(mark, out);
    }

    fn ready(&self) -> bool {
        self.windows.ready()
    }
}
