//! What is to happen, in order: times and hashes of keys, sorted only as far as is needed.
//!
//! ```text
//! run         the earliest, sorted, at most about ITEMS_MAX: taken off its end
//! buckets     the others: each with its bound, the least that may lie in it; not sorted inside
//! ```
//! A new item is appended to its bucket, which a search among the bounds finds. A bucket that is full is
//! split in the middle of what lies in it; the earliest one is sorted when the run is empty. So each
//! step is over after [`ITEMS_MAX`] items or so, and the buckets fit whatever times there are.
//! Items are ordered by hash where times are equal: many of one millisecond are split like all others.
//!
//! Deleted items stay where they are; only their bucket counts them, and when three quarters
//! of a bucket are dead it asks for each item whether it is live. So no bucket has more than three dead
//! ones for each live one, but for a few. An item that was deleted and came again is there twice until then.

use std::cmp::Reverse;

use thalweg_kernel::Timestamp;

/// A bucket is split when it has so many. A power of two: what cannot be split because all its items are
/// equal is tried again when it has twice as many.
const ITEMS_MAX: usize = 512;
/// In a bucket with fewer items the dead ones are left alone.
const ITEMS_MIN: usize = 64;

/// A time and the hash of a key: the order is that of times first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Item(u128);

impl Item {
    #[inline(always)]
    pub(super) fn new(time: Timestamp, hash: u64) -> Self {
        Self(u128::from(time.as_millis() as u64 ^ super::SIGN) << 64 | u128::from(hash))
    }

    #[inline(always)]
    pub(super) fn time(self) -> Timestamp {
        Timestamp::from_millis(((self.0 >> 64) as u64 ^ super::SIGN) as i64)
    }

    #[inline(always)]
    pub(super) fn hash(self) -> u64 {
        self.0 as u64
    }
}

/// See the module. Some operations are given a function that says how many live timers are like an item.
pub(super) struct Agenda {
    /// Sorted, the earliest last; all of them before the bounds.
    run: Bucket,
    /// In falling order.
    bounds: Vec<Item>,
    /// As many, none of them empty.
    buckets: Vec<Bucket>,
}

#[derive(Default)]
struct Bucket {
    items: Vec<Item>,
    /// So many of them are live.
    live: usize,
}

impl Bucket {
    fn has_many_dead(&self) -> bool {
        self.live * 4 < self.items.len() && self.items.len() > ITEMS_MIN
    }

    /// Keeps what is live.
    #[cold]
    fn clean(&mut self, is_run: bool, live: impl Fn(Item) -> usize) {
        self.items.retain(|&item| live(item) > 0);
        if self.items.len() == self.live {
            return;
        }
        // Some came again, and are there twice.
        if !is_run {
            self.items.sort_unstable();
        }
        let (mut like, mut left) = (None, 0);
        self.items.retain(|&item| {
            if like != Some(item) {
                (like, left) = (Some(item), live(item));
            }
            let keep = left > 0;
            left = left.saturating_sub(1);
            keep
        });
        self.live = self.items.len();
    }

    fn is_full(&self) -> bool {
        self.items.len() >= ITEMS_MAX && self.items.len().is_power_of_two()
    }

    /// Splits items near the middle, so that all of one part are before all of the other and equal ones
    /// lie together; the part that is later in the list. Sorted items stay sorted.
    fn split(&mut self, is_run: bool) -> Option<Vec<Item>> {
        let items = &mut self.items;
        let mut at = items.len() / 2;
        if !is_run {
            let (before, &mut middle, _) = items.select_nth_unstable(at);
            if !before.contains(&middle) {
                return Some(items.split_off(at));
            }
            items.sort_unstable();
        }
        let middle = *items.get(at)?;
        at = items.iter().position(|&item| item == middle)?;
        if at == 0 {
            at = items.iter().position(|&item| item != middle)?;
        }
        Some(items.split_off(at))
    }
}

impl Agenda {
    pub(super) fn new() -> Self {
        Self { run: Bucket::default(), bounds: Vec::new(), buckets: Vec::new() }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let items: usize = self.buckets.iter().map(|bucket| bucket.items.capacity()).sum();
        let buckets = self.buckets.capacity() * (size_of::<Bucket>() + size_of::<Item>());
        (self.run.items.capacity() + items) * size_of::<Item>() + buckets
    }

