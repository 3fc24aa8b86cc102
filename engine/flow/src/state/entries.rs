//! Entries: the state of a key that has parts, each of them kept by itself under a key of its own.
//!
//! [Maps](super::MapState) and [lists](super::ListState) are made of entries. The key of an entry within its key is an
//! [`OrderedKey`]: a map's own key, or the number of a list's item.
//!
//! ```text
//! key   = u64:state u16:group key entry       big-endian
//! value = i64:last-millisecond value          little-endian; i64::MAX where it does not expire
//! ```
//! A keyed value is stored in this form, too: it is the one entry of its key, with nothing for the entry's own key. (In
//! memory a value lies in the table itself: see [`keyed`](super::keyed).)
//!
//! # How to use it
//! | to | call |
//! |---|---|
//! | look at one entry | [`with`](Entries::with) |
//! | set, change or merge into one | [`put`](Entries::put), [`change`](Entries::change) |
//! | take one out | [`remove`](Entries::remove) |
//! | go through a range, or find its first or last entry | [`range`](Entries::range), [`first`](Entries::first), [`last`](Entries::last) |
//! | drop a range, or all of a key | [`remove_range`](Entries::remove_range), [`clear`](Entries::clear) |
//!
//! # What it costs
//! An entry that changes is written by itself: a barrier costs the entries that have changed, however many others
//! their keys have. A range that is removed is one change in storage, unless it is of at most
//! [`REMOVED_SINGLY_MAX`] entries. [`body`] says how entries lie in memory.
//!
//! # Memory and the store
//! A key of at most [`WHOLE_ENTRIES_MAX`] entries leaves memory whole, once the store can give back all of it, and
//! comes back whole. The entries of a larger key leave memory one by one. They come back one by one, or in pieces of a
//! range that is asked for, and their number stays known. A removal is remembered with the key, as an entry or as a
//! range, until the store does not show the entries any more.
//!
//! # What release 0.1 stored
//! Release 0.1 stored all entries of a key as one value, under the key alone. Such a key is *in one piece* until it
//! changes, or until a snapshot has it written anew. Each snapshot does that with keys of about [`PART_BYTES`], of all states of
//! the shard together. So one block of changes stays small, and both forms may lie in the store side by side, also after a restart. A stored key without an
//! entry's key tells that it is in one piece.
//!
//! # Limits
//! A key has at most `entries_max` entries; one more is refused and counted. One call works through at most all
//! entries of one key. Entries that have expired in storage alone count until they are met.

mod body;
mod chunk;
mod cold;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::{Bound, Range};
use std::rc::Rc;

use thalweg_kernel::{
    Durable, Epoch, Key, OrderedKey, StateId, StateReader, StateWriter, Timestamp, ValueDamaged,
};

use self::body::{Body, Bounds, Item, Place, Tally};
use self::chunk::gone_bytes;
use super::cursor::{Cursor, Sweep};
use super::keyed::{lives_until, now_of};
use super::table::{Hashed, Looked, Place as Bucket, Segments};
use super::{AtKey, Refresh, StateOptions};
use crate::checkpoint::Checkpoints;
use crate::counters::Counter;
use crate::table_hash::table_hash;

/// A key of at most this many entries leaves memory whole.
const WHOLE_ENTRIES_MAX: usize = 64;
/// Up to this many entries that are removed together are deleted one by one, more of them as a range.
const REMOVED_SINGLY_MAX: usize = 16;
/// Keys in one piece of about this many bytes are written anew by a snapshot.
const PART_BYTES: usize = 64 << 20;
/// The memory of a list in a chunk is larger than what is in it by a quarter, on average.
const SLACK: (usize, usize) = (5, 4);

/// The entries of one key.
struct Group<K, N, V> {
    key: K,
    body: Body<N, V>,
    /// Whether it was used since the search for what can leave memory came by.
    used: bool,
    /// Whether the table knows that it has changed since the last snapshot.
    marked: bool,
    /// Whether it has changed since then and the table does not know.
    unmarked_change: bool,
    /// Whether it waits for the store to forget what is gone.
    waits: bool,
    /// Whether the store has it in one piece.
    in_one_piece: bool,
}

impl<K: Key, N: OrderedKey, V> Group<K, N, V> {
    fn new(key: K) -> Self {
        let (used, marked, unmarked_change, waits) = (true, true, false, false);
        let (body, in_one_piece) = (Body::new(), false);
        Self { key, body, used, marked, unmarked_change, waits, in_one_piece }
    }
}

impl<K: Key, N, V> Hashed for Group<K, N, V> {
    #[inline(always)]
    fn hash(&self) -> u64 {
        table_hash(&self.key)
    }
}

