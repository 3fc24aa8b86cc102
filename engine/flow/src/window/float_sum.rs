//! [`FloatSum`]: a sum of floating-point numbers that does not depend on their order, and [`Summand`]: how numbers are summed up.
//!
//! A plain `+=` rounds each time, and where it rounds depends on the order. That order depends on how many shards add up, and
//! on when checkpoints were taken. So results would differ in their last digits from run to run.
//!
//! A `FloatSum` keeps what each addition has lost beside the sum (Neumaier's variant of Kahan's summation), and rounds once, in
//! the result. Two parts hold 106 bits together. The result has the bits of the exact sum, rounded once. That holds
//! where no number is 2⁵³ times as small as the sum of all magnitudes. Beyond that the error is about `n · 2⁻¹⁰⁶` of that sum, for `n` numbers.
//!
//! An addition takes seven operations more than `+=`: two nanoseconds where they stand in each other's way, and less elsewhere.
//!
//! # Beyond the range
//! Where the sum on the way leaves the range of `f64`, it is kept divided by 2¹⁰⁰, in 53 bits, until it comes back. So an average of
//! numbers near the largest one is right, and a sum is infinite only if it is too large itself.

use std::time::Duration;

use rkyv::{Archive, Deserialize as FromArchive, Serialize as ToArchive};
use thalweg_kernel::Durable;
use thalweg_kernel::defects::{Defect, seeded};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default, Archive, ToArchive, FromArchive)]
pub struct FloatSum {
    /// The sum as `+=` has it; not finite while it is beyond the range.
    sum: f64,
    /// What `sum` lacks. Beyond the range it is the whole sum, divided by [`BEYOND`].
    rest: f64,
}

/// What a sum beyond the range is divided by: a power of two, which changes no digit.
const BEYOND: f64 = (1_u128 << 100) as f64;

impl FloatSum {
    /// Adds a number.
    #[inline]
    pub fn add(&mut self, number: f64) {
        let sum = self.sum + number;
        let added = sum - self.sum;
        let lost = (self.sum - (sum - added)) + (number - added);
        // Where something is infinite or no number, this is none.
        if lost.is_nan() {
            return self.add_beyond(number / BEYOND);
        }
        self.sum = sum;
        if !seeded(Defect::FlowSumsPlainly) {
            self.rest += lost;
        }
    }

    /// Adds what another sum has.
    #[inline]
    pub fn merge(&mut self, other: &Self) {
        if !other.sum.is_finite() {
            return self.add_beyond(other.rest);
        }
        self.add(other.sum);
        if self.sum.is_finite() {
            self.rest += other.rest;
        }
    }

    /// Adds a number that has been divided by [`BEYOND`].
    #[cold]
    fn add_beyond(&mut self, number: f64) {
        let so_far = match self.sum.is_finite() {
            true => self.sum / BEYOND + self.rest / BEYOND,
            false => self.rest,
        };
        let sum = so_far + number;
        *self = match sum * BEYOND {
            back if back.is_finite() => Self { sum: back, rest: 0.0 },
            _ => Self { sum: f64::INFINITY, rest: sum },
        };
    }

    /// The sum, rounded.
    #[inline]
    pub fn value(&self) -> f64 {
        match self.sum.is_finite() {
            true => self.sum + self.rest,
            false => self.rest * BEYOND,
        }
    }

    /// The mean of `count` numbers.
    #[inline]
    pub fn mean(&self, count: u64) -> f64 {
        match self.sum.is_finite() {
            // The sum may be beyond the range where the mean is not.
            true if !(self.sum + self.rest).is_finite() => {
                (self.sum / 2.0 + self.rest / 2.0) / count as f64 * 2.0
            }
            true => (self.sum + self.rest) / count as f64,
            false => self.rest / count as f64 * BEYOND,
        }
    }

    /// The sum as two parts of which the second is too small to change the first; none beyond the range.
    pub(super) fn parts(&self) -> Option<(f64, f64)> {
        let high = self.sum + self.rest;
        let low = (self.sum - high) + self.rest;
        (high + low).is_finite().then_some((high, low))
    }
}

/// A number that can be summed up, and what its sums are kept as.
pub trait Summand: Sized + 'static {
    /// A sum on its way. Its default is that of no numbers.
    type Sum: Default + Clone + Durable;

    /// Adds this number.
    fn add_to(self, sum: &mut Self::Sum);
    /// Takes this number back.
    fn take_from(self, sum: &mut Self::Sum);
    /// Adds what another sum has.
    fn merge(into: &mut Self::Sum, other: &Self::Sum);
    /// What the numbers so far amount to.
    fn value(sum: &Self::Sum) -> Self;
}

macro_rules! summed_by_their_own_addition {
    ($($number:ty)+) => {$(
        impl Summand for $number {
            type Sum = Self;

            #[inline]
            fn add_to(self, sum: &mut Self) {
                *sum += self;
            }

            #[inline]
            fn take_from(self, sum: &mut Self) {
                *sum -= self;
            }

            #[inline]
            fn merge(into: &mut Self, other: &Self) {
                *into += *other;
            }

            #[inline]
            fn value(sum: &Self) -> Self {
                *sum
            }
        }
    )+};
}
summed_by_their_own_addition! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 Duration }

