//! What entries hand over at a barrier, how they come back, and what an operator asks of them.

use std::ops::Bound;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Durable, Epoch, Key, OrderedKey, StateError, StateId, StateKind, Timestamp, ValueDamaged,
};

use super::body::{Item, Place, Write};
use super::cold::{read_key, stored_range, takes_no_bytes, write_key};
use super::{Entries, Group, WHOLE_ENTRIES_MAX, group};
use crate::checkpoint::{Outgoing, Stateful, Stored};
use crate::pressure::Takes;
use crate::state::keyed::{AnyKeyed, Holds, now_of, read_value};
use crate::state::table::{LEAST_USED_ENTRIES_MAX, Looked, NEVER, Verdict};
use crate::state::{AtKey, Ttl};
use crate::table_hash::table_hash;

/// What has expired is freed from this many buckets of the table at a time,
const EXPIRE_BUCKETS: usize = 64;
/// and of this many entries.
const EXPIRE_ENTRIES: usize = 4_096;
/// Entries are dropped from memory in at most this many pieces at a time,
const EVICT_PIECES_MAX: usize = 64;
/// of this many buckets of the table.
const EVICT_BUCKETS_MAX: usize = 1_024;
/// A search for them that has been round this often is in vain. The first round takes the marks of used keys away, and the
/// second one the marks of their chunks.
const EVICT_ROUNDS: usize = 3;
/// While state is restored, its memory is looked at after this many entries,
const RESTORE_LOOK_EVERY: usize = 4_096;
/// and after this many bytes of them.
const RESTORE_LOOK_BYTES: usize = 1 << 20;
/// At a barrier this many keys are looked at whose removed entries may be forgotten,
const FORGOTTEN_AT_BARRIER: usize = 4_096;
/// or this many for each that has come to wait for it, if those are more: so that they get fewer.
const FORGOTTEN_FOR_EACH: usize = 2;

impl<K: Key, N: OrderedKey, V: Durable> Entries<K, N, V> {
    /// Adds an entry as it was stored; how many its key has by now. A key that comes with it may be `marked` as changed.
    fn restore_item(&mut self, key: K, item: Item<N, V>, marked: bool) -> usize {
        let hash = table_hash(&key);
        let begin = Timestamp::MIN;
        let at = AtKey { key: &key, hash, time: begin, reached: begin, processing_time: begin };
        let tally = &mut self.tally;
        if let Some(Group { body, .. }) = group(&mut self.groups, &at) {
            match body.find(&item.entry) {
                Place::Missing(chunk, place) if (chunk, place) == body.end().0 => {
                    body.push(item, tally);
                }
                Place::Missing(chunk, place) => _ = body.insert((chunk, place), item, tally),
                Place::Here(..) => debug_assert!(false, "an entry is stored twice"),
            }
            return body.len();
        }
        let mut group = Group::new(key);
        group.marked = marked;
        group.body.insert((0, 0), item, tally);
        self.groups.insert(group, marked);
        1
    }

    /// Drops from memory what is over its bound while state is restored.
    fn shrink_restored(&mut self, readable: Epoch, bytes_max: usize) {
        // What the last search could not find has been read since.
        self.barren.1 = 0;
        self.shrink_to(readable, bytes_max);
    }

    /// Adds the entries of a key that the store has in one piece; how many they are.
    fn restore_piece(
        &mut self,
        key: &K,
        value: &[u8],
        migrates: bool,
    ) -> Result<usize, StateError> {
        let Some(read) = self.rules.whole.as_ref().map(|whole| whole.read) else {
            let what =
                "it was stored as one value for each key, and the operator has never done so";
            return Err(StateError::Other(what.into()));
        };
        let (until, entries) = read_value(value, read)?;
        if entries.is_empty() {
            self.empty_pieces.push(key.clone());
            return Ok(0);
        }
        if migrates {
            let what = "some of it is stored as release 0.1 wrote it, and cannot be migrated from that; start the job with \
                        the schema that it had, until it has taken more checkpoints";
            return Err(StateError::Other(what.into()));
        }
        let count = entries.len();
        for (entry, value) in entries {
            self.restore_item(key.clone(), Item::migrated(entry, value, until), false);
        }
        let hash = table_hash(key);
        let is = |group: &Group<K, N, V>| group.key == *key;
        if let Looked::Here(group) = self.groups.look(hash, is, |_| true, |_| false, |_| false) {
            group.in_one_piece = true;
            self.pieces += 1;
        }
        Ok(count)
    }