type Groups<K, N, V> = Segments<Group<K, N, V>>;

/// Reads the entries of a key that an earlier release wrote as one value.
pub(crate) type ReadWhole<N, V> = fn(&[u8]) -> Result<Vec<(N, V)>, ValueDamaged>;

/// What an operator's entries are to be like.
pub(crate) struct EntryRules<N, V> {
    pub(crate) options: StateOptions<V>,
    /// Of one key.
    pub(crate) entries_max: usize,
    /// Counts the entries that would have been more.
    pub(crate) over_limit: Counter,
    /// How an earlier release wrote them, if it did.
    pub(crate) whole: Option<Whole<N, V>>,
}

/// How an earlier release wrote the entries of a key: as one value.
pub(crate) struct Whole<N, V> {
    pub(crate) read: ReadWhole<N, V>,
    /// The types by which its catalogue knows them.
    pub(crate) types: String,
}

/// See the module.
pub(crate) struct Entries<K, N, V> {
    groups: Groups<K, N, V>,
    tally: Tally,
    /// Keys that are in the store alone, and their entries, about.
    cold_keys: usize,
    cold_entries: usize,
    /// Whether anything has ever left memory.
    evicted: bool,
    /// This many buckets were searched in vain for what can leave memory, given what the store can read.
    barren: (Epoch, usize),
    rules: EntryRules<N, V>,
    id: StateId,
    checkpoints: Rc<Checkpoints>,
    reader: Option<Rc<dyn StateReader>>,
    /// The key groups of this shard.
    own: Range<u16>,
    /// A stored key under construction.
    scratch: Vec<u8>,
    /// Hashes of keys that wait until the store does not show what is gone of them, and the epoch that they wait for.
    waiting: VecDeque<(Epoch, u64)>,
    /// Hashes of keys that have changed on a walk.
    changed: Vec<u64>,
    /// The bytes of an entry as it is stored, on average of the latest snapshot.
    value_bytes: usize,
    /// This many entries were here when values were weighed before the first snapshot.
    weighed: usize,
    /// How many keys the store has in one piece, and about how many bytes of them a snapshot writes anew.
    pieces: usize,
    /// Keys without entries that release 0.1 stored, and that the next snapshot deletes.
    empty_pieces: Vec<K>,
    part_bytes: usize,
    /// Where the search for what can leave memory goes on, and for what has expired.
    hand: Bucket,
    expiring: Bucket,
    /// Where the search for keys in one piece goes on.
    converting: Bucket,
    sweep: Sweep,
    gives_way: Cursor,
}

fn group<'a, K: Key, N: OrderedKey, V>(
    groups: &'a mut Groups<K, N, V>,
    at: &AtKey<'_, K>,
) -> Option<&'a mut Group<K, N, V>> {
    let touch = |group: &mut Group<K, N, V>| {
        group.used = true;
        false
    };
    match groups.look(at.hash, |group| group.key == *at.key, |group| group.used, |_| false, touch) {
        Looked::Here(group) => Some(group),
        Looked::Dead(_) | Looked::Absent => None,
    }
}

/// The entries of a key that are in memory, marked as changed.
fn group_to_change<'a, K: Key, N: OrderedKey, V>(
    groups: &'a mut Groups<K, N, V>,
    at: &AtKey<'_, K>,
) -> Option<&'a mut Group<K, N, V>> {
    let touch = |group: &mut Group<K, N, V>| {
        group.used = true;
        !std::mem::replace(&mut group.marked, true)
    };
    let usual = |group: &Group<K, N, V>| group.used & group.marked;
    match groups.look(at.hash, |group| group.key == *at.key, usual, |_| false, touch) {
        Looked::Here(group) => Some(group),
        Looked::Dead(_) | Looked::Absent => None,
    }
}

impl<K: Key, N: OrderedKey, V: Durable> Entries<K, N, V> {
    /// Empty entries for the key groups `own`.
    pub(crate) fn new(
        rules: EntryRules<N, V>,
        checkpoints: &Rc<Checkpoints>,
        reader: Option<Rc<dyn StateReader>>,
        own: Range<u16>,
    ) -> Self {
        Self {
            groups: Segments::new(),
            tally: Tally::default(),
            cold_keys: 0,
            cold_entries: 0,
            evicted: false,
            barren: (Epoch::NONE, 0),
            rules,
            id: StateId::of("", ""),
            checkpoints: Rc::clone(checkpoints),
            reader,
            own,
            scratch: Vec::new(),
            waiting: VecDeque::new(),
            changed: Vec::new(),
            value_bytes: 0,
            weighed: 0,
            pieces: 0,
            empty_pieces: Vec::new(),
            part_bytes: PART_BYTES,
            hand: Bucket::default(),
            expiring: Bucket::default(),
            converting: Bucket::default(),
            sweep: Sweep::default(),
            gives_way: Cursor::default(),
        }
    }

