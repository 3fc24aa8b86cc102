//! The open windows of the keys that a shard owns. They are filled from both sides of the exchange: by the
//! *operator* behind it, and by the shard's own *sender* in front of it.
//!
//! # Two sides
//! The sender runs ahead of the operator: by what is in the lane, and that is much while a sink is full.
//! So the sender decides nothing about late records. It adds a record to a window that both watermarks leave open, its
//! own and the operator's. (The operator's may be the later one, after the sender was idle.) It sends every other record
//! through the exchange, and the operator decides. That is so for limits, too: the windows that take the room may be
//! about to fire. While such a record is on its way, all records of the shard's own keys follow it. So the records of a
//! key stay in order.
//!
//! # Large tables
//! An update of a key in a table beyond the caches waits for memory. A processor could begin the next access meanwhile,
//! but the rest of a chain fills its window first. So records of such a table are put off, up to [`DEFERRED_MAX`] of
//! them. One tight loop then looks for their keys, with accesses that overlap, and a second one finds them in the cache
//! and adds the records. Nobody can see the difference: whatever reads a window, or adds to it by another way, has the
//! records added first.
//!
//! # Barriers
//! What follows a barrier must not be in the windows before the operator has handed them over, and
//! the sender is ahead of it. So the barrier itself counts as something held that is on its way.
//! What a window then hands over is in `snapshot.rs`.

use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Key, Timestamp};

use super::Limits;
use super::aggregate::Aggregate;
use super::lent::LentKeys;
use super::pane::{AtHand, InTime, Opened, Panes};
use super::phase::Phase;
use super::running::Running;
use super::slice::Partial;
use super::slicing::Slicing;
use super::storage::{Stamped, Storage};
use crate::counters::Counter;
use crate::notices::LateRecord;
use crate::pipeline::due_time;
use crate::table_hash::{table_hash, table_hash_from};

/// At most this many records are put off together.
const DEFERRED_MAX: usize = 128;

/// See the module.
pub(super) struct WindowState<K, T, A: Aggregate<T>> {
    pub(super) aggregate: Rc<A>,
    pub(super) slicing: Slicing,
    /// Whether windows overlap.
    pub(super) overlap: bool,
    pub(super) panes: Panes<K, Stamped<A::Accumulator>>,
    /// What windows share that overlap.
    pub(super) running: Running<K, A::Accumulator>,
    /// No window fires that ends before this.
    pub(super) fires_next: Timestamp,
    pub(super) phase: Phase<K, A::Accumulator>,
    /// What is to be handed over at the next barrier.
    pub(super) storage: Storage,
    /// The operator's watermark.
    pub(super) watermark: Timestamp,
    /// What the sender had no room for, and is on its way to the operator.
    held: usize,
    /// Barriers among that.
    barriers: usize,
    /// Open (key, window) pairs.
    pub(super) keys: usize,
    keys_max: usize,
    dropped: Dropped,
    /// The newest late record, until somebody takes it.
    late: Option<(K, Timestamp)>,
    deferred: Vec<Deferred<K, T>>,
    /// The sender has keys of the newest slice.
    lends: bool,
}

/// Records that take part in no result, by reason.
#[derive(Clone, Default)]
pub(super) struct Dropped {
    pub(super) late: Counter,
    pub(super) keys_over_limit: Counter,
    pub(super) windows_over_limit: Counter,
}

/// A record in an open window.
struct Deferred<K, T> {
    time: Timestamp,
    hash: u64,
    key: K,
    value: T,
}

/// Why a record or sum was not added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The watermark has passed its window.
    Late,
    /// As many windows are open as may be.
    Windows,
    /// As many keys are open as may be.
    Keys,
    /// What must come first is on its way.
    Behind,
}

/// What was not added.
pub(super) struct Refused<K, V> {
    pub(super) why: Refusal,
    pub(super) key: K,
    pub(super) value: V,
}

impl<K: Key, T, A: Aggregate<T>> WindowState<K, T, A> {
    pub(super) fn new(
        aggregate: Rc<A>,
        slicing: Slicing,
        limits: Limits,
        dropped: Dropped,
        storage: Storage,
    ) -> Self {
        let Limits { keys_max, windows_max } = limits;
        Self {
            aggregate,
            slicing,
            overlap: slicing.slices_per_window() > 1,
            panes: Panes::new(slicing, windows_max),
            running: Running::new(),
            fires_next: Timestamp::MIN,
            phase: Phase::Idle,
            storage,
            watermark: Timestamp::MIN,
            held: 0,
            barriers: 0,
            keys: 0,
            keys_max,
            dropped,
            late: None,
            deferred: Vec::new(),
            lends: false,
        }
    }

