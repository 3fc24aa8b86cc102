//! The open windows of the keys that a shard owns, filled from both sides of the exchange.
//!
//! # Large tables
//! An update of a key in a table beyond the caches waits for memory, and the rest of a chain fills
//! the processor's window before it can begin the next one's access. So records of such a table are
//! put off, up to [`DEFERRED_MAX`] of them; then their keys are looked for in one tight loop, whose
//! accesses overlap, and added in a second one that finds them in the cache. Nobody can see the
//! difference: whatever reads a window, or adds to it by another way, has them added first.

use std::rc::Rc;

use thalweg_kernel::{Key, Timestamp};

use super::Limits;
use super::aggregate::Aggregate;
use super::local::Partial;
use super::pane::{Opened, Pane, Panes};
use super::tumbling::Tumbling;
use crate::counters::Counter;

/// Records that are put off together.
const DEFERRED_MAX: usize = 128;

/// See the module.
pub(super) struct WindowState<K, T, A: Aggregate<T>> {
    aggregate: Rc<A>,
    panes: Panes<K, A::Accumulator>,
    /// Open (key, window) pairs.
    keys: usize,
    keys_max: usize,
    dropped: Dropped,
    deferred: Vec<Deferred<K, T>>,
}

/// Records that take part in no result, by reason.
#[derive(Clone, Default)]
pub(super) struct Dropped {
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

impl<K: Key, T, A: Aggregate<T>> WindowState<K, T, A> {
    pub(super) fn new(
        aggregate: Rc<A>,
        windows: Tumbling,
        limits: Limits,
        dropped: Dropped,
    ) -> Self {
        let Limits { keys_max, windows_max } = limits;
        let panes = Panes::new(windows, windows_max);
        Self { aggregate, panes, keys: 0, keys_max, dropped, deferred: Vec::new() }
    }

    /// Adds a record to its window; `hash` is the key's [`Key::table_hash`]. Gives it back if `watermark`
    /// has passed the window.
    #[inline(always)]
    pub(super) fn add(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
        (hash, key): (u64, K),
        value: T,
    ) -> Result<(), T> {
        // The usual case, a key that is in the newest window already, is inlined into the chain.
        if let Some(pane) = self.panes.newest(time)
            && !pane.is_passed_by(watermark)
        {
            if pane.keys.is_large() {
                self.defer(Deferred { time, hash, key, value });
                return Ok(());
            }
            if let Some(accumulator) = pane.keys.get(hash, &key) {
                self.aggregate.add(accumulator, value);
                return Ok(());
            }
        }
        self.add_anywhere(time, watermark, (hash, key), value)
    }

    #[inline(never)]
    fn add_anywhere(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
        key: (u64, K),
        value: T,
    ) -> Result<(), T> {
        self.add_deferred();
        let aggregate = Rc::clone(&self.aggregate);
        self.put(
            time,
            watermark,
            key,
            (value, 1),
            |accumulator, value| aggregate.add(accumulator, value),
            |value| aggregate.of(value),
        )
    }

    /// Merges a partial result into its window, which `watermark` must not have passed.
    pub(super) fn merge(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
        partial: Partial<K, A::Accumulator>,
    ) {
        self.add_deferred();
        let Partial { hash, key, accumulator, records } = partial;
        let hash = key.table_hash_from(hash);
        let aggregate = Rc::clone(&self.aggregate);
        let put = self.put(
            time,
            watermark,
            (hash, key),
            (accumulator, records as usize),
            |into, accumulator| aggregate.merge(into, accumulator),
            |accumulator| accumulator,
        );
        // Its sender passed it on before the watermark that closes its window.
        debug_assert!(put.is_ok(), "a partial result came late");
    }

    /// Takes out the oldest window that `watermark` has passed.
    #[inline]
    pub(super) fn close_due(&mut self, watermark: Timestamp) -> Option<Pane<K, A::Accumulator>> {
        if !self.panes.is_due(watermark) {
            return None;
        }
        self.add_deferred();
        let pane = self.panes.take_oldest();
        self.keys -= pane.keys.len();
        Some(pane)
    }

    /// Gives an emptied pane back for reuse.
    pub(super) fn recycle(&mut self, pane: Pane<K, A::Accumulator>) {
        self.panes.recycle(pane);
    }

    #[inline]
    fn defer(&mut self, record: Deferred<K, T>) {
        self.deferred.push(record);
        if self.deferred.len() >= DEFERRED_MAX {
            self.add_deferred();
        }
    }

    #[inline]
    fn add_deferred(&mut self) {
        if !self.deferred.is_empty() {
            self.add_all_deferred();
        }
    }

    #[inline(never)]
    fn add_all_deferred(&mut self) {
        let mut deferred = std::mem::take(&mut self.deferred);
        let mut here = 0;
        for Deferred { time, hash, key, .. } in &deferred {
            if let Some(pane) = self.panes.newest(*time) {
                here += usize::from(pane.keys.contains(*hash, key));
            }
        }
        // Whether they are here is asked again below, and cheaply: this was to load them.
        std::hint::black_box(here);
        for Deferred { time, hash, key, value } in deferred.drain(..) {
            if let Some(pane) = self.panes.newest(time)
                && let Some(accumulator) = pane.keys.get(hash, &key)
            {
                self.aggregate.add(accumulator, value);
                continue;
            }
            let aggregate = Rc::clone(&self.aggregate);
            let put = self.put(
                time,
                // Its window was open, and none has fired since.
                Timestamp::MIN,
                (hash, key),
                (value, 1),
                |accumulator, value| aggregate.add(accumulator, value),
                |value| aggregate.of(value),
            );
            debug_assert!(put.is_ok(), "a window closed over deferred records");
        }
        self.deferred = deferred;
    }

    /// Gives `value`, which stands for so many records, to `add` with the accumulator of its key and
    /// window, or to `create` if there is none yet; counts it as dropped where a limit is reached.
    #[inline]
    fn put<V>(
        &mut self,
        time: Timestamp,
        watermark: Timestamp,
        (hash, key): (u64, K),
        (value, records): (V, usize),
        add: impl FnOnce(&mut A::Accumulator, V),
        create: impl FnOnce(V) -> A::Accumulator,
    ) -> Result<(), V> {
        let pane = match self.panes.find_or_open(time, watermark) {
            Opened::Pane(pane) => pane,
            Opened::Closed => return Err(value),
            Opened::TooMany => {
                self.dropped.windows_over_limit.add(records);
                return Ok(());
            }
        };
        if let Some(accumulator) = pane.keys.get(hash, &key) {
            add(accumulator, value);
        } else if self.keys < self.keys_max {
            self.keys += 1;
            pane.keys.insert(hash, key, create(value));
        } else {
            self.dropped.keys_over_limit.add(records);
        }
        Ok(())
    }
}
