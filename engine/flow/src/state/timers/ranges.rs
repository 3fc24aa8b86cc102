//! Which timer is in which range of time.
//!
//! ```text
//! bounds      8:30      8:12      8:05               in falling order
//! order     7    |    2    |    0    |    5          one more: the last is the earliest range, the front
//! tables    a hash table for each number; numbers that are free wait to be used again
//! ```
//! Ranges are cut so that each has some hundred timers. A range with [`TIMERS_PER_RANGE`] is split in the middle of what
//! lies in it. An empty range becomes part of the one before. So ranges fit whatever times there are. Items are
//! ordered by hash where times are equal: many timers of one millisecond are split like all others. Timers that are equal
//! in both cannot be split, and their table grows.

use thalweg_kernel::Timestamp;

use super::super::table::{Hashed, Segment};
use super::item::Item;

/// A range that has this many timers is split: as many as fit into 2,048 buckets.
const TIMERS_PER_RANGE: usize = 1_792;
/// Some ranges are split when they have up to this many timers fewer. Where ranges grow alike, as those of one millisecond
/// do, all of them would be split within a few steps otherwise.
const SPLIT_EARLIER_MAX: usize = 448;

/// How many timers a range with this number may have before it is split.
#[inline(always)]
fn full_at(number: u32) -> usize {
    // No pattern in the numbers of ranges that lie side by side.
    let earlier = (number.wrapping_mul(0x9e37_79b9) >> 16) as usize % SPLIT_EARLIER_MAX;
    TIMERS_PER_RANGE - earlier
}

/// Whether the range with this number is to be split before the next timer.
#[inline(always)]
fn is_full<T: Hashed>(table: &Segment<T>, number: u32) -> bool {
    if table.len() <= TIMERS_PER_RANGE - SPLIT_EARLIER_MAX {
        return false;
    }
    let full_at = full_at(number);
    // One that could not be split is tried again when its table is to grow, not with each timer.
    table.len() == full_at || table.is_full() && table.len() > full_at
}

/// What has a place in the order.
pub(super) trait Ordered: Hashed {
    fn item(&self) -> Item;
}

/// See the module.
pub(super) struct Ranges<T> {
    bounds: Vec<Item>,
    /// The times of the bounds.
    times: Vec<Timestamp>,
    order: Vec<u32>,
    tables: Vec<Segment<T>>,
    free: Vec<u32>,
    /// The tables in which something was marked.
    listed: Vec<u32>,
}

impl<T: Ordered> Ranges<T> {
    pub(super) fn new() -> Self {
        let tables = vec![Segment::with_capacity(0)];
        Self { bounds: vec![], times: vec![], order: vec![0], tables, free: vec![], listed: vec![] }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let numbers = self.order.capacity() + self.free.capacity() + self.listed.capacity();
        self.bounds.capacity() * size_of::<(Item, Timestamp)>()
            + numbers * size_of::<u32>()
            + self.tables.capacity() * size_of::<Segment<T>>()
            + self.tables.iter().map(Segment::memory_bytes).sum::<usize>()
    }

    /// The place of the range of an item.
    #[inline]
    pub(super) fn range_of(&self, item: Item) -> usize {
        // By time alone there is no branch that depends on the item (of 128 bits there is): a wrong guess would
        // throw away the beginning of the next operation's access to memory.
        let time = item.time();
        let at = self.times.partition_point(|&bound| bound > time);
        match self.times.get(at) {
            Some(&bound) if bound == time => {
                at + self.bounds[at..].partition_point(|&bound| bound > item)
            }
            _ => at,
        }
    }

    /// The place of the earliest range.
    #[inline(always)]
    pub(super) fn front(&self) -> usize {
        self.bounds.len()
    }

    /// Where the range behind this one begins, if there is one.
    pub(super) fn bound_behind(&self, at: usize) -> Option<Item> {
        at.checked_sub(1).map(|behind| self.bounds[behind])
    }