    /// Adds a record for the sender; `hash` is the key's [`table_hash`](crate::table_hash::table_hash).
    /// What is refused must go to the operator, and counts as held unless it is late.
    #[inline(always)]
    pub(super) fn add_ahead(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
        (hash, key): (u64, K),
        value: T,
    ) -> Result<(), Refused<K, T>> {
        if self.held > 0 {
            return Err(self.hold(Refused { why: Refusal::Behind, key, value }));
        }
        // What misses one window must not be in its slice before the operator has fired that window.
        let watermark = watermark.max(self.watermark);
        let added = self.add(time, (watermark, InTime::ForAll), (hash, key), value);
        added.map_err(|refused| self.hold(refused))
    }

    /// The newest slice, if the sender may add to it, given its watermark. If its keys are few, they are lent to the sender,
    /// which gives them back before anything else is asked of windows.
    pub(super) fn lend_ahead(
        &mut self,
        watermark: Timestamp,
    ) -> (AtHand, LentKeys<K, A::Accumulator>) {
        if self.held > 0 {
            return (AtHand::NOWHERE, LentKeys::none());
        }
        let slice = self.panes.newest_unless_due_at(watermark.max(self.watermark));
        let keys = self.panes.newest_any().keys.few_mut();
        let lent = LentKeys::of(keys, self.storage.stamp);
        self.lends = !lent.is_empty();
        (slice, lent)
    }

    /// The sender gives back what it was lent.
    pub(super) fn take_back(&mut self, lent: LentKeys<K, A::Accumulator>) {
        self.lends = false;
        *self.panes.newest_any().keys.few_mut() = lent.into_keys();
    }

    /// Adds records of that window for the sender: as [`add_ahead`](Self::add_ahead).
    #[inline]
    pub(super) fn add_all_ahead(
        &mut self,
        watermark: Timestamp,
        key_of: impl Fn(&T) -> K,
        mut records: impl Iterator<Item = (Timestamp, T)>,
        mut refused: impl FnMut(Timestamp, Refused<K, T>),
    ) {
        while let Some((time, key, value)) = self.add_known(&key_of, &mut records) {
            if let Err(not_added) = self.add_ahead(time, watermark, key, value) {
                refused(time, not_added);
            }
        }
    }

    /// Adds records of the newest window up to one whose key is not there yet, or must take another way.
    #[inline(always)]
    fn add_known(
        &mut self,
        key_of: impl Fn(&T) -> K,
        records: &mut impl Iterator<Item = (Timestamp, T)>,
    ) -> Option<(Timestamp, (u64, K), T)> {
        let Self { aggregate, panes, storage: Storage { stamp, .. }, held, .. } = self;
        let pane = panes.newest_any();
        let known = *held == 0 && !pane.keys.is_large();
        records.find_map(|(time, value)| {
            debug_assert!(!known || pane.contains(time), "not of the newest window");
            let key = key_of(&value);
            let hash = table_hash(&key);
            if known && let Some(kept) = pane.keys.get(hash, &key) {
                aggregate.add(&mut kept.accumulator, value);
                kept.mark(*stamp, hash, &mut pane.dirty);
                return None;
            }
            Some((time, (hash, key), value))
        })
    }

    /// Merges a sum for the sender. What is refused must go to the operator, and counts as held unless it is late.
    pub(super) fn merge_ahead(
        &mut self,
        time: Timestamp,
        partial: Partial<K, A::Accumulator>,
    ) -> Result<(), Refused<(), Partial<K, A::Accumulator>>> {
        if self.held > 0 {
            return Err(self.hold(Refused { why: Refusal::Behind, key: (), value: partial }));
        }
        // What misses one window, after the sender was idle, must not be in its slice while the operator goes through it.
        self.merge(time, InTime::ForAll, partial).map_err(|refused| self.hold(refused))
    }

    #[cold]
    fn hold<Q, V>(&mut self, refused: Refused<Q, V>) -> Refused<Q, V> {
        self.held += usize::from(refused.is_held());
        refused
    }

    /// The operator's watermark has moved.
    pub(super) fn advance(&mut self, watermark: Timestamp) {
        self.watermark = self.watermark.max(watermark);
        self.storage.reached.advance(watermark);
        if watermark == Timestamp::MAX && !seeded(Defect::FlowEndForgetsWindows) {
            // What comes one day for a window that the end has closed is late.
            self.storage.reached.advance(self.panes.newest_any().closes);
        }
    }

    /// The watermark for which the next window waits.
    pub(super) fn due_at(&self) -> Timestamp {
        let next = self.panes.oldest_due().map(|due| due.max(self.fires_next));
        due_time(next, self.watermark)
    }