    /// The number of the bucket of an item; their number, if it is the run.
    #[inline]
    fn bucket_of(&self, item: Item) -> usize {
        // Without a branch that depends on the item: a wrong guess would throw away the beginning of the
        // next operation's access to memory.
        let (mut at, mut left) = (0, self.bounds.len());
        while left > 0 {
            let half = left.div_ceil(2);
            let is_after = self.bounds[at + half - 1] > item;
            at = std::hint::select_unpredictable(is_after, at + half, at);
            left -= half;
        }
        at
    }

    /// Adds an item, which `live` does not count yet; whether it is the next one now.
    #[inline]
    pub(super) fn insert(&mut self, item: Item, live: impl Fn(Item) -> usize) -> bool {
        let mut at = self.bucket_of(item);
        if self.buckets.get(at).unwrap_or(&self.run).is_full() {
            self.make_room(at, live);
            at = self.bucket_of(item);
        }
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.live += 1;
            bucket.items.push(item);
            return false;
        }
        let run = &mut self.run;
        let at = run.items.partition_point(|other| *other >= item);
        run.live += 1;
        run.items.insert(at, item);
        at + 1 == run.items.len()
    }

    /// Notes that an item is dead, which `live` does not count any more; whether it was perhaps the next.
    #[inline]
    pub(super) fn delete(&mut self, item: Item, live: impl Fn(Item) -> usize) -> bool {
        let at = self.bucket_of(item);
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.live -= 1;
            if bucket.live == 0 {
                self.bounds.remove(at);
                self.buckets.remove(at);
            } else if bucket.has_many_dead() {
                bucket.clean(false, live);
            }
            return false;
        }
        self.run.live -= 1;
        let was_next = self.run.items.last() == Some(&item);
        if self.run.live == 0 {
            self.run.items.clear();
        } else if self.run.has_many_dead() {
            self.run.clean(true, live);
        }
        was_next
    }

    /// Makes room in a bucket or in the run.
    #[cold]
    fn make_room(&mut self, at: usize, live: impl Fn(Item) -> usize) {
        let is_run = at == self.buckets.len();
        let bucket = self.buckets.get_mut(at).unwrap_or(&mut self.run);
        if bucket.live < bucket.items.len() {
            bucket.clean(is_run, live);
            if bucket.items.len() < ITEMS_MAX * 3 / 4 {
                return;
            }
        }
        let Some(items) = bucket.split(is_run) else { return };
        let mut later = Bucket { live: items.len(), items };
        bucket.live = bucket.items.len();
        bucket.items.shrink_to_fit();
        // The run is sorted the other way round.
        if is_run {
            std::mem::swap(bucket, &mut later);
        }
        if let Some(&first) = later.items.iter().min() {
            self.bounds.insert(at, first);
            self.buckets.insert(at, later);
        }
    }

    /// Makes the earliest bucket the run, if that is empty.
    #[inline]
    fn refill(&mut self) {
        if self.run.items.is_empty() {
            self.take_bucket();
        }
    }

    #[inline(never)]
    fn take_bucket(&mut self) {
        if let Some(bucket) = self.buckets.pop() {
            self.bounds.pop();
            self.run = bucket;
            self.run.items.sort_unstable_by_key(|&item| Reverse(item));
        }
    }

    /// Whether there may be something with a time up to `until`.
    #[inline]
    pub(super) fn begins_by(&self, until: Timestamp) -> bool {
        let first = self.run.items.last().or(self.bounds.last());
        first.is_some_and(|item| item.time() <= until)
    }

    /// The next item, dead or live.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Item> {
        self.refill();
        self.run.items.last().copied()
    }

    /// The items that come next, so many at most, the nearest last.
    pub(super) fn coming(&mut self, at_most: usize) -> &[Item] {
        self.refill();
        let items = &self.run.items;
        &items[items.len().saturating_sub(at_most)..]
    }

    /// Takes the next item out.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Item> {
        self.refill();
        self.run.items.pop()
    }

    /// What was taken out last was live.
    #[inline]
    pub(super) fn fired(&mut self) {
        self.run.live -= 1;
        if self.run.live == 0 {
            self.run.items.clear();
        }
    }
}
