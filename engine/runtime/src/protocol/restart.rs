//! Restart strategies: whether a job that has failed is started again from its newest epoch, and when.
//!
//! Only what another start can mend leads to one: a panic, or a source or sink that has failed. A wrong setting
//! does not, nor what is damaged, and neither does storage that has failed. Nobody knows what a failed sync has
//! really written, so the job ends, and its next start recovers what is durable.

use std::collections::VecDeque;
use std::time::Duration;

/// What happens when a job fails.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RestartStrategy {
    /// With stored state as [`exponential`](Self::exponential), without as [`Never`](Self::Never): a job
    /// without state would begin anew.
    #[default]
    Auto,
    /// The job ends with the error.
    Never,
    /// It is started again after the same time, and ends with the error after `restarts_max`
    /// restarts.
    FixedDelay {
        /// The time before each restart.
        delay: Duration,
        /// How many restarts at most.
        restarts_max: u32,
    },
    /// It is started again after a time that grows with each failure.
    ExponentialDelay {
        /// The time before the first restart.
        first: Duration,
        /// The longest time.
        longest: Duration,
        /// By how much it grows.
        factor: f64,
        /// Which part of it is by chance, to either side.
        jitter: f64,
        /// After so long without a failure the next one counts as the first.
        reset_after: Duration,
    },
    /// It is started again after the same time, and ends with the error when it fails too often.
    FailureRate {
        /// How many failures are too many.
        failures_max: u32,
        /// In how much time.
        within: Duration,
        /// The time before each restart.
        delay: Duration,
    },
}

impl RestartStrategy {
    /// From one second to a minute, by half more each time, a tenth of it by chance; forgotten after an hour.
    /// (Flink's defaults.)
    pub fn exponential() -> Self {
        Self::ExponentialDelay {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            factor: 1.5,
            jitter: 0.1,
            reset_after: Duration::from_secs(60 * 60),
        }
    }
}

/// The failures of a job so far.
pub(super) struct Restarts {
    strategy: RestartStrategy,
    /// The steady times of failures that count.
    failures: VecDeque<Duration>,
    restarts: u32,
    delay: Duration,
}

impl Restarts {
    pub(super) fn new(strategy: RestartStrategy, stateful: bool) -> Self {
        let strategy = match strategy {
            RestartStrategy::Auto if stateful => RestartStrategy::exponential(),
            RestartStrategy::Auto => RestartStrategy::Never,
            strategy => strategy,
        };
        Self { strategy, failures: VecDeque::new(), restarts: 0, delay: Duration::ZERO }
    }

    /// The job has failed at a steady time: after how long to start it again, if at all. `chance` is
    /// from 0 to 1.
    pub(super) fn failed(&mut self, at: Duration, chance: f64) -> Option<Duration> {
        let before = self.failures.back().copied();
        let delay = match self.strategy {
            RestartStrategy::Auto | RestartStrategy::Never => return None,
            RestartStrategy::FixedDelay { delay, restarts_max } => {
                (self.restarts < restarts_max).then_some(delay)?
            }
            RestartStrategy::ExponentialDelay { first, longest, factor, jitter, reset_after } => {
                let afresh = before.is_none_or(|before| at.saturating_sub(before) >= reset_after);
                let grown = self.delay.mul_f64(factor.max(1.0)).min(longest);
                self.delay = if afresh { first.min(longest) } else { grown };
                self.failures.clear();
                let by_chance = 1.0 + jitter.clamp(0.0, 1.0) * (2.0 * chance - 1.0);
                self.delay.mul_f64(by_chance)
            }
            RestartStrategy::FailureRate { failures_max, within, delay } => {
                let counts = |&then: &Duration| at.saturating_sub(then) < within;
                while self.failures.front().is_some_and(|then| !counts(then)) {
                    self.failures.pop_front();
                }
                (self.failures.len() < failures_max as usize).then_some(delay)?
            }
        };
        self.failures.push_back(at);
        self.restarts += 1;
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn delays(strategy: RestartStrategy, failures: &[u64]) -> Vec<Option<f64>> {
        let mut restarts = Restarts::new(strategy, true);
        let delay = |&at: &u64| restarts.failed(S(at), 0.5).map(|delay| delay.as_secs_f64());
        failures.iter().map(delay).collect()
    }

    #[test]
    fn a_fixed_delay_ends_after_its_restarts() {
        let strategy = RestartStrategy::FixedDelay { delay: S(3), restarts_max: 2 };
        assert_eq!(delays(strategy, &[0, 1, 2]), [Some(3.0), Some(3.0), None]);
    }

    #[test]
    fn an_exponential_delay_grows_to_its_bound_and_is_forgotten() {
        let strategy = RestartStrategy::ExponentialDelay {
            first: S(1),
            longest: S(4),
            factor: 2.0,
            jitter: 0.5,
            reset_after: S(100),
        };
        let expected = [1.0, 2.0, 4.0, 4.0, 1.0].map(Some);
        assert_eq!(delays(strategy, &[0, 1, 2, 3, 103]), expected);
        for (chance, expected) in [(0.0, 0.5), (1.0, 1.5)] {
            let delay = Restarts::new(strategy, true).failed(S(0), chance);
            assert_eq!(delay.map(|delay| delay.as_secs_f64()), Some(expected));
        }
    }

    #[test]
    fn a_failure_rate_counts_those_of_late() {
        let strategy = RestartStrategy::FailureRate { failures_max: 2, within: S(10), delay: S(1) };
        let expected = [Some(1.0), Some(1.0), Some(1.0), None];
        assert_eq!(delays(strategy, &[0, 5, 10, 11]), expected);
    }

    #[test]
    fn without_state_a_job_is_not_started_again_by_itself() {
        assert_eq!(Restarts::new(RestartStrategy::Auto, false).failed(S(0), 0.5), None);
        assert!(Restarts::new(RestartStrategy::Auto, true).failed(S(0), 0.5).is_some());
    }
}
