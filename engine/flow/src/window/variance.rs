//! [`Variance`]: how far a field's values are spread.
//!
//! The sums of values and of their squares are kept to 106 bits ([`FloatSum`]). The squares are exact in two parts. So the result
//! depends on no order, and the difference of two large and nearly equal sums still has its digits.

use rkyv::{Archive, Deserialize as FromArchive, Serialize as ToArchive};

use super::aggregate::{Aggregate, Retract};
use super::float_sum::FloatSum;

/// The variance of a field, or its standard deviation.
///
/// ```
/// # use thalweg_flow::{Aggregate, Variance};
/// let spread = Variance::of(|&value: &f64| value);
/// let mut so_far = spread.create();
/// [2.0, 4.0, 4.0, 6.0].into_iter().for_each(|value| spread.add(&mut so_far, value));
/// assert_eq!(spread.result(&so_far), 2.0);
/// assert_eq!(spread.deviation().result(&so_far), 2_f64.sqrt());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Variance<F> {
    field: F,
    is_of_sample: bool,
    is_deviation: bool,
}

impl<F> Variance<F> {
    /// The variance of what `field` reads, of all values there are (`VAR_POP` in SQL): the mean square of their distance from
    /// their mean.
    pub fn of<T>(field: F) -> Self
    where
        F: Fn(&T) -> f64,
    {
        Self { field, is_of_sample: false, is_deviation: false }
    }

    /// The values are a sample of others (`VAR_SAMP`): the sum of squares is divided by one less than their number. One value
    /// alone has none: NaN.
    #[must_use]
    pub fn of_sample(self) -> Self {
        Self { is_of_sample: true, ..self }
    }

    /// The standard deviation instead, which is the variance's square root.
    #[must_use]
    pub fn deviation(self) -> Self {
        Self { is_deviation: true, ..self }
    }
}

/// What [`Variance`] keeps while a window is open.
#[derive(Clone, Copy, Debug, Default, Archive, ToArchive, FromArchive)]
pub struct VarianceSum {
    count: u64,
    sum: FloatSum,
    squares: FloatSum,
}

impl VarianceSum {
    /// The sum of squares of the distances from the mean.
    fn distances(&self) -> f64 {
        let (Some((sum, rest)), Some((squares, squares_rest))) =
            (self.sum.parts(), self.squares.parts())
        else {
            return f64::NAN;
        };
        let count = self.count as f64;
        // Two large products that are nearly equal, each in two parts. To divide comes last: it would round.
        let all = squares * count;
        let all_rest = squares.mul_add(count, -all) + squares_rest * count;
        let square = sum * sum;
        let square_rest = sum.mul_add(sum, -square) + 2.0 * sum * rest;
        let distances = ((all - square) + (all_rest - square_rest)) / count;
        // What was rounded may leave less than nothing, which has no root.
        if distances < 0.0 { 0.0 } else { distances }
    }

    fn add(&mut self, value: f64, sign: f64) {
        self.sum.add(sign * value);
        let square = value * value;
        self.squares.add(sign * square);
        let lost = value.mul_add(value, -square);
        // Where the square is beyond the range, so is what is made of it.
        if lost.is_finite() {
            self.squares.add(sign * lost);
        }
    }
}

impl<T, F: Fn(&T) -> f64 + 'static> Aggregate<T> for Variance<F> {
    type Accumulator = VarianceSum;
    type Output = f64;

    fn create(&self) -> VarianceSum {
        VarianceSum::default()
    }

    #[inline]
    fn add(&self, so_far: &mut VarianceSum, record: T) {
        so_far.count += 1;
        so_far.add((self.field)(&record), 1.0);
    }

    #[inline]
    fn merge(&self, into: &mut VarianceSum, other: &VarianceSum) {
        into.count += other.count;
        into.sum.merge(&other.sum);
        into.squares.merge(&other.squares);
    }

    fn result(&self, so_far: &VarianceSum) -> f64 {
        let count = so_far.count - u64::from(self.is_of_sample && so_far.count > 0);
        let variance = so_far.distances() / count as f64;
        if self.is_deviation { variance.sqrt() } else { variance }
    }
}

impl<T, F: Fn(&T) -> f64 + 'static> Retract<T> for Variance<F> {
    #[inline]
    fn retract(&self, so_far: &mut VarianceSum, record: T) {
        so_far.count -= 1;
        so_far.add((self.field)(&record), -1.0);
    }
}

#[cfg(test)]
mod tests {
    use thalweg_testing::Random;

    use super::*;

    fn all(values: &[f64]) -> VarianceSum {
        let spread = Variance::of(|&value: &f64| value);
        values.iter().fold(VarianceSum::default(), |mut so_far, &value| {
            spread.add(&mut so_far, value);
            so_far
        })
    }

    /// Goal: values far from zero and close together keep their variance, in any order.
    /// Method: whole numbers around a large one, whose variance is known from small ones.
    #[test]
    fn values_far_from_zero_have_the_variance_of_those_around_it() {
        let mut random = Random::new(3);
        for _ in 0..100 {
            let mut near: Vec<f64> =
                (0..2 + random.below(500)).map(|_| random.below(64) as f64).collect();
            let mean = near.iter().sum::<f64>() / near.len() as f64;
            let squares: f64 = near.iter().map(|value| (value - mean).powi(2)).sum();
            let expected = squares / near.len() as f64;
            near.iter_mut().for_each(|value| *value += 1_700_000_000_000.0);
            let spread = Variance::of(|&value: &f64| value);
            let found = spread.result(&all(&near));
            assert!((found - expected).abs() <= expected * 1e-12, "{found}, {expected}");
            near.reverse();
            let (left, right) = near.split_at(near.len() / 3);
            let (mut left, right) = (all(left), all(right));
            Aggregate::<f64>::merge(&spread, &mut left, &right);
            assert_eq!(Aggregate::<f64>::result(&spread, &left).to_bits(), found.to_bits());
        }
    }

    #[test]
    fn a_sample_a_deviation_and_few_values() {
        let spread = Variance::of(|&value: &f64| value);
        let of =
            |spread: &Variance<_>, values: &[f64]| Aggregate::<f64>::result(spread, &all(values));
        assert_eq!(of(&spread.of_sample(), &[1.0, 3.0]), 2.0);
        assert_eq!(of(&spread.deviation(), &[1.0, 5.0]), 2.0);
        assert_eq!(of(&spread, &[7.0]), 0.0);
        assert!(of(&spread.of_sample(), &[7.0]).is_nan());
        assert!(of(&spread, &[1.0, f64::INFINITY]).is_nan());
        let mut so_far = all(&[4.0, 9.5, -2.0]);
        spread.retract(&mut so_far, 9.5);
        assert_eq!(Aggregate::<f64>::result(&spread, &so_far), 9.0);
    }
}