    #[inline]
    fn now(&self, at: &AtKey<'_, K>) -> Timestamp {
        now_of(self.rules.options.ttl, at.reached, at.processing_time)
    }

    #[inline]
    fn lives_until(&self, at: &AtKey<'_, K>) -> Timestamp {
        lives_until(self.rules.options.ttl, at)
    }

    /// Whether reading an entry begins its life anew.
    #[inline]
    fn reading_renews(&self) -> bool {
        self.rules.options.ttl.is_some_and(|ttl| ttl.refresh == Refresh::OnReadAndWrite)
    }

    /// What `look` makes of an entry.
    #[inline]
    pub(crate) fn with<R>(
        &mut self,
        at: &AtKey<'_, K>,
        entry: &N,
        look: impl FnOnce(Option<&V>) -> R,
    ) -> R {
        self.warm(at, entry, false);
        let (now, until, renews) = (self.now(at), self.lives_until(at), self.reading_renews());
        let Self { groups, tally, .. } = self;
        let found = if renews { group_to_change(groups, at) } else { group(groups, at) };
        let Some(Group { body, .. }) = found else { return look(None) };
        let Place::Here(chunk, place) = body.find(entry) else { return look(None) };
        if !body.item(chunk, place).lives_at(now) {
            return look(None);
        }
        if renews {
            return look(Some(&body.change((chunk, place), until, tally).value));
        }
        body.used(chunk);
        look(Some(&body.item(chunk, place).value))
    }

    /// Sets an entry, whatever was before, and returns whether there was room.
    #[inline]
    pub(crate) fn put(&mut self, at: &AtKey<'_, K>, entry: N, value: V) -> bool {
        let mut value = Some(value);
        let create = |value: &mut Option<V>| value.take();
        self.upsert(at, entry, &mut value, create, |into, value| {
            if let Some(value) = value.take() {
                *into = value;
            }
        })
        .is_some()
    }

    /// Changes an entry; `create` makes it if there is none. `None` if there is no room for it.
    #[inline]
    pub(crate) fn change<R>(
        &mut self,
        at: &AtKey<'_, K>,
        entry: N,
        create: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let make = |create: &mut Option<_>| create.take().map(make_by);
        self.upsert(at, entry, &mut Some(create), make, |value, _| change(value))
    }

    /// Gives an entry to `change`, which is made by `create` from `with` if there is none.
    #[inline]
    fn upsert<X, R>(
        &mut self,
        at: &AtKey<'_, K>,
        entry: N,
        with: &mut X,
        create: impl FnOnce(&mut X) -> Option<V>,
        change: impl FnOnce(&mut V, &mut X) -> R,
    ) -> Option<R> {
        self.warm(at, &entry, true);
        let (now, until) = (self.now(at), self.lives_until(at));
        let Self { groups, tally, rules, .. } = self;
        if let Some(Group { body, .. }) = group_to_change(groups, at) {
            let place = match body.find(&entry) {
                Place::Here(chunk, place) => {
                    let lives = body.item(chunk, place).lives_at(now);
                    let value = &mut body.change((chunk, place), until, tally).value;
                    if !lives {
                        *value = create(with)?;
                    }
                    return Some(change(value, with));
                }
                Place::Missing(..) if body.len() >= rules.entries_max => {
                    body.expire(now, usize::MAX, tally);
                    if body.len() >= rules.entries_max {
                        rules.over_limit.add(1);
                        return None;
                    }
                    match body.find(&entry) {
                        Place::Here(chunk, place) | Place::Missing(chunk, place) => (chunk, place),
                    }
                }
                Place::Missing(chunk, place) => (chunk, place),
            };
            let item = body.insert(place, Item::new(entry, create(with)?, until), tally);
            return Some(change(&mut item.value, with));
        }
        if rules.entries_max == 0 {
            rules.over_limit.add(1);
            return None;
        }
        let body = &mut groups.insert(Group::new(at.key.clone()), true).body;
        let item = body.insert((0, 0), Item::new(entry, create(with)?, until), tally);
        Some(change(&mut item.value, with))
    }

