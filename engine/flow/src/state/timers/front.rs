//! The earliest range of timers in order, sorted only as far as is needed.
//!
//! Items of sixteen bytes are gathered from the range's table when the first of them is asked for. The next [`RUN`] items
//! are sorted, the others lie as they come. The table is the truth, and the items are only its order: the item of a deleted
//! timer stays until it is met. When most items are dead, all are gathered anew. So a timer that is in the table has an
//! item here, perhaps two.

use std::cmp::Reverse;

use super::item::Item;

/// This many items are sorted at a time, and up to twice as many when others come in between.
const RUN: usize = 128;

/// See the module.
#[derive(Default)]
pub(super) struct Front {
    /// Whether the items were gathered.
    gathered: bool,
    /// Sorted, the earliest last.
    run: Vec<Item>,
    /// None of these is before `bound`, nor any of the run after it.
    later: Vec<Item>,
    bound: Option<Item>,
}

impl Front {
    pub(super) fn memory_bytes(&self) -> usize {
        (self.run.capacity() + self.later.capacity()) * size_of::<Item>()
    }

    /// Forgets all items: they are to be gathered anew.
    pub(super) fn forget(&mut self) {
        self.gathered = false;
        self.run.clear();
        self.later.clear();
        self.bound = None;
    }

    /// Takes in all items of the range.
    #[inline(never)]
    pub(super) fn gather(&mut self, items: impl Iterator<Item = Item>) {
        self.forget();
        self.gathered = true;
        self.later.extend(items);
    }

    /// Adds an item; `live` is how many timers there are in the range.
    #[inline]
    pub(super) fn insert(&mut self, item: Item, live: usize) {
        if !self.gathered {
            return;
        }
        if self.run.len() + self.later.len() > 2 * live + 4 * RUN {
            return self.forget();
        }
        if self.bound.unwrap_or(Item::MIN) <= item {
            return self.later.push(item);
        }
        let at = self.run.partition_point(|other| *other >= item);
        self.run.insert(at, item);
        if self.run.len() >= 2 * RUN {
            self.later.extend(self.run.drain(..RUN));
            self.bound = self.run.first().copied();
        }
    }

    /// The next item, dead or live; none once all have been taken out.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Item> {
        if self.run.is_empty() && !self.later.is_empty() {
            self.sort();
        }
        self.run.last().copied()
    }

    /// Takes the next item out.
    #[inline]
    pub(super) fn pop(&mut self) {
        self.run.pop();
    }

    /// Sorts the next of those that are left.
    #[inline(never)]
    fn sort(&mut self) {
        let at = self.later.len().saturating_sub(RUN);
        if at > 0 {
            self.later.select_nth_unstable_by_key(at, |&item| Reverse(item));
        }
        self.run.extend(self.later.drain(at..));
        self.run.sort_unstable_by_key(|&item| Reverse(item));
        self.bound = self.run.first().copied();
    }
}
