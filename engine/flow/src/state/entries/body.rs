//! The entries of one key, in order, as far as they are in memory.
//!
//! They lie in *chunks*, which are sorted lists of at most [`CHUNK_ENTRIES_MAX`] entries. A small map is one chunk, which
//! lies in the key's own place in the table. Of a larger map the chunks form a list with the first key that each may
//! hold. So a look-up is two binary searches, and an insert moves at most a chunk. A scan reads memory in order, and a
//! barrier visits the chunks that have changed.
//!
//! A chunk knows how many entries of its range are *cold*: in the store alone. It also remembers the entries that were
//! removed and that the store may still show ([`chunk`](super::chunk)).

use std::ops::{Bound, RangeBounds};

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, OrderedKey, Timestamp};

pub(super) use super::chunk::Item;
use super::chunk::{Chunk, is_past};
use crate::state::table::NEVER;

/// A chunk has at most this many entries, in memory and cold.
pub(super) const CHUNK_ENTRIES_MAX: usize = 128;
/// Two neighbours that have fewer entries together become one.
const CHUNK_ENTRIES_MIN: usize = 32;

/// A range of entries.
pub(super) type Bounds<'a, N> = (Bound<&'a N>, Bound<&'a N>);

/// How many entries a state has, over all keys in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// In memory.
    pub(super) here: usize,
    /// Of those, the ones that have changed since the last snapshot.
    pub(super) dirty: usize,
    /// In the store alone, of keys that are in memory.
    pub(super) cold: usize,
    /// Entries and ranges that were removed and that the store may still show.
    pub(super) gone: usize,
}

impl Tally {
    /// An entry is gone that the store may have.
    fn note_gone<N: OrderedKey, V>(&mut self, chunk: &mut Chunk<N, V>, entry: N) {
        let is_new = usize::from(chunk.note_gone(entry));
        self.dirty += is_new;
        self.gone += is_new;
    }
}

/// A range of entries that was removed, and that the store may still show.
pub(super) struct GoneRange<N> {
    from: Bound<N>,
    to: Bound<N>,
    written: Option<Epoch>,
}

impl<N: Ord> GoneRange<N> {
    pub(super) fn bounds(&self) -> Bounds<'_, N> {
        (self.from.as_ref(), self.to.as_ref())
    }
}

/// Where an entry is, until something is inserted or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this chunk, at this place.
    Here(usize, usize),
    /// It is not in memory: it would be in this chunk, at this place.
    Missing(usize, usize),
}

/// See the module.
pub(super) struct Body<N, V> {
    first: Chunk<N, V>,
    /// The chunks behind the first one, and the least entry that each may hold.
    rest: Vec<(N, Chunk<N, V>)>,
    len: usize,
    /// Of those, the ones in the store alone.
    cold: usize,
    /// Ranges that were removed, in the order in which they were.
    #[expect(clippy::box_collection, reason = "nearly always none, so it should take one word")]
    gone: Option<Box<Vec<GoneRange<N>>>>,
}

impl<N: OrderedKey, V> Body<N, V> {
    pub(super) fn new() -> Self {
        Self { first: Chunk::new(), rest: Vec::new(), len: 0, cold: 0, gone: None }
    }

    /// Entries in memory and cold.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Entries in the store alone.
    pub(super) fn cold(&self) -> usize {
        self.cold
    }

    /// All of it, counted one by one.
    #[cfg(test)]
    pub(super) fn count(&self) -> Tally {
        let mut tally = Tally::default();
        for chunk in std::iter::once(&self.first).chain(self.rest.iter().map(|(_, chunk)| chunk)) {
            tally.here += chunk.items.len();
            tally.dirty += chunk.dirty as usize;
            tally.cold += usize::from(chunk.cold);
            tally.gone += chunk.gone();
        }
        let ranges = || self.gone.iter().flat_map(|gone| gone.iter());
        tally.dirty += ranges().filter(|range| range.written.is_none()).count();
        tally.gone += ranges().count();
        tally
    }

    /// Whether there is nothing to remember of the key.
    pub(super) fn is_unneeded(&self) -> bool {
        self.len == 0 && self.rest.is_empty() && self.first.is_unneeded() && self.gone.is_none()
    }

    pub(super) fn chunks(&self) -> usize {
        1 + self.rest.len()
    }

