//! The handles through which a process function uses its states: always those of the key at hand.

mod list;
mod map;

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Durable, Key};

use super::AtKey;
use super::keyed::Keyed;
use crate::process::Context;
use crate::window::aggregate::Aggregate;

pub use self::list::{ListItems, ListState};
pub use self::map::{MapEntries, MapState};

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

impl<K> Context<'_, K> {
    /// The key at hand, for tables.
    #[inline]
    pub(super) fn at(&self) -> AtKey<'_, K> {
        AtKey {
            key: self.key,
            hash: self.hash,
            time: self.time,
            reached: self.reached,
            processing_time: self.processing_time,
        }
    }
}
