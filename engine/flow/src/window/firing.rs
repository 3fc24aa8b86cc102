//! Windows fire: which one is next, and its rows, a piece in each step.
//!
//! Windows that the watermark has passed fire in order of their ends. Where windows do not overlap, each is one slice,
//! whose pane is taken out and yields a row for each key. Where they overlap, slices that are complete by then are merged
//! into what windows share (`running.rs`). That yields the rows, and slices that no later window contains are taken out.
//!
//! A firing is done in pieces, as the step's budget allows, and goes on where it was put down, in the middle of a
//! table. Nothing that it reads changes meanwhile. The operator gets no record and no barrier. The sender adds only to
//! slices that are part of no window which the watermark has passed.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Key, Timestamp};

use super::aggregate::Aggregate;
use super::pane::Pane;
use super::parts::Cursor;
use super::phase::Phase;
use super::running::Firing;
use super::state::WindowState;
use super::storage::Walk;
use super::time_window::TimeWindow;
use crate::pipeline::Budget;
use crate::table_hash::table_hash;

impl<K: Key, T, A: Aggregate<T>> WindowState<K, T, A> {
    /// The last millisecond of the next window that the watermark has passed.
    #[inline]
    fn next_due(&self) -> Option<Timestamp> {
        let due = self.panes.oldest_due()?.max(self.fires_next);
        (due <= self.watermark).then_some(due)
    }

    /// Gives `row` the rows of all windows that the watermark has passed, as far as `budget` allows, and returns whether
    /// there are no more.
    #[inline]
    pub(super) fn fire(
        &mut self,
        budget: &mut Budget,
        row: impl FnMut(K, TimeWindow, A::Output),
    ) -> bool {
        if matches!(self.phase, Phase::Idle) && self.next_due().is_none() {
            self.pass_empty();
            return true;
        }
        self.fire_due(budget, row)
    }

    /// Passes over windows that were empty when the watermark passed them. They do not fire when a late record comes into
    /// one of their slices.
    #[inline]
    fn pass_empty(&mut self) {
        if self.overlap && self.fires_next <= self.watermark {
            self.fires_next = self.slicing.fires_from(self.watermark.plus_ms(1));
        }
    }

    #[inline(never)]
    fn fire_due(
        &mut self,
        budget: &mut Budget,
        mut row: impl FnMut(K, TimeWindow, A::Output),
    ) -> bool {
        self.add_deferred();
        loop {
            let phase = std::mem::replace(&mut self.phase, Phase::Idle);
            if budget.is_spent() {
                self.phase = phase;
                return false;
            }
            self.phase = match phase {
                Phase::Idle => match self.next_due() {
                    None => {
                        self.pass_empty();
                        return true;
                    }
                    Some(last) => self.begin_window(last),
                },
                Phase::Merge { firing, pane, cold, cursor } => {
                    self.merge_slice(firing, pane, (cold, cursor), budget)
                }
                Phase::Rows { firing, mut cursor } => {
                    let Self { aggregate, panes, running, storage, .. } = self;
                    let panes = (panes, &*storage);
                    let window = TimeWindow { start: firing.start, last: firing.last };
                    let row = |key: &K, value| row(key.clone(), window, value);
                    match running.rows(&**aggregate, panes, firing, &mut cursor, budget, row) {
                        true => self.take_out(firing),
                        false => Phase::Rows { firing, cursor },
                    }
                }
                Phase::TakeOut { firing, mut pane, mut cold, mut cursor } => {
                    let window = TimeWindow { start: firing.start, last: firing.last };
                    let (aggregate, overlap) = (&*self.aggregate, self.overlap);
                    if !overlap && pane.cold > 0 && !seeded(Defect::FlowForgetsColdEntries) {
                        let emit = |key, content| row(key, window, aggregate.finish(content));
                        if !self.storage.scan(pane.start, &mut cold, budget, is_cold(&pane), emit) {
                            self.phase = Phase::TakeOut { firing, pane, cold, cursor };
                            return false;
                        }
                        pane.cold = 0;
                    }
                    let is_out = pane.keys.drain_some(&mut cursor, budget, |key, kept| {
                        if !overlap {
                            row(key, window, aggregate.finish(kept.accumulator));
                        }
                    });
                    if is_out {
                        self.panes.recycle(pane);
                        if overlap { self.take_out(firing) } else { Phase::Idle }
                    } else {
                        Phase::TakeOut { firing, pane, cold, cursor }
                    }
                }
            };
        }
    }

    fn begin_window(&mut self, last: Timestamp) -> Phase<K, A::Accumulator> {
        let start = self.slicing.window_of(last);
        // The beginning of time may be a window's: times only grow from there.
        self.fires_next = self.slicing.fires_from(last.plus_ms(1));
        let firing = Firing { start, last, is_final: self.panes.all_close_by(last) };
        if self.overlap { self.merge_from(firing, 0) } else { self.take_out(firing) }
    }

    /// Merges one slice of the window, as far as `budget` allows.
    fn merge_slice(
        &mut self,
        firing: Firing,
        number: usize,
        (mut cold, mut cursor): (Walk, Cursor),
        budget: &mut Budget,
    ) -> Phase<K, A::Accumulator> {
        let Self { aggregate, panes, running, storage, .. } = self;
        let Some(pane) = panes.within(firing.start, firing.last).nth(number) else {
            return Phase::Rows { firing, cursor: Cursor::default() };
        };
        budget.spend(1);
        if !pane.is_merged {
            let start = pane.start;
            let merged = pane.keys.walk(&mut cursor, budget, |key, kept, _| {
                let at = (table_hash(key), key);
                running.merge(&**aggregate, start, at, &kept.accumulator);
                true
            });
            let merged = merged
                && (pane.cold == 0 || {
                    let merge = |key: K, content: A::Accumulator| {
                        running.merge(&**aggregate, start, (table_hash(&key), &key), &content);
                    };
                    storage.scan(start, &mut cold, budget, is_cold(pane), merge)
                });
            if !merged {
                return Phase::Merge { firing, pane: number, cold, cursor };
            }
            pane.is_merged = true;
        }
        self.merge_from(firing, number + 1)
    }

    fn merge_from(&self, firing: Firing, pane: usize) -> Phase<K, A::Accumulator> {
        Phase::Merge { firing, pane, cold: Walk::default(), cursor: Cursor::default() }
    }

    /// Takes out a slice that no later window contains, if there is one more.
    fn take_out(&mut self, firing: Firing) -> Phase<K, A::Accumulator> {
        let early = self.overlap && seeded(Defect::FlowDropsSliceEarly);
        let last = if early { firing.last.plus_ms(1_000) } else { firing.last };
        let Some(pane) = self.panes.take_closed_by(last) else { return Phase::Idle };
        self.keys -= pane.keys.len() + pane.cold;
        self.storage.forget(&pane);
        Phase::TakeOut { firing, pane, cold: Walk::default(), cursor: Cursor::default() }
    }
}

/// Whether a stored key of the pane is not in memory.
fn is_cold<K: Key, V>(pane: &Pane<K, V>) -> impl Fn(&K) -> bool {
    |key| !pane.keys.has(table_hash(key), key)
}