macro_rules! summed_with_compensation {
    ($($number:ty)+) => {$(
        impl Summand for $number {
            type Sum = FloatSum;

            #[inline]
            fn add_to(self, sum: &mut FloatSum) {
                sum.add(self.into());
            }

            #[inline]
            fn take_from(self, sum: &mut FloatSum) {
                sum.add((-self).into());
            }

            #[inline]
            fn merge(into: &mut FloatSum, other: &FloatSum) {
                into.merge(other);
            }

            #[inline]
            fn value(sum: &FloatSum) -> Self {
                sum.value() as Self
            }
        }
    )+};
}
summed_with_compensation! { f32 f64 }

#[cfg(test)]
mod tests {
    use thalweg_testing::Random;

    use super::*;

    fn sum(numbers: &[f64]) -> FloatSum {
        numbers.iter().fold(FloatSum::default(), |mut sum, &number| {
            sum.add(number);
            sum
        })
    }

    #[test]
    fn a_mean_is_within_the_range_where_its_sum_is_a_little_beyond() {
        let mut numbers = vec![1e291; 101];
        numbers[0] = f64::MAX;
        let mean = sum(&numbers).mean(101);
        assert!((mean / (f64::MAX / 101.0) - 1.0).abs() < 1e-15, "{mean}");
    }

    /// Goal: neither order nor grouping changes a bit of the result.
    /// Method: numbers as sensors have them, and others of very different size, are shuffled and cut at random.
    #[test]
    fn order_and_grouping_change_no_bit() {
        let mut random = Random::new(11);
        for round in 0..300 {
            let mut numbers: Vec<f64> = (0..1 + random.below(2_000))
                .map(|_| match round % 3 {
                    0 => random.below(1_000) as f64 / 10.0 - 20.0,
                    1 => (random.below(1_u64 << 53) as f64 - 4e15) * 1e-9,
                    _ => random.below(1_000) as f64 * 10_f64.powi(random.below(12) - 6),
                })
                .collect();
            let expected = sum(&numbers).value();
            for _ in 0..5 {
                for at in (1..numbers.len()).rev() {
                    numbers.swap(at, random.below(at + 1));
                }
                let cut = random.below(numbers.len() + 1);
                let (left, right) = numbers.split_at(cut);
                let (left, mut right) = (sum(left), sum(right));
                right.merge(&left);
                assert_eq!(right.value().to_bits(), expected.to_bits(), "round {round}");
                assert_eq!(sum(&numbers).value().to_bits(), expected.to_bits(), "round {round}");
            }
        }
    }

    #[test]
    fn what_additions_lose_is_in_the_sum() {
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum(&[1e16, 1.0, -1e16]).value(), 1.0);
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]).value(), 2.0);
        assert_eq!(sum(&[]).value(), 0.0);
    }

    #[test]
    fn a_sum_beyond_the_range_comes_back() {
        let large = f64::MAX;
        assert_eq!(sum(&[large, large]).mean(2), large);
        assert_eq!(sum(&[large, large, -large]).value(), large);
        assert_eq!(sum(&[large, large, -large, -large, 3.0]).value(), 3.0);
        assert_eq!(sum(&[large, large]).value(), f64::INFINITY);
        assert_eq!(sum(&[-large, -large]).value(), f64::NEG_INFINITY);
        assert_eq!(sum(&[-large, -large, -large]).mean(3), -large);
        let (mut left, right) = (sum(&[large, large]), sum(&[-large, -large, 1.0]));
        left.merge(&right);
        assert_eq!(left.value(), 0.0, "beyond the range there are 53 bits");
        let mut small = sum(&[1.0]);
        small.merge(&sum(&[large, large]));
        assert_eq!(small.mean(2), large);
    }

    #[test]
    fn what_is_infinite_or_no_number_stays_so() {
        assert_eq!(sum(&[1.0, f64::INFINITY, 2.0]).value(), f64::INFINITY);
        assert_eq!(sum(&[1.0, f64::NEG_INFINITY, 2.0]).mean(3), f64::NEG_INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
        assert!(sum(&[1.0, f64::NAN, 2.0]).value().is_nan());
        assert_eq!(sum(&[f64::INFINITY]).parts(), None);
    }

    #[test]
    fn numbers_are_summed_in_their_own_type() {
        let total = |numbers: &[f32]| {
            let mut sum = FloatSum::default();
            numbers.iter().for_each(|&number| number.add_to(&mut sum));
            7_f32.add_to(&mut sum);
            7_f32.take_from(&mut sum);
            f32::value(&sum)
        };
        assert_eq!(total(&[0.1; 10]), 1.0);
        let mut longest = Duration::default();
        Duration::from_secs(2).add_to(&mut longest);
        Duration::merge(&mut longest, &Duration::from_secs(3));
        assert_eq!(Duration::value(&longest), Duration::from_secs(5));
    }
}
