//! What windows hand over at a barrier, and how they come back.
//!
//! An entry of a window is stored as `group start key -> accumulator`, so that what a shard keeps lies
//! together by group, as all keyed state does. Each accumulator carries the stamp of the last epoch that
//! changed it; the first change since a barrier notes the key's hash in its window. So a barrier costs what
//! has changed: one comparison for a record, and nothing but that for a key that has changed already. (A stamp is the low
//! bits of an epoch, by which `cold.rs` knows what the store can give back.)
//! A window that fires is deleted from storage, if anything of it is there: key by key, or, if it
//! has more keys than the shard has groups, as a range of each group.

use std::ops::Range;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Changes, Durable, Epoch, Key, KeyGroups, StateError, StateId, StateReader, Timestamp,
    ValueDamaged,
};

use super::aggregate::Aggregate;
use super::pane::Pane;
use super::reached::Reached;
use super::state::WindowState;
use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};
use crate::pressure::Takes;
use crate::table_hash::table_hash;

/// What is written of an entry beside its key and accumulator: state, group, start, and the lengths of both.
const WRITTEN_BESIDE_BYTES: usize = StateId::PREFIX_BYTES + 8 + 6;

/// While windows are restored, their memory is looked at after so many entries,
const RESTORE_LOOK_EVERY: usize = 4_096;
/// and after so many bytes of them.
const RESTORE_LOOK_BYTES: usize = 1 << 20;

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

impl Kepts {
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
    pub(super) fn forget<K: Key, A>(&mut self, pane: &Pane<K, Kept<A>>) {
        if pane.stored && !seeded(Defect::FlowFiredWindowStays) {
            self.delete(pane);
        }
    }

    fn delete<K: Key, A>(&mut self, pane: &Pane<K, Kept<A>>) {
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

impl<K: Key, T: 'static, A: Aggregate<T>> Stateful for WindowState<K, T, A> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.kept.id = id;
        self.kept.reached.restore(id, stored)?;
        let Some(stored) = stored else { return Ok(()) };
        let readable = stored.reader.readable();
        // What changes from now on is in no epoch that can be read.
        self.kept.stamp = stored.reader.restored().unwrap_or_default().next().number() as u32;
        let (stamp, mut read, mut read_bytes) = (readable.number() as u32, 0, 0);
        stored.own(id, &mut |_, rest, value| {
            let (start, key) = read_key::<K>(rest).ok_or_else(ValueDamaged::key::<K>)?;
            let accumulator = A::Accumulator::read(value)?;
            let Some(pane) = self.panes.restore(start) else {
                let what = format!("a stored window begins at {start}, and none of the job's does");
                return Err(StateError::Other(what));
            };
            pane.stored = true;
            pane.keys.insert(table_hash(&key), key, Kept { accumulator, stamp });
            self.keys += 1;
            (read, read_bytes) = (read + 1, read_bytes + rest.len() + value.len());
            if read % RESTORE_LOOK_EVERY == 0 || read_bytes >= RESTORE_LOOK_BYTES {
                self.evict_restored(readable, read, read_bytes);
                (read, read_bytes) = (0, 0);
            }
            Ok(())
        })?;
        if read > 0 {
            self.evict_restored(readable, read, read_bytes);
        }
        self.watermark = self.kept.reached.watermark();
        if self.watermark > Timestamp::MIN {
            self.fires_next = self.slicing.fires_from(self.watermark.plus_ms(1));
        }
        Ok(())
    }

    fn snapshot(&mut self, epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        self.add_deferred();
        let Self { panes, kept, .. } = self;
        let Kepts { stamp, id, groups, deletes, entry_bytes, .. } = kept;
        out.changes.append(deletes);
        let (mut written, begin) = (0, out.changes.as_bytes().len());
        for pane in panes.iter_mut().filter(|pane| !pane.dirty.is_empty()) {
            let mut put = |key: &K, kept: &Kept<A::Accumulator>| {
                if kept.stamp != *stamp {
                    return Ok(());
                }
                let group = groups.group_of(key.key_hash());
                written += 1;
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
        if let Some(bytes) = (out.changes.as_bytes().len() - begin).checked_div(written) {
            let bytes = bytes.saturating_sub(WRITTEN_BESIDE_BYTES).max(1);
            let before = if *entry_bytes > 0 { *entry_bytes } else { bytes };
            *entry_bytes = (before * 3 + bytes).div_ceil(4);
        }
        if self.kept.is_on() {
            self.kept.stamp = epoch.next().number() as u32;
        }
        self.kept.reached.snapshot(epoch, out)
    }
    fn memory_bytes(&self) -> usize {
        self.memory_bytes_now()
    }

    fn takes(&mut self) -> Takes {
        self.takes_now()
    }

    fn shrink_to(&mut self, readable: Epoch, bytes: usize) {
        self.evict(readable, bytes);
    }
}
