//! Entries that are in the store alone: how they come back, expire there, and give way.

use std::ops::Bound;

use thalweg_kernel::{
    Durable, Key, KeyGroups, OrderedKey, StateError, StateId, Timestamp, ValueDamaged,
};

use super::body::{Bounds, Item, Place};
use super::{Entries, Group, group, group_to_change};
use crate::state::AtKey;
use crate::state::keyed::{read_value, split_value};
use crate::table_hash::table_hash;

/// What has expired in the store alone is looked for among this many stored entries at a time,
const SWEEP_ENTRIES: usize = 1_024;
/// and this often, by this machine's clock: a million in about two minutes.
const SWEEP_EVERY_MS: u64 = 100;
/// A key that gives way is looked for among this many stored entries.
const GIVES_WAY_ENTRIES: usize = 1_024;

/// Writes the stored key of an entry.
pub(super) fn write_key<K: Key, N: OrderedKey>(
    (id, groups): (StateId, KeyGroups),
    key: &K,
    entry: Option<&N>,
    out: &mut Vec<u8>,
) {
    id.begin_key(groups.group_of(key.key_hash()), out);
    key.write_key(out);
    if let Some(entry) = entry {
        entry.write_ordered(out);
    }
}

/// The stored keys of a key's entries in these bounds.
pub(super) fn stored_range<K: Key, N: OrderedKey>(
    of: (StateId, KeyGroups),
    key: &K,
    (from, to): Bounds<'_, N>,
) -> (Vec<u8>, Vec<u8>) {
    let (mut first, mut end) = (Vec::new(), Vec::new());
    // No other stored key begins with a whole one: behind it there is nothing before its successor.
    match from {
        Bound::Unbounded => write_key::<K, N>(of, key, None, &mut first),
        Bound::Included(from) => write_key(of, key, Some(from), &mut first),
        Bound::Excluded(from) => {
            write_key(of, key, Some(from), &mut first);
            first.push(0);
        }
    }
    match to {
        Bound::Unbounded => {
            write_key::<K, N>(of, key, None, &mut end);
            // The first bytes that do not begin so. (The number of a state is never all ones.)
            while let Some(last) = end.pop() {
                if last < u8::MAX {
                    end.push(last + 1);
                    break;
                }
            }
        }
        Bound::Included(to) => {
            write_key(of, key, Some(to), &mut end);
            end.push(0);
        }
        Bound::Excluded(to) => write_key(of, key, Some(to), &mut end),
    }
    (first, end)
}

/// Whether the key of an entry may take no bytes.
pub(super) fn takes_no_bytes<N: OrderedKey>() -> bool {
    N::read_ordered(&mut &[][..]).is_some()
}

/// The key and the entry of a stored key behind state and group, and the bytes of the entry. There is no entry if the key is
/// stored in one piece.
pub(super) fn read_key<K: Key, N: OrderedKey>(
    mut rest: &[u8],
) -> Result<(K, Option<N>, usize), ValueDamaged> {
    let key = K::read_key(&mut rest).ok_or_else(ValueDamaged::key::<K>)?;
    let bytes = rest.len();
    if bytes == 0 && !takes_no_bytes::<N>() {
        return Ok((key, None, 0));
    }
    let entry = N::read_ordered(&mut rest).filter(|_| rest.is_empty());
    Ok((key, Some(entry.ok_or_else(ValueDamaged::key::<N>)?), bytes))
}

fn read_stored<K: Key, N: OrderedKey>(stored: &[u8]) -> Result<(K, Option<N>), StateError> {
    let rest = StateId::split_key(stored).map_or(&[][..], |(_, rest)| rest);
    let (key, entry, _) = read_key(rest)?;
    Ok((key, entry))
}

impl<K: Key, N: OrderedKey, V: Durable> Entries<K, N, V> {
    fn of(&self) -> (StateId, KeyGroups) {
        (self.id, self.checkpoints.groups())
    }

    /// Brings an entry into memory that may be in the store alone. If it is to be inserted into a full chunk, the other
    /// entries of that chunk come, too.
    #[inline]
    pub(super) fn warm(&mut self, at: &AtKey<'_, K>, entry: &N, to_insert: bool) {
        if self.evicted {
            self.warm_from_store(at, entry, to_insert);
        }
    }

