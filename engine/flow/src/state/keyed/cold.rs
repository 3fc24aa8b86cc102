//! Keys that are in the store alone. They are deleted there when they have expired, and are the first to give way.

use thalweg_kernel::{Durable, Key, StateError, StateId, Timestamp, ValueDamaged};

use super::{Keyed, Tables, read_key, split_value};
use crate::table_hash::table_hash;

/// A search for what has expired in the store alone looks at this many stored entries.
const SWEEP_ENTRIES: usize = 1_024;
/// There is a search each time that this machine's clock has gone on by this much: a million entries in 100 s.
const SWEEP_EVERY_MS: u64 = 100;
/// A search for a key that gives way looks at this many stored entries.
const GIVES_WAY_ENTRIES: usize = 1_024;

fn key_of<K: Key>(stored: &[u8]) -> Result<K, StateError> {
    let key = StateId::split_key(stored).and_then(|(_, rest)| read_key(rest));
    Ok(key.ok_or_else(ValueDamaged::key::<K>)?)
}

impl<K: Key, V: Durable> Keyed<K, V> {
    /// Frees some of what has expired in the store alone.
    pub(super) fn sweep(&mut self, now: Timestamp, processing_time: Timestamp) {
        let Tables::Expiring(table) = &mut self.table else { return };
        let Some(reader) = &self.reader else { return };
        if !table.has_evicted() || !self.sweep.is_due(processing_time, SWEEP_EVERY_MS) {
            return;
        }
        let (range, mut expired) = (self.id.range(self.own.clone()), Vec::new());
        let scanned = self.sweep.cursor.walk(&**reader, range, SWEEP_ENTRIES, |stored, value| {
            if split_value(value)?.0 < now {
                expired.push(stored.to_vec());
            }
            Ok(false)
        });
        let mut freed = 0;
        let mut free = |stored: &[u8]| {
            let key: K = key_of(stored)?;
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
        if let Err(error) = scanned.and(swept) {
            self.checkpoints.fail(error);
        }
    }

    /// A key that is in the store alone, if there is one among the next stored ones.
    pub(super) fn find_cold(&mut self) -> Option<K> {
        let reader = self.reader.as_ref().filter(|_| self.cold > 0)?;
        let (range, mut found) = (self.id.range(self.own.clone()), None);
        let scanned = self.gives_way.walk(&**reader, range, GIVES_WAY_ENTRIES, |stored, _| {
            let key: K = key_of(stored)?;
            let hash = table_hash(&key);
            let is_cold = with!(&self.table, table => table.is_cold(hash, &key));
            found = Some(key).filter(|_| is_cold);
            Ok(is_cold)
        });
        if let Err(error) = scanned {
            self.checkpoints.fail(error);
        }
        found
    }
}
