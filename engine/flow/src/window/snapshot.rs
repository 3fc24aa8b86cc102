//! What windows hand over at a barrier, and how they come back.

use thalweg_kernel::{Durable, Epoch, Key, StateError, StateId, Timestamp, ValueDamaged};

use super::aggregate::Aggregate;
use super::state::WindowState;
use super::storage::{Stamped, Storage, read_key, write_key};
use crate::checkpoint::{Outgoing, Stateful, Stored};
use crate::pressure::Takes;
use crate::table_hash::table_hash;

/// What is written of an entry beside its key and accumulator: state, group, start, and the lengths of both.
const WRITTEN_BESIDE_BYTES: usize = StateId::PREFIX_BYTES + 8 + 6;

/// While windows are restored, what is too much for memory is dropped after this many entries,
const RESTORE_LOOK_EVERY: usize = 4_096;
/// and after this many bytes of entries.
const RESTORE_LOOK_BYTES: usize = 1 << 20;

impl<K: Key, T: 'static, A: Aggregate<T>> Stateful for WindowState<K, T, A> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.storage.id = id;
        self.storage.reached.restore(id, stored)?;
        let Some(stored) = stored else { return Ok(()) };
        let readable = stored.reader.readable();
        // What changes from now on is in no epoch that can be read.
        self.storage.stamp = stored.reader.restored().unwrap_or_default().next().number() as u32;
        let (stamp, mut read, mut read_bytes) = (readable.number() as u32, 0, 0);
        stored.own(id, &mut |_, rest, value| {
            let (start, key) = read_key::<K>(rest).ok_or_else(ValueDamaged::key::<K>)?;
            let accumulator = A::Accumulator::read(value)?;
            let Some(pane) = self.panes.restore(start) else {
                let what = format!("a stored window begins at {start}, and none of the job's does");
                return Err(StateError::Other(what));
            };
            pane.stored = true;
            pane.keys.insert(table_hash(&key), key, Stamped { accumulator, stamp });
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
        self.watermark = self.storage.reached.watermark();
        if self.watermark > Timestamp::MIN {
            self.fires_next = self.slicing.fires_from(self.watermark.plus_ms(1));
        }
        Ok(())
    }

    fn snapshot(&mut self, epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        self.add_deferred();
        let Self { panes, storage, .. } = self;
        let Storage { stamp, id, groups, deletes, entry_bytes, .. } = storage;
        out.changes.append(deletes);
        let (mut written, begin) = (0, out.changes.as_bytes().len());
        for pane in panes.iter_mut().filter(|pane| !pane.dirty.is_empty()) {
            let mut put = |key: &K, kept: &Stamped<A::Accumulator>| {
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
        if self.storage.is_on() {
            self.storage.stamp = epoch.next().number() as u32;
        }
        self.storage.reached.snapshot(epoch, out)
    }

    fn memory_bytes(&self) -> usize {
        self.memory_bytes_now()
    }

    fn takes(&mut self) -> Takes {
        self.takes_now()
    }

    fn shrink_to(&mut self, readable: Epoch, bytes: usize) -> bool {
        self.evict(readable, bytes)
    }
}