    #[cold]
    fn warm_from_store(&mut self, at: &AtKey<'_, K>, entry: &N, to_insert: bool) {
        self.warm_key(at);
        let (of, readable) = (self.of(), self.checkpoints.readable());
        let Some(Group { body, .. }) = group(&mut self.groups, at) else { return };
        let Place::Missing(chunk, _) = body.find(entry) else { return };
        if body.cold_in(chunk) == 0 {
            return;
        }
        self.barren.1 = 0;
        let (mut found, mut failed) = (false, None);
        if !body.is_gone(entry, readable)
            && let Some(reader) = &self.reader
        {
            self.scratch.clear();
            write_key(of, at.key, Some(entry), &mut self.scratch);
            let tally = &mut self.tally;
            let read = reader.get(&self.scratch, &mut |stored| {
                let (until, value) = read_value(stored, V::read)?;
                body.load(Item::stored(entry.clone(), value, until), tally);
                Ok(())
            });
            match read {
                Ok(is) => found = is,
                Err(error) => failed = Some(error),
            }
        }
        let is_full = to_insert && !found && body.is_full(chunk);
        if let Some(error) = failed {
            self.checkpoints.fail(error);
        } else if is_full {
            self.warm_chunk(at, chunk);
        }
    }

    /// Brings a key into memory that may be in the store alone. Of a large one that is what there is to know of it;
    /// of a small one all entries.
    #[inline]
    pub(super) fn warm_key(&mut self, at: &AtKey<'_, K>) {
        if self.evicted && group(&mut self.groups, at).is_none() {
            self.warm_key_from_store(at);
        }
    }

    #[cold]
    fn warm_key_from_store(&mut self, at: &AtKey<'_, K>) {
        let Some(reader) = &self.reader else { return };
        let (first, end) =
            stored_range::<K, N>(self.of(), at.key, (Bound::Unbounded, Bound::Unbounded));
        let mut new = Group::new(at.key.clone());
        new.marked = false;
        let tally = &mut self.tally;
        let scanned = reader.scan(&first, &end, &mut |stored, value| {
            let (_, Some(entry)) = read_stored::<K, N>(stored)? else { return Ok(()) };
            let (until, value) = read_value(value, V::read)?;
            new.body.load(Item::stored(entry, value, until), tally);
            Ok(())
        });
        if let Err(error) = scanned {
            new.body.leave(tally);
            return self.checkpoints.fail(error);
        }
        if new.body.len() > 0 {
            self.barren.1 = 0;
            self.cold_keys = self.cold_keys.saturating_sub(1);
            self.cold_entries = self.cold_entries.saturating_sub(new.body.len());
            self.groups.insert(new, false);
        }
    }

    /// Brings all entries of a key in these bounds into memory.
    #[inline]
    pub(super) fn warm_range(&mut self, at: &AtKey<'_, K>, bounds: Bounds<'_, N>) {
        if self.evicted {
            self.warm_chunks(at, bounds, false);
        }
    }

    /// Brings those chunks of a key into memory that have entries within these bounds and beyond them.
    #[inline]
    pub(super) fn warm_ends(&mut self, at: &AtKey<'_, K>, bounds: Bounds<'_, N>) {
        if self.evicted {
            self.warm_chunks(at, bounds, true);
        }
    }

    /// Brings the last chunk of a key into memory.
    #[inline]
    pub(super) fn warm_last(&mut self, at: &AtKey<'_, K>) {
        if self.evicted {
            self.warm_key(at);
            if let Some(chunks) = group(&mut self.groups, at).map(|group| group.body.chunks()) {
                self.warm_chunk(at, chunks - 1);
            }
        }
    }

    #[cold]
    fn warm_chunks(&mut self, at: &AtKey<'_, K>, bounds: Bounds<'_, N>, only_ends: bool) {
        self.warm_key(at);
        let Some(Group { body, .. }) = group(&mut self.groups, at) else { return };
        let (first, last) = body.chunks_in(bounds);
        for chunk in first..=last {
            if !only_ends || chunk == first || chunk == last {
                self.warm_chunk(at, chunk);
            }
        }
    }