    /// Adds an entry behind all others of its key, and returns whether there was room. `after` makes the entry's own key
    /// from that of the last entry.
    #[inline]
    pub(crate) fn append(
        &mut self,
        at: &AtKey<'_, K>,
        value: V,
        after: impl FnOnce(Option<&N>) -> N,
    ) -> bool {
        self.warm_last(at);
        let (now, until) = (self.now(at), self.lives_until(at));
        let Self { groups, tally, rules, .. } = self;
        if let Some(Group { body, .. }) = group_to_change(groups, at)
            && body.len() >= rules.entries_max
            && body.expire(now, usize::MAX, tally) > 0
        {
            // The last chunk may have been joined with one before it.
            self.warm_last(at);
        }
        let Self { groups, tally, rules, .. } = self;
        let Some(Group { body, .. }) = group_to_change(groups, at) else {
            return self.put(at, after(None), value);
        };
        if body.len() >= rules.entries_max {
            rules.over_limit.add(1);
            return false;
        }
        let (place, last) = body.end();
        let entry = after(last);
        debug_assert!(last.is_none_or(|last| *last < entry), "it is not behind the last one");
        body.insert(place, Item::new(entry, value, until), tally);
        true
    }

    /// Counts entries that were not added.
    pub(crate) fn count_over_limit(&self, entries: usize) {
        self.rules.over_limit.add(entries);
    }

    /// Takes an entry out; its value, if it has not expired.
    pub(crate) fn remove(&mut self, at: &AtKey<'_, K>, entry: &N) -> Option<V> {
        self.warm(at, entry, false);
        let now = self.now(at);
        let Self { groups, tally, .. } = self;
        let Group { body, .. } = group_to_change(groups, at)?;
        let Place::Here(chunk, place) = body.find(entry) else { return None };
        let item = body.take((chunk, place), tally);
        let unneeded = body.is_unneeded();
        if unneeded {
            self.drop_group(at);
        }
        item.lives_at(now).then_some(item.value)
    }

    /// Drops all entries of a key, and returns whether there were any.
    pub(crate) fn clear(&mut self, at: &AtKey<'_, K>) -> bool {
        self.remove_range(at, (Bound::Unbounded, Bound::Unbounded)) > 0
    }

    /// Drops the entries in these bounds, and returns how many they were, with those that have expired.
    pub(crate) fn remove_range(&mut self, at: &AtKey<'_, K>, bounds: Bounds<'_, N>) -> usize {
        if is_empty(bounds) {
            return 0;
        }
        if bounds == (Bound::Unbounded, Bound::Unbounded) {
            self.warm_key(at);
        } else {
            self.warm_ends(at, bounds);
        }
        let Self { groups, tally, .. } = self;
        let Some(Group { body, .. }) = group_to_change(groups, at) else { return 0 };
        let removed = body.remove_range(bounds, REMOVED_SINGLY_MAX, tally);
        let unneeded = body.is_unneeded();
        if unneeded {
            self.drop_group(at);
        }
        removed
    }

    /// Keeps the entries for which `keep` holds.
    pub(crate) fn retain(&mut self, at: &AtKey<'_, K>, mut keep: impl FnMut(&N, &V) -> bool) {
        self.warm_range(at, (Bound::Unbounded, Bound::Unbounded));
        let now = self.now(at);
        let Self { groups, tally, .. } = self;
        let Some(Group { body, .. }) = group_to_change(groups, at) else { return };
        body.expire(now, usize::MAX, tally);
        body.retain(&mut keep, REMOVED_SINGLY_MAX, tally);
        let unneeded = body.is_unneeded();
        if unneeded {
            self.drop_group(at);
        }
    }

    #[cold]
    fn drop_group(&mut self, at: &AtKey<'_, K>) {
        if let Some((group, _)) = self.groups.remove(at.hash, |group| group.key == *at.key) {
            let mut body = group.body;
            body.leave(&mut self.tally);
        }
    }

    /// The number of entries of a key. Those that have expired in storage alone count.
    pub(crate) fn len(&mut self, at: &AtKey<'_, K>) -> usize {
        self.warm_key(at);
        let now = self.now(at);
        let Self { groups, tally, rules, .. } = self;
        if rules.options.ttl.is_none() {
            return group(groups, at).map_or(0, |group| group.body.len());
        }
        let Some(Group { body, .. }) = group_to_change(groups, at) else { return 0 };
        body.expire(now, usize::MAX, tally);
        let (len, unneeded) = (body.len(), body.is_unneeded());
        if unneeded {
            self.drop_group(at);
        }
        len
    }

