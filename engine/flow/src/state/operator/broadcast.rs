//! Broadcast state: a map that is the same on every shard, of rules, say, that hold for all keys.
//!
//! ```text
//! key   = u64:state u16:group entry     big-endian; the group is that of the entry as a key
//! value = the value
//! ```
//! Every shard gets the records of a [broadcast stream](crate::KeyedStream::connect_broadcast), and changes its map by
//! them. The shard that owns an entry's group stores the entry; so there is one copy of each. After a restart, on any
//! number of shards, every shard reads the entries of all groups.
//!
//! # What keeps the maps equal
//! Records of one sender reach all shards in the order in which it sent them. Records of several senders interleave, on
//! each shard in another way. So changes by one sender must not undo changes by another: each sender has entries of
//! its own, or the latest time wins. A barrier waits for all senders on every shard, so what is stored is of one moment.
//!
//! # Reading and writing
//! A function may read the map in any call. It may change the map only in calls for no key, whose [`Context`] is that of
//! [`NoKey`]. If it changed the map for a record with a key, only the shard of that key would see the change.
//!
//! # Limits
//! A map has at most [`BROADCAST_ENTRIES_MAX`] entries. One more is refused and counted (`numItemsOverLimitRefused`), on each
//! shard alike. It is always in memory. A barrier costs the entries that have changed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::take;
use std::ops::Range;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Durable, Epoch, Key, StateError, StateId, ValueDamaged};

use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::process::{Context, NoKey};

/// A broadcast state has at most this many entries.
pub const BROADCAST_ENTRIES_MAX: usize = 65_536;

/// The map of one shard.
pub(super) struct Broadcast<M, V> {
    entries: BTreeMap<M, V>,
    /// Changed or removed since the last barrier.
    changed: BTreeSet<M>,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    own: Range<u16>,
    refused: Counter,
}

impl<M: Key + Ord, V: Durable> Broadcast<M, V> {
    pub(super) fn new(checkpoints: &Rc<Checkpoints>, shards: usize, refused: Counter) -> Self {
        Self {
            entries: BTreeMap::new(),
            changed: BTreeSet::new(),
            id: StateId::of("", ""),
            checkpoints: Rc::clone(checkpoints),
            own: checkpoints.groups().groups_of(checkpoints.shard(), shards),
            refused,
        }
    }

    fn note(&mut self, entry: M) {
        if self.checkpoints.enabled() {
            self.changed.insert(entry);
        }
    }
}

impl<M: Key + Ord, V: Durable> Stateful for Broadcast<M, V> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        let mut groups = 0..self.checkpoints.groups().count();
        if seeded(Defect::FlowBroadcastRestoresItsOwn) {
            groups = self.own.clone();
        }
        stored.scan(id, groups, &mut |_, mut rest, value| {
            let entry = M::read_key(&mut rest).filter(|_| rest.is_empty());
            let entry = entry.ok_or_else(ValueDamaged::key::<M>)?;
            self.entries.insert(entry, V::read(value)?);
            Ok(())
        })
    }

    fn snapshot(&mut self, _epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        let groups = self.checkpoints.groups();
        for entry in take(&mut self.changed) {
            let group = groups.group_of(entry.key_hash());
            if !self.own.contains(&group) {
                continue;
            }
            let key = |out: &mut Vec<u8>| {
                self.id.begin_key(group, out);
                entry.write_key(out);
            };
            match self.entries.get(&entry) {
                Some(value) => out.put(key, value)?,
                None if seeded(Defect::FlowBroadcastKeepsRemoved) => {}
                None => out.changes.delete_with(key),
            }
        }
        Ok(())
    }
}

/// A map of which every shard has a copy: see [`OperatorStates::broadcast`](crate::OperatorStates::broadcast). Clones
/// are handles to one map.
pub struct BroadcastState<M, V>(pub(super) Rc<RefCell<Broadcast<M, V>>>);

impl<M, V> Clone for BroadcastState<M, V> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<M: Key + Ord, V: Durable> BroadcastState<M, V> {
    /// The value under `entry`.
    pub fn get(&self, entry: &M) -> Option<V>
    where
        V: Clone,
    {
        self.with(|entries| entries.get(entry).cloned())
    }

    /// What `look` makes of the entries, in order.
    pub fn with<R>(&self, look: impl FnOnce(&BTreeMap<M, V>) -> R) -> R {
        look(&self.0.borrow().entries)
    }

    /// Sets the value under `entry`.
    ///
    /// # Errors
    /// If it would be one entry more than there may be.
    pub fn put(&self, _: &Context<'_, NoKey>, entry: M, value: V) -> Result<(), BroadcastFull> {
        let map = &mut *self.0.borrow_mut();
        if map.entries.len() >= BROADCAST_ENTRIES_MAX && !map.entries.contains_key(&entry) {
            map.refused.add(1);
            return Err(BroadcastFull);
        }
        map.note(entry.clone());
        map.entries.insert(entry, value);
        Ok(())
    }

    /// Removes what is under `entry`, and returns whether there was anything.
    pub fn remove(&self, _: &Context<'_, NoKey>, entry: &M) -> bool {
        let map = &mut *self.0.borrow_mut();
        let removed = map.entries.remove(entry).is_some();
        if removed {
            map.note(entry.clone());
        }
        removed
    }
}

/// A broadcast state has as many entries as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroadcastFull;

impl fmt::Display for BroadcastFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a broadcast state has {BROADCAST_ENTRIES_MAX} entries already; remove some, or keep them by key"
        )
    }
}

impl std::error::Error for BroadcastFull {}
