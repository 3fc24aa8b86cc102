//! Aggregates: what a window makes of its records, one record at a time.
//!
//! An accumulator outlives its results and what it was merged into: slices are shared by windows, a window may
//! yield a result and go on. So [`Aggregate::merge`] and [`Aggregate::result`] borrow what they read. Taking a
//! record back is not possible for all aggregates, and not for a maximum; those that can are [`Retract`].

use rkyv::{Archive, Deserialize as FromArchive, Serialize as ToArchive};
use serde::{Deserialize, Serialize};
use thalweg_kernel::Durable;

use super::float_sum::{FloatSum, Summand};

/// Builds a result record by record, so that a window keeps an accumulator and not its records.
pub trait Aggregate<T>: 'static {
    /// What is kept while the window is open, and in checkpoints.
    type Accumulator: Durable;
    /// What the window yields.
    type Output: 'static;

    /// Whether accumulators grow with their records: then as few of them are kept as can be.
    const GROWS: bool = false;

    /// The accumulator of a window with no records.
    fn create(&self) -> Self::Accumulator;
    /// Adds a record.
    fn add(&self, accumulator: &mut Self::Accumulator, record: T);
    /// The accumulator of a window with one record.
    #[inline]
    fn of(&self, record: T) -> Self::Accumulator {
        let mut accumulator = self.create();
        self.add(&mut accumulator, record);
        accumulator
    }
    /// Adds the records of `other` to `into`. The engine decides how records are grouped, and merges in either order.
    fn merge(&self, into: &mut Self::Accumulator, other: &Self::Accumulator);
    /// What the records so far amount to. More may be added afterwards.
    fn result(&self, accumulator: &Self::Accumulator) -> Self::Output;
    /// The result of an accumulator that is needed no more.
    #[inline]
    fn finish(&self, accumulator: Self::Accumulator) -> Self::Output {
        self.result(&accumulator)
    }
}

/// An aggregate that can take a record back, for streams in which records are corrected.
///
/// ```
/// # use thalweg_flow::{Aggregate, Retract, Sum};
/// let total = Sum::of(|&(_, amount): &(&str, i64)| amount);
/// let mut so_far = total.of(("a", 7));
/// total.add(&mut so_far, ("b", 5));
/// total.retract(&mut so_far, ("a", 7));
/// assert_eq!(total.result(&so_far), 5);
/// ```
pub trait Retract<T>: Aggregate<T> {
    /// Takes back a record that was added.
    fn retract(&self, accumulator: &mut Self::Accumulator, record: T);
}

/// The number of records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count;

impl<T> Aggregate<T> for Count {
    type Accumulator = u64;
    type Output = u64;

    fn create(&self) -> u64 {
        0
    }

    #[inline]
    fn add(&self, count: &mut u64, _record: T) {
        *count += 1;
    }

    #[inline]
    fn merge(&self, into: &mut u64, other: &u64) {
        *into += other;
    }

    #[inline]
    fn result(&self, count: &u64) -> u64 {
        *count
    }
}

impl<T> Retract<T> for Count {
    #[inline]
    fn retract(&self, count: &mut u64, _record: T) {
        *count -= 1;
    }
}

/// The sum of a field. Whole numbers are added by the `+=` of their type: where it overflows, so does that. Sums of floating-point
/// numbers do not depend on their order ([`FloatSum`]).
#[derive(Clone, Copy, Debug)]
pub struct Sum<F>(F);

impl<F> Sum<F> {
    /// The sum of what `field` reads.
    pub fn of<T, N>(field: F) -> Self
    where
        F: Fn(&T) -> N,
    {
        Self(field)
    }
}

impl<T, N, F> Aggregate<T> for Sum<F>
where
    N: Summand,
    F: Fn(&T) -> N + 'static,
{
    type Accumulator = N::Sum;
    type Output = N;

    fn create(&self) -> N::Sum {
        N::Sum::default()
    }

    #[inline]
    fn add(&self, sum: &mut N::Sum, record: T) {
        (self.0)(&record).add_to(sum);
    }

    #[inline]
    fn merge(&self, into: &mut N::Sum, other: &N::Sum) {
        N::merge(into, other);
    }

    #[inline]
    fn result(&self, sum: &N::Sum) -> N {
        N::value(sum)
    }
}

impl<T, N, F> Retract<T> for Sum<F>
where
    N: Summand,
    F: Fn(&T) -> N + 'static,
{
    #[inline]
    fn retract(&self, sum: &mut N::Sum, record: T) {
        (self.0)(&record).take_from(sum);
    }
}

/// The arithmetic mean of a field.
#[derive(Clone, Copy, Debug)]
pub struct Average<F>(F);

impl<F> Average<F> {
    /// The mean of what `field` reads.
    pub fn of<T>(field: F) -> Self
    where
        F: Fn(&T) -> f64,
    {
        Self(field)
    }
}

