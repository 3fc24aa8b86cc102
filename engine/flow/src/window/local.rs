//! What happens to a record before the exchange.
//!
//! A record whose key this shard owns goes straight into its window's pane, which the window operator
//! behind the exchange shares: nothing travels, and on one shard nothing is ever sent.
//!
//! Records of other shards' keys are added up here first, one accumulator for each key and window
//! (Flink's local-global aggregation), and the accumulators are sent when a watermark is about to
//! close their window: a few partial results instead of every record. They leave before that
//! watermark, so results come no later.
//!
//! # What stays exactly as without it
//! Lateness. A record whose window the *sender's* watermark has passed is sent through the exchange by
//! itself, behind that watermark, and the receiver decides as ever, by the merged one. All others are
//! in time for the receiver too, whose watermark is never ahead of any sender's.
//!
//! # When adding up does not pay
//! With many keys an accumulator gathers few records, and sending those themselves is cheaper. So at
//! most [`LOCAL_KEYS_MAX`] accumulators are kept; if they fill up before they have taken in
//! [`RECORDS_PER_KEY_MIN`] records each, the next [`BYPASS_RECORDS`] records are sent as they are.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Collector, Key, Mark, Owned, Timestamp};

use super::aggregate::Aggregate;
use super::pane::{Opened, Panes};
use super::state::WindowState;
use super::tumbling::Tumbling;
use crate::counters::Counter;
use crate::exchange::key_by::Routed;
use crate::pipeline::Operator;

/// Accumulators that are kept before they are sent: few enough for the second-level cache.
const LOCAL_KEYS_MAX: usize = 4_096;
/// Fewer records than this per accumulator, and adding up pauses.
const RECORDS_PER_KEY_MIN: usize = 2;
/// How long it pauses, in records.
const BYPASS_RECORDS: usize = 64 * 1_024;

/// What goes to the shard that owns a key.
pub enum Slice<T, K, A> {
    /// A record as it is.
    Record {
        /// The hash of its key.
        hash: u64,
        /// The record.
        value: T,
    },
    /// The records of one key and window of one sender, added up.
    Partial(Partial<K, A>),
}

/// Some records of one key and window, added up. Its event time is one in the window.
pub struct Partial<K, A> {
    pub(super) hash: u64,
    pub(super) key: K,
    pub(super) accumulator: A,
    /// How many records it stands for.
    pub(super) records: u32,
}

impl<T: 'static, K: 'static, A: 'static> Routed for Slice<T, K, A> {
    #[inline]
    fn hash(&self) -> u64 {
        match self {
            Self::Record { hash, .. } | Self::Partial(Partial { hash, .. }) => *hash,
        }
    }
}

/// See the module.
pub(super) struct LocalAggregate<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    aggregate: Rc<A>,
    watermark: Timestamp,
    /// The keys of this shard, and their windows.
    own: Owned,
    state: Rc<RefCell<WindowState<K, T, A>>>,
    /// What is added up for other shards.
    panes: Panes<K, Gathered<A::Accumulator>>,
    /// Accumulators kept in `panes`.
    keys: usize,
    /// Records to send as they are before trying again.
    bypass: usize,
    /// The window's own `numRecordsIn`: behind the exchange there are only slices to count.
    records_in: Counter,
}

/// An accumulator and the number of records in it.
struct Gathered<A> {
    accumulator: A,
    records: u32,
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> LocalAggregate<K, T, F, A> {
    pub(super) fn new(
        (key, aggregate): (Rc<F>, Rc<A>),
        windows: Tumbling,
        own: Owned,
        state: Rc<RefCell<WindowState<K, T, A>>>,
        records_in: Counter,
    ) -> Self {
        Self {
            key,
            aggregate,
            watermark: Timestamp::MIN,
            own,
            state,
            panes: Panes::new(windows, LOCAL_KEYS_MAX),
            keys: 0,
            bypass: 0,
            records_in,
        }
    }

    /// Adds a record up for the shard that owns its key, or sends it.
    #[inline(never)]
    fn add_for_another(
        &mut self,
        time: Timestamp,
        hash: u64,
        key: K,
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        if self.bypass > 0 {
            // Nothing is kept meanwhile.
            self.bypass -= 1;
            return out.record(time, Slice::Record { hash, value });
        }
        let pane = match self.panes.find_or_open(time, self.watermark) {
            Opened::Pane(pane) => pane,
            Opened::Closed => return out.record(time, Slice::Record { hash, value }),
            Opened::TooMany => {
                self.make_room(out);
                return out.record(time, Slice::Record { hash, value });
            }
        };
        if let Some(gathered) = pane.keys.get(hash, &key) {
            self.aggregate.add(&mut gathered.accumulator, value);
            gathered.records += 1;
            return;
        }
        let accumulator = self.aggregate.of(value);
        pane.keys.insert(hash, key, Gathered { accumulator, records: 1 });
        self.keys += 1;
        if self.keys >= LOCAL_KEYS_MAX {
            self.make_room(out);
        }
    }

    /// Sends what was gathered for windows that `watermark` is about to close: how many records.
    #[inline]
    fn send_due(
        &mut self,
        watermark: Timestamp,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) -> usize {
        let mut sent = 0;
        while self.panes.is_due(watermark) {
            let mut pane = self.panes.take_oldest();
            let start = pane.start;
            self.keys -= pane.keys.len();
            for (key, Gathered { accumulator, records }) in pane.keys.drain() {
                let hash = key.key_hash();
                sent += records as usize;
                out.record(start, Slice::Partial(Partial { hash, key, accumulator, records }));
            }
            self.panes.recycle(pane);
        }
        sent
    }

    /// There is no room for one more accumulator.
    #[cold]
    fn make_room(&mut self, out: &mut impl Collector<Slice<T, K, A::Accumulator>>) {
        let keys = self.keys;
        if self.send_due(Timestamp::MAX, out) < keys * RECORDS_PER_KEY_MIN {
            self.bypass = BYPASS_RECORDS;
        }
    }
}

impl<K, T, F, A> Operator<T> for LocalAggregate<K, T, F, A>
where
    K: Key,
    T: 'static,
    F: Fn(&T) -> K + 'static,
    A: Aggregate<T>,
{
    type Out = Slice<T, K, A::Accumulator>;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Self::Out>) {
        self.records_in.add(1);
        let key = (self.key)(&value);
        let hash = key.key_hash();
        // The usual case, a key that is in the newest window already, is inlined into the chain.
        if !self.own.contains(hash) {
            if let Some(pane) = self.panes.newest(time)
                && let Some(gathered) = pane.keys.get(hash, &key)
            {
                gathered.records += 1;
                return self.aggregate.add(&mut gathered.accumulator, value);
            }
            return self.add_for_another(time, hash, key, value, out);
        }
        let added = self.state.borrow_mut().add(time, self.watermark, (hash, key), value);
        if let Err(value) = added {
            // That is up to the merged watermark.
            out.record(time, Slice::Record { hash, value });
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        match mark {
            Mark::Watermark(watermark) => {
                self.watermark = watermark;
                self.send_due(watermark, out);
            }
            // Nobody knows when the next record will send these on.
            Mark::Idle | Mark::End => {
                self.send_due(Timestamp::MAX, out);
            }
            Mark::Active => {}
        }
        out.mark(mark);
    }
}
