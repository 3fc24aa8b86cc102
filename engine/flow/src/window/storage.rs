//! How entries of windows are stored, and what of them the store has.
//!
//! An entry of a slice is stored as `group start key -> accumulator`. So what a shard keeps lies together by group, as
//! all keyed state does. Each accumulator carries the stamp of the last epoch that
//! changed it. The first change since a barrier notes the key's hash in the pane, so a barrier costs what has
//! changed. A record costs one comparison, and nothing else if its key has changed already. (A stamp is the low
//! bits of an epoch, by which `cold.rs` knows what the store can give back.)
//!
//! A slice that no window needs any more is deleted from storage, if an epoch has any of it. It is deleted key by key,
//! or else as a range of each group. Ranges serve where some of its keys are in the store alone, and where it has more
//! keys than the shard has groups.

use std::ops::Range;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Changes, Durable, Epoch, Key, KeyGroups, StateError, StateId, StateReader, Timestamp,
    ValueDamaged,
};

use super::pane::Pane;
use super::reached::Reached;
use crate::checkpoint::Checkpoints;
use crate::pipeline::Budget;

/// A scan reads at most this many stored entries before it looks at the budget.
const SCANNED_ENTRIES: usize = 256;

/// An accumulator, and the stamp of its last change.
pub(super) struct Stamped<A> {
    pub(super) accumulator: A,
    pub(super) stamp: u32,
}

impl<A> Stamped<A> {
    /// It has changed: notes its hash, if it is for the first time since the last barrier.
    #[inline(always)]
    pub(super) fn mark(&mut self, stamp: u32, hash: u64, dirty: &mut Vec<u64>) {
        if self.stamp != stamp && !seeded(Defect::FlowForgetsWindowChange) {
            self.stamp = stamp;
            dirty.push(hash);
        }
    }
}

/// What one operator's windows know of what is stored of them.
pub(super) struct Storage {
    /// The low bits of the open epoch; always zero in a job without checkpoints, where nothing is noted.
    pub(super) stamp: u32,
    on: bool,
    pub(super) id: StateId,
    pub(super) groups: KeyGroups,
    pub(super) own: Range<u16>,
    /// Of windows that have fired.
    pub(super) deletes: Changes,
    pub(super) reached: Reached,
    pub(super) checkpoints: Rc<Checkpoints>,
    pub(super) reader: Option<Rc<dyn StateReader>>,
    /// The bytes of a key and its accumulator as they were written, on average.
    pub(super) entry_bytes: usize,
}

impl Storage {
    pub(super) fn new(
        checkpoints: &Rc<Checkpoints>,
        reader: Option<Rc<dyn StateReader>>,
        shards: usize,
    ) -> Self {
        let (groups, shard) = (checkpoints.groups(), checkpoints.shard());
        let on = checkpoints.enabled();
        Self {
            stamp: u32::from(on),
            on,
            id: StateId::of("", ""),
            groups,
            own: groups.groups_of(shard, shards),
            deletes: Changes::new(),
            reached: Reached::new(checkpoints, shards),
            checkpoints: Rc::clone(checkpoints),
            reader,
            entry_bytes: 0,
        }
    }

    /// Whether the job takes checkpoints.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// A window fires.
    #[inline]
    pub(super) fn forget<K: Key, A>(&mut self, pane: &Pane<K, Stamped<A>>) {
        if pane.stored && !seeded(Defect::FlowFiredWindowStays) {
            self.delete(pane);
        }
    }

    fn delete<K: Key, A>(&mut self, pane: &Pane<K, Stamped<A>>) {
        let (id, start) = (self.id, pane.start);
        if pane.cold > 0 || pane.keys.len() > self.own.len() {
            return self.delete_ranges(start);
        }
        for (key, _) in pane.keys.iter() {
            let group = self.groups.group_of(key.key_hash());
            self.deletes.delete_with(|out| write_key(id, group, start, key, out));
        }
    }
}

impl Storage {
    /// Deletes what the store has of a pane, group by group.
    pub(super) fn delete_ranges(&mut self, start: Timestamp) {
        for group in self.own.clone() {
            let Range { start: from, end: to } = stored_range(self.id, group, start);
            self.deletes.delete_range(&from, &to);
        }
    }