impl<T, F: Fn(&T) -> f64 + 'static> Aggregate<T> for Average<F> {
    type Accumulator = (FloatSum, u64);
    type Output = f64;

    fn create(&self) -> (FloatSum, u64) {
        Default::default()
    }

    #[inline]
    fn add(&self, (sum, count): &mut (FloatSum, u64), record: T) {
        sum.add((self.0)(&record));
        *count += 1;
    }

    #[inline]
    fn merge(&self, into: &mut (FloatSum, u64), other: &(FloatSum, u64)) {
        into.0.merge(&other.0);
        into.1 += other.1;
    }

    #[inline]
    fn result(&self, (sum, count): &(FloatSum, u64)) -> f64 {
        sum.mean(*count)
    }
}

impl<T, F: Fn(&T) -> f64 + 'static> Retract<T> for Average<F> {
    #[inline]
    fn retract(&self, (sum, count): &mut (FloatSum, u64), record: T) {
        sum.add(-(self.0)(&record));
        *count -= 1;
    }
}

/// Whether a value compares with others: NaN does not.
#[inline]
fn comparable<N: PartialOrd>(value: &N) -> bool {
    value.partial_cmp(value).is_some()
}

macro_rules! extremes {
    ($($(#[$doc:meta])* $name:ident keeps $better:tt;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<F>(F);

        impl<F> $name<F> {
            /// Of what `field` reads. Values that compare with nothing (NaN) count only where there
            /// are no others.
            pub fn of<T, N>(field: F) -> Self
            where
                F: Fn(&T) -> N,
            {
                Self(field)
            }
        }

        impl<T, N, F> Aggregate<T> for $name<F>
        where
            N: PartialOrd + Clone + 'static,
            Option<N>: Durable,
            F: Fn(&T) -> N + 'static,
        {
            type Accumulator = Option<N>;
            /// `None` only where a window had no record, which does not fire.
            type Output = Option<N>;

            fn create(&self) -> Option<N> {
                None
            }

            #[inline]
            fn add(&self, best: &mut Option<N>, record: T) {
                let replaces = |value: &N, best: &N| value $better best || !comparable(best);
                let value = (self.0)(&record);
                if best.as_ref().is_none_or(|best| replaces(&value, best)) {
                    *best = Some(value);
                }
            }

            #[inline]
            fn merge(&self, into: &mut Option<N>, other: &Option<N>) {
                let replaces = |value: &N, best: &N| value $better best || !comparable(best);
                if let Some(value) = other
                    && into.as_ref().is_none_or(|best| replaces(value, best))
                {
                    *into = Some(value.clone());
                }
            }

            #[inline]
            fn result(&self, best: &Option<N>) -> Option<N> {
                best.clone()
            }
        }
    )*};
}
extremes! {
    /// The smallest value of a field.
    Min keeps <;
    /// The largest value of a field.
    Max keeps >;
}

/// Count, average, minimum and maximum of a field, in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Stats<F>(F);

/// What [`Stats`] yields.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsValue {
    /// The number of records.
    pub count: u64,
    /// The arithmetic mean.
    pub avg: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl<F> Stats<F> {
    /// Of what `field` reads.
    pub fn of<T>(field: F) -> Self
    where
        F: Fn(&T) -> f64,
    {
        Self(field)
    }
}

impl<T, F: Fn(&T) -> f64 + 'static> Aggregate<T> for Stats<F> {
    type Accumulator = StatsSum;
    type Output = StatsValue;

    fn create(&self) -> StatsSum {
        StatsSum { count: 0, sum: FloatSum::default(), min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    #[inline]
    fn add(&self, so_far: &mut StatsSum, record: T) {
        let value = (self.0)(&record);
        so_far.count += 1;
        so_far.sum.add(value);
        so_far.min = so_far.min.min(value);
        so_far.max = so_far.max.max(value);
    }

    #[inline]
    fn merge(&self, into: &mut StatsSum, other: &StatsSum) {
        into.count += other.count;
        into.sum.merge(&other.sum);
        into.min = into.min.min(other.min);
        into.max = into.max.max(other.max);
    }

    #[inline]
    fn result(&self, &StatsSum { count, sum, min, max }: &StatsSum) -> StatsValue {
        StatsValue { count, avg: sum.mean(count), min, max }
    }
}

/// What [`Stats`] keeps while a window is open.
#[derive(Clone, Copy, Debug, Archive, ToArchive, FromArchive)]
pub struct StatsSum {
    count: u64,
    sum: FloatSum,
    min: f64,
    max: f64,
}

/// Combines records of one type pairwise: the record itself is the accumulator.
#[derive(Clone, Copy, Debug)]
pub struct Reduce<F>(F);

impl<F> Reduce<F> {
    /// By `combine`, which must not care how its arguments are grouped.
    pub fn by<T>(combine: F) -> Self
    where
        F: Fn(T, T) -> T,
    {
        Self(combine)
    }
}

impl<T: Clone + 'static, F: Fn(T, T) -> T + 'static> Aggregate<T> for Reduce<F>
where
    Option<T>: Durable,
{
    type Accumulator = Option<T>;
    /// `None` only where a window had no record, which does not fire.
    type Output = Option<T>;

    fn create(&self) -> Option<T> {
        None
    }

    #[inline]
    fn add(&self, so_far: &mut Option<T>, record: T) {
        *so_far = Some(match so_far.take() {
            None => record,
            Some(before) => (self.0)(before, record),
        });
    }

    fn merge(&self, into: &mut Option<T>, other: &Option<T>) {
        if let Some(record) = other {
            self.add(into, record.clone());
        }
    }

    fn result(&self, so_far: &Option<T>) -> Option<T> {
        so_far.clone()
    }

    fn finish(&self, so_far: Option<T>) -> Option<T> {
        so_far
    }
}

/// An aggregate from three functions.
#[derive(Clone, Copy, Debug)]
pub struct Fold<C, A, M> {
    create: C,
    add: A,
    merge: M,
}

impl<C, A, M> Fold<C, A, M> {
    /// `create` makes an empty accumulator, and `add` adds a record to it. `merge` adds to its first accumulator what
    /// the second one has. A clone of the accumulator is the result.
    pub fn new<T, S>(create: C, add: A, merge: M) -> Self
    where
        C: Fn() -> S,
        A: Fn(&mut S, T),
        M: Fn(&mut S, &S),
    {
        Self { create, add, merge }
    }
}

impl<T, S, C, A, M> Aggregate<T> for Fold<C, A, M>
where
    S: Clone + Durable,
    C: Fn() -> S + 'static,
    A: Fn(&mut S, T) + 'static,
    M: Fn(&mut S, &S) + 'static,
{
    type Accumulator = S;
    type Output = S;

    fn create(&self) -> S {
        (self.create)()
    }

    #[inline]
    fn add(&self, accumulator: &mut S, record: T) {
        (self.add)(accumulator, record);
    }

    fn merge(&self, into: &mut S, other: &S) {
        (self.merge)(into, other);
    }

    fn result(&self, accumulator: &S) -> S {
        accumulator.clone()
    }

    fn finish(&self, accumulator: S) -> S {
        accumulator
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn all<A: Aggregate<i64>>(aggregate: &A, records: &[i64]) -> A::Accumulator {
        records.iter().fold(aggregate.create(), |mut so_far, &record| {
            aggregate.add(&mut so_far, record);
            so_far
        })
    }

    /// Goal: a slice can be part of many windows, and a result says nothing about what comes after it.
    /// Method: merge one accumulator into others, in both orders, and ask for results on the way.
    fn shares<A: Aggregate<i64, Output: PartialEq + Debug>>(aggregate: &A) {
        let records = [3, -7, 12, 0, 5, 5];
        for cut in 0..records.len() {
            let (first, last) = records.split_at(cut);
            let shared = all(aggregate, first);
            for _ in 0..2 {
                let mut behind = all(aggregate, last);
                aggregate.merge(&mut behind, &shared);
                let mut before = aggregate.create();
                aggregate.merge(&mut before, &shared);
                let so_far = aggregate.result(&all(aggregate, first));
                if cut > 0 {
                    assert_eq!(aggregate.result(&before), so_far);
                }
                last.iter().for_each(|&record| aggregate.add(&mut before, record));
                let expected = aggregate.result(&all(aggregate, &records));
                assert_eq!(aggregate.result(&behind), expected);
                assert_eq!(aggregate.result(&before), expected);
            }
        }
    }

    #[test]
    fn what_is_merged_or_has_yielded_a_result_can_be_used_again() {
        shares(&Count);
        shares(&Sum::of(|&n: &i64| n));
        shares(&Average::of(|&n: &i64| n as f64));
        shares(&Min::of(|&n: &i64| n));
        shares(&Max::of(|&n: &i64| n));
        shares(&Stats::of(|&n: &i64| n as f64));
        shares(&Reduce::by(|a: i64, b: i64| a.max(b)));
        shares(&Fold::new(|| 0_i64, |sum: &mut i64, n: i64| *sum += n, |sum, n: &i64| *sum += n));
    }

    #[test]
    fn a_record_that_is_taken_back_was_never_there() {
        fn takes_back<A: Retract<i64, Output: PartialEq + Debug>>(aggregate: &A) {
            let mut so_far = all(aggregate, &[4, 9, -2]);
            aggregate.retract(&mut so_far, 9);
            assert_eq!(aggregate.result(&so_far), aggregate.result(&all(aggregate, &[4, -2])));
        }
        takes_back(&Count);
        takes_back(&Sum::of(|&n: &i64| n));
        takes_back(&Average::of(|&n: &i64| n as f64));
    }
}
