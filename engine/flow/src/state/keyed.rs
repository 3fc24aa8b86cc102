//! One state of an operator: the table of its keys, and the way to the store and back.
//!
//! ```text
//! key   = u64:state u16:group key         big-endian
//! value = i64:last-millisecond value      little-endian; i64::MAX where it does not expire
//! ```

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Durable, Epoch, Key, StateError, StateId, StateReader, StateWriter, Timestamp, ValueDamaged,
};

use super::cursor::{Cursor, Sweep};
use super::table::{Found, Held, KeyedTable, Lives, NEVER};
use super::{AtKey, Refresh, StateOptions, TimeDomain, Ttl};
use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};
use crate::pressure::Takes;
use crate::table_hash::table_hash;

/// A search for what has expired looks at this many buckets. There is one in each step, and more where there is no room.
const EXPIRE_BUCKETS: usize = 64;
/// A call that drops entries from memory searches at most this many pieces of the table.
const EVICT_PIECES_MAX: usize = 64;
/// A sample of this many values says what a value weighs before the first snapshot.
const WEIGHED_VALUES: usize = 16;
/// While state is restored, what is too much for memory is dropped after this many entries,
const RESTORE_LOOK_EVERY: usize = 4_096;
/// and after this many bytes of entries.
const RESTORE_LOOK_BYTES: usize = 1 << 20;

/// See the module.
pub(crate) struct Keyed<K, V> {
    table: Tables<K, V>,
    /// Whether each value is weighed.
    weighs: bool,
    /// How many keys are in the store alone, about.
    cold: usize,
    options: StateOptions<V>,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    reader: Option<Rc<dyn StateReader>>,
    /// The key groups of this shard.
    own: Range<u16>,
    /// A stored key under construction.
    scratch: Vec<u8>,
    /// The average bytes of a key and its value, as the latest snapshots wrote them or as they were found in the store.
    /// What they take beyond the types' sizes is the estimate of what lies outside of the table.
    value_bytes: usize,
    /// How many keys were in memory when values were weighed. After the first snapshot it is the largest number, since
    /// nothing is weighed any more.
    weighed_keys: usize,
    sweep: Sweep,
    /// Where the search for a stored key that gives way goes on.
    gives_way: Cursor,
}

/// The table: with or without time to live.
enum Tables<K, V> {
    Plain(KeyedTable<K, V, ()>),
    Expiring(KeyedTable<K, V>),
}

/// Evaluates an expression with whichever table there is.
macro_rules! with {
    ($tables:expr, $table:ident => $do:expr) => {
        match $tables {
            Tables::Plain($table) => $do,
            Tables::Expiring($table) => $do,
        }
    };
}

/// Evaluates an expression that changes whichever table there is. It has two times: the one by which what expires is judged,
/// and the last millisecond of what is written now. Where nothing expires, both are known without a look at the rules.
macro_rules! with_times {
    ($self:ident, $at:expr, ($table:ident, $now:ident, $until:ident) => $do:expr) => {
        match &mut $self.table {
            Tables::Plain($table) => {
                let ($now, $until) = (Timestamp::MIN, NEVER);
                $do
            }
            Tables::Expiring($table) => {
                let ttl = $self.options.ttl;
                let $now = now_of(ttl, $at.reached, $at.processing_time);
                let $until = lives_until(ttl, $at);
                $do
            }
        }
    };
}

// Behind the macros, which it uses.
mod cold;

/// What an operator asks of all its states.
pub(crate) trait AnyKeyed<K>: Stateful {
    /// How much it holds, in memory or not.
    fn holds(&self) -> Holds;
    /// What one key more adds at most to the bytes that it holds, until values are weighed anew. `None` if there is no
    /// such bound, since what it has of a key may grow.
    fn key_bytes(&self) -> Option<usize>;
    /// Whether it has anything of a key, which counts as a use, but begins no life anew.
    fn has(&mut self, at: &AtKey<'_, K>) -> bool;
    /// The bytes of its entries in memory, without what they hold elsewhere.
    fn entries_bytes(&self) -> usize;
    /// Has the entries of keys with these hashes in the cache, where they are in memory at all.
    fn look_ahead(&self, hashes: &[u64]);
    /// Drops a key.
    fn drop_key(&mut self, at: &AtKey<'_, K>);
    /// A key that was not used for long.
    fn least_recently_used(&mut self) -> Option<K>;
    /// How long its entries live; `None` for ever.
    fn ttl(&self) -> Option<Ttl>;
    /// Frees some of what has expired, and returns whether anything ever does.
    fn expire(&mut self, reached: Timestamp, processing_time: Timestamp) -> bool;
}

/// How much a state holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    pub(crate) keys: usize,
    /// The bytes of entries and of what they hold elsewhere. Lists and maps count with their own size. The inside of
    /// other values counts with the average of what was written.
    pub(crate) bytes: usize,
}

impl<K: Key, V: Durable> Keyed<K, V> {
    /// An empty state for the key groups `own`. `weigh`, if it is known, says how many bytes of a value lie outside of it.
    pub(crate) fn new(
        options: StateOptions<V>,
        checkpoints: &Rc<Checkpoints>,
        reader: Option<Rc<dyn StateReader>>,
        own: Range<u16>,
        weigh: Option<fn(&K, &V) -> usize>,
    ) -> Self {
        let (weighs, weigh) = (weigh.is_some(), weigh.unwrap_or(|_, _| 0));
        let table = match options.ttl {
            None => Tables::Plain(KeyedTable::weighed_by(weigh)),
            Some(_) => Tables::Expiring(KeyedTable::weighed_by(weigh)),
        };
        Self {
            table,
            weighs,
            cold: 0,
            options,
            id: StateId::of("", ""),
            checkpoints: Rc::clone(checkpoints),
            reader,
            own,
            scratch: Vec::new(),
            value_bytes: 0,
            weighed_keys: 0,
            sweep: Sweep::default(),
            gives_way: Cursor::default(),
        }
    }