    /// The stored value of a key in the slice that begins at `start`.
    #[cold]
    pub(super) fn read<K: Key, V: Durable>(&self, start: Timestamp, key: &K) -> Option<V> {
        let reader = self.reader.as_ref()?;
        let (group, mut stored, mut found) =
            (self.groups.group_of(key.key_hash()), Vec::new(), None);
        write_key(self.id, group, start, key, &mut stored);
        let read = reader.get(&stored, &mut |value| {
            found = Some(V::read(value)?);
            Ok(())
        });
        if let Err(error) = read {
            self.checkpoints.fail(error);
        }
        found
    }

    /// Brings a key into memory that may be in the store alone.
    #[cold]
    pub(super) fn warm<K: Key, V: Durable>(
        &self,
        pane: &mut Pane<K, Stamped<V>>,
        hash: u64,
        key: &K,
    ) {
        if pane.keys.has(hash, key) {
            return;
        }
        if let Some(accumulator) = self.read(pane.start, key) {
            // As the store has it.
            let stamp = self.checkpoints.readable().number() as u32;
            pane.keys.insert(hash, key.clone(), Stamped { accumulator, stamp });
            pane.cold -= 1;
        }
    }

    /// Gives `each` the stored entries of a slice that are wanted, as far as `budget` allows. Returns whether there are
    /// no more.
    pub(super) fn scan<K: Key, V: Durable>(
        &self,
        start: Timestamp,
        walk: &mut Walk,
        budget: &mut Budget,
        wanted: impl Fn(&K) -> bool,
        mut each: impl FnMut(K, V),
    ) -> bool {
        let Some(reader) = &self.reader else { return true };
        while let Some(group) = self.own.clone().nth(walk.groups) {
            let Range { start: from, end: to } = stored_range(self.id, group, start);
            let from = if walk.next.is_empty() { from } else { std::mem::take(&mut walk.next) };
            let mut seen = 0;
            let scanned = reader.scan(&from, &to, &mut |stored, value| {
                if seen == SCANNED_ENTRIES {
                    walk.next = stored.to_vec();
                    // Nothing has failed: this ends the scan.
                    return Err(StateError::Other(String::new()));
                }
                seen += 1;
                let rest = StateId::split_key(stored).map(|(_, rest)| rest);
                let read = rest.and_then(read_key::<K>);
                let (_, key) = read.ok_or_else(ValueDamaged::key::<K>)?;
                if wanted(&key) {
                    each(key, V::read(value)?);
                }
                Ok(())
            });
            budget.spend(1 + seen);
            if walk.next.is_empty() {
                if let Err(error) = scanned {
                    self.checkpoints.fail(error);
                    return true;
                }
                walk.groups += 1;
            }
            // A little is done whatever the budget, so that it goes on in any case.
            if budget.is_spent() {
                return false;
            }
        }
        true
    }

    /// Whether the store can give back what changed last with this stamp.
    pub(super) fn is_readable(stamp: u32, readable: Epoch) -> bool {
        // Stamps are the low bits of epochs.
        (readable.number() as u32).wrapping_sub(stamp) <= u32::MAX / 2
    }
}

/// How far a walk over the stored entries of a pane has come.
#[derive(Default)]
pub(super) struct Walk {
    /// Groups that are done.
    groups: usize,
    /// The stored key to go on with; empty at the beginning of a group.
    next: Vec<u8>,
}

/// The stored keys of a slice in one group.
fn stored_range(id: StateId, group: u16, start: Timestamp) -> Range<Vec<u8>> {
    let at = |start: u64| {
        let mut key = Vec::with_capacity(StateId::PREFIX_BYTES + 8);
        id.begin_key(group, &mut key);
        key.extend_from_slice(&start.to_be_bytes());
        key
    };
    let start = ordered(start);
    // The last millisecond of time has none behind it.
    let end = start.checked_add(1).map_or_else(|| id.range(group..group).1, at);
    at(start)..end
}

/// A time as a number that is ordered as times are.
pub(super) fn ordered(time: Timestamp) -> u64 {
    time.as_millis() as u64 ^ (1 << 63)
}

pub(super) fn write_key<K: Key>(
    id: StateId,
    group: u16,
    start: Timestamp,
    key: &K,
    out: &mut Vec<u8>,
) {
    id.begin_key(group, out);
    out.extend_from_slice(&ordered(start).to_be_bytes());
    key.write_key(out);
}

/// The start and key of a stored entry.
pub(super) fn read_key<K: Key>(mut rest: &[u8]) -> Option<(Timestamp, K)> {
    let (start, key) = rest.split_first_chunk()?;
    rest = key;
    let start = u64::from_be_bytes(*start) ^ (1 << 63);
    let key = K::read_key(&mut rest)?;
    rest.is_empty().then_some((Timestamp::from_millis(start as i64), key))
}
