//! Aggregates: what a window makes of its records, one record at a time.

use std::ops::AddAssign;

use rkyv::{Archive, Deserialize as FromArchive, Serialize as ToArchive};
use serde::{Deserialize, Serialize};
use thalweg_kernel::Durable;

/// Builds a result record by record, so that a window keeps an accumulator and not its records.
pub trait Aggregate<T>: 'static {
    /// What is kept while the window is open, and in checkpoints.
    type Accumulator: Durable;
    /// What the window yields.
    type Output: 'static;

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
    /// Joins two accumulators of the same key and window.
    fn merge(&self, into: &mut Self::Accumulator, other: Self::Accumulator);
    /// The result of a window that has fired.
    fn result(&self, accumulator: Self::Accumulator) -> Self::Output;
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

    fn merge(&self, into: &mut u64, other: u64) {
        *into += other;
    }

    fn result(&self, count: u64) -> u64 {
        count
    }
}

/// The sum of a field, by the `+=` of its type: where it overflows, so does that.
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
    N: Default + AddAssign + Durable,
    F: Fn(&T) -> N + 'static,
{
    type Accumulator = N;
    type Output = N;

    fn create(&self) -> N {
        N::default()
    }

    #[inline]
    fn add(&self, sum: &mut N, record: T) {
        *sum += (self.0)(&record);
    }

    fn merge(&self, into: &mut N, other: N) {
        *into += other;
    }

    fn result(&self, sum: N) -> N {
        sum
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
    type Accumulator = (f64, u64);
    type Output = f64;

    fn create(&self) -> (f64, u64) {
        (0.0, 0)
    }

    #[inline]
    fn add(&self, (sum, count): &mut (f64, u64), record: T) {
        *sum += (self.0)(&record);
        *count += 1;
    }

    fn merge(&self, into: &mut (f64, u64), other: (f64, u64)) {
        into.0 += other.0;
        into.1 += other.1;
    }

    fn result(&self, (sum, count): (f64, u64)) -> f64 {
        sum / count as f64
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
            N: PartialOrd + 'static,
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

            fn merge(&self, into: &mut Option<N>, other: Option<N>) {
                let replaces = |value: &N, best: &N| value $better best || !comparable(best);
                if let Some(value) = other
                    && into.as_ref().is_none_or(|best| replaces(&value, best))
                {
                    *into = Some(value);
                }
            }

            fn result(&self, best: Option<N>) -> Option<N> {
                best
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
        StatsSum { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    #[inline]
    fn add(&self, so_far: &mut StatsSum, record: T) {
        let value = (self.0)(&record);
        so_far.count += 1;
        so_far.sum += value;
        so_far.min = so_far.min.min(value);
        so_far.max = so_far.max.max(value);
    }

    fn merge(&self, into: &mut StatsSum, other: StatsSum) {
        into.count += other.count;
        into.sum += other.sum;
        into.min = into.min.min(other.min);
        into.max = into.max.max(other.max);
    }

    fn result(&self, StatsSum { count, sum, min, max }: StatsSum) -> StatsValue {
        StatsValue { count, avg: sum / count as f64, min, max }
    }
}

/// What [`Stats`] keeps while a window is open.
#[derive(Clone, Copy, Debug, Archive, ToArchive, FromArchive)]
pub struct StatsSum {
    count: u64,
    sum: f64,
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

impl<T: 'static, F: Fn(T, T) -> T + 'static> Aggregate<T> for Reduce<F>
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

    fn merge(&self, into: &mut Option<T>, other: Option<T>) {
        if let Some(record) = other {
            self.add(into, record);
        }
    }

    fn result(&self, so_far: Option<T>) -> Option<T> {
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
    /// From `create`, which makes an empty accumulator, `add`, which adds a record to one, and
    /// `merge`, which joins two. The accumulator is the result.
    pub fn new<T, S>(create: C, add: A, merge: M) -> Self
    where
        C: Fn() -> S,
        A: Fn(&mut S, T),
        M: Fn(&mut S, S),
    {
        Self { create, add, merge }
    }
}

impl<T, S, C, A, M> Aggregate<T> for Fold<C, A, M>
where
    S: Durable,
    C: Fn() -> S + 'static,
    A: Fn(&mut S, T) + 'static,
    M: Fn(&mut S, S) + 'static,
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

    fn merge(&self, into: &mut S, other: S) {
        (self.merge)(into, other);
    }

    fn result(&self, accumulator: S) -> S {
        accumulator
    }
}
