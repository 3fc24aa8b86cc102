//! What windows hand over at a barrier, and how they come back.
//!
//! An entry of a window is stored as `group start key -> accumulator`, so that what a shard keeps lies
//! together by group, as all keyed state does. Each accumulator carries the stamp of the last epoch that
//! changed it; the first change since a barrier notes the key's hash in its window. So a barrier costs what
//! has changed: one comparison for a record, and nothing but that for a key that has changed already.
//! A window that fires is deleted from storage, if anything of it is there: key by key, or, if it
//! has more keys than the shard has groups, as a range of each group.

use std::ops::Range;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Changes, Durable, Epoch, Key, KeyGroups, StateError, StateId, Timestamp, ValueDamaged,
};

use super::aggregate::Aggregate;
use super::pane::Pane;
use super::reached::Reached;
use super::state::WindowState;
use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};
use crate::table_hash::table_hash;

/// An accumulator, and the stamp of its last change.
pub(super) struct Kept<A> {
    pub(super) accumulator: A,
    pub(super) stamp: u32,
}

impl<A> Kept<A> {
    /// It has changed: notes its hash, if it is for the first time since the last barrier.
    #[inline(always)]
    pub(super) fn mark(&mut self, stamp: u32, hash: u64, dirty: &mut Vec<u64>) {
        if self.stamp != stamp && !seeded(Defect::FlowForgetsWindowChange) {
            self.stamp = stamp;
            dirty.push(hash);
        }
    }
}

/// What one operator's windows must know to be kept.
pub(super) struct Kepts {
    /// Of the open epoch; always the same in a job without checkpoints, where nothing is noted.
    pub(super) stamp: u32,
    on: bool,
    id: StateId,
    groups: KeyGroups,
    own: Range<u16>,
    /// Of windows that have fired.
    deletes: Changes,
    pub(super) reached: Reached,
}

impl Kepts {
    pub(super) fn new(checkpoints: &Rc<Checkpoints>, shards: usize) -> Self {
        let (groups, shard) = (checkpoints.groups(), checkpoints.shard());
        Self {
            stamp: 0,
            on: checkpoints.enabled(),
            id: StateId::of("", ""),
            groups,
            own: groups.groups_of(shard, shards),
            deletes: Changes::new(),
            reached: Reached::new(checkpoints, shards),
        }
    }

    /// Whether the job takes checkpoints.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// A window fires.
    #[inline]
    pub(super) fn forget<K: Key, A>(&mut self, pane: &Pane<K, Kept<A>>) {
        if pane.stored && !seeded(Defect::FlowFiredWindowStays) {
            self.delete(pane);
        }
    }

    fn delete<K: Key, A>(&mut self, pane: &Pane<K, Kept<A>>) {
        let (id, start) = (self.id, pane.start);
        if pane.keys.len() > self.own.len() {
            for group in self.own.clone() {
                let begin = |start: u64| {
                    let mut key = Vec::with_capacity(StateId::PREFIX_BYTES + 8);
                    id.begin_key(group, &mut key);
                    key.extend_from_slice(&start.to_be_bytes());
                    key
                };
                self.deletes.delete_range(&begin(ordered(start)), &begin(ordered(start) + 1));
            }
            return;
        }
        for (key, _) in pane.keys.iter() {
            let group = self.groups.group_of(key.key_hash());
            self.deletes.delete_with(|out| write_key(id, group, start, key, out));
        }
    }
}

/// A time as a number that is ordered as times are.
fn ordered(time: Timestamp) -> u64 {
    time.as_millis() as u64 ^ (1 << 63)
}

fn write_key<K: Key>(id: StateId, group: u16, start: Timestamp, key: &K, out: &mut Vec<u8>) {
    id.begin_key(group, out);
    out.extend_from_slice(&ordered(start).to_be_bytes());
    key.write_key(out);
}

/// The start and key of a stored entry.
fn read_key<K: Key>(mut rest: &[u8]) -> Option<(Timestamp, K)> {
    let (start, key) = rest.split_first_chunk()?;
    rest = key;
    let start = u64::from_be_bytes(*start) ^ (1 << 63);
    let key = K::read_key(&mut rest)?;
    rest.is_empty().then_some((Timestamp::from_millis(start as i64), key))
}

impl<K: Key, T: 'static, A: Aggregate<T>> Stateful for WindowState<K, T, A> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.kept.id = id;
        self.kept.reached.restore(id, stored)?;
        let Some(stored) = stored else { return Ok(()) };
        // What was stored has no stamp of this run.
        self.kept.stamp = 1;
        stored.own(id, &mut |_, rest, value| {
            let (start, key) = read_key::<K>(rest).ok_or_else(ValueDamaged::key::<K>)?;
            let accumulator = A::Accumulator::read(value)?;
            let Some(pane) = self.panes.restore(start) else {
                let what = format!("a stored window begins at {start}, and none of the job's does");
                return Err(StateError::Other(what));
            };
            pane.stored = true;
            pane.keys.insert(table_hash(&key), key, Kept { accumulator, stamp: 0 });
            self.keys += 1;
            Ok(())
        })?;
        self.watermark = self.kept.reached.watermark();
        if self.watermark > Timestamp::MIN {
            self.fires_next = self.slicing.fires_from(self.watermark.plus_ms(1));
        }
        Ok(())
    }

    fn snapshot(&mut self, epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        self.add_deferred();
        let Self { panes, kept: Kepts { stamp, id, groups, deletes, .. }, .. } = self;
        out.changes.append(deletes);
        for pane in panes.iter_mut().filter(|pane| !pane.dirty.is_empty()) {
            let mut put = |key: &K, kept: &Kept<A::Accumulator>| {
                if kept.stamp != *stamp {
                    return Ok(());
                }
                let group = groups.group_of(key.key_hash());
                out.put(|out| write_key(*id, group, pane.start, key, out), &kept.accumulator)
            };
            if pane.dirty.len() > pane.keys.len() / 2 {
                pane.keys.iter().try_for_each(|(key, kept)| put(key, kept))?;
            } else {
                for &hash in &pane.dirty {
                    let mut written = Ok(());
                    pane.keys.with_hash(hash, |key, kept| {
                        if table_hash(key) == hash && written.is_ok() {
                            written = put(key, kept);
                        }
                    });
                    written?;
                }
            }
            pane.dirty.clear();
            pane.stored = true;
        }
        *stamp = stamp.wrapping_add(1);
        self.kept.reached.snapshot(epoch, out)
    }
}
