//! What happens to a record before the exchange.
//!
//! Records of one key and window are added up here, and the sums leave when a watermark is about to
//! close their window (Flink's local-global aggregation): into the window itself where this shard owns
//! the key, through the exchange where another does. They leave before that watermark, so results
//! come no later.
//!
//! # When adding up does not pay
//! On one shard there is nobody to send to, and with many keys a sum gathers few records. Then records
//! go straight where they belong: into this shard's windows, which the operator behind the exchange
//! shares, or as they are through the exchange. So at most [`LOCAL_KEYS_MAX`] sums are kept; if they fill
//! up before they have taken in [`RECORDS_PER_KEY_MIN`] records each, the next [`BYPASS_RECORDS`]
//! records go straight. (Both at once, straight for this shard's keys and added up for the others', costs
//! a third more on two shards: no processor can predict who owns the next key.)
//!
//! # What stays exactly as without it
//! Lateness. A record whose window the *sender's* watermark has passed is sent through the exchange by
//! itself, behind that watermark, and the receiver decides as ever, by the merged one. Others are in
//! time for the receiver too: its watermark is not ahead of any sender's, unless that was idle. What
//! comes after that is decided when it arrives, for a sum as for a record, since all records of a sum
//! lie in one window. (If late records are wanted themselves, a sender that has been idle adds nothing up
//! any more.)

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
use crate::table_hash::{table_hash, table_hash_from};

/// Sums that are kept before they leave: few enough for the second-level cache. (10,000 keys on two
/// shards cost 14 ns a record with these, and 45 where they did not fit into a quarter of them.)
const LOCAL_KEYS_MAX: usize = 16_384;
/// Fewer records than this per sum, and adding up pauses.
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
        /// The shard that owns its key had no room for it yet: see `state.rs`.
        held: bool,
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
    pub(super) records: u64,
    /// As for a record.
    pub(super) held: bool,
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
    /// What is added up, and how many sums that are.
    panes: Panes<K, Gathered<A::Accumulator>>,
    keys: usize,
    /// Records that go straight before adding up is tried again.
    straight: usize,
    /// On one shard all go straight.
    alone: bool,
    /// Late records are wanted.
    late_output: bool,
    /// The window's own `numRecordsIn`: behind the exchange there are only slices to count.
    records_in: Counter,
}

/// An accumulator and the number of records in it.
struct Gathered<A> {
    accumulator: A,
    records: u64,
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> LocalAggregate<K, T, F, A> {
    pub(super) fn new(
        (key, aggregate): (Rc<F>, Rc<A>),
        windows: Tumbling,
        (own, alone, late_output): (Owned, bool, bool),
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
            straight: 0,
            alone,
            late_output,
            records_in,
        }
    }

    /// Passes a record on as it is.
    #[inline]
    fn pass(
        &mut self,
        time: Timestamp,
        key: K,
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        let hash = key.key_hash();
        let (value, held) = if self.own.contains(hash) {
            let key = (table_hash_from(&key, hash), key);
            match self.state.borrow_mut().add_ahead(time, self.watermark, key, value) {
                Ok(()) => return,
                Err(refused) => {
                    let held = refused.is_held();
                    (refused.value, held)
                }
            }
        } else {
            (value, false)
        };
        out.record(time, Slice::Record { hash, value, held });
    }

    /// Adds up a record of another window than the newest, or the first of its key.
    #[inline(never)]
    fn gather(
        &mut self,
        time: Timestamp,
        (hash, key): (u64, K),
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        let pane = match self.panes.find_or_open(time, self.watermark) {
            Opened::Pane(pane) => pane,
            Opened::Closed => return self.pass(time, key, value, out),
            Opened::TooMany => {
                self.make_room(out);
                return self.pass(time, key, value, out);
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
            let mut state = self.state.borrow_mut();
            self.keys -= pane.keys.len();
            for (key, Gathered { accumulator, records }) in pane.keys.drain() {
                sent += records as usize;
                let hash = key.key_hash();
                let mut partial = Partial { hash, key, accumulator, records, held: false };
                if self.own.contains(hash) {
                    match state.merge_ahead(start, partial) {
                        Ok(()) => continue,
                        Err(refused) => {
                            let held = refused.is_held();
                            partial = Partial { held, ..refused.value };
                        }
                    }
                }
                out.record(start, Slice::Partial(partial));
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
            self.straight = BYPASS_RECORDS;
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
        if self.alone {
            let key = (table_hash(&key), key);
            let added = self.state.borrow_mut().add_ahead(time, self.watermark, key, value);
            if let Err(refused) = added {
                let (hash, held) = (refused.key.key_hash(), refused.is_held());
                out.record(time, Slice::Record { hash, value: refused.value, held });
            }
            return;
        }
        if self.straight > 0 {
            self.straight -= 1;
            return self.pass(time, key, value, out);
        }
        let hash = table_hash(&key);
        // The usual case, a key that is in the newest window already, is inlined into the chain.
        if let Some(pane) = self.panes.newest(time)
            && let Some(gathered) = pane.keys.get(hash, &key)
        {
            gathered.records += 1;
            return self.aggregate.add(&mut gathered.accumulator, value);
        }
        self.gather(time, (hash, key), value, out);
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
                if self.late_output {
                    self.straight = usize::MAX;
                }
            }
            Mark::Barrier(_) => {
                self.send_due(Timestamp::MAX, out);
                self.state.borrow_mut().barrier_ahead();
            }
            Mark::Active => {}
        }
        out.mark(mark);
    }
}
