//! A hash table that grows and shrinks in small steps, and knows which of its entries are marked.
//!
//! It is made of many small tables, the [segments](Segment), and grows by *linear hashing*. Whenever there are
//! more than [`ENTRIES_PER_SEGMENT`] entries for each segment, the next segment in turn is split in two.
//! So no operation moves more than about two thousand entries, and no buffer is large. (One large table asks the system
//! for all the memory of its next size at once, and gives the old memory back at once. Even if it moves its entries step
//! by step, that takes milliseconds with a million entries.) A look-up costs one access more than in a bare table, to
//! the list of segments, which stays in a second-level cache.
//!
//! Equal and otherwise bad hashes cost time, as in any table. They make a segment large, and steps as long as it.
//! Nothing else goes wrong.

use hashbrown::hash_table::OccupiedEntry;

use super::segment::{Hashed, Segment};

/// A segment is split when there are more than this many entries for each. A segment that waits for its turn has
/// up to twice as many, which just fit into 2,048 buckets.
const ENTRIES_PER_SEGMENT: usize = 800;
/// Two segments are joined when there are fewer than this many entries for each.
const ENTRIES_PER_SEGMENT_MIN: usize = 200;
/// Buckets are chosen by the bits of a hash below these, segments by these. (The highest seven tell the
/// entries of a segment apart.)
const SEGMENT_BITS: u32 = 11;

/// See the module.
pub(in crate::state) struct Segments<T> {
    /// Never empty.
    segments: Vec<Segment<T>>,
    /// `2n - 1` for the largest power of two `n` that is not over the number of segments.
    wide: usize,
    len: usize,
    /// The segments in which something was marked. A segment that is gone may be among them.
    listed: Vec<u32>,
    /// How many entries are marked.
    marked: usize,
}

/// Where an entry lies, until something is inserted or removed; or where a walk goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct Place {
    segment: usize,
    bucket: usize,
}

/// What becomes of an entry on a walk.
pub(in crate::state) enum Verdict {
    /// It stays.
    Keep,
    /// It is taken out.
    Take,
    /// It stays, and the walk ends here.
    Stop,
}

/// What a look-up has come to.
pub(in crate::state) enum Looked<'a, T> {
    /// The entry.
    Here(&'a mut T),
    /// It was dead and has been taken out.
    Dead(T),
    /// There is none.
    Absent,
}

impl<T: Hashed> Segments<T> {
    /// An empty one.
    pub(in crate::state) fn new() -> Self {
        let segments = vec![Segment::with_capacity(0)];
        Self { segments, wide: 1, len: 0, listed: Vec::new(), marked: 0 }
    }

    /// The number of entries.
    #[inline]
    pub(in crate::state) fn len(&self) -> usize {
        self.len
    }

    /// The number of entries that are marked.
    pub(in crate::state) fn marked(&self) -> usize {
        self.marked
    }

    /// The number of buckets, with an entry or without.
    pub(in crate::state) fn buckets(&self) -> usize {
        self.segments.iter().map(|segment| segment.table.num_buckets()).sum()
    }

