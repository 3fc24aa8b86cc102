//! Histograms of durations, and the few figures that are read from them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer ones count as this long.
const LONGEST: Duration = Duration::from_secs(60);

/// A histogram of durations in nanoseconds, exact to three digits.
#[derive(Clone, Debug)]
pub struct Durations(Histogram<u64>);

impl Durations {
    /// An empty one.
    ///
    /// # Errors
    /// Never: the bounds are constants that the histogram accepts.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3)?))
    }

    /// Counts one.
    #[inline]
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(duration.as_nanos() as u64);
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        // Both have equal bounds, so none is out of range.
        let _fits = self.0.add(&other.0);
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How long this share of them took at most, in microseconds.
    pub fn micros_at(&self, share: f64) -> f64 {
        micros(self.0.value_at_quantile(share))
    }

    /// The figures.
    pub fn quantiles(&self) -> Quantiles {
        let at = |share: f64| micros(self.0.value_at_quantile(share));
        Quantiles {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
        }
    }
}

fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 100.0).round() / 10.0
}

/// Durations in microseconds at four shares of a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 99 in 100 took no longer.
    pub p99_us: f64,
    /// 999 in 1,000 took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let (mut odd, mut even) = (Durations::new().unwrap(), Durations::new().unwrap());
        for us in 1..=1_000 {
            let half = if us % 2 == 0 { &mut even } else { &mut odd };
            half.record(Duration::from_micros(us));
        }
        odd.add(&even);
        let Quantiles { p50_us, p99_us, p999_us, max_us } = odd.quantiles();
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted / 1_000.0 + 0.1;
        assert!(near(p50_us, 500.0) && near(p99_us, 990.0), "{p50_us} {p99_us}");
        assert!(near(p999_us, 999.0) && near(max_us, 1_000.0), "{p999_us} {max_us}");
        assert_eq!(odd.len(), 1_000);
    }

    #[test]
    fn what_is_too_long_is_counted_and_not_refused() {
        let mut durations = Durations::new().unwrap();
        durations.record(Duration::from_secs(3_600));
        durations.record(Duration::ZERO);
        assert_eq!(durations.len(), 2);
        assert!(durations.quantiles().max_us >= 60e6);
    }
}
