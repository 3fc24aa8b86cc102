//! SplitMix64, by Sebastiano Vigna: equal seeds give equal numbers, for ever. Seeds that once found a fault stay in the
//! tests, so the numbers of a seed must not change.

use std::time::Duration;

/// What the state moves on by: 2^64 over the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Chance from a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The chance of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One stream of chance of this seed among others: what is drawn for one purpose changes nothing for another.
    pub const fn of(seed: u64, purpose: u64) -> Self {
        let mut random = Self(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next_u64();
        random
    }

    /// The next number, any of them.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        finish(self.0)
    }

    /// A number from 0 on below `bound`; 0 if `bound` is 0.
    pub fn below<N: Number>(&mut self, bound: N) -> N {
        let wide = u128::from(self.next_u64()) * u128::from(bound.to_u64());
        N::from_u64((wide >> 64) as u64)
    }

    /// True once in `n` times.
    pub fn one_in<N: Number>(&mut self, n: N) -> bool {
        self.below(n.to_u64()) == 0
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn one_of<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N)]
    }

    /// A time with an exponential distribution, ten times the mean at most.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        let part = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        mean.mul_f64((-(1.0 - part).ln()).min(10.0))
    }
}

/// The number at place `n` of seed 0: the same for the same `n`, and nothing that `n` could be guessed from.
#[inline(always)]
pub const fn mix(n: u64) -> u64 {
    finish(n.wrapping_add(1).wrapping_mul(STEP))
}

#[inline(always)]
const fn finish(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A whole number that can be a bound. Bounds are not negative.
pub trait Number: Copy {
    /// This number.
    fn to_u64(self) -> u64;
    /// That number, which is no larger than a bound of this type.
    fn from_u64(number: u64) -> Self;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Number for $number {
            fn to_u64(self) -> u64 {
                debug_assert!(u64::try_from(self).is_ok(), "a bound of {self}");
                self as u64
            }

            fn from_u64(number: u64) -> Self {
                number as Self
            }
        }
    )*};
}

numbers!(u8 u16 u32 i32 i64 u64 usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_author() {
        let mut random = Random::new(1_234_567);
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([(); 5].map(|()| random.next_u64()), published);
        let mut random = Random::new(0);
        assert!((0..100).all(|n| mix(n) == random.next_u64()));
    }

    #[test]
    fn bounds_are_kept_and_all_below_them_is_met() {
        let mut random = Random::new(1);
        let mut met = [0; 7];
        (0..7_000).for_each(|_| met[random.below(7_usize)] += 1);
        assert!(met.iter().all(|count| (800..1_200).contains(count)), "{met:?}");
        assert_eq!((random.below(0_u64), random.below(1_i64)), (0, 0));
        let once = (0..9_000).filter(|_| random.one_in(9)).count();
        assert!((800..1_200).contains(&once), "{once} of 9,000");
        let percent = (0..10_000).filter(|_| random.percent(20)).count();
        assert!((1_800..2_200).contains(&percent), "{percent} of 10,000");
        assert!((0..100).all(|_| [3, 5].contains(&random.one_of([3, 5]))));
        let waits = (0..10_000).map(|_| random.exponential(Duration::from_millis(10)));
        let mean =
            waits.inspect(|wait| assert!(wait.as_millis() <= 100)).sum::<Duration>() / 10_000;
        assert!((9_500..10_500).contains(&mean.as_micros()), "{mean:?}");
    }

    /// Seeds of the simulator are kept where they found something: they mean what they did.
    #[test]
    fn a_stream_of_a_seed_never_changes() {
        let mut random = Random::of(7, 3);
        assert_eq!([random.next_u64(), random.below(1_000)], [4_645_842_228_912_645_062, 330]);
    }
}
