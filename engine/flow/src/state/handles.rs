//! The handles through which a process function uses its states: always those of the key at hand.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Durable, Key};

use super::keyed::Keyed;
use super::{AtKey, STATE_ENTRIES_MAX};
use crate::counters::Counter;
use crate::process::Context;
use crate::window::aggregate::Aggregate;

/// One value for each key.
pub struct ValueState<K, V>(pub(super) Rc<RefCell<Keyed<K, V>>>);

impl<K: Key, V: Durable> ValueState<K, V> {
    /// The value, if there is one.
    pub fn get(&self, cx: &Context<'_, K>) -> Option<V>
    where
        V: Clone,
    {
        self.0.borrow_mut().get(&cx.at()).cloned()
    }

    /// What `look` makes of the value, without cloning it.
    pub fn with<R>(&self, cx: &Context<'_, K>, look: impl FnOnce(Option<&V>) -> R) -> R {
        look(self.0.borrow_mut().get(&cx.at()))
    }

    /// Sets the value.
    pub fn set(&self, cx: &Context<'_, K>, value: V) {
        self.0.borrow_mut().set(&cx.at(), value);
    }

    /// Changes the value, which begins as the default one: one look-up.
    pub fn update<R>(&self, cx: &Context<'_, K>, change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        self.0.borrow_mut().change(&cx.at(), V::default, change)
    }

    /// Drops the value.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.0.borrow_mut().clear(&cx.at());
    }
}

/// A list of values for each key, in the order they were added.
pub struct ListState<K, V>(pub(super) Rc<RefCell<Keyed<K, Vec<V>>>>, pub(super) Counter);

impl<K: Key, V> ListState<K, V>
where
    Vec<V>: Durable,
{
    /// Adds a value at the end. Beyond [`STATE_ENTRIES_MAX`] values it is counted
    /// (`numEntriesOverLimitDropped`) and not added.
    pub fn push(&self, cx: &Context<'_, K>, value: V) {
        let mut kept = self.0.borrow_mut();
        let grown = kept.change(&cx.at(), Vec::new, |list| {
            let before = list.capacity();
            if list.len() < STATE_ENTRIES_MAX {
                list.push(value);
            } else {
                self.1.add(1);
            }
            grown(list, before)
        });
        kept.grow_by(grown);
    }

    /// What `look` makes of the values.
    pub fn with<R>(&self, cx: &Context<'_, K>, look: impl FnOnce(&[V]) -> R) -> R {
        look(self.0.borrow_mut().get(&cx.at()).map_or(&[], Vec::as_slice))
    }

    /// The values.
    pub fn get(&self, cx: &Context<'_, K>) -> Vec<V>
    where
        V: Clone,
    {
        self.with(cx, <[V]>::to_vec)
    }

    /// Keeps the values for which `keep` holds. A list that is empty then is dropped.
    pub fn retain(&self, cx: &Context<'_, K>, keep: impl FnMut(&V) -> bool) {
        let mut kept = self.0.borrow_mut();
        let Some(list) = kept.get_mut(&cx.at()) else { return };
        list.retain(keep);
        let (is_empty, grown) = (list.is_empty(), give_back(list));
        kept.grow_by(grown);
        if is_empty {
            kept.clear(&cx.at());
        }
    }

    /// Sets all values.
    pub fn set(&self, cx: &Context<'_, K>, mut values: Vec<V>) {
        self.1.add(values.len().saturating_sub(STATE_ENTRIES_MAX));
        values.truncate(STATE_ENTRIES_MAX);
        self.0.borrow_mut().set(&cx.at(), values);
    }

    /// Drops the list.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.0.borrow_mut().clear(&cx.at());
    }
}

/// A map for each key, ordered by its own keys.
pub struct MapState<K, M, V>(pub(super) Rc<RefCell<Keyed<K, Vec<(M, V)>>>>, pub(super) Counter);