    #[inline]
    fn now(&self, at: &AtKey<'_, K>) -> Timestamp {
        now_of(self.options.ttl, at.reached, at.processing_time)
    }

    /// What there is of a key, to read.
    #[inline]
    pub(crate) fn get(&mut self, at: &AtKey<'_, K>) -> Option<&V> {
        if self.options.ttl.is_some_and(|ttl| ttl.refresh == Refresh::OnReadAndWrite) {
            return self.get_mut(at).map(|value| &*value);
        }
        self.warm(at);
        with_times!(self, at, (table, now, _until) => match table.get(at.hash, at.key, now) {
            Found::Here(held) => Some(&held.value),
            Found::Absent | Found::Cold => None,
        })
    }

    /// What there is of a key, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, at: &AtKey<'_, K>) -> Option<&mut V> {
        self.warm(at);
        with_times!(self, at, (table, now, until) => match table.get_mut(at.hash, at.key, now) {
            Found::Here(held) => {
                held.lives_until = Lives::until(until);
                Some(&mut held.value)
            }
            Found::Absent | Found::Cold => None,
        })
    }

    /// Sets what there is of a key, whatever was before.
    #[inline]
    pub(crate) fn set(&mut self, at: &AtKey<'_, K>, value: V) {
        // A key that is in the store alone counts there.
        self.warm(at);
        with_times!(self, at, (table, _now, until) => {
            table.put(at.hash, at.key.clone(), value, until);
        });
    }

    /// Changes what there is of a key; `create` makes it if there is nothing.
    #[inline]
    pub(crate) fn change<R>(
        &mut self,
        at: &AtKey<'_, K>,
        create: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        self.warm(at);
        with_times!(self, at, (table, now, until) => {
            if let Found::Here(held) = table.get_mut(at.hash, at.key, now) {
                held.lives_until = Lives::until(until);
                return change(&mut held.value);
            }
            change(&mut table.insert(at.hash, at.key.clone(), create(), until).value)
        })
    }

    /// A value has grown by this many bytes that lie outside of it, or shrunk.
    #[inline]
    pub(crate) fn grow_by(&mut self, bytes: isize) {
        with!(&mut self.table, table => table.grow_by(bytes));
    }

    /// Drops what there is of a key, and returns whether there was anything.
    pub(crate) fn clear(&mut self, at: &AtKey<'_, K>) -> bool {
        self.warm(at);
        let now = self.now(at);
        with!(&mut self.table, table => {
            matches!(table.remove(at.hash, at.key, now), Found::Here(_))
        })
    }

    /// Brings a key into memory that may be in the store alone.
    #[inline]
    fn warm(&mut self, at: &AtKey<'_, K>) {
        if with!(&self.table, table => table.has_evicted()) {
            self.warm_from_store(at);
        }
    }

    #[cold]
    fn warm_from_store(&mut self, at: &AtKey<'_, K>) {
        let is_cold = with!(&mut self.table, table => {
            matches!(table.get(at.hash, at.key, Timestamp::MIN), Found::Cold)
        });
        let Some(reader) = self.reader.as_ref().filter(|_| is_cold) else { return };
        let group = self.checkpoints.groups().group_of(at.key.key_hash());
        self.scratch.clear();
        self.id.begin_key(group, &mut self.scratch);
        at.key.write_key(&mut self.scratch);
        let table = &mut self.table;
        let found = reader.get(&self.scratch, &mut |stored| {
            let (until, value) = read_value(stored, V::read)?;
            with!(&mut *table, table => _ = table.load(at.hash, at.key.clone(), value, until));
            Ok(())
        });
        match found {
            Ok(true) => self.cold = self.cold.saturating_sub(1),
            Ok(false) => {}
            Err(error) => self.checkpoints.fail(error),
        }
    }

