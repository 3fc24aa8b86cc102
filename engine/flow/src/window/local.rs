//! What happens to a record before the exchange.
//!
//! Records of one key and window are added up here (Flink's local-global aggregation). The sums leave when a watermark is
//! about to close their window. A sum whose key this shard owns goes into the window itself, and others go through
//! the exchange. They leave before that watermark, so results come no later.
//!
//! Where windows overlap, read *slice* for window. The sums of a slice leave when the first window that contains it is about
//! to close. What comes later for the slice goes by itself.
//!
//! # When adding up does not pay
//! On one shard there is nobody to send to, and with many keys a sum gathers few records. Then records
//! go straight where they belong: into this shard's windows, which the operator behind the exchange
//! shares, or as they are through the exchange. So at most [`LOCAL_KEYS_MAX`] sums are kept, of at most
//! [`LOCAL_BYTES_MAX`], about. If they fill up before they have taken in [`RECORDS_PER_KEY_MIN`] records each, the next
//! [`BYPASS_RECORDS`] records go straight. (It costs a third more on two shards to add up
//! only what other shards own: no processor can predict who owns the next key.)
//!
//! # The slice at hand
//! Most of what a record costs here is to find out which of these ways it goes, and which slice it falls into. So the
//! operator keeps the bounds of the slice that records are being added to *at hand*. A record within them whose key the
//! slice has is added at once, after one comparison and one look-up. Any other record takes the long way, which finds out
//! anew which slice is at hand. Where records go straight into this shard's windows, the slice lends its keys meanwhile
//! (`lent.rs`).
//!
//! A slice of many keys lies in memory that is far away. Its records are *gathered*: [`GATHERED_MAX`] of them, or those of
//! a step, are added in one tight loop, whose accesses overlap. Records of sums that grow are gathered, too, since each
//! of them is counted. Nobody can see the difference: a gathered record is in time, and stays in time until a watermark
//! passes a window. (The Yahoo benchmark takes 8 instructions an event less than if records of few keys are gathered.)
//!
//! # What stays exactly as without it
//! Lateness stays as it is. A record whose window the *sender's* watermark has passed goes through the exchange by itself,
//! behind that watermark. The receiver decides by the merged watermark. Other records are in time for the receiver,
//! too: its watermark is not ahead of any sender's, unless that sender was idle. The receiver decides about what
//! an idle sender sends, sums as records: all records of a sum lie in one window. Where late records are wanted
//! themselves, a sender that has been idle adds nothing up any more. Neither does one that goes on from an epoch: others may
//! have closed windows by then which its own watermark leaves open.

use std::cell::RefCell;
use std::mem::{replace, take};
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Collector, Key, Mark, Owned, Timestamp};

use super::aggregate::Aggregate;
use super::growing::Growing;
use super::lent::LentKeys;
use super::pane::{AtHand, InTime, Opened, Panes};
use super::slice::{Partial, Slice};
use super::slicing::Slicing;
use super::state::{Refused, WindowState};
use super::table::MANY_KEYS_MAX;
use crate::counters::Counter;
use crate::pipeline::{Operator, due_time};
use crate::table_hash::{table_hash, table_hash_from};

/// This many sums are kept before they leave: few enough for one hash table, and for the second-level cache. (10,000 keys on two
/// shards cost 14 ns a record with this number, and 45 where they did not fit into a quarter of it.)
const LOCAL_KEYS_MAX: usize = MANY_KEYS_MAX;
/// What sums may take together. Their size is known from the first barrier on, from what windows wrote. That of sums that
/// grow with their records is known from the first record on. (Sums are in no account of state. With accumulators of a
/// kilobyte, two shards held 36 MiB for them.)
const LOCAL_BYTES_MAX: usize = 1 << 20;
/// Adding up pauses where a sum has fewer records than this.
const RECORDS_PER_KEY_MIN: usize = 2;
/// How long it pauses, in records.
const BYPASS_RECORDS: usize = 64 * 1_024;