    /// The bytes of a key and its accumulator as they were written, on average; zero if that is not known.
    pub(super) fn entry_bytes(&self) -> usize {
        self.storage.entry_bytes
    }

    /// The sender has passed a barrier on.
    pub(super) fn barrier_ahead(&mut self) {
        self.held += 1;
        self.barriers += 1;
    }

    /// The operator has got a barrier, perhaps one of the sender's.
    pub(super) fn barrier_arrived(&mut self) {
        if self.barriers > 0 {
            self.barriers -= 1;
            self.arrived();
        }
    }

    /// Something held has arrived at the operator.
    pub(super) fn arrived(&mut self) {
        self.held -= 1;
    }

    /// Adds a record, unless it is late; `hash` is the key's
    /// [`table_hash`](crate::table_hash::table_hash).
    #[inline(always)]
    pub(super) fn add(
        &mut self,
        time: Timestamp,
        (watermark, in_time): (Timestamp, InTime),
        (hash, key): (u64, K),
        value: T,
    ) -> Result<(), Refused<K, T>> {
        // The usual case, a key that is in the newest window already, is inlined into the chain.
        if let Some(pane) = self.panes.newest(time)
            && !pane.is_due_at(watermark)
        {
            // What is put off must find room later.
            if pane.keys.is_large() && self.keys + self.deferred.len() < self.keys_max {
                self.defer(Deferred { time, hash, key, value });
                return Ok(());
            }
            if let Some(kept) = pane.keys.get(hash, &key) {
                self.aggregate.add(&mut kept.accumulator, value);
                kept.mark(self.storage.stamp, hash, &mut pane.dirty);
                return Ok(());
            }
        }
        self.add_anywhere(time, (watermark, in_time), (hash, key), value)
    }

    #[inline(never)]
    fn add_anywhere(
        &mut self,
        time: Timestamp,
        until: (Timestamp, InTime),
        key: (u64, K),
        value: T,
    ) -> Result<(), Refused<K, T>> {
        self.add_deferred();
        let aggregate = Rc::clone(&self.aggregate);
        self.put(
            time,
            until,
            key,
            value,
            |accumulator, value| aggregate.add(accumulator, value),
            |value| aggregate.of(value),
        )
    }

    /// Merges a sum into its window, unless it is late.
    pub(super) fn merge(
        &mut self,
        time: Timestamp,
        in_time: InTime,
        partial: Partial<K, A::Accumulator>,
    ) -> Result<(), Refused<(), Partial<K, A::Accumulator>>> {
        self.add_deferred();
        let Partial { hash, key, accumulator, records, held } = partial;
        let aggregate = Rc::clone(&self.aggregate);
        let put = self.put(
            time,
            (self.watermark, in_time),
            (table_hash_from(&key, hash), key),
            accumulator,
            |into, accumulator| aggregate.merge(into, &accumulator),
            |accumulator| accumulator,
        );
        put.map_err(|Refused { why, key, value: accumulator }| {
            let partial = Partial { hash, key, accumulator, records, held };
            Refused { why, key: (), value: partial }
        })
    }

    /// Counts what is late, and keeps its key and time as an example.
    #[cold]
    pub(super) fn dropped_late(&mut self, key: K, time: Timestamp, records: u64) {
        self.dropped(Refusal::Late, records);
        self.late = Some((key, time));
    }

    /// Takes the newest late record.
    pub(super) fn take_late(&mut self) -> Option<LateRecord> {
        let watermark = self.watermark;
        self.late.take().map(|(key, time)| LateRecord { key: key.describe(), time, watermark })
    }

    /// Counts what takes part in no result.
    #[cold]
    pub(super) fn dropped(&self, why: Refusal, records: u64) {
        let records = records as usize;
        match why {
            Refusal::Late => self.dropped.late.add(records),
            Refusal::Windows => self.dropped.windows_over_limit.add(records),
            Refusal::Keys => self.dropped.keys_over_limit.add(records),
            Refusal::Behind => debug_assert!(false, "the operator is behind nobody"),
        }
    }

    #[inline]
    fn defer(&mut self, record: Deferred<K, T>) {
        self.deferred.push(record);
        if self.deferred.len() >= DEFERRED_MAX {
            self.add_deferred();
        }
    }

    #[inline]
    pub(super) fn add_deferred(&mut self) {
        debug_assert!(!self.lends, "keys are missing that the sender has");
        if !self.deferred.is_empty() {
            self.add_all_deferred();
        }
    }

