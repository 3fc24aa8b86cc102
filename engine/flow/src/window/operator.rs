//! The window operator: adds what comes through the exchange to its window, and fires windows as time
//! passes. Records of this shard's own pipelines are in the windows already: see `local.rs`.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::aggregate::Aggregate;
use super::content::WindowFunction;
use super::pane::InTime;
use super::slice::{Partial, Slice};
use super::state::{Refusal, Refused, WindowState};
use crate::checkpoint::Checkpoints;
use crate::exchange::side::{SideTag, Sides};
use crate::pipeline::{Budget, Operator};
use crate::table_hash::table_hash_from;

/// See the module's documentation.
pub struct WindowOperator<K, T, Q, A: Aggregate<T>, F> {
    key: Rc<Q>,
    windows: Windows<K, T, A, F>,
}

/// The windows of a shard, as the operator that decides and fires has them.
pub(super) struct Windows<K, T, A: Aggregate<T>, F> {
    function: F,
    pub(super) state: Rc<RefCell<WindowState<K, T, A>>>,
    late: Late<T>,
    checkpoints: Rc<Checkpoints>,
}

/// Where windows send what is late, and what their function writes aside.
pub(super) struct Late<T> {
    pub(super) tag: Option<SideTag<T>>,
    pub(super) sides: Sides,
}

impl<K, T, A, F> Windows<K, T, A, F>
where
    K: Key,
    T: 'static,
    A: Aggregate<T>,
    F: WindowFunction<K, A::Output>,
{
    pub(super) fn new(
        function: F,
        state: Rc<RefCell<WindowState<K, T, A>>>,
        late: Late<T>,
        checkpoints: Rc<Checkpoints>,
    ) -> Self {
        Self { function, state, late, checkpoints }
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
        let added = state.add(time, (state.watermark, InTime::ForOne), key, value);
        match (added, &self.late.tag) {
            (Ok(()), _) => {}
            (Err(Refused { why: Refusal::Late, value, .. }), Some(late)) => late.emit(time, value),
            (Err(Refused { why: Refusal::Late, key, .. }), None) => {
                state.dropped_late(key, time, 1)
            }
            (Err(Refused { why, .. }), _) => state.dropped(why, 1),
        }
    }

    /// Fires windows that a watermark has passed, and returns whether there are no more.
    #[inline]
    pub(super) fn due(
        &mut self,
        mark: Mark,
        budget: &mut Budget,
        out: &mut impl Collector<F::Out>,
    ) -> bool {
        let Mark::Watermark(watermark) = mark else { return true };
        let mut state = self.state.borrow_mut();
        // After a restart time may come back to where it was, and does not go further back.
        state.advance(watermark);
        let function = &mut self.function;
        state.fire(budget, |key, window, value| function.fire(key, window, value, out))
    }

    #[inline]
    pub(super) fn mark(&self, mark: Mark, out: &mut impl Collector<F::Out>) {
        if let Mark::Barrier(epoch) = mark {
            self.checkpoints.take(&*self.state, epoch);
            self.state.borrow_mut().barrier_arrived();
        }
        self.late.sides.mark(mark);
        out.mark(mark);
    }

    pub(super) fn ready(&self) -> bool {
        self.late.sides.have_room()
    }

    pub(super) fn due_at(&self) -> Timestamp {
        self.state.borrow().due_at().min(self.late.sides.due_at())
    }
}

impl<K, T, Q, A: Aggregate<T>, F> WindowOperator<K, T, Q, A, F> {
    pub(super) fn new(key: Rc<Q>, windows: Windows<K, T, A, F>) -> Self {
        Self { key, windows }
    }
}

impl<K, T, Q, A, F> Operator<Slice<T, K, A::Accumulator>> for WindowOperator<K, T, Q, A, F>
where
    K: Key,
    T: 'static,
    Q: Fn(&T) -> K + 'static,
    A: Aggregate<T>,
    F: WindowFunction<K, A::Output>,
{
    type Out = F::Out;

    const PUTS_DOWN: bool = true;

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
                let merged = state.merge(time, InTime::ForOne, partial);
                match merged {
                    // Only if its sender was idle and has no late output: see `local.rs`.
                    Err(Refused {
                        why: Refusal::Late,
                        value: Partial { key, records, .. },
                        ..
                    }) => {
                        state.dropped_late(key, time, records);
                    }
                    Err(Refused { why, value: partial, .. }) => state.dropped(why, partial.records),
                    Ok(()) => {}
                }
            }
        }
    }

    #[inline]
    fn due(
        &mut self,
        mark: Mark,
        budget: &mut Budget,
        out: &mut impl Collector<Self::Out>,
    ) -> bool {
        self.windows.due(mark, budget, out)
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        self.windows.mark(mark, out);
    }

    fn ready(&self) -> bool {
        self.windows.ready()
    }

    fn due_at(&self) -> Timestamp {
        self.windows.due_at()
    }
}