    /// Has some of the keys written anew that the store has in one piece, where the block has `taken` bytes of other states'
    /// already. Returns how many bytes it adds.
    fn choose_pieces(&mut self, taken: usize) -> usize {
        if self.pieces == 0 {
            return 0;
        }
        // Where an entry's key may take no bytes, the two forms cannot be told apart: all at once.
        let part = self.part_bytes.saturating_sub(taken);
        let (bytes_max, mut bytes) = (if takes_no_bytes::<N>() { usize::MAX } else { part }, 0);
        let each = self.value_bytes + StateId::PREFIX_BYTES + size_of::<(K, N)>();
        let Self { groups, changed, converting, .. } = self;
        let judge = |group: &mut Group<K, N, V>| {
            if bytes >= bytes_max {
                return Verdict::Stop;
            }
            let waits = group.in_one_piece && !group.marked;
            if waits && !std::mem::replace(&mut group.unmarked_change, true) {
                changed.push(table_hash(&group.key));
                bytes += group.body.len() * each;
            }
            Verdict::Keep
        };
        let buckets = groups.buckets();
        groups.walk(converting, buckets, judge, drop);
        bytes
    }

    /// Forgets of at most this many keys what is gone and what the store does not show any more.
    fn forget(&mut self, readable: Epoch, keys_max: usize) {
        let mut again = Vec::new();
        for _ in 0..keys_max {
            let Some(&(epoch, hash)) = self.waiting.front().filter(|(epoch, _)| *epoch <= readable)
            else {
                break;
            };
            self.waiting.pop_front();
            let is = |group: &Group<K, N, V>| group.waits && table_hash(&group.key) == hash;
            let mut unneeded = false;
            if let Looked::Here(group) = self.groups.look(hash, is, |_| true, |_| false, |_| false)
            {
                group.waits = group.body.purge(readable, &mut self.tally);
                unneeded = group.body.is_unneeded();
                if group.waits {
                    again.push((epoch.next(), hash));
                }
            }
            if unneeded {
                let is = |group: &Group<K, N, V>| {
                    group.body.is_unneeded() && table_hash(&group.key) == hash
                };
                self.groups.remove(hash, is);
            }
        }
        self.waiting.extend(again);
    }

    /// Marks keys that have changed on a walk.
    fn mark_changed(&mut self) {
        let mut changed = std::mem::take(&mut self.changed);
        for hash in changed.drain(..) {
            let is =
                |group: &Group<K, N, V>| group.unmarked_change && table_hash(&group.key) == hash;
            self.groups.look(
                hash,
                is,
                |_| false,
                |_| false,
                |group| {
                    group.unmarked_change = false;
                    !std::mem::replace(&mut group.marked, true)
                },
            );
        }
        self.changed = changed;
    }
}

