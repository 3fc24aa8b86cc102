//! Keys that are in the store alone: what of them has expired is deleted there, and they are the first to give way.

use thalweg_kernel::{Durable, Key, StateError, StateId, Timestamp, ValueDamaged};

use super::{Keyed, Tables, read_key, split_value};
use crate::table_hash::table_hash;

/// What has expired in the store alone is looked for among so many stored entries at a time,
const SWEEP_ENTRIES: usize = 1_024;
/// and so often, by this machine's clock: a million in about two minutes.
const SWEEP_EVERY_MS: u64 = 100;
/// One that gives way is looked for among so many stored entries.
const GIVES_WAY_ENTRIES: usize = 1_024;

/// The search through the store for what has expired there.
#[derive(Default)]
pub(super) struct Sweep {
    /// The stored key where it goes on; empty at the beginning.
    from: Vec<u8>,
    /// When it was taken up last.
    at: Timestamp,
}

impl<K: Key, V: Durable> Keyed<K, V> {
    /// Frees some of what has expired in the store alone.
    pub(super) fn sweep(&mut self, now: Timestamp, processing_time: Timestamp) {
        let since = processing_time.as_millis().abs_diff(self.sweep.at.as_millis());
        let Tables::Expiring(table) = &mut self.table else { return };
        let Some(reader) = &self.reader else { return };
        if !table.has_evicted() || since < SWEEP_EVERY_MS {
            return;
        }
        self.sweep.at = processing_time;
        let (first, end) = self.id.range(self.own.clone());
        let from = std::mem::take(&mut self.sweep.from);
        let from = if from.is_empty() { first } else { from };
        let (mut seen, mut next, mut expired) = (0, Vec::new(), Vec::new());
        let scanned = reader.scan(&from, &end, &mut |stored, value| {
            if seen == SWEEP_ENTRIES {
                next = stored.to_vec();
                // Nothing has failed: this ends the scan.
                return Err(StateError::Other(String::new()));
            }
            seen += 1;
            if split_value(value)?.0 < now {
                expired.push(stored.to_vec());
            }
            Ok(())
        });
        let mut freed = 0;
        let mut free = |stored: &[u8]| {
            let key = StateId::split_key(stored).and_then(|(_, rest)| read_key(rest));
            let key: K = key.ok_or_else(ValueDamaged::key::<K>)?;
            // A scan may show what was there a while ago.
            reader.get(stored, &mut |value| {
                if split_value(value)?.0 < now {
                    freed += usize::from(table.expire_cold(table_hash(&key), &key));
                }
                Ok(())
            })
        };
        let swept = expired.iter().try_for_each(|stored| free(stored).map(drop));
        self.cold = self.cold.saturating_sub(freed);
        let ended = if next.is_empty() { scanned.and(swept) } else { swept };
        self.sweep.from = next;
        if let Err(error) = ended {
            self.checkpoints.fail(error);
        }
    }

    /// A key that is in the store alone, if there is one among the next stored ones.
    pub(super) fn find_cold(&mut self) -> Option<K> {
        let reader = self.reader.as_ref().filter(|_| self.cold > 0)?;
        let (first, end) = self.id.range(self.own.clone());
        let from = std::mem::take(&mut self.gives_way_from);
        let from = if from.is_empty() { first } else { from };
        let (mut seen, mut next, mut found) = (0, Vec::new(), None);
        let scanned = reader.scan(&from, &end, &mut |stored, _| {
            if found.is_some() || seen == GIVES_WAY_ENTRIES {
                next = stored.to_vec();
                // Nothing has failed: this ends the scan.
                return Err(StateError::Other(String::new()));
            }
            seen += 1;
            let key = StateId::split_key(stored).and_then(|(_, rest)| read_key(rest));
            let key: K = key.ok_or_else(ValueDamaged::key::<K>)?;
            let hash = table_hash(&key);
            let is_cold = match &self.table {
                Tables::Plain(table) => table.is_cold(hash, &key),
                Tables::Expiring(table) => table.is_cold(hash, &key),
            };
            found = Some(key).filter(|_| is_cold);
            Ok(())
        });
        if next.is_empty()
            && let Err(error) = scanned
        {
            self.checkpoints.fail(error);
        }
        self.gives_way_from = next;
        found
    }
}