    /// The bytes of its buffers.
    pub(in crate::state) fn memory_bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Segment<T>>()
            + self.segments.iter().map(Segment::memory_bytes).sum::<usize>()
    }

    #[inline(always)]
    fn segment_of(&self, hash: u64) -> usize {
        let at = (hash >> SEGMENT_BITS) as usize & self.wide;
        if at < self.segments.len() { at } else { at & (self.wide >> 1) }
    }

    /// The entry of this hash that `is` it.
    #[inline(always)]
    pub(in crate::state) fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        self.segments[self.segment_of(hash)].find(hash, is)
    }

    /// Reads of entries with these hashes: some number.
    pub(in crate::state) fn touch(&self, hashes: &[u64]) -> u64 {
        let mut all = 0;
        for &hash in hashes {
            // Seven bits of the hash tell that it is the one, nearly always: no branch to be guessed wrong.
            let found = self.segments[self.segment_of(hash)].find(hash, |_| true);
            all ^= found.map_or(0, T::touch);
        }
        all
    }

    /// The entry of this hash that `is` it. Unless it is as `usual`, it is taken out if it is `dead`, and
    /// else given to `touch`, which says whether to mark it.
    #[inline(always)]
    pub(in crate::state) fn look(
        &mut self,
        hash: u64,
        is: impl Fn(&T) -> bool,
        usual: impl FnOnce(&T) -> bool,
        dead: impl FnOnce(&T) -> bool,
        touch: impl FnOnce(&mut T) -> bool,
    ) -> Looked<'_, T> {
        let at = self.segment_of(hash);
        let Segment { table, marks, listed } = &mut self.segments[at];
        let Ok(found) = table.find_entry(hash, is) else { return Looked::Absent };
        if usual(found.get()) {
            return Looked::Here(found.into_mut());
        }
        let list = (listed, &mut self.listed, at);
        let looked = look_closer(found, (marks, &mut self.marked), list, dead, touch);
        self.len -= usize::from(matches!(looked, Looked::Dead(_)));
        looked
    }

    /// Adds an entry that is not here.
    #[inline]
    pub(in crate::state) fn insert(&mut self, entry: T, marked: bool) -> &mut T {
        if self.len >= self.segments.len() * ENTRIES_PER_SEGMENT {
            self.split();
        }
        self.len += 1;
        let hash = entry.hash();
        let at = self.segment_of(hash);
        if marked {
            self.marked += 1;
            self.list(at);
        }
        self.segments[at].insert(hash, entry, marked)
    }

    /// Takes an entry out, and returns it with whether it was marked.
    #[inline]
    pub(in crate::state) fn remove(
        &mut self,
        hash: u64,
        is: impl Fn(&T) -> bool,
    ) -> Option<(T, bool)> {
        let at = self.segment_of(hash);
        let removed = self.segments[at].remove(hash, is)?;
        self.marked -= usize::from(removed.1);
        self.removed_one();
        Some(removed)
    }

    #[inline]
    fn removed_one(&mut self) {
        self.len -= 1;
        if self.len < (self.segments.len() - 1) * ENTRIES_PER_SEGMENT_MIN {
            self.join();
        }
    }

    /// Notes that something in this segment is marked.
    #[inline]
    fn list(&mut self, segment: usize) {
        if !self.segments[segment].listed {
            self.segments[segment].listed = true;
            self.listed.push(segment as u32);
        }
    }

    /// Adds a segment, filled from the one whose turn it is.
    #[cold]
    fn split(&mut self) {
        let new = self.segments.len();
        if new > self.wide {
            self.wide = self.wide * 2 + 1;
        }
        let (wide, at) = (self.wide, new & (self.wide >> 1));
        // Both get the size to which they would grow before it is their turn again. All segments that wait have about as
        // many entries, and would grow in one step otherwise.
        let room = self.segments[at].table.capacity();
        let (mut low, mut high) = (Segment::with_capacity(room), Segment::with_capacity(room));
        let is_high = |_: &T, hash: u64| usize::from((hash >> SEGMENT_BITS) as usize & wide == new);
        self.segments[at].empty_into(is_high, &mut [&mut low, &mut high]);
        let listed = self.segments[at].listed;
        low.listed = listed;
        self.segments[at] = low;
        self.segments.push(high);
        if listed {
            self.list(new);
        }
    }

    /// Takes the newest segment away and moves what is in it back to where it came from.
    #[cold]
    fn join(&mut self) {
        let Some(mut last) = self.segments.pop() else { return };
        if self.segments.len() <= self.wide >> 1 {
            self.wide >>= 1;
        }
        let at = self.segments.len() & (self.wide >> 1);
        if last.listed {
            self.list(at);
        }
        last.empty_into(|_, _| 0, &mut [&mut self.segments[at]]);
    }

    /// Walks over at most `buckets`, over each of them once, from where the last walk ended; returns how many they
    /// were. What is taken out goes to `taken`.
    pub(in crate::state) fn walk(
        &mut self,
        hand: &mut Place,
        buckets: usize,
        mut judge: impl FnMut(&mut T) -> Verdict,
        mut taken: impl FnMut(T),
    ) -> usize {
        let mut first = None;
        for walked in 0..buckets {
            let segment = self.segments.get(hand.segment);
            if segment.is_none_or(|segment| hand.bucket >= segment.table.num_buckets()) {
                let next = hand.segment + 1;
                let segment = if next < self.segments.len() { next } else { 0 };
                *hand = Place { segment, bucket: 0 };
            }
            if first == Some(*hand) {
                return walked;
            }
            first.get_or_insert(*hand);
            let segment = &mut self.segments[hand.segment];
            let verdict =
                segment.table.get_bucket_mut(hand.bucket).map_or(Verdict::Keep, &mut judge);
            match verdict {
                Verdict::Keep => {}
                Verdict::Stop => return walked,
                Verdict::Take => {
                    if let Ok(found) = segment.table.get_bucket_entry(hand.bucket) {
                        let (entry, _) = found.remove();
                        self.marked -= usize::from(segment.unmark(hand.bucket));
                        self.removed_one();
                        taken(entry);
                    }
                }
            }
            hand.bucket += 1;
        }
        buckets
    }

    /// Gives each marked entry to `each`, and takes its mark away.
    pub(in crate::state) fn take_marked(&mut self, mut each: impl FnMut(&mut T)) {
        self.marked = 0;
        for at in self.listed.drain(..) {
            let Some(segment) = self.segments.get_mut(at as usize) else { continue };
            segment.listed = false;
            segment.take_marked(&mut each);
        }
    }

    /// All entries.
    pub(in crate::state) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flat_map(Segment::iter)
    }
}

