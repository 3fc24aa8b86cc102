//! One state of an operator: the table of its keys, and the way to the store and back.
//!
//! ```text
//! key   = u64:state u16:group key         big-endian
//! value = i64:last-millisecond value      little-endian; i64::MAX where it does not expire
//! ```

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{
    Durable, Epoch, Key, KeyGroups, StateError, StateId, StateReader, Timestamp, ValueDamaged,
};

use super::table::{Found, Held, KeyedTable, NEVER};
use super::{AtKey, Refresh, StateOptions, TimeDomain, Ttl};
use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};
use crate::table_hash::table_hash;

/// A step frees what has expired from so many buckets.
const EXPIRE_BUCKETS: usize = 64;
/// Entries are dropped in at most so many pieces at a time.
const EVICT_PIECES_MAX: usize = 64;
/// While state is restored, its memory is looked at after so many entries.
const RESTORE_LOOK_EVERY: usize = 4_096;

/// See the module.
pub(crate) struct Keyed<K, V> {
    table: KeyedTable<K, V>,
    /// How many keys are in the store alone, about.
    cold: usize,
    options: StateOptions<V>,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    reader: Option<Rc<dyn StateReader>>,
    /// A stored key under construction.
    scratch: Vec<u8>,
    /// The bytes of a value as it was written of late, on average: what it holds outside of the table.
    value_bytes: usize,
}