    fn chunk(&self, at: usize) -> &Chunk<N, V> {
        at.checked_sub(1).map_or(&self.first, |at| &self.rest[at].1)
    }

    fn chunk_mut(&mut self, at: usize) -> &mut Chunk<N, V> {
        match at.checked_sub(1) {
            None => &mut self.first,
            Some(at) => &mut self.rest[at].1,
        }
    }

    fn all_chunks(&mut self) -> impl Iterator<Item = &mut Chunk<N, V>> {
        std::iter::once(&mut self.first).chain(self.rest.iter_mut().map(|(_, chunk)| chunk))
    }

    #[inline]
    fn chunk_of(&self, entry: &N) -> usize {
        if self.rest.is_empty() {
            return 0;
        }
        self.rest.partition_point(|(least, _)| least <= entry)
    }

    #[inline]
    pub(super) fn find(&self, entry: &N) -> Place {
        let chunk = self.chunk_of(entry);
        match self.chunk(chunk).find(entry) {
            Ok(at) => Place::Here(chunk, at),
            Err(at) => Place::Missing(chunk, at),
        }
    }

    /// The entry at a place where there is one.
    #[inline]
    pub(super) fn item(&self, chunk: usize, at: usize) -> &Item<N, V> {
        &self.chunk(chunk).items[at]
    }

    /// The entry at a place where there is one, to change it. It lives until then, and the next snapshot writes it.
    #[inline]
    pub(super) fn change(
        &mut self,
        (chunk, at): (usize, usize),
        until: Timestamp,
        tally: &mut Tally,
    ) -> &mut Item<N, V> {
        let chunk = self.chunk_mut(chunk);
        chunk.used = true;
        chunk.earliest = chunk.earliest.min(until);
        let item = &mut chunk.items[at];
        item.until = until;
        let forgotten = seeded(Defect::FlowForgetsEntryChange) && item.is_stored();
        if !item.is_dirty() && !forgotten {
            item.mark();
            chunk.dirty += 1;
            tally.dirty += 1;
        }
        item
    }

    /// Notes that a chunk was read.
    #[inline]
    pub(super) fn used(&mut self, chunk: usize) {
        self.chunk_mut(chunk).used = true;
    }

    /// How many entries of a chunk are in the store alone.
    pub(super) fn cold_in(&self, chunk: usize) -> usize {
        self.chunk(chunk).cold.into()
    }

    /// Whether an entry more finds no room in a chunk, which is then divided: all of it must be in memory for that.
    pub(super) fn is_full(&self, chunk: usize) -> bool {
        self.chunk(chunk).total() >= CHUNK_ENTRIES_MAX
    }