/// The unusual part of a look-up.
#[inline(never)]
fn look_closer<'a, T>(
    mut found: OccupiedEntry<'a, T>,
    (marks, marked): (&mut [u64], &mut usize),
    (listed, list, at): (&mut bool, &mut Vec<u32>, usize),
    dead: impl FnOnce(&T) -> bool,
    touch: impl FnOnce(&mut T) -> bool,
) -> Looked<'a, T> {
    let bucket = found.bucket_index();
    if dead(found.get()) {
        let mark = 1 << (bucket % 64);
        *marked -= usize::from(marks[bucket / 64] & mark != 0);
        marks[bucket / 64] &= !mark;
        return Looked::Dead(found.remove().0);
    }
    if touch(found.get_mut()) {
        marks[bucket / 64] |= 1 << (bucket % 64);
        *marked += 1;
        if !*listed {
            *listed = true;
            list.push(at as u32);
        }
    }
    Looked::Here(found.into_mut())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Number(u64, u64);

    impl Hashed for Number {
        fn hash(&self) -> u64 {
            hash(self.0, self.1)
        }
    }

    fn hash(number: u64, mask: u64) -> u64 {
        let product = u128::from(number ^ 0x1319_8a2e_0370_7344) * 0x9e37_79b9_7f4a_7c15;
        (product as u64 ^ (product >> 64) as u64) & mask
    }

    #[test]
    fn entries_and_marks_survive_growing_and_shrinking() {
        for mask in [u64::MAX, 0x3ff, !0 << SEGMENT_BITS] {
            let (mut table, mut model) = (Segments::new(), BTreeMap::new());
            let keys = if mask == u64::MAX { 40_000 } else { 3_000 };
            let steps = (0..keys).chain(0..keys).chain(0..keys / 2);
            for (n, number) in steps.enumerate() {
                let at = hash(number, mask);
                if n as u64 >= keys {
                    let removed = table.remove(at, |entry: &Number| entry.0 == number);
                    let expected = model.remove(&number);
                    assert_eq!(
                        removed.map(|(entry, marked)| (entry.0, marked)),
                        expected.map(|marked| (number, marked))
                    );
                } else {
                    table.insert(Number(number, mask), number % 3 == 0);
                    model.insert(number, number % 3 == 0);
                }
                if n as u64 == keys * 3 / 2 {
                    let mut marked = Vec::new();
                    table.take_marked(|entry| marked.push(entry.0));
                    marked.sort_unstable();
                    let expected = model
                        .iter_mut()
                        .filter_map(|(&number, marked)| std::mem::take(marked).then_some(number));
                    assert_eq!(marked, expected.collect::<Vec<_>>());
                }
                assert_eq!(table.len(), model.len());
                if n % 1_000 == 0 {
                    let marked = model.values().filter(|marked| **marked).count();
                    assert_eq!(table.marked(), marked);
                }
            }
            assert_eq!((table.len(), table.iter().count()), (0, 0));
            assert_eq!(table.segments.len(), 1, "it shrinks back");
        }
    }

    /// Goal: a walk goes round once, wherever it begins.
    #[test]
    fn a_walk_meets_no_entry_twice() {
        for len in [0, 1, 4, 10_000] {
            let (mut table, mut hand) = (Segments::new(), Place::default());
            (0..len).for_each(|n| _ = table.insert(Number(n, u64::MAX), true));
            for to_begin in [0, 1, 1, 2, 1_000] {
                table.walk(&mut hand, to_begin, |_: &mut Number| Verdict::Keep, drop);
                let mut met = Vec::new();
                let walked = table.walk(
                    &mut hand,
                    1_000_000,
                    |entry| {
                        met.push(entry.0);
                        Verdict::Keep
                    },
                    drop,
                );
                met.sort_unstable();
                assert!(met.into_iter().eq(0..len), "{len} from {to_begin}");
                assert_eq!(walked, table.buckets().max(1));
            }
        }
    }

    #[test]
    fn a_walk_meets_every_entry_and_takes_out_what_it_is_told_to() {
        let mut table = Segments::new();
        (0..10_000).for_each(|n| _ = table.insert(Number(n, u64::MAX), true));
        let (mut hand, mut met, mut out) = (Place::default(), Vec::new(), Vec::new());
        for _ in 0..table.buckets() / 100 + 1 + 10_000 / 100 {
            let judge = |entry: &mut Number| {
                met.push(entry.0);
                if entry.0.is_multiple_of(10) { Verdict::Take } else { Verdict::Keep }
            };
            table.walk(&mut hand, 100, judge, |entry| out.push(entry.0));
        }
        met.sort_unstable();
        met.dedup();
        assert!(met.iter().copied().eq(0..10_000));
        assert!(out.len() == 1_000 && table.len() == 9_000);
        let mut marked = 0;
        table.take_marked(|entry| marked += usize::from(entry.0 % 10 != 0));
        assert_eq!(marked, 9_000);
    }
}