    #[inline(never)]
    fn add_all_deferred(&mut self) {
        let mut deferred = std::mem::take(&mut self.deferred);
        let keys = &self.panes.newest_any().keys;
        let mut here = 0;
        for Deferred { hash, key, .. } in &deferred {
            here += usize::from(keys.contains(*hash, key));
        }
        // Whether they are here is asked again below, and cheaply: this was to load them.
        std::hint::black_box(here);
        let aggregate = Rc::clone(&self.aggregate);
        for Deferred { time, hash, key, value } in deferred.drain(..) {
            if let Some(pane) = self.panes.newest(time)
                && let Some(kept) = pane.keys.get_of_large(hash, &key)
            {
                aggregate.add(&mut kept.accumulator, value);
                kept.mark(self.storage.stamp, hash, &mut pane.dirty);
                continue;
            }
            let put = self.put(
                time,
                // Its window was open, and none has fired since.
                (Timestamp::MIN, InTime::ForOne),
                (hash, key),
                value,
                |accumulator, value| aggregate.add(accumulator, value),
                |value| aggregate.of(value),
            );
            debug_assert!(put.is_ok(), "no room for a record that was put off");
        }
        self.deferred = deferred;
    }

    /// Gives `value` to `add` with the accumulator of its key and window, or to `create` if there is
    /// none yet.
    #[inline]
    fn put<V>(
        &mut self,
        time: Timestamp,
        (watermark, in_time): (Timestamp, InTime),
        (hash, key): (u64, K),
        value: V,
        add: impl FnOnce(&mut A::Accumulator, V),
        create: impl FnOnce(V) -> A::Accumulator,
    ) -> Result<(), Refused<K, V>> {
        let pane = match self.panes.find_or_open(time, watermark, in_time) {
            Opened::Pane(pane) => pane,
            Opened::Closed => return Err(Refused { why: Refusal::Late, key, value }),
            Opened::TooMany => return Err(Refused { why: Refusal::Windows, key, value }),
        };
        let stamp = self.storage.stamp;
        if pane.is_merged {
            self.running.make_stale(hash, &key);
        }
        if pane.cold > 0 {
            self.storage.warm(pane, hash, &key);
        }
        if let Some(kept) = pane.keys.get(hash, &key) {
            add(&mut kept.accumulator, value);
            kept.mark(stamp, hash, &mut pane.dirty);
        } else if self.keys < self.keys_max {
            self.keys += 1;
            pane.keys.insert(hash, key, Stamped { accumulator: create(value), stamp });
            if self.storage.is_on() {
                pane.dirty.push(hash);
            }
        } else {
            return Err(Refused { why: Refusal::Keys, key, value });
        }
        Ok(())
    }
}

impl<K, V> Refused<K, V> {
    /// Whether it counts as held on its way to the operator.
    pub(super) fn is_held(&self) -> bool {
        self.why != Refusal::Late
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use thalweg_kernel::KeyGroups;

    use super::*;
    use crate::checkpoint::Checkpoints;
    use crate::{Aligned, Count, Sliding};

    /// Goal: what a sender that was idle has added up does not change a slice that a window which has passed contains. The
    /// operator may be in the middle of it. It goes to the operator, which takes it.
    #[test]
    fn the_sender_merges_into_no_slice_that_is_due() {
        let second = Duration::from_secs(1);
        let slicing = Sliding::of(second * 3, second).slicing();
        let checkpoints = Rc::new(Checkpoints::new(false, KeyGroups::default(), 0, usize::MAX));
        let storage = Storage::new(&checkpoints, None, 2);
        let limits = Limits { keys_max: 1_000, windows_max: 10 };
        let aggregate = Rc::new(Count);
        let mut state = WindowState::<u32, (), _>::new(
            Rc::clone(&aggregate),
            slicing,
            limits,
            Dropped::default(),
            storage,
        );
        let partial = |key: u32| Partial {
            hash: key.key_hash(),
            key,
            accumulator: Aggregate::<()>::of(&*aggregate, ()),
            records: 1,
            held: false,
        };
        let slice = Timestamp::from(10_000);
        assert!(state.merge_ahead(slice, partial(1)).is_ok());
        // The first of the three windows of the slice has passed.
        state.advance(Timestamp::from(10_999));
        let refused = state.merge_ahead(slice, partial(2)).expect_err("it is due");
        assert!(refused.why == Refusal::Late && !refused.is_held());
        assert_eq!(state.keys, 1);
        assert!(state.merge(slice, InTime::ForOne, refused.value).is_ok());
        assert_eq!(state.keys, 2);
        state.advance(Timestamp::from(12_999));
        assert!(state.merge(slice, InTime::ForOne, partial(3)).is_err());
    }
}