    /// The entries that a chunk may hold.
    pub(super) fn bounds_of(&self, chunk: usize) -> Bounds<'_, N> {
        let from =
            chunk.checked_sub(1).map_or(Bound::Unbounded, |at| Bound::Included(&self.rest[at].0));
        let to = self.rest.get(chunk).map_or(Bound::Unbounded, |(least, _)| Bound::Excluded(least));
        (from, to)
    }

    /// The place behind the last entry, and that entry. The last chunk is in memory.
    pub(super) fn end(&self) -> ((usize, usize), Option<&N>) {
        let chunk = self.rest.len();
        let items = &self.chunk(chunk).items;
        // Where only gone entries are left in the last chunk, what comes next is behind its beginning still.
        let before = self.rest.last().map(|(least, _)| least);
        ((chunk, items.len()), items.last().map(|item| &item.entry).or(before))
    }

    /// The first and the last chunk that may hold any of these entries.
    pub(super) fn chunks_in(&self, (from, to): Bounds<'_, N>) -> (usize, usize) {
        let of = |bound, other| match bound {
            Bound::Included(entry) | Bound::Excluded(entry) => self.chunk_of(entry),
            Bound::Unbounded => other,
        };
        let first = of(from, 0);
        (first, of(to, self.rest.len()).max(first))
    }

    /// Where in a chunk the entries begin that are in these bounds, and where they end.
    pub(super) fn within(&self, chunk: usize, (from, to): Bounds<'_, N>) -> std::ops::Range<usize> {
        let items = &self.chunk(chunk).items;
        let begin = match from {
            Bound::Unbounded => 0,
            Bound::Included(from) => items.partition_point(|item| item.entry < *from),
            Bound::Excluded(from) => items.partition_point(|item| item.entry <= *from),
        };
        let end = match to {
            Bound::Unbounded => items.len(),
            Bound::Included(to) => items.partition_point(|item| item.entry <= *to),
            Bound::Excluded(to) => items.partition_point(|item| item.entry < *to),
        };
        begin..end.max(begin)
    }

    /// Adds an entry at a place where it is [`Missing`](Place::Missing); a chunk that is full is in memory. One that
    /// was removed and is back again counts as stored.
    pub(super) fn insert(
        &mut self,
        (mut chunk, mut at): (usize, usize),
        mut item: Item<N, V>,
        tally: &mut Tally,
    ) -> &mut Item<N, V> {
        let (was_gone, pending) = self.chunk_mut(chunk).forget_gone(&item.entry);
        if was_gone {
            item.mark_stored();
        }
        tally.dirty -= usize::from(pending);
        tally.gone -= usize::from(was_gone);
        if self.is_full(chunk) {
            debug_assert_eq!(self.chunk(chunk).cold, 0, "a full chunk is in memory");
            (chunk, at) = self.divide(chunk, at, &item.entry);
        }
        self.len += 1;
        tally.here += 1;
        tally.dirty += usize::from(item.is_dirty());
        let chunk = self.chunk_mut(chunk);
        chunk.used = true;
        chunk.add(at, item);
        &mut chunk.items[at]
    }

    /// Adds an entry behind all others, in memory and cold.
    pub(super) fn push(&mut self, item: Item<N, V>, tally: &mut Tally) {
        let ((chunk, at), _) = self.end();
        // The last chunk may have cold entries: all of them stay in it.
        if self.is_full(chunk) {
            self.divide(chunk, at, &item.entry);
        }
        let (place, _) = self.end();
        self.insert(place, item, tally);
    }

    /// Divides a chunk in two, for an entry that is to be at this place; its new place.
    #[cold]
    fn divide(&mut self, chunk: usize, at: usize, entry: &N) -> (usize, usize) {
        // What grows at its end fills its chunks.
        let appends = chunk == self.rest.len() && at == self.chunk(chunk).items.len();
        let half = self.chunk_mut(chunk);
        let cut = if appends { at } else { half.items.len() / 2 };
        let mut upper = Chunk::new();
        upper.items = half.items.split_off(cut);
        let least = upper.items.first().map_or_else(|| entry.clone(), |first| first.entry.clone());
        half.items.shrink_to(half.items.len());
        half.divide_gone(&least, &mut upper);
        [half, &mut upper].into_iter().for_each(Chunk::count);
        self.rest.insert(chunk, (least, upper));
        match (appends, at <= cut) {
            (true, _) => (chunk + 1, 0),
            (false, true) => (chunk, at),
            (false, false) => (chunk + 1, at - cut),
        }
    }

    /// Takes an entry out. One that the store may have is remembered as gone.
    pub(super) fn take(&mut self, (chunk, at): (usize, usize), tally: &mut Tally) -> Item<N, V> {
        let part = self.chunk_mut(chunk);
        let item = part.items.remove(at);
        part.give_back();
        part.dirty -= u32::from(item.is_dirty());
        tally.dirty -= usize::from(item.is_dirty());
        tally.here -= 1;
        self.len -= 1;
        if item.is_stored() && !seeded(Defect::FlowForgetsRemovedKey) {
            tally.note_gone(self.chunk_mut(chunk), item.entry.clone());
        }
        self.tidy(chunk);
        item
    }

    /// Joins a chunk with its neighbour where they have become small.
    fn tidy(&mut self, chunk: usize) {
        let at = if chunk == self.rest.len() { chunk.saturating_sub(1) } else { chunk };
        if at == self.rest.len()
            || self.chunk(at).total() + self.chunk(at + 1).total() >= CHUNK_ENTRIES_MIN
        {
            return;
        }
        let (_, mut upper) = self.rest.remove(at);
        let lower = self.chunk_mut(at);
        lower.items.append(&mut upper.items);
        lower.cold += upper.cold;
        lower.dirty += upper.dirty;
        lower.earliest = lower.earliest.min(upper.earliest);
        lower.used |= upper.used;
        lower.join_gone(&mut upper);
    }

    /// Whether an entry that is not in memory would be looked for in the store in vain, since it was removed.
    pub(super) fn is_gone(&self, entry: &N, readable: Epoch) -> bool {
        let chunk = self.chunk(self.chunk_of(entry));
        chunk.is_gone(entry)
            || self
                .gone
                .iter()
                .flat_map(|gone| gone.iter())
                .any(|range| !is_past(range.written, readable) && range.bounds().contains(entry))
    }

    /// Adds an entry as the store has it.
    pub(super) fn load(&mut self, item: Item<N, V>, tally: &mut Tally) {
        if let Place::Missing(chunk, at) = self.find(&item.entry) {
            if self.cold_in(chunk) > 0 {
                let part = self.chunk_mut(chunk);
                part.cold -= 1;
                part.used = true;
                part.add(at, item);
                self.cold -= 1;
                (tally.cold, tally.here) = (tally.cold - 1, tally.here + 1);
            } else {
                self.insert((chunk, at), item, tally);
            }
        }
    }

    /// All of a chunk is in memory now.
    pub(super) fn loaded(&mut self, chunk: usize, tally: &mut Tally) {
        let cold = std::mem::take(&mut self.chunk_mut(chunk).cold);
        debug_assert_eq!(cold, 0, "the store has fewer entries than it had");
        self.len -= usize::from(cold);
        self.cold -= usize::from(cold);
        tally.cold -= usize::from(cold);
    }

    /// An entry that is in the store alone has expired there.
    pub(super) fn expire_cold(&mut self, entry: N, tally: &mut Tally) {
        let chunk = self.chunk_of(&entry);
        let part = self.chunk_mut(chunk);
        if part.cold > 0 {
            part.cold -= 1;
            tally.note_gone(part, entry);
            self.len -= 1;
            self.cold -= 1;
            tally.cold -= 1;
            self.tidy(chunk);
        }
    }

    /// Takes out at most `entries_max` entries that have expired; how many they were.
    pub(super) fn expire(
        &mut self,
        now: Timestamp,
        entries_max: usize,
        tally: &mut Tally,
    ) -> usize {
        let mut expired = 0;
        for chunk in (0..self.chunks()).rev() {
            if self.chunk(chunk).earliest >= now || expired >= entries_max {
                continue;
            }
            let mut out = Vec::new();
            let part = self.chunk_mut(chunk);
            part.items.retain_mut(|item| {
                let stays = item.lives_at(now) || expired >= entries_max;
                if !stays {
                    expired += 1;
                    out.push((item.is_stored().then(|| item.entry.clone()), item.is_dirty()));
                }
                stays
            });
            part.earliest = part.items.iter().map(|item| item.until).min().unwrap_or(NEVER);
            part.give_back();
            tally.here -= out.len();
            self.len -= out.len();
            for (stored, was_dirty) in out {
                let part = self.chunk_mut(chunk);
                part.dirty -= u32::from(was_dirty);
                tally.dirty -= usize::from(was_dirty);
                if let Some(entry) = stored {
                    tally.note_gone(part, entry);
                }
            }
            self.tidy(chunk);
        }
        expired
    }

    /// Takes out all entries in these bounds, and says how many they were and how many of them the store may have.
    /// The first and the last chunk of the bounds are in memory. What the store has must be
    /// [remembered](Self::remember_range) or was few and is remembered one by one.
    pub(super) fn remove_range(
        &mut self,
        bounds: Bounds<'_, N>,
        singly_max: usize,
        tally: &mut Tally,
    ) -> usize {
        let (first, last) = self.chunks_in(bounds);
        let (mut removed, mut stored, mut cold) = (0, Vec::new(), 0);
        for chunk in (first..=last).rev() {
            let range = self.within(chunk, bounds);
            let inner = chunk != first && chunk != last;
            let part = self.chunk_mut(chunk);
            for item in part.items.drain(range) {
                removed += 1;
                part.dirty -= u32::from(item.is_dirty());
                tally.dirty -= usize::from(item.is_dirty());
                tally.here -= 1;
                if item.is_stored() {
                    stored.push(item.entry);
                }
            }
            part.give_back();
            if inner || bounds == (Bound::Unbounded, Bound::Unbounded) {
                let dropped = usize::from(std::mem::take(&mut part.cold));
                cold += dropped;
                tally.cold -= dropped;
                removed += dropped;
            }
        }
        self.len -= removed;
        self.cold -= cold;
        if cold > 0 || stored.len() > singly_max {
            if !seeded(Defect::FlowForgetsRemovedRange) {
                self.remember_range(bounds, tally);
            }
        } else {
            for entry in stored {
                let chunk = self.chunk_of(&entry);
                tally.note_gone(self.chunk_mut(chunk), entry);
            }
        }
        self.drop_unneeded(first, last);
        removed
    }

    /// Takes out the entries for which `keep` does not hold; all of them are in memory.
    pub(super) fn retain(
        &mut self,
        mut keep: impl FnMut(&N, &V) -> bool,
        singly_max: usize,
        tally: &mut Tally,
    ) {
        // Neighbours that go together.
        let (mut runs, mut open) = (Vec::<Vec<N>>::new(), false);
        for chunk in 0..self.chunks() {
            let (part, mut removed) = (self.chunk_mut(chunk), 0);
            let dirty = &mut part.dirty;
            part.items.retain_mut(|item| {
                let stays = keep(&item.entry, &item.value);
                if !stays {
                    removed += 1;
                    *dirty -= u32::from(item.is_dirty());
                    tally.dirty -= usize::from(item.is_dirty());
                    if item.is_stored() {
                        if !open {
                            runs.push(Vec::new());
                        }
                        if let Some(run) = runs.last_mut() {
                            run.push(item.entry.clone());
                        }
                        open = true;
                    }
                } else {
                    open = false;
                }
                stays
            });
            part.give_back();
            self.len -= removed;
            tally.here -= removed;
        }
        for run in runs {
            if let [first, .., last] = &run[..]
                && run.len() > singly_max
            {
                self.remember_range((Bound::Included(first), Bound::Included(last)), tally);
            } else {
                for entry in run {
                    let chunk = self.chunk_of(&entry);
                    tally.note_gone(self.chunk_mut(chunk), entry);
                }
            }
        }
        self.drop_unneeded(0, self.rest.len());
    }

    /// Remembers that a range of entries is gone.
    pub(super) fn remember_range(&mut self, (from, to): Bounds<'_, N>, tally: &mut Tally) {
        let gone = self.gone.get_or_insert_default();
        if (from, to) == (Bound::Unbounded, Bound::Unbounded) {
            // It holds all others.
            tally.dirty -= gone.iter().filter(|range| range.written.is_none()).count();
            tally.gone -= gone.len();
            gone.clear();
        }
        gone.push(GoneRange { from: from.cloned(), to: to.cloned(), written: None });
        tally.dirty += 1;
        tally.gone += 1;
    }

    /// Drops chunks of which nothing is left, and joins small ones.
    fn drop_unneeded(&mut self, first: usize, last: usize) {
        // All at once: each that is taken out by itself would move all behind it.
        let looked = first.max(1) - 1..last;
        self.rest.extract_if(looked, |(_, part)| part.is_unneeded()).for_each(drop);
        self.tidy(first.min(self.rest.len()));
    }

    /// Whether the store can give back all of it, and hides nothing of it: memory need not know the key.
    pub(super) fn is_readable(&self, readable: Epoch) -> bool {
        let chunks = std::iter::once(&self.first).chain(self.rest.iter().map(|(_, chunk)| chunk));
        self.gone.iter().flat_map(|gone| gone.iter()).all(|range| is_past(range.written, readable))
            && { chunks }.all(|chunk| {
                chunk.all_gone_are_past(readable)
                    && chunk.items.iter().all(|item| item.is_readable(readable))
            })
    }

    /// All of it leaves memory.
    pub(super) fn leave(&mut self, tally: &mut Tally) {
        for chunk in self.all_chunks() {
            tally.here -= chunk.items.len();
            tally.dirty -= chunk.dirty as usize;
            tally.cold -= usize::from(chunk.cold);
            tally.gone -= chunk.gone();
        }
        let ranges = || self.gone.iter().flat_map(|gone| gone.iter());
        tally.dirty -= ranges().filter(|range| range.written.is_none()).count();
        tally.gone -= ranges().count();
    }

    /// Drops entries that the store can give back, of chunks that were not used since the last call; how many.
    pub(super) fn evict(&mut self, readable: Epoch, tally: &mut Tally) -> usize {
        let (mut evicted, mut lost) = (0, 0);
        for chunk in self.all_chunks() {
            if std::mem::take(&mut chunk.used) {
                continue;
            }
            tally.gone -= chunk.purge(readable);
            let before = chunk.items.len();
            chunk.items.retain(|item| !item.is_readable(readable));
            let dropped = before - chunk.items.len();
            if dropped > 0 {
                chunk.items.shrink_to(0);
                if !seeded(Defect::FlowForgetsColdEntry) {
                    chunk.cold += dropped as u16;
                    tally.cold += dropped;
                } else {
                    lost += dropped;
                }
                tally.here -= dropped;
                evicted += dropped;
            }
        }
        self.len -= lost;
        self.cold += evicted - lost;
        evicted
    }

    /// Forgets gone entries and ranges that the store does not show any more; whether there are others.
    pub(super) fn purge(&mut self, readable: Epoch, tally: &mut Tally) -> bool {
        if let Some(gone) = &mut self.gone {
            tally.gone -= gone.len();
            gone.retain(|range| !is_past(range.written, readable));
            tally.gone += gone.len();
            if gone.is_empty() {
                self.gone = None;
            }
        }
        let mut some = self.gone.is_some();
        for chunk in self.all_chunks() {
            tally.gone -= chunk.purge(readable);
            some |= chunk.some_gone();
        }
        self.drop_unneeded(1, self.rest.len());
        some
    }

    /// Gives `delete_range`, `delete` and `put` what has changed since the last call, which `epoch` writes; whether
    /// anything is gone that the store may still show.
    pub(super) fn write(
        &mut self,
        epoch: Epoch,
        write: &mut impl FnMut(Write<'_, N, V>),
        tally: &mut Tally,
    ) -> bool {
        let mut some_gone = self.gone.is_some();
        for range in self.gone.iter_mut().flat_map(|gone| gone.iter_mut()) {
            if range.written.is_none() {
                write(Write::DeleteRange(range.bounds()));
                range.written = Some(epoch);
                tally.dirty -= 1;
            }
        }
        for chunk in self.all_chunks() {
            some_gone |= chunk.some_gone();
            if chunk.dirty == 0 {
                continue;
            }
            chunk.write_gone(epoch, |entry| write(Write::Delete(entry)));
            for item in &mut chunk.items {
                if item.is_dirty() {
                    write(Write::Put(&*item));
                    item.written(epoch);
                }
            }
            tally.dirty -= std::mem::take(&mut chunk.dirty) as usize;
        }
        some_gone
    }

    /// The entries in memory that are in these bounds and have not expired.
    pub(super) fn range(&self, bounds: Bounds<'_, N>, now: Timestamp) -> Range<'_, N, V> {
        let (first, last) = self.chunks_in(bounds);
        let (front, back) = (self.within(first, bounds).start, self.within(last, bounds).end);
        Range { body: Some(self), front: (first, front), back: (last, back), now }
    }
}

/// What a snapshot writes.
pub(super) enum Write<'a, N, V> {
    DeleteRange(Bounds<'a, N>),
    Delete(&'a N),
    Put(&'a Item<N, V>),
}

/// Entries in order, from the front and from the back.
pub(super) struct Range<'a, N, V> {
    body: Option<&'a Body<N, V>>,
    front: (usize, usize),
    /// Behind the last one.
    back: (usize, usize),
    now: Timestamp,
}

impl<N, V> Clone for Range<'_, N, V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<N, V> Range<'_, N, V> {
    /// No entries.
    pub(super) const EMPTY: Self = Self { body: None, front: (0, 0), back: (0, 0), now: NEVER };
}

impl<'a, N: OrderedKey, V> Iterator for Range<'a, N, V> {
    type Item = (&'a N, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let body = self.body?;
        while self.front < self.back {
            let (chunk, at) = self.front;
            let Some(item) = body.chunk(chunk).items.get(at) else {
                self.front = (chunk + 1, 0);
                continue;
            };
            self.front.1 += 1;
            if item.lives_at(self.now) {
                return Some((&item.entry, &item.value));
            }
        }
        None
    }
}

impl<N: OrderedKey, V> DoubleEndedIterator for Range<'_, N, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let body = self.body?;
        while self.front < self.back {
            let (chunk, behind) = self.back;
            let Some(at) = behind.checked_sub(1) else {
                self.back = (chunk - 1, body.chunk(chunk - 1).items.len());
                continue;
            };
            self.back.1 = at;
            let item = &body.chunk(chunk).items[at];
            if item.lives_at(self.now) {
                return Some((&item.entry, &item.value));
            }
        }
        None
    }
}
