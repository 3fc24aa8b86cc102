//! A hash table of a size that is moved in one go, and knows which of its entries are marked.
//!
//! Marks are a bit per bucket, beside the table. So marking is one store, and no list of marked entries grows
//! without bound. Whoever collects the marked entries finds them in the order in which they lie in memory.

use std::ops::Range;

use hashbrown::HashTable;

/// What knows its own hash.
pub(in crate::state) trait Hashed {
    /// The hash: well spread in its low and in its high bits.
    fn hash(&self) -> u64;

    /// Some number, for which its first and its last bytes are read.
    #[inline(always)]
    fn touch(&self) -> u64 {
        self.hash()
    }
}

/// See the module. One cache line.
#[repr(align(64))]
pub(in crate::state) struct Segment<T> {
    pub(super) table: HashTable<T>,
    /// A bit for each bucket.
    pub(super) marks: Vec<u64>,
    /// Whether it is in its owner's list of segments with marks.
    pub(in crate::state) listed: bool,
}

impl<T: Hashed> Segment<T> {
    pub(in crate::state) fn with_capacity(entries: usize) -> Self {
        let table = HashTable::with_capacity(entries);
        let marks = vec![0; table.num_buckets().div_ceil(64)];
        Self { table, marks, listed: false }
    }

    /// The number of entries.
    #[inline(always)]
    pub(in crate::state) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the next insert [rebuilds](Self::rebuild) it.
    #[inline(always)]
    pub(in crate::state) fn is_full(&self) -> bool {
        self.table.len() == self.table.capacity()
    }

    /// Whether it has many times the buckets that it needs.
    #[inline(always)]
    pub(in crate::state) fn is_sparse(&self) -> bool {
        self.table.len() * 8 < self.table.num_buckets()
    }

    /// The bytes of its buffers.
    pub(in crate::state) fn memory_bytes(&self) -> usize {
        self.table.allocation_size() + self.marks.len() * 8
    }

    /// All entries.
    pub(in crate::state) fn iter(&self) -> impl Iterator<Item = &T> {
        self.table.iter()
    }

    /// The entry of this hash that `is` it.
    #[inline(always)]
    pub(in crate::state) fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        self.table.find(hash, is)
    }

    #[inline(always)]
    fn is_marked(&self, bucket: usize) -> bool {
        self.marks[bucket / 64] & 1 << (bucket % 64) != 0
    }

    /// Takes a mark away, and returns whether there was one.
    #[inline(always)]
    pub(super) fn unmark(&mut self, bucket: usize) -> bool {
        let marked = self.is_marked(bucket);
        self.marks[bucket / 64] &= !(1 << (bucket % 64));
        marked
    }

    /// Adds an entry.
    #[inline]
    pub(in crate::state) fn insert(&mut self, hash: u64, entry: T, marked: bool) -> &mut T {
        // A table that makes room by itself would move entries away from their marks.
        if self.is_full() {
            self.rebuild();
        }
        let entry = self.table.insert_unique(hash, entry, T::hash);
        let bucket = entry.bucket_index();
        self.marks[bucket / 64] |= u64::from(marked) << (bucket % 64);
        entry.into_mut()
    }

    /// Takes an entry out, and returns it with whether it was marked.
    #[inline]
    pub(in crate::state) fn remove(
        &mut self,
        hash: u64,
        is: impl Fn(&T) -> bool,
    ) -> Option<(T, bool)> {
        let found = self.table.find_entry(hash, is).ok()?;
        let bucket = found.bucket_index();
        let (entry, _) = found.remove();
        Some((entry, self.unmark(bucket)))
    }

    /// Moves all entries to a new table, which has room for a quarter more. It may be larger than this one, or smaller,
    /// or only without what removals have left.
    #[cold]
    pub(in crate::state) fn rebuild(&mut self) {
        let len = self.table.len();
        let mut other = Self::with_capacity(len + len / 4 + 4);
        other.listed = self.listed;
        self.empty_into(|_, _| 0, &mut [&mut other]);
        *self = other;
    }

    /// Gives each marked entry to `each`, and takes its mark away.
    pub(in crate::state) fn take_marked(&mut self, mut each: impl FnMut(&mut T)) {
        let words = self.marked_words();
        self.warm_marked(words.clone());
        for (word, marks) in (words.start..).zip(&mut self.marks[words]) {
            let mut marks = std::mem::take(marks);
            while marks != 0 {
                let bucket = word * 64 + marks.trailing_zeros() as usize;
                marks &= marks - 1;
                if let Some(entry) = self.table.get_bucket_mut(bucket) {
                    each(entry);
                }
            }
        }
    }

    /// The words of marks from the first to the last that has any.
    fn marked_words(&self) -> Range<usize> {
        let is_marked = |&marks: &u64| marks != 0;
        let first = self.marks.iter().position(is_marked).unwrap_or(0);
        first..self.marks.iter().rposition(is_marked).map_or(first, |last| last + 1)
    }

    /// Looks at the marked entries, one after the other, to have them in the cache. The accesses to memory overlap,
    /// as they would not with work in between.
    fn warm_marked(&self, words: Range<usize>) {
        let mut all = 0;
        for (word, &marks) in (words.start..).zip(&self.marks[words]) {
            let mut marks = marks;
            while marks != 0 {
                let bucket = word * 64 + marks.trailing_zeros() as usize;
                marks &= marks - 1;
                all ^= self.table.get_bucket(bucket).map_or(0, T::touch);
            }
        }
        std::hint::black_box(all);
    }

    /// Moves each entry into the one of `others` that `choose` names for it and its hash.
    pub(in crate::state) fn empty_into(
        &mut self,
        choose: impl Fn(&T, u64) -> usize,
        others: &mut [&mut Self],
    ) {
        let marked = self.marks.iter().map(|word| word.count_ones() as usize).sum::<usize>();
        if marked == 0 || marked == self.table.len() {
            // It does not matter then in which bucket an entry lies, and taking out all of them is cheaper.
            for entry in self.table.drain() {
                let hash = entry.hash();
                others[choose(&entry, hash)].insert(hash, entry, marked > 0);
            }
            return self.marks.fill(0);
        }
        for bucket in 0..self.table.num_buckets() {
            if let Ok(found) = self.table.get_bucket_entry(bucket) {
                let (entry, _) = found.remove();
                let hash = entry.hash();
                let marked = self.is_marked(bucket);
                others[choose(&entry, hash)].insert(hash, entry, marked);
            }
        }
        self.marks.fill(0);
    }
}
