//! [`ListState`]: values in the order in which they were added, each an entry under its number.

use std::cell::RefCell;
use std::fmt;
use std::ops::Bound;
use std::rc::Rc;

use thalweg_kernel::{Durable, Key};

use crate::process::Context;
use crate::state::STATE_ENTRIES_MAX;
use crate::state::entries::{Entries, InOrder};

/// A list of values for each key, in the order they were added. An item that is added is written by itself, and lives
/// by itself where items expire.
pub struct ListState<K, V>(pub(in crate::state) Rc<RefCell<Entries<K, u64, V>>>);

const ALL: (Bound<&u64>, Bound<&u64>) = (Bound::Unbounded, Bound::Unbounded);

/// The number of the item behind the one with this number.
fn next(last: Option<&u64>) -> u64 {
    last.map_or(0, |last| last + 1)
}

impl<K: Key, V: Durable> ListState<K, V> {
    /// Adds a value at the end. Beyond [`STATE_ENTRIES_MAX`] values it is counted (`numEntriesOverLimitDropped`) and
    /// not added.
    pub fn push(&self, cx: &Context<'_, K>, value: V) {
        self.0.borrow_mut().append(&cx.at(), value, next);
    }

    /// The number of values.
    pub fn len(&self, cx: &Context<'_, K>) -> usize {
        self.0.borrow_mut().len(&cx.at())
    }

    /// Whether there are none.
    pub fn is_empty(&self, cx: &Context<'_, K>) -> bool {
        self.0.borrow_mut().first(&cx.at(), ALL, |_, _| ()).is_none()
    }

    /// What `look` makes of the values.
    pub fn with<R>(&self, cx: &Context<'_, K>, look: impl FnOnce(ListItems<'_, V>) -> R) -> R {
        look(ListItems(self.0.borrow_mut().range(&cx.at(), ALL)))
    }

    /// The values.
    pub fn get(&self, cx: &Context<'_, K>) -> Vec<V>
    where
        V: Clone,
    {
        self.with(cx, |items| items.cloned().collect())
    }

    /// Keeps the values for which `keep` holds. A list that is empty then is dropped.
    pub fn retain(&self, cx: &Context<'_, K>, mut keep: impl FnMut(&V) -> bool) {
        self.0.borrow_mut().retain(&cx.at(), |_, value| keep(value));
    }

    /// Sets all values. Those beyond [`STATE_ENTRIES_MAX`] are counted (`numEntriesOverLimitDropped`) and not added.
    pub fn set(&self, cx: &Context<'_, K>, values: Vec<V>) {
        let mut entries = self.0.borrow_mut();
        entries.clear(&cx.at());
        let over = values.len().saturating_sub(STATE_ENTRIES_MAX);
        entries.count_over_limit(over);
        for value in values.into_iter().take(STATE_ENTRIES_MAX) {
            entries.append(&cx.at(), value, next);
        }
    }

    /// Drops the list.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.0.borrow_mut().clear(&cx.at());
    }
}

/// The values of a list, in order.
pub struct ListItems<'a, V>(InOrder<'a, u64, V>);

impl<V> Clone for ListItems<'_, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, V> Iterator for ListItems<'a, V> {
    type Item = &'a V;

    #[inline]
    fn next(&mut self) -> Option<&'a V> {
        self.0.next().map(|(_, value)| value)
    }
}

impl<V> DoubleEndedIterator for ListItems<'_, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(_, value)| value)
    }
}

impl<V: fmt::Debug> fmt::Debug for ListItems<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