    fn keys_here(&self) -> usize {
        with!(&self.table, table => table.len())
    }

    /// The bytes that entries in memory hold outside of the table.
    fn outside_bytes(&self) -> usize {
        with!(&self.table, table => table.weight_bytes())
            .max(self.keys_here() * self.each_outside_bytes())
    }

    /// What lies outside of the table for each entry, as far as the average of what was written says.
    fn each_outside_bytes(&self) -> usize {
        self.value_bytes.saturating_sub(size_of::<V>() + size_of::<K>())
    }

    /// Weighs some values before any snapshot does.
    #[cold]
    fn weigh(&mut self) {
        self.weighed_keys = self.keys_here();
        let (mut writer, mut block, mut weighed) = (StateWriter::default(), Vec::new(), 0);
        with!(&self.table, table => {
            for (_, held) in table.iter(Timestamp::MIN).take(WEIGHED_VALUES) {
                // What cannot be written fails the next snapshot.
                let Ok(with_it) = writer.write(std::mem::take(&mut block), &held.value) else { return };
                (block, weighed) = (with_it, weighed + 1);
            }
        });
        self.value_bytes = block.len().checked_div(weighed).unwrap_or(0).max(1);
    }

    fn restore_entry(
        &mut self,
        rest: &[u8],
        stored: &[u8],
        migration: Option<&dyn Fn(&[u8]) -> Result<V, ValueDamaged>>,
    ) -> Result<(), StateError> {
        let key: K = read_key(rest).ok_or_else(ValueDamaged::key::<K>)?;
        let hash = table_hash(&key);
        let (until, value) = match migration {
            None => read_value(stored, V::read)?,
            Some(migrate) => read_value(stored, migrate)?,
        };
        with!(&mut self.table, table => {
            table.load(hash, key.clone(), value, until);
            if migration.is_some() {
                // To be written anew.
                let _marked = table.get_mut(hash, &key, Timestamp::MIN);
            }
        });
        Ok(())
    }
}

/// The last millisecond of what is written now.
#[inline]
pub(super) fn lives_until<K>(ttl: Option<Ttl>, at: &AtKey<'_, K>) -> Timestamp {
    let Some(ttl) = ttl else { return NEVER };
    let written_at = match ttl.domain {
        // The watermark is behind the record, and at the beginning of time before the first one. What a timer at the
        // end of time writes is of the time that was reached.
        TimeDomain::EventTime if at.time < Timestamp::MAX => at.reached.max(at.time),
        TimeDomain::EventTime => at.reached,
        TimeDomain::ProcessingTime => at.processing_time,
    };
    written_at.plus_ms(ttl.lives_ms)
}

/// The time by which what expires is judged.
#[inline]
pub(super) fn now_of(
    ttl: Option<Ttl>,
    reached: Timestamp,
    processing_time: Timestamp,
) -> Timestamp {
    match ttl.map(|ttl| ttl.domain) {
        None => Timestamp::MIN,
        Some(TimeDomain::EventTime) => reached,
        Some(TimeDomain::ProcessingTime) => processing_time,
    }
}

pub(super) fn read_key<K: Key>(mut rest: &[u8]) -> Option<K> {
    K::read_key(&mut rest).filter(|_| rest.is_empty())
}

/// The last millisecond, and the bytes of the value.
pub(super) fn split_value(stored: &[u8]) -> Result<(Timestamp, &[u8]), StateError> {
    let Some((until, value)) = stored.split_first_chunk() else {
        return Err(StateError::Other("a stored value is too short to be one".into()));
    };
    Ok((Timestamp::from_millis(i64::from_le_bytes(*until)), value))
}

pub(super) fn read_value<V>(
    stored: &[u8],
    read: impl Fn(&[u8]) -> Result<V, ValueDamaged>,
) -> Result<(Timestamp, V), StateError> {
    let (until, value) = split_value(stored)?;
    Ok((until, read(value)?))
}