/// What an operator asks of all its states.
pub(crate) trait AnyKeyed<K>: Stateful {
    /// The number of its keys, in memory or not.
    fn keys(&self) -> usize;
    /// Whether it has anything of a key.
    fn has(&mut self, at: &AtKey<'_, K>) -> bool;
    /// Drops a key.
    fn drop_key(&mut self, at: &AtKey<'_, K>);
    /// A key that was not used for long.
    fn least_recently_used(&mut self) -> Option<K>;
    /// Frees some of what has expired.
    fn expire(&mut self, watermark: Timestamp, processing_time: Timestamp);
}

impl<K: Key, V: Durable> Keyed<K, V> {
    pub(crate) fn new(
        options: StateOptions<V>,
        checkpoints: &Rc<Checkpoints>,
        reader: Option<Rc<dyn StateReader>>,
    ) -> Self {
        Self {
            table: KeyedTable::new(),
            cold: 0,
            options,
            id: StateId::of("", ""),
            checkpoints: Rc::clone(checkpoints),
            reader,
            scratch: Vec::new(),
            value_bytes: 0,
        }
    }

    fn now(&self, at: &AtKey<'_, K>) -> Timestamp {
        now_of(self.options.ttl, at.watermark, at.processing_time)
    }

    /// The last millisecond of what is written now.
    fn lives_until(&self, at: &AtKey<'_, K>) -> Timestamp {
        let Some(ttl) = self.options.ttl else { return NEVER };
        let written_at = match ttl.domain {
            // The watermark is behind the record, and at the beginning of time before the first one.
            TimeDomain::EventTime => at.watermark.max(at.time),
            TimeDomain::ProcessingTime => at.processing_time,
        };
        written_at.plus_ms(ttl.lives_ms)
    }

    /// What there is of a key, to read.
    #[inline]
    pub(crate) fn get(&mut self, at: &AtKey<'_, K>) -> Option<&V> {
        self.warm(at);
        let now = self.now(at);
        if self.options.ttl.is_some_and(|ttl| ttl.refresh == Refresh::OnReadAndWrite) {
            let until = self.lives_until(at);
            let Found::Here(held) = self.table.get_mut(at.hash, at.key, now) else { return None };
            held.lives_until = until;
            return Some(&held.value);
        }
        match self.table.get(at.hash, at.key, now) {
            Found::Here(held) => Some(&held.value),
            Found::Absent | Found::Cold => None,
        }
    }

    /// What there is of a key, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, at: &AtKey<'_, K>) -> Option<&mut V> {
        self.warm(at);
        let now = self.now(at);
        let until = self.lives_until(at);
        match self.table.get_mut(at.hash, at.key, now) {
            Found::Here(held) => {
                held.lives_until = until;
                Some(&mut held.value)
            }
            Found::Absent | Found::Cold => None,
        }
    }

    /// Sets what there is of a key, whatever was before.
    #[inline]
    pub(crate) fn set(&mut self, at: &AtKey<'_, K>, value: V) {
        // A key that is in the store alone counts there.
        self.warm(at);
        let until = self.lives_until(at);
        self.table.put(at.hash, at.key.clone(), value, until);
    }

    /// What there is of a key, to change; `create` makes it if there is nothing.
    #[inline]
    pub(crate) fn get_or_insert_with(
        &mut self,
        at: &AtKey<'_, K>,
        create: impl FnOnce() -> V,
    ) -> &mut V {
        self.warm(at);
        let now = self.now(at);
        let until = self.lives_until(at);
        if !matches!(self.table.get(at.hash, at.key, now), Found::Here(_)) {
            return &mut self.table.insert(at.hash, at.key.clone(), create(), until).value;
        }
        match self.table.get_mut(at.hash, at.key, now) {
            Found::Here(held) => {
                held.lives_until = until;
                &mut held.value
            }
            // It was there a moment ago.
            Found::Absent | Found::Cold => unreachable!("an entry that is here"),
        }
    }

    /// Drops what there is of a key; whether there was anything.
    pub(crate) fn clear(&mut self, at: &AtKey<'_, K>) -> bool {
        self.warm(at);
        let now = self.now(at);
        matches!(self.table.remove(at.hash, at.key, now), Found::Here(_))
    }

    /// Brings a key into memory that may be in the store alone.
    #[inline]
    fn warm(&mut self, at: &AtKey<'_, K>) {
        if self.table.has_evicted() {
            self.warm_from_store(at);
        }
    }

    #[cold]
    fn warm_from_store(&mut self, at: &AtKey<'_, K>) {
        if !matches!(self.table.get(at.hash, at.key, Timestamp::MIN), Found::Cold) {
            return;
        }
        let Some(reader) = &self.reader else { return };
        let group = self.checkpoints.groups().group_of(at.key.key_hash());
        self.scratch.clear();
        self.id.begin_key(group, &mut self.scratch);
        at.key.write_key(&mut self.scratch);
        let table = &mut self.table;
        let found = reader.get(&self.scratch, &mut |stored| {
            let (lives_until, value) = read_value(stored, V::read)?;
            table.load(at.hash, at.key.clone(), value, lives_until);
            Ok(())
        });
        match found {
            Ok(true) => self.cold = self.cold.saturating_sub(1),
            Ok(false) => {}
            Err(error) => self.checkpoints.fail(error),
        }
    }

    /// About how many bytes of memory its keys and values take.
    fn used_bytes(&self) -> usize {
        let outside = self.value_bytes.saturating_sub(size_of::<V>() + size_of::<K>());
        self.table.memory_bytes() + self.table.len() * outside
    }

    /// Drops what the store has, until the table takes about so many bytes.
    fn shrink(&mut self, readable: Epoch, bytes: usize) {
        for _ in 0..EVICT_PIECES_MAX {
            let (used, keys) = (self.used_bytes(), self.table.len());
            if used <= bytes || keys == 0 {
                return;
            }
            let keep = (keys as u128 * bytes as u128 / used as u128) as usize;
            self.cold += self.table.evict_clean(readable, keep);
        }
    }

    fn restore_entry(
        &mut self,
        mut rest: &[u8],
        stored: &[u8],
        migration: Option<&dyn Fn(&[u8]) -> Result<V, ValueDamaged>>,
    ) -> Result<(), StateError> {
        let key = K::read_key(&mut rest).filter(|_| rest.is_empty());
        let key = key.ok_or_else(ValueDamaged::key::<K>)?;
        let hash = table_hash(&key);
        match migration {
            None => {
                let (lives_until, value) = read_value(stored, V::read)?;
                self.table.load(hash, key, value, lives_until);
            }
            Some(migrate) => {
                let (lives_until, value) = read_value(stored, migrate)?;
                self.table.load(hash, key.clone(), value, lives_until);
                // To be written anew.
                let _marked = self.table.get_mut(hash, &key, Timestamp::MIN);
            }
        }
        Ok(())
    }
}

fn now_of(ttl: Option<Ttl>, watermark: Timestamp, processing_time: Timestamp) -> Timestamp {
    match ttl.map(|ttl| ttl.domain) {
        None => Timestamp::MIN,
        Some(TimeDomain::EventTime) => watermark,
        Some(TimeDomain::ProcessingTime) => processing_time,
    }
}

fn read_value<V>(
    stored: &[u8],
    read: impl Fn(&[u8]) -> Result<V, ValueDamaged>,
) -> Result<(Timestamp, V), StateError> {
    let Some((until, value)) = stored.split_first_chunk() else {
        return Err(StateError::Other("a stored value is too short to be one".into()));
    };
    Ok((Timestamp::from_millis(i64::from_le_bytes(*until)), read(value)?))
}

fn write_value<V: Durable>(
    groups: KeyGroups,
    table: &mut KeyedTable<impl Key, V>,
    id: StateId,
    out: &mut Outgoing,
) -> Result<(), ValueDamaged> {
    let Outgoing { changes, writer } = out;
    let mut failed = None;
    table.snapshot(id, groups, changes, |held: &Held<V>, mut block| {
        block.extend_from_slice(&held.lives_until.as_millis().to_le_bytes());
        writer.write(block, &held.value).unwrap_or_else(|error| {
            failed = Some(error);
            Vec::new()
        })
    });
    failed.map_or(Ok(()), Err)
}

impl<K: Key, V: Durable> Stateful for Keyed<K, V> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        let migration = self.options.migration(stored.schema(id))?;
        let bytes_max = self.checkpoints.memory_bytes_max();
        let readable = stored.reader.readable();
        // What changes from now on is in no epoch that can be read.
        let restored = stored.reader.restored().unwrap_or_default();
        self.table.begin_epoch(restored.next(), readable);
        let mut entries = 0;
        stored.own(id, &mut |_, rest, value| {
            self.restore_entry(rest, value, migration.as_deref())?;
            entries += 1;
            if entries % RESTORE_LOOK_EVERY == 0 && migration.is_none() {
                self.shrink(readable, bytes_max);
            }
            Ok(())
        })
    }

    fn snapshot(&mut self, epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        let before = (out.changes.as_bytes().len(), out.changes.len());
        write_value(self.checkpoints.groups(), &mut self.table, self.id, out)?;
        let written = out.changes.len() - before.1;
        if let Some(bytes) = (out.changes.as_bytes().len() - before.0).checked_div(written) {
            self.value_bytes = (self.value_bytes * 3 + bytes).div_ceil(4);
        }
        // Of a table that drops nothing, removed keys need not be remembered.
        let readable = self.checkpoints.readable();
        self.table.begin_epoch(epoch.next(), readable);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.used_bytes()
    }

    fn shrink_to(&mut self, readable: Epoch, bytes: usize) {
        self.shrink(readable, bytes);
    }
}

impl<K: Key, V: Durable> AnyKeyed<K> for Keyed<K, V> {
    fn keys(&self) -> usize {
        self.table.len() + self.cold
    }

    fn has(&mut self, at: &AtKey<'_, K>) -> bool {
        self.get(at).is_some()
    }

    fn drop_key(&mut self, at: &AtKey<'_, K>) {
        self.clear(at);
    }

    fn least_recently_used(&mut self) -> Option<K> {
        self.table.least_recently_used()
    }

    fn expire(&mut self, watermark: Timestamp, processing_time: Timestamp) {
        if self.options.ttl.is_some() {
            let now = now_of(self.options.ttl, watermark, processing_time);
            self.table.expire(now, EXPIRE_BUCKETS);
        }
    }
}

/// The states of an operator.
pub(crate) type AllKeyed<K> = Vec<Rc<RefCell<dyn AnyKeyed<K>>>>;