    /// The entries in these bounds, in order. All of them are brought into memory for that.
    pub(crate) fn range(&mut self, at: &AtKey<'_, K>, bounds: Bounds<'_, N>) -> InOrder<'_, N, V> {
        if is_empty(bounds) {
            return InOrder(body::Range::EMPTY);
        }
        self.warm_range(at, bounds);
        let (now, until, renews) = (self.now(at), self.lives_until(at), self.reading_renews());
        let Self { groups, tally, .. } = self;
        let found = if renews { group_to_change(groups, at) } else { group(groups, at) };
        let Some(Group { body, .. }) = found else { return InOrder(body::Range::EMPTY) };
        let (first, last) = body.chunks_in(bounds);
        for chunk in first..=last {
            body.used(chunk);
            if renews {
                for place in body.within(chunk, bounds) {
                    if body.item(chunk, place).lives_at(now) {
                        body.change((chunk, place), until, tally);
                    }
                }
            }
        }
        InOrder(body.range(bounds, now))
    }

    /// What `look` makes of the first entry in these bounds. Not more than is needed is brought into memory.
    pub(crate) fn first<R>(
        &mut self,
        at: &AtKey<'_, K>,
        bounds: Bounds<'_, N>,
        look: impl FnOnce(&N, &V) -> R,
    ) -> Option<R> {
        self.end(at, bounds, false, look)
    }

    /// What `look` makes of the last entry in these bounds. Not more than is needed is brought into memory.
    pub(crate) fn last<R>(
        &mut self,
        at: &AtKey<'_, K>,
        bounds: Bounds<'_, N>,
        look: impl FnOnce(&N, &V) -> R,
    ) -> Option<R> {
        self.end(at, bounds, true, look)
    }

    fn end<R>(
        &mut self,
        at: &AtKey<'_, K>,
        bounds: Bounds<'_, N>,
        is_last: bool,
        look: impl FnOnce(&N, &V) -> R,
    ) -> Option<R> {
        if is_empty(bounds) {
            return None;
        }
        self.warm_key(at);
        let now = self.now(at);
        let (first, last) = group(&mut self.groups, at)?.body.chunks_in(bounds);
        for step in 0..=last - first {
            let chunk = if is_last { last - step } else { first + step };
            self.warm_chunk(at, chunk);
            let body = &group(&mut self.groups, at)?.body;
            let mut places = body.within(chunk, bounds);
            let lives = |place: &usize| body.item(chunk, *place).lives_at(now);
            let found = if is_last { places.rfind(lives) } else { places.find(lives) };
            if let Some(place) = found {
                let entry = body.item(chunk, place).entry.clone();
                return self.with(at, &entry, |value| value.map(|value| look(&entry, value)));
            }
        }
        None
    }

    /// Weighs some values before any snapshot does.
    #[cold]
    fn weigh(&mut self) {
        const WEIGHED_VALUES: usize = 16;
        self.weighed = self.tally.here;
        let (mut writer, mut block, mut weighed) = (StateWriter::default(), Vec::new(), 0);
        let all = (Bound::Unbounded, Bound::Unbounded);
        let bodies = self.groups.iter().flat_map(|group| group.body.range(all, Timestamp::MIN));
        for (entry, value) in bodies.take(WEIGHED_VALUES) {
            entry.write_ordered(&mut block);
            // What cannot be written fails the next snapshot.
            let Ok(with_it) = writer.write(block, value) else { return };
            (block, weighed) = (with_it, weighed + 1);
        }
        self.value_bytes = block.len().checked_div(weighed).unwrap_or(0).max(1);
    }

    /// The bytes that what was removed takes in memory until the store does not show it any more, about.
    fn gone_bytes(&self) -> usize {
        self.tally.gone * gone_bytes::<N>() + self.waiting.len() * size_of::<(Epoch, u64)>()
    }

    /// The bytes that an entry takes in memory, about.
    fn entry_bytes(&self) -> usize {
        size_of::<Item<N, V>>() * SLACK.0 / SLACK.1
            + self.value_bytes.saturating_sub(size_of::<V>() + size_of::<N>())
    }
}

fn make_by<V>(create: impl FnOnce() -> V) -> V {
    create()
}

/// Whether no entry can be in these bounds.
fn is_empty<N: Ord>((from, to): Bounds<'_, N>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
        _ => false,
    }
}

/// Entries of a key in order, from both ends.
pub(crate) struct InOrder<'a, N, V>(body::Range<'a, N, V>);

impl<N, V> Clone for InOrder<'_, N, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, N: OrderedKey, V> Iterator for InOrder<'a, N, V> {
    type Item = (&'a N, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl<N: OrderedKey, V> DoubleEndedIterator for InOrder<'_, N, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}