    /// Brings all entries of a chunk into memory.
    pub(super) fn warm_chunk(&mut self, at: &AtKey<'_, K>, chunk: usize) {
        let (of, readable) = (self.of(), self.checkpoints.readable());
        let Some(Group { body, .. }) = group(&mut self.groups, at) else { return };
        let Some(reader) = self.reader.as_ref().filter(|_| body.cold_in(chunk) > 0) else { return };
        self.barren.1 = 0;
        let (first, end) = stored_range(of, at.key, body.bounds_of(chunk));
        let tally = &mut self.tally;
        let scanned = reader.scan(&first, &end, &mut |stored, value| {
            let (_, Some(entry)) = read_stored::<K, N>(stored)? else { return Ok(()) };
            if matches!(body.find(&entry), Place::Missing(..)) && !body.is_gone(&entry, readable) {
                let (until, value) = read_value(value, V::read)?;
                body.load(Item::stored(entry, value, until), tally);
            }
            Ok(())
        });
        match scanned {
            Ok(()) => body.loaded(chunk, tally),
            Err(error) => self.checkpoints.fail(error),
        }
    }

    /// Frees some of what has expired in the store alone.
    pub(super) fn sweep(&mut self, now: Timestamp, processing_time: Timestamp) {
        let Some(reader) = self.reader.clone().filter(|_| self.evicted) else { return };
        if !self.sweep.is_due(processing_time, SWEEP_EVERY_MS) {
            return;
        }
        let (range, mut expired) = (self.id.range(self.own.clone()), Vec::new());
        let scanned = self.sweep.cursor.walk(&*reader, range, SWEEP_ENTRIES, |stored, value| {
            if split_value(value)?.0 < now {
                expired.push(stored.to_vec());
            }
            Ok(false)
        });
        let swept = expired.iter().try_for_each(|stored| {
            let mut is_so = false;
            // A scan may show what was there a while ago.
            reader.get(stored, &mut |value| {
                is_so = split_value(value)?.0 < now;
                Ok(())
            })?;
            if is_so { self.expire_cold(stored, now) } else { Ok(()) }
        });
        if let Err(error) = scanned.and(swept) {
            self.checkpoints.fail(error);
        }
    }

    /// An entry has expired in the store.
    fn expire_cold(&mut self, stored: &[u8], now: Timestamp) -> Result<(), StateError> {
        // What is in one piece is in memory.
        let (key, Some(entry)) = read_stored::<K, N>(stored)? else { return Ok(()) };
        let (hash, readable) = (table_hash(&key), self.checkpoints.readable());
        let at = AtKey { key: &key, hash, time: now, reached: now, processing_time: now };
        self.warm_key(&at);
        let Self { groups, tally, .. } = self;
        let Some(Group { body, .. }) = group_to_change(groups, &at) else { return Ok(()) };
        if matches!(body.find(&entry), Place::Missing(..)) && !body.is_gone(&entry, readable) {
            body.expire_cold(entry, tally);
        }
        // A small key has come into memory with it.
        body.expire(now, SWEEP_ENTRIES, tally);
        let unneeded = body.is_unneeded();
        if unneeded {
            self.drop_group(&at);
        }
        Ok(())
    }

    /// A key that is in the store alone, if there is one among the next stored entries.
    pub(super) fn find_cold(&mut self) -> Option<K> {
        let reader = self.reader.clone().filter(|_| self.cold_keys > 0)?;
        let (range, mut found) = (self.id.range(self.own.clone()), None);
        let groups = &self.groups;
        let scanned = self.gives_way.walk(&*reader, range, GIVES_WAY_ENTRIES, |stored, _| {
            let (key, _) = read_stored::<K, N>(stored)?;
            let is_cold = groups.find(table_hash(&key), |group| group.key == key).is_none();
            found = Some(key).filter(|_| is_cold);
            Ok(is_cold)
        });
        if let Err(error) = scanned {
            self.checkpoints.fail(error);
        }
        found
    }
}
