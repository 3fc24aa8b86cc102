//! What overlapping windows share: for each key the merged slices of the window that fires next.
//!
//! A window of sixty slices must not cost sixty merges for each key. So each key has a *run*, with the slices of its
//! latest window in two parts. Together they are a queue of two stacks, which suits aggregates that cannot take anything
//! back.
//!
//! ```text
//!            front                      back
//!   [a+b+c+d] [b+c+d] [c+d] [d]      e+f+g
//!      |         what is left when a has left, then b, ...
//! ```
//! - A slice that is complete is merged into the back.
//! - A window's value is the first of the front merged with the back.
//! - A slice that no window needs any more leaves with the first of the front.
//! - When the front is used up, it is built anew from the slices in the panes, and the back begins anew.
//!
//! So a key's slice is merged once into the back and once into a front. The front of a rare key is short, with one
//! place for each slice that the key is in. Accumulators that [grow](super::aggregate::Aggregate::GROWS) with their
//! records have no runs, since a run would hold their records many times: each window is merged from its slices.
//!
//! A run follows from the panes and is not stored. A record may come for a slice that is merged already, too late for
//! some windows and in time for others. It makes the run of its key *stale*: the run is built anew when the next window
//! fires.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Durable, Key, Timestamp};

use super::aggregate::Aggregate;
use super::pane::{Pane, Panes};
use super::parts::Cursor;
use super::storage::{Stamped, Storage};
use super::table::Table;
use crate::pipeline::Budget;
use crate::table_hash::table_hash;

/// See the module: the slices of one key.
pub(super) struct Run<A> {
    /// From each slice on to the end of the front, the oldest one last.
    front: Vec<(Timestamp, A)>,
    back: Option<A>,
    /// The first slice of the back; the end of time if it has none, the beginning if the run is stale.
    back_from: Timestamp,
}

impl<A> Run<A> {
    fn new() -> Self {
        Self { front: Vec::new(), back: None, back_from: Timestamp::MAX }
    }
}

/// The runs of all keys that the next window may have.
pub(super) struct Running<K, A> {
    runs: Table<K, Run<A>>,
}

/// A window that fires.
#[derive(Clone, Copy)]
pub(super) struct Firing {
    pub(super) start: Timestamp,
    pub(super) last: Timestamp,
    /// No later window has any of the slices that are there.
    pub(super) is_final: bool,
}

impl<K: Key, A: 'static> Running<K, A> {
    pub(super) fn new() -> Self {
        Self { runs: Table::new() }
    }

    /// An estimate of the bytes that all runs take, where `outside` lie outside of each accumulator. Each step asks for
    /// it, so nobody counts places or looks at buffers: a run is taken to have two places. (It has one or two, or one for
    /// each slice that its key is in.)
    pub(super) fn memory_bytes(&self, outside: usize) -> usize {
        let each = size_of::<(K, Run<A>)>() + 2 * (size_of::<(Timestamp, A)>() + outside);
        self.runs.len() * each
    }

    /// A slice that is merged already has changed.
    pub(super) fn make_stale(&mut self, hash: u64, key: &K) {
        let runs = &mut self.runs;
        if let Some(run) = runs.get(hash, key) {
            run.back_from = Timestamp::MIN;
            return;
        }
        runs.insert(hash, key.clone(), Run { back_from: Timestamp::MIN, ..Run::new() });
    }

    /// Merges a complete slice of one key.
    pub(super) fn merge<T, G: Aggregate<T, Accumulator = A>>(
        &mut self,
        aggregate: &G,
        slice: Timestamp,
        (hash, key): (u64, &K),
        accumulator: &A,
    ) {
        let merge = |run: &mut Run<A>| {
            run.back_from = run.back_from.min(slice);
            if G::GROWS {
                // To be merged from its slices.
                run.back_from = Timestamp::MIN;
                return;
            }
            let back = run.back.get_or_insert_with(|| aggregate.create());
            aggregate.merge(back, accumulator);
            if seeded(Defect::FlowSliceTwice) {
                aggregate.merge(back, accumulator);
            }
        };
        if let Some(run) = self.runs.get(hash, key) {
            return merge(run);
        }
        let mut run = Run::new();
        merge(&mut run);
        self.runs.insert(hash, key.clone(), run);
    }

    /// Gives `row` the value of each key in a window, as far as `budget` allows, and returns whether there are no more.
    pub(super) fn rows<T, G: Aggregate<T, Accumulator = A>>(
        &mut self,
        aggregate: &G,
        (panes, storage): (&mut Panes<K, Stamped<A>>, &Storage),
        firing: Firing,
        cursor: &mut Cursor,
        budget: &mut Budget,
        mut row: impl FnMut(&K, G::Output),
    ) -> bool {
        let each = |key: &K, run: &mut Run<A>, budget: &mut Budget| {
            while run.front.pop_if(|(slice, _)| *slice < firing.start).is_some() {}
            if run.back_from < firing.start {
                let whole = build(aggregate, (panes, storage), firing, key, run, budget);
                if G::GROWS {
                    let Some(whole) = whole else { return false };
                    row(key, aggregate.finish(whole));
                    return !firing.is_final;
                }
            }
            match (run.front.last(), &run.back) {
                (Some((_, front)), None) => row(key, aggregate.result(front)),
                (None, Some(back)) => row(key, aggregate.result(back)),
                (Some((_, front)), Some(back)) => {
                    let mut whole = aggregate.create();
                    aggregate.merge(&mut whole, front);
                    aggregate.merge(&mut whole, back);
                    row(key, aggregate.finish(whole));
                }
                (None, None) => return false,
            }
            !firing.is_final
        };
        self.runs.walk(cursor, budget, each)
    }
}

/// Builds the run of a key anew from the slices of a window; of what grows, only what it amounts to.
fn build<K: Key, T, G: Aggregate<T>>(
    aggregate: &G,
    (panes, storage): (&mut Panes<K, Stamped<G::Accumulator>>, &Storage),
    firing: Firing,
    key: &K,
    run: &mut Run<G::Accumulator>,
    budget: &mut Budget,
) -> Option<G::Accumulator> {
    *run = Run { front: std::mem::take(&mut run.front), ..Run::new() };
    run.front.clear();
    let hash = table_hash(key);
    let mut whole = None;
    if G::GROWS {
        run.back_from = Timestamp::MIN;
        for pane in panes.within(firing.start, firing.last) {
            budget.spend(1);
            with_slice(pane, storage, (hash, key), |slice| {
                aggregate.merge(whole.get_or_insert_with(|| aggregate.create()), slice);
            });
        }
        return whole;
    }
    for pane in panes.within(firing.start, firing.last).rev() {
        budget.spend(1);
        let start = pane.start;
        with_slice(pane, storage, (hash, key), |slice| {
            let mut from_here = aggregate.create();
            aggregate.merge(&mut from_here, slice);
            if let Some((_, behind)) = run.front.last() {
                aggregate.merge(&mut from_here, behind);
            }
            run.front.push((start, from_here));
        });
    }
    None
}

/// Shows `look` the slice of a key, if there is one, in memory or in the store.
fn with_slice<K: Key, A: Durable>(
    pane: &mut Pane<K, Stamped<A>>,
    storage: &Storage,
    (hash, key): (u64, &K),
    look: impl FnOnce(&A),
) {
    if let Some(kept) = pane.keys.get(hash, key) {
        return look(&kept.accumulator);
    }
    if pane.cold > 0
        && let Some(accumulator) = storage.read(pane.start, key)
    {
        look(&accumulator);
    }
}