impl<K: Key, N: OrderedKey, V: Durable> Stateful for Entries<K, N, V> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        let all_in_one_piece = stored.kind(id) == Some(StateKind::Keyed);
        let migration = self.rules.options.migration(stored.schema(id))?;
        let bytes_max = self.checkpoints.memory_bytes_max();
        let readable = stored.reader.readable();
        let (mut entries, mut bytes) = (0, 0);
        // A key that may leave memory whole stays until all of it has been read: what came after its beginning would
        // be taken for all of it.
        let mut look_behind: Option<K> = None;
        stored.own(id, &mut |_, rest, value| {
            let (key, entry, entry_bytes) = match read_key::<K, N>(rest)? {
                (key, Some(entry), entry_bytes) if !all_in_one_piece => (key, entry, entry_bytes),
                (key, ..) => {
                    entries += self.restore_piece(&key, value, migration.is_some())?;
                    bytes += value.len();
                    return Ok(());
                }
            };
            if look_behind.take_if(|behind| *behind != key).is_some() {
                self.shrink_restored(readable, bytes_max);
            }
            bytes += entry_bytes + value.len() - size_of::<Timestamp>().min(value.len());
            let item = match &migration {
                None => {
                    let (until, value) = read_value(value, V::read)?;
                    Item::stored(entry, value, until)
                }
                Some(migrate) => {
                    let (until, value) = read_value(value, &**migrate)?;
                    Item::migrated(entry, value, until)
                }
            };
            entries += 1;
            let is_due = entries >= RESTORE_LOOK_EVERY || bytes >= RESTORE_LOOK_BYTES;
            if is_due {
                self.value_bytes = bytes / entries;
                (entries, bytes) = (0, 0);
            }
            if is_due && migration.is_none() {
                look_behind = Some(key.clone());
            }
            let marked = item.is_dirty();
            let of_key = self.restore_item(key, item, marked);
            if of_key > WHOLE_ENTRIES_MAX && look_behind.take().is_some() {
                self.shrink_restored(readable, bytes_max);
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
        out.piece_bytes += self.choose_pieces(out.piece_bytes);
        self.mark_changed();
        let Outgoing { changes, writer, .. } = out;
        let of = (self.id, self.checkpoints.groups());
        for key in self.empty_pieces.drain(..) {
            changes.delete_with(|out| write_key::<K, N>(of, &key, None, out));
        }
        let (mut failed, mut written) = (None, 0);
        let (mut bytes, mut value_bytes) = (0, 0);
        let waited = self.waiting.len();
        let Self { groups, tally, waiting, pieces, .. } = self;
        groups.take_marked(|group| {
            group.marked = false;
            let key = &group.key;
            if std::mem::take(&mut group.in_one_piece) {
                *pieces -= 1;
                changes.delete_with(|out| write_key::<K, N>(of, key, None, out));
            }
            let mut write = |write: Write<'_, N, V>| match write {
                Write::DeleteRange(bounds) => {
                    let (from, to) = stored_range(of, key, bounds);
                    changes.delete_range(&from, &to);
                }
                Write::Delete(entry) => {
                    changes.delete_with(|out| write_key(of, key, Some(entry), out))
                }
                Write::Put(item) => {
                    changes.put_with(
                        |out| {
                            write_key::<K, N>(of, key, None, out);
                            let before = out.len();
                            item.entry.write_ordered(out);
                            bytes += out.len() - before;
                        },
                        |mut block| {
                            let lost = seeded(Defect::FlowForgetsTimeToLive);
                            let last = if lost { NEVER } else { item.until };
                            block.extend_from_slice(&last.as_millis().to_le_bytes());
                            let before = block.len();
                            let block = writer.write(block, &item.value).unwrap_or_else(|error| {
                                failed = Some(error);
                                Vec::new()
                            });
                            value_bytes += block.len().saturating_sub(before);
                            block
                        },
                    );
                    written += 1;
                }
            };
            if group.body.write(epoch, &mut write, tally)
                && !std::mem::replace(&mut group.waits, true)
            {
                waiting.push_back((epoch, table_hash(&group.key)));
            }
        });
        if let Some(bytes) = (bytes + value_bytes).checked_div(written) {
            let before = if self.value_bytes > 0 { self.value_bytes } else { bytes };
            self.value_bytes = (before * 3 + bytes).div_ceil(4);
            self.weighed = usize::MAX;
        }
        let come = self.waiting.len() - waited;
        let keys_max = FORGOTTEN_AT_BARRIER.max(come * FORGOTTEN_FOR_EACH);
        self.forget(self.checkpoints.readable(), keys_max);
        failed.map_or(Ok(()), Err)
    }

    fn memory_bytes(&self) -> usize {
        self.groups.memory_bytes() + self.tally.here * self.entry_bytes() + self.gone_bytes()
    }

    fn takes(&mut self) -> Takes {
        let here = self.tally.here;
        if here > 0 && (self.value_bytes == 0 || here / 2 >= self.weighed) {
            self.weigh();
        }
        let each = self.entry_bytes();
        let keys = self.groups.len() * size_of::<Group<K, N, V>>();
        let bytes = keys + here * each + self.gone_bytes();
        Takes { bytes, changed: self.tally.dirty * each, ..Takes::default() }
    }

    fn shrink_to(&mut self, readable: Epoch, bytes: usize) -> bool {
        for _ in 0..EVICT_PIECES_MAX {
            let used = self.memory_bytes();
            if self.barren.0 != readable {
                self.barren = (readable, 0);
            }
            let in_vain = self.barren.1 >= EVICT_ROUNDS * self.groups.buckets();
            if self.groups.len() == 0 || used <= bytes || in_vain {
                return true;
            }
            let each = self.entry_bytes();
            let (mut over, mut dropped) = (used - bytes, false);
            let Self { groups, tally, hand, evicted, cold_keys, cold_entries, .. } = self;
            let judge = |group: &mut Group<K, N, V>| {
                if over == 0 {
                    return Verdict::Stop;
                }
                let whole = group.body.len() <= WHOLE_ENTRIES_MAX && group.body.cold() == 0;
                if std::mem::take(&mut group.used) {
                    return Verdict::Keep;
                }
                if whole {
                    if !group.body.is_readable(readable) {
                        return Verdict::Keep;
                    }
                    over =
                        over.saturating_sub(group.body.len() * each + size_of::<Group<K, N, V>>());
                    return Verdict::Take;
                }
                let left = group.body.evict(readable, tally);
                *evicted |= left > 0;
                dropped |= left > 0;
                over = over.saturating_sub(left * each);
                Verdict::Keep
            };
            let mut gone = Vec::new();
            let walked = groups.walk(hand, EVICT_BUCKETS_MAX, judge, |group| gone.push(group));
            dropped |= !gone.is_empty();
            self.barren.1 = if dropped { 0 } else { self.barren.1 + walked };
            for mut group in gone {
                if group.body.len() > 0 {
                    *evicted = true;
                    *cold_keys += 1;
                    *cold_entries += group.body.len();
                }
                group.body.leave(tally);
            }
        }
        false
    }
}

