//! [`MapState`]: values under keys of a map's own, in the order of these keys.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use thalweg_kernel::{Durable, Key, OrderedKey};

use crate::process::Context;
use crate::state::entries::{Entries, InOrder};

/// A map for each key, ordered by its own keys.
///
/// Each entry is kept by itself. Alone it is written when it changes, leaves memory and comes back, and expires.
pub struct MapState<K, M, V>(pub(in crate::state) Rc<RefCell<Entries<K, M, V>>>);

impl<K: Key, M: OrderedKey, V: Durable> MapState<K, M, V> {
    /// The value under `entry`.
    pub fn get(&self, cx: &Context<'_, K>, entry: &M) -> Option<V>
    where
        V: Clone,
    {
        self.look(cx, entry, |value| value.cloned())
    }

    /// What `look` makes of the value under `entry`, without cloning it.
    pub fn look<R>(&self, cx: &Context<'_, K>, entry: &M, look: impl FnOnce(Option<&V>) -> R) -> R {
        self.0.borrow_mut().with(&cx.at(), entry, look)
    }

    /// Whether there is a value under `entry`.
    pub fn contains(&self, cx: &Context<'_, K>, entry: &M) -> bool {
        self.look(cx, entry, |value| value.is_some())
    }

    /// Sets the value under `entry`. One entry more than
    /// [`STATE_ENTRIES_MAX`](crate::state::STATE_ENTRIES_MAX) is counted (`numEntriesOverLimitDropped`) and not added.
    pub fn put(&self, cx: &Context<'_, K>, entry: M, value: V) {
        self.0.borrow_mut().put(&cx.at(), entry, value);
    }

    /// Changes the value under `entry`, which begins as the default one. `None` where that would be one entry too
    /// many, as for [`put`](Self::put).
    pub fn update<R>(
        &self,
        cx: &Context<'_, K>,
        entry: M,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R>
    where
        V: Default,
    {
        self.0.borrow_mut().change(&cx.at(), entry, V::default, change)
    }

    /// Removes what is under `entry`, and returns whether there was anything. A map that is empty then is dropped.
    pub fn remove(&self, cx: &Context<'_, K>, entry: &M) -> bool {
        self.take(cx, entry).is_some()
    }

    /// Takes out what is under `entry`.
    pub fn take(&self, cx: &Context<'_, K>, entry: &M) -> Option<V> {
        self.0.borrow_mut().remove(&cx.at(), entry)
    }

    /// Removes the entries of a range: one change in storage, however many they are.
    pub fn remove_range(&self, cx: &Context<'_, K>, range: impl RangeBounds<M>) {
        self.0.borrow_mut().remove_range(&cx.at(), (range.start_bound(), range.end_bound()));
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&self, cx: &Context<'_, K>, keep: impl FnMut(&M, &V) -> bool) {
        self.0.borrow_mut().retain(&cx.at(), keep);
    }

    /// The number of entries. Those that have expired in storage alone, and were not met yet, count.
    pub fn len(&self, cx: &Context<'_, K>) -> usize {
        self.0.borrow_mut().len(&cx.at())
    }

    /// Whether there are none.
    pub fn is_empty(&self, cx: &Context<'_, K>) -> bool {
        self.first(cx, .., |_, _| ()).is_none()
    }

    /// What `look` makes of the entries, in order.
    pub fn with<R>(&self, cx: &Context<'_, K>, look: impl FnOnce(MapEntries<'_, M, V>) -> R) -> R {
        self.range(cx, .., look)
    }

    /// What `look` makes of the entries of a range, in order. All of them come into memory for that.
    pub fn range<R>(
        &self,
        cx: &Context<'_, K>,
        range: impl RangeBounds<M>,
        look: impl FnOnce(MapEntries<'_, M, V>) -> R,
    ) -> R {
        let bounds = (range.start_bound(), range.end_bound());
        look(MapEntries(self.0.borrow_mut().range(&cx.at(), bounds)))
    }

    /// What `look` makes of the first entry of a range. The others need not come into memory for that.
    pub fn first<R>(
        &self,
        cx: &Context<'_, K>,
        range: impl RangeBounds<M>,
        look: impl FnOnce(&M, &V) -> R,
    ) -> Option<R> {
        let bounds: (Bound<&M>, _) = (range.start_bound(), range.end_bound());
        self.0.borrow_mut().first(&cx.at(), bounds, look)
    }

    /// What `look` makes of the last entry of a range. The others need not come into memory for that.
    pub fn last<R>(
        &self,
        cx: &Context<'_, K>,
        range: impl RangeBounds<M>,
        look: impl FnOnce(&M, &V) -> R,
    ) -> Option<R> {
        let bounds = (range.start_bound(), range.end_bound());
        self.0.borrow_mut().last(&cx.at(), bounds, look)
    }

    /// Drops the map.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.0.borrow_mut().clear(&cx.at());
    }
}

/// Entries of a map, in order, from both ends.
pub struct MapEntries<'a, M, V>(InOrder<'a, M, V>);

impl<M, V> Clone for MapEntries<'_, M, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, M: OrderedKey, V> Iterator for MapEntries<'a, M, V> {
    type Item = (&'a M, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl<M: OrderedKey, V> DoubleEndedIterator for MapEntries<'_, M, V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl<M: OrderedKey + fmt::Debug, V: fmt::Debug> fmt::Debug for MapEntries<'_, M, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
