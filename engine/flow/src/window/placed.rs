//! Windows over records that are on the shard that owns their key. There is no exchange to add up in front of, so
//! each record goes straight into its window. Lateness and limits are decided there.

use thalweg_kernel::{Collector, Key, Mark, Timestamp};

use super::aggregate::Aggregate;
use super::content::WindowFunction;
use super::operator::Windows;
use crate::counters::Counter;
use crate::exchange::key_by::Keyed;
use crate::pipeline::{Budget, Operator};
use crate::table_hash::table_hash_from;

/// See the module.
pub struct PlacedWindows<K, T, A: Aggregate<T>, F> {
    windows: Windows<K, T, A, F>,
    records_in: Counter,
}

impl<K, T, A: Aggregate<T>, F> PlacedWindows<K, T, A, F> {
    pub(super) fn new(windows: Windows<K, T, A, F>, records_in: Counter) -> Self {
        Self { windows, records_in }
    }
}

impl<K, T, A, F> Operator<Keyed<K, T>> for PlacedWindows<K, T, A, F>
where
    K: Key,
    T: 'static,
    A: Aggregate<T>,
    F: WindowFunction<K, A::Output>,
{
    type Out = F::Out;

    const PUTS_DOWN: bool = true;

    // Where a key has a hash of its own for tables, what computes the fixed one goes away.
    #[inline(always)]
    fn record(
        &mut self,
        time: Timestamp,
        keyed: Keyed<K, T>,
        _out: &mut impl Collector<Self::Out>,
    ) {
        self.records_in.add(1);
        let Keyed { hash, key, value } = keyed;
        let key = (table_hash_from(&key, hash), key);
        self.windows.add(&mut self.windows.state.borrow_mut(), time, key, value);
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