impl<K: Key, N: OrderedKey, V: Durable> AnyKeyed<K> for Entries<K, N, V> {
    #[inline]
    fn holds(&self) -> Holds {
        let cold = (self.tally.cold + self.cold_entries) * self.value_bytes;
        let here =
            self.groups.len() * size_of::<Group<K, N, V>>() + self.tally.here * self.entry_bytes();
        Holds { keys: self.groups.len() + self.cold_keys, bytes: here + cold }
    }

    fn key_bytes(&self) -> Option<usize> {
        None
    }

    fn has(&mut self, at: &AtKey<'_, K>) -> bool {
        self.warm_key(at);
        let now = self.now(at);
        let expires = self.rules.options.ttl.is_some();
        let Some(Group { body, .. }) = group(&mut self.groups, at) else { return false };
        let all = (Bound::Unbounded, Bound::Unbounded);
        body.cold() > 0 || body.len() > 0 && (!expires || body.range(all, now).next().is_some())
    }

    fn entries_bytes(&self) -> usize {
        self.groups.len() * size_of::<Group<K, N, V>>() + self.tally.here * size_of::<Item<N, V>>()
    }

    fn look_ahead(&self, hashes: &[u64]) {
        std::hint::black_box(self.groups.touch(hashes));
    }

    fn drop_key(&mut self, at: &AtKey<'_, K>) {
        self.clear(at);
    }

    fn least_recently_used(&mut self) -> Option<K> {
        // What memory has dropped was not used for longer than what it has.
        if let Some(key) = self.find_cold() {
            return Some(key);
        }
        let Self { groups, hand, .. } = self;
        if groups.len() == 0 {
            return None;
        }
        let (mut found, mut seen) = (None, 0);
        while seen < LEAST_USED_ENTRIES_MAX {
            let mut unused = false;
            let judge = |group: &mut Group<K, N, V>| {
                seen += 1;
                if group.body.len() > 0 {
                    unused = !std::mem::take(&mut group.used);
                    if unused || found.is_none() {
                        found = Some(group.key.clone());
                    }
                }
                match unused || seen >= LEAST_USED_ENTRIES_MAX {
                    true => Verdict::Stop,
                    false => Verdict::Keep,
                }
            };
            groups.walk(hand, EVICT_BUCKETS_MAX, judge, drop);
            if unused {
                break;
            }
        }
        found
    }

    fn ttl(&self) -> Option<Ttl> {
        self.rules.options.ttl
    }

    fn expire(&mut self, reached: Timestamp, processing_time: Timestamp) -> bool {
        let ttl = self.rules.options.ttl;
        if ttl.is_none() {
            return false;
        }
        let now = now_of(ttl, reached, processing_time);
        let Self { groups, tally, expiring, changed, .. } = self;
        let mut left = EXPIRE_ENTRIES;
        let judge = |group: &mut Group<K, N, V>| {
            if left == 0 {
                return Verdict::Stop;
            }
            let expired = group.body.expire(now, left, tally);
            left -= expired;
            if group.body.is_unneeded() {
                return Verdict::Take;
            }
            if expired > 0 && !group.marked && !std::mem::replace(&mut group.unmarked_change, true)
            {
                changed.push(table_hash(&group.key));
            }
            Verdict::Keep
        };
        groups.walk(expiring, EXPIRE_BUCKETS, judge, drop);
        self.mark_changed();
        self.sweep(now, processing_time);
        true
    }
}