    /// The table of a range.
    #[inline(always)]
    pub(super) fn table(&self, at: usize) -> &Segment<T> {
        &self.tables[self.order[at] as usize]
    }

    /// The table of a range, to take something out.
    #[inline(always)]
    pub(super) fn table_mut(&mut self, at: usize) -> &mut Segment<T> {
        &mut self.tables[self.order[at] as usize]
    }

    /// Adds an entry with this hash to its range, which is at `at`. The range may be split before: then
    /// places are others, and the answer is true.
    #[inline]
    pub(super) fn insert(&mut self, at: usize, hash: u64, entry: T, marked: bool) -> bool {
        let mut number = self.order[at];
        let split = is_full(&self.tables[number as usize], number) && self.split(at);
        if split {
            number = self.order[self.range_of(entry.item())];
        }
        let table = &mut self.tables[number as usize];
        table.insert(hash, entry, marked);
        if marked && !table.listed {
            table.listed = true;
            self.listed.push(number);
        }
        split
    }

    /// Splits a range, if it can be.
    #[cold]
    fn split(&mut self, at: usize) -> bool {
        let mut items: Vec<Item> = self.table(at).iter().map(T::item).collect();
        let half = items.len() / 2;
        let (before, &mut middle, after) = items.select_nth_unstable(half);
        let cut = if before.iter().any(|&item| item < middle) {
            middle
        } else if let Some(&next) = after.iter().filter(|&&item| item > middle).min() {
            next
        } else {
            return false;
        };
        let number = self.order[at] as usize;
        let mut earlier = Segment::with_capacity(TIMERS_PER_RANGE);
        let mut later = Segment::with_capacity(TIMERS_PER_RANGE);
        let is_later = |entry: &T, _| usize::from(entry.item() >= cut);
        let table = &mut self.tables[number];
        table.empty_into(is_later, &mut [&mut earlier, &mut later]);
        let listed = table.listed;
        earlier.listed = listed;
        *table = earlier;
        let new = self.free.pop().unwrap_or_else(|| {
            self.tables.push(Segment::with_capacity(0));
            self.tables.len() as u32 - 1
        });
        let place = &mut self.tables[new as usize];
        // The number may be in the list from an earlier use.
        later.listed = listed || place.listed;
        if listed && !place.listed {
            self.listed.push(new);
        }
        *place = later;
        self.bounds.insert(at, cut);
        self.times.insert(at, cut.time());
        self.order.insert(at, new);
        true
    }

    /// Something was taken out of a range: gives back the memory that it does not need any more.
    #[inline]
    pub(super) fn shrink(&mut self, at: usize) {
        if self.table(at).is_sparse() {
            self.shrink_sparse(at);
        }
    }

    #[cold]
    fn shrink_sparse(&mut self, at: usize) {
        if at == self.front() {
            return;
        }
        if self.table(at).len() > 0 {
            return self.table_mut(at).rebuild();
        }
        self.bounds.remove(at);
        self.times.remove(at);
        let number = self.order.remove(at);
        self.set_free(number);
    }

    /// Gives up the front, which is empty, for the next range; whether there is one.
    #[cold]
    pub(super) fn pop_front(&mut self) -> bool {
        if self.bounds.pop().is_none() {
            return false;
        }
        self.times.pop();
        let number = self.order.pop();
        number.into_iter().for_each(|number| self.set_free(number));
        true
    }

    fn set_free(&mut self, number: u32) {
        let table = &mut self.tables[number as usize];
        let listed = table.listed;
        *table = Segment::with_capacity(0);
        table.listed = listed;
        self.free.push(number);
    }

    /// Gives each marked entry to `each`, and takes its mark away.
    pub(super) fn take_marked(&mut self, mut each: impl FnMut(&mut T)) {
        for number in self.listed.drain(..) {
            let table = &mut self.tables[number as usize];
            table.listed = false;
            table.take_marked(&mut each);
        }
    }
}