impl<K: Key, M: Ord, V> MapState<K, M, V>
where
    Vec<(M, V)>: Durable,
{
    /// The value under `entry`.
    pub fn get(&self, cx: &Context<'_, K>, entry: &M) -> Option<V>
    where
        V: Clone,
    {
        self.with(cx, |entries| {
            let at = entries.binary_search_by(|(known, _)| known.cmp(entry)).ok()?;
            Some(entries[at].1.clone())
        })
    }

    /// Sets the value under `entry`. One entry more than [`STATE_ENTRIES_MAX`] is counted
    /// (`numEntriesOverLimitDropped`) and not added.
    pub fn put(&self, cx: &Context<'_, K>, entry: M, value: V) {
        let mut kept = self.0.borrow_mut();
        let grown = kept.change(&cx.at(), Vec::new, |entries| {
            let before = entries.capacity();
            match entries.binary_search_by(|(known, _)| known.cmp(&entry)) {
                Ok(at) => entries[at].1 = value,
                Err(at) if entries.len() < STATE_ENTRIES_MAX => entries.insert(at, (entry, value)),
                Err(_) => self.1.add(1),
            }
            grown(entries, before)
        });
        kept.grow_by(grown);
    }

    /// Removes what is under `entry`; whether there was anything. A map that is empty then is dropped.
    pub fn remove(&self, cx: &Context<'_, K>, entry: &M) -> bool {
        let mut kept = self.0.borrow_mut();
        let found = |entries: &[(M, V)]| entries.binary_search_by(|(known, _)| known.cmp(entry));
        let Some(Ok(at)) = kept.get(&cx.at()).map(|entries| found(entries)) else { return false };
        let Some(entries) = kept.get_mut(&cx.at()) else { return false };
        entries.remove(at);
        let (is_empty, grown) = (entries.is_empty(), give_back(entries));
        kept.grow_by(grown);
        if is_empty {
            kept.clear(&cx.at());
        }
        true
    }

    /// What `look` makes of the entries, in order.
    pub fn with<R>(&self, cx: &Context<'_, K>, look: impl FnOnce(&[(M, V)]) -> R) -> R {
        look(self.0.borrow_mut().get(&cx.at()).map_or(&[], Vec::as_slice))
    }

    /// Drops the map.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.0.borrow_mut().clear(&cx.at());
    }
}

/// One value for each key, into which others are reduced.
pub struct ReducingState<K, V, F> {
    pub(super) kept: Rc<RefCell<Keyed<K, Option<V>>>>,
    pub(super) reduce: F,
}

impl<K: Key, V: 'static, F: Fn(V, V) -> V> ReducingState<K, V, F>
where
    Option<V>: Durable,
{
    /// Reduces `value` into what is there.
    pub fn add(&self, cx: &Context<'_, K>, value: V) {
        let mut kept = self.kept.borrow_mut();
        kept.change(
            &cx.at(),
            || None,
            |so_far| {
                *so_far = Some(match so_far.take() {
                    None => value,
                    Some(before) => (self.reduce)(before, value),
                });
            },
        );
    }

    /// What all values so far have been reduced to.
    pub fn get(&self, cx: &Context<'_, K>) -> Option<V>
    where
        V: Clone,
    {
        self.kept.borrow_mut().get(&cx.at()).cloned().flatten()
    }

    /// Begins anew.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.kept.borrow_mut().clear(&cx.at());
    }
}

/// An accumulator for each key.
pub struct AggregatingState<K, T, A: Aggregate<T>> {
    pub(super) kept: Rc<RefCell<Keyed<K, A::Accumulator>>>,
    pub(super) aggregate: A,
}

impl<K: Key, T, A: Aggregate<T>> AggregatingState<K, T, A> {
    /// Adds a record.
    pub fn add(&self, cx: &Context<'_, K>, record: T) {
        let mut kept = self.kept.borrow_mut();
        let create = || self.aggregate.create();
        kept.change(&cx.at(), create, |accumulator| self.aggregate.add(accumulator, record));
    }

    /// The result so far; `None` if no record was added.
    pub fn get(&self, cx: &Context<'_, K>) -> Option<A::Output> {
        self.kept.borrow_mut().get(&cx.at()).map(|accumulator| self.aggregate.result(accumulator))
    }

    /// Begins anew.
    pub fn clear(&self, cx: &Context<'_, K>) {
        self.kept.borrow_mut().clear(&cx.at());
    }
}

/// By how many bytes a list has grown since it had this capacity.
#[inline]
fn grown<T>(list: &Vec<T>, capacity_before: usize) -> isize {
    (list.capacity() as isize - capacity_before as isize) * size_of::<T>() as isize
}

/// Gives back the memory of a list that needs less than a quarter of it: by how many bytes it has grown.
fn give_back<T>(list: &mut Vec<T>) -> isize {
    let before = list.capacity();
    if list.len() < before / 4 {
        list.shrink_to(list.len() * 2);
    }
    grown(list, before)
}

impl<K> Context<'_, K> {
    /// The key at hand, for tables.
    #[inline]
    fn at(&self) -> AtKey<'_, K> {
        AtKey {
            key: self.key,
            hash: self.hash,
            time: self.time,
            reached: self.reached,
            processing_time: self.processing_time,
        }
    }
}