/// This many records are gathered before they are added: they stay in the first-level cache.
const GATHERED_MAX: usize = 128;
/// Records of more bytes than this would cost more to put aside than they save.
const GATHERED_BYTES_MAX: usize = 64;

/// See the module.
pub(super) struct LocalAggregate<K, T, F, A: Aggregate<T>> {
    key: Rc<F>,
    aggregate: Rc<A>,
    watermark: Timestamp,
    /// The first watermark from here that passes a window.
    passes_at: Timestamp,
    /// The slice at hand, if it has few keys.
    at_hand: AtHand,
    /// On one shard, its keys.
    lent: LentKeys<K, A::Accumulator>,
    /// The slice at hand, if its records are gathered, and those records.
    gathers: AtHand,
    gathered: Vec<(Timestamp, T)>,
    /// The keys of this shard, and their windows.
    own: Owned,
    state: Rc<RefCell<WindowState<K, T, A>>>,
    slicing: Slicing,
    /// What is added up, and how many sums that are.
    panes: Panes<K, Sum<A::Accumulator>>,
    keys: usize,
    keys_max: usize,
    /// Records that were added at once, and that `records_in` does not count yet.
    added: usize,
    /// What sums that grow take.
    growing: Growing,
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
struct Sum<A> {
    accumulator: A,
    records: u64,
}

impl<K: Key, T, F: Fn(&T) -> K, A: Aggregate<T>> LocalAggregate<K, T, F, A> {
    pub(super) fn new(
        (key, aggregate): (Rc<F>, Rc<A>),
        slicing: Slicing,
        (own, alone, late_output): (Owned, bool, bool),
        is_resumed: bool,
        state: Rc<RefCell<WindowState<K, T, A>>>,
        records_in: Counter,
    ) -> Self {
        Self {
            key,
            aggregate,
            watermark: Timestamp::MIN,
            passes_at: Timestamp::MIN,
            at_hand: AtHand::NOWHERE,
            lent: LentKeys::none(),
            gathers: AtHand::NOWHERE,
            gathered: Vec::with_capacity(GATHERED_MAX),
            own,
            state,
            slicing,
            panes: Panes::new(slicing, LOCAL_KEYS_MAX),
            keys: 0,
            added: 0,
            keys_max: LOCAL_KEYS_MAX,
            growing: Growing::new(LOCAL_BYTES_MAX),
            straight: if late_output && is_resumed { usize::MAX } else { 0 },
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

    /// Adds what is gathered.
    #[inline(never)]
    fn add_gathered(&mut self, out: &mut impl Collector<Slice<T, K, A::Accumulator>>) {
        let mut gathered = take(&mut self.gathered);
        self.add_all(gathered.drain(..), out);
        self.gathered = gathered;
    }

    /// Nothing is gathered any more, and no slice at hand.
    fn put_down(&mut self, out: &mut impl Collector<Slice<T, K, A::Accumulator>>) {
        self.records_in.add(take(&mut self.added));
        if !self.lent.is_empty() {
            self.state.borrow_mut().take_back(replace(&mut self.lent, LentKeys::none()));
        }
        if !self.gathered.is_empty() {
            self.add_gathered(out);
        }
        self.take_in_hand(AtHand::NOWHERE, false);
    }

    fn take_in_hand(&mut self, slice: AtHand, gathers: bool) {
        (self.at_hand, self.gathers) =
            if gathers { (AtHand::NOWHERE, slice) } else { (slice, AtHand::NOWHERE) };
    }

    /// Adds a record of the slice at hand, if its key is there. Else the value comes back.
    #[inline(always)]
    fn add_at_hand(&mut self, value: T) -> Result<(), T> {
        let key = (self.key)(&value);
        let hash = table_hash(&key);
        if self.alone {
            let Some(accumulator) = self.lent.get(hash, &key) else { return Err(value) };
            self.aggregate.add(accumulator, value);
            return Ok(());
        }
        let sums = self.panes.newest_any().keys.few_mut();
        let Some(sum) = sums.get(hash, &key) else { return Err(value) };
        sum.records += 1;
        self.aggregate.add(&mut sum.accumulator, value);
        Ok(())
    }

    /// Adds records of the window at hand.
    #[inline(always)]
    fn add_all(
        &mut self,
        mut records: impl ExactSizeIterator<Item = (Timestamp, T)>,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        self.records_in.add(records.len());
        if self.alone {
            let mut state = self.state.borrow_mut();
            let key = |value: &T| (self.key)(value);
            state.add_all_ahead(self.watermark, key, records, |time, refused| {
                self.gathers = AtHand::NOWHERE;
                send_refused(time, refused, out);
            });
            return;
        }
        if A::GROWS {
            // Each is counted and may be weighed.
            return records.for_each(|(time, value)| {
                let key = (self.key)(&value);
                self.add_one(time, (table_hash(&key), key), value, out);
            });
        }
        loop {
            let pane = self.panes.newest_any();
            let missed = records.find_map(|(time, value)| {
                let key = (self.key)(&value);
                let hash = table_hash(&key);
                let Some(sum) = pane.keys.get(hash, &key) else {
                    return Some((time, (hash, key), value));
                };
                sum.records += 1;
                self.aggregate.add(&mut sum.accumulator, value);
                None
            });
            let Some((time, key, value)) = missed else { return };
            self.add_one(time, key, value, out);
        }
    }

    /// Adds a record of any slice, and finds out what is at hand from now on.
    #[inline(never)]
    fn add_elsewhere(
        &mut self,
        time: Timestamp,
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        self.put_down(out);
        self.records_in.add(1);
        let key = (self.key)(&value);
        let hash = table_hash(&key);
        if self.alone {
            let mut state = self.state.borrow_mut();
            if let Err(refused) = state.add_ahead(time, self.watermark, (hash, key), value) {
                return send_refused(time, refused, out);
            }
            let (slice, lent) = state.lend_ahead(self.watermark);
            drop(state);
            self.lent = lent;
            return self.take_in_hand(slice, self.lent.is_empty());
        }
        self.add_one(time, (hash, key), value, out);
        if self.straight == 0 {
            let slice = self.panes.newest_unless_due_at(self.watermark);
            // Each record of a sum that grows is counted.
            let gathers = A::GROWS || self.panes.newest_any().keys.has_many();
            self.take_in_hand(slice, gathers);
        }
    }

    #[inline]
    fn gather(
        &mut self,
        time: Timestamp,
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        if size_of::<T>() > GATHERED_BYTES_MAX {
            return self.add_all(std::iter::once((time, value)), out);
        }
        if self.gathered.len() == self.gathered.capacity() {
            self.add_gathered(out);
        }
        self.gathered.push((time, value));
    }

    /// Adds up a record, or passes it on.
    #[inline]
    fn add_one(
        &mut self,
        time: Timestamp,
        key: (u64, K),
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        if self.straight > 0 {
            self.straight -= 1;
            self.take_in_hand(AtHand::NOWHERE, false);
            return self.pass(time, key.1, value, out);
        }
        self.add_up(time, key, value, out);
    }

    /// Adds up a record.
    #[inline(never)]
    fn add_up(
        &mut self,
        time: Timestamp,
        (hash, key): (u64, K),
        value: T,
        out: &mut impl Collector<Slice<T, K, A::Accumulator>>,
    ) {
        let pane = match self.panes.find_or_open(time, self.watermark, InTime::ForAll) {
            Opened::Pane(pane) => pane,
            Opened::Closed => return self.pass(time, key, value, out),
            Opened::TooMany => {
                self.make_room(out);
                return self.pass(time, key, value, out);
            }
        };
        let growing = &mut self.growing;
        let mut fills = |Sum { accumulator, records }: &Sum<A::Accumulator>| {
            A::GROWS && growing.fills(size_of::<T>(), accumulator, *records)
        };
        let is_full = if let Some(sum) = pane.keys.get(hash, &key) {
            self.aggregate.add(&mut sum.accumulator, value);
            sum.records += 1;
            fills(sum)
        } else {
            let sum = Sum { accumulator: self.aggregate.of(value), records: 1 };
            let fills = fills(&sum);
            pane.keys.insert(hash, key, sum);
            self.keys += 1;
            fills || self.keys >= self.keys_max
        };
        if is_full {
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
        while self.panes.oldest_due().is_some_and(|due| due <= watermark) {
            let mut pane = self.panes.take_oldest();
            let start = pane.start;
            let mut state = self.state.borrow_mut();
            self.keys -= pane.keys.len();
            pane.keys.drain(|key, Sum { accumulator, records }| {
                sent += records as usize;
                let hash = key.key_hash();
                let mut partial = Partial { hash, key, accumulator, records, held: false };
                if self.own.contains(hash) {
                    match state.merge_ahead(start, partial) {
                        Ok(()) => return,
                        Err(refused) => {
                            let held = refused.is_held();
                            partial = Partial { held, ..refused.value };
                        }
                    }
                }
                out.record(start, Slice::Partial(partial));
            });
            drop(state);
            self.panes.recycle(pane);
        }
        if A::GROWS {
            self.growing.has_sent(sent);
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
        if !self.at_hand.contains(time) {
            return match self.gathers.contains(time) {
                true => self.gather(time, value, out),
                false => self.add_elsewhere(time, value, out),
            };
        }
        match self.add_at_hand(value) {
            Ok(()) => self.added += 1,
            Err(value) => self.add_elsewhere(time, value, out),
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Self::Out>) {
        match mark {
            // Nothing that is gathered is late because of this one, and nothing is due.
            Mark::Watermark(watermark) if watermark < self.passes_at => self.watermark = watermark,
            Mark::Watermark(watermark) => {
                self.put_down(out);
                self.watermark = watermark;
                self.passes_at = self.slicing.fires_from(watermark.plus_ms(1));
                self.send_due(watermark, out);
            }
            // Nobody knows when the next record will send these on.
            Mark::Idle | Mark::End => {
                self.put_down(out);
                self.send_due(Timestamp::MAX, out);
                if self.late_output {
                    self.straight = usize::MAX;
                }
            }
            Mark::Barrier(_) => {
                self.put_down(out);
                self.send_due(Timestamp::MAX, out);
                let mut state = self.state.borrow_mut();
                let fit = LOCAL_BYTES_MAX.checked_div(state.entry_bytes());
                self.keys_max = fit.map_or(LOCAL_KEYS_MAX, |fit| fit.clamp(1, LOCAL_KEYS_MAX));
                if !seeded(Defect::FlowAddsAheadOfBarrier) {
                    state.barrier_ahead();
                }
            }
            Mark::Active => {}
        }
        out.mark(mark);
    }

    /// What the windows hold may be read, and fire, before the next record comes.
    #[inline]
    fn settle(&mut self, out: &mut impl Collector<Self::Out>) {
        self.put_down(out);
    }

    /// What is added up leaves in front of the watermark that closes its first window.
    fn due_at(&self) -> Timestamp {
        due_time(self.panes.oldest_due(), self.watermark)
    }
}

/// Sends what was not added to the operator.
#[cold]
fn send_refused<T, K: Key, A>(
    time: Timestamp,
    refused: Refused<K, T>,
    out: &mut impl Collector<Slice<T, K, A>>,
) {
    let (hash, held) = (refused.key.key_hash(), refused.is_held());
    out.record(time, Slice::Record { hash, value: refused.value, held });
}