impl<K: Key, V: Durable> Stateful for Keyed<K, V> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        let migration = self.options.migration(stored.schema(id))?;
        let bytes_max = self.checkpoints.memory_bytes_max();
        let readable = stored.reader.readable();
        // What changes from now on is in no epoch that can be read.
        let epoch = stored.reader.restored().unwrap_or_default().next();
        with!(&mut self.table, table => table.begin_epoch(epoch, readable));
        let (mut entries, mut bytes) = (0, 0);
        stored.own(id, &mut |_, rest, value| {
            self.restore_entry(rest, value, migration.as_deref())?;
            (entries, bytes) = (entries + 1, bytes + rest.len() + value.len());
            if entries == RESTORE_LOOK_EVERY || bytes >= RESTORE_LOOK_BYTES {
                self.value_bytes = bytes / entries;
                (entries, bytes) = (0, 0);
                if migration.is_none() {
                    self.shrink_to(readable, bytes_max);
                }
            }
            Ok(())
        })?;
        if let Some(bytes) = bytes.checked_div(entries)
            && self.value_bytes == 0
        {
            self.value_bytes = bytes;
        }
        Ok(())
    }

    fn snapshot(&mut self, epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        let Outgoing { changes, writer, .. } = out;
        let (written, bytes);
        let (groups, readable) = (self.checkpoints.groups(), self.checkpoints.readable());
        let mut failed = None;
        with!(&mut self.table, table => {
            (written, bytes) = table.snapshot(self.id, groups, changes, |held, mut block| {
                let Held { value, lives_until } = held;
                let lost = seeded(Defect::FlowForgetsTimeToLive);
                let last = if lost { NEVER } else { lives_until.last() };
                block.extend_from_slice(&last.as_millis().to_le_bytes());
                writer.write(block, value).unwrap_or_else(|error| {
                    failed = Some(error);
                    Vec::new()
                })
            });
            table.begin_epoch(epoch.next(), readable);
        });
        if let Some(bytes) = bytes.checked_div(written) {
            let before = if self.value_bytes > 0 { self.value_bytes } else { bytes };
            self.value_bytes = (before * 3 + bytes).div_ceil(4);
            self.weighed_keys = usize::MAX;
        }
        failed.map_or(Ok(()), Err)
    }

    fn memory_bytes(&self) -> usize {
        let table = with!(&self.table, table => table.memory_bytes() - table.weight_bytes());
        table + self.outside_bytes()
    }

    fn takes(&mut self) -> Takes {
        let keys = self.keys_here();
        if keys > 0 && (self.value_bytes == 0 || keys / 2 >= self.weighed_keys) {
            self.weigh();
        }
        let (entries, changed) =
            with!(&self.table, table => (table.entries_bytes(), table.changed()));
        let bytes = entries + self.outside_bytes();
        let changed = bytes as u128 * changed as u128 / keys.max(1) as u128;
        Takes { bytes, changed: changed as usize, ..Takes::default() }
    }

    fn shrink_to(&mut self, readable: Epoch, bytes: usize) -> bool {
        for _ in 0..EVICT_PIECES_MAX {
            let (used, keys) = (self.memory_bytes(), self.keys_here());
            if used <= bytes || keys == 0 || with!(&self.table, table => table.is_barren(readable))
            {
                return true;
            }
            let keep = (keys as u128 * bytes as u128 / used as u128) as usize;
            self.cold += with!(&mut self.table, table => table.evict_clean(readable, keep));
        }
        false
    }
}

impl<K: Key, V: Durable> AnyKeyed<K> for Keyed<K, V> {
    #[inline]
    fn holds(&self) -> Holds {
        let entries = with!(&self.table, table => table.entries_bytes());
        let bytes = entries + self.outside_bytes() + self.cold * self.value_bytes;
        Holds { keys: self.keys_here() + self.cold, bytes }
    }

    fn key_bytes(&self) -> Option<usize> {
        let entry = with!(&self.table, table => table.entry_bytes());
        (!self.weighs).then(|| entry + self.each_outside_bytes())
    }

    fn has(&mut self, at: &AtKey<'_, K>) -> bool {
        self.warm(at);
        let now = self.now(at);
        with!(&mut self.table, table => {
            matches!(table.get(at.hash, at.key, now), Found::Here(_))
        })
    }

    fn entries_bytes(&self) -> usize {
        with!(&self.table, table => table.entries_bytes())
    }

    fn look_ahead(&self, hashes: &[u64]) {
        with!(&self.table, table => table.look_ahead(hashes));
    }

    fn drop_key(&mut self, at: &AtKey<'_, K>) {
        self.clear(at);
    }

    fn least_recently_used(&mut self) -> Option<K> {
        // What memory has dropped was not used for longer than what it has.
        if let Some(key) = self.find_cold() {
            return Some(key);
        }
        with!(&mut self.table, table => table.least_recently_used())
    }

    fn ttl(&self) -> Option<Ttl> {
        self.options.ttl
    }

    fn expire(&mut self, reached: Timestamp, processing_time: Timestamp) -> bool {
        let now = now_of(self.options.ttl, reached, processing_time);
        let Tables::Expiring(table) = &mut self.table else { return false };
        table.expire(now, EXPIRE_BUCKETS);
        self.sweep(now, processing_time);
        true
    }
}

/// The states of an operator.
pub(crate) type AllKeyed<K> = Vec<Rc<RefCell<dyn AnyKeyed<K>>>>;
