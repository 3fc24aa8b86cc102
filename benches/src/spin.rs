//! The machine's own noise: a loop that does nothing but read the clock, and the gaps in it. What
//! interrupts this loop (the hypervisor, other processes) also interrupts what is measured, so
//! a tail is judged against these gaps.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Shorter pauses are interrupts that every program has.
const GAP_MIN: Duration = Duration::from_micros(50);

/// The gaps that a spinning thread saw.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Gaps {
    /// How long it span, in milliseconds.
    pub spun_ms: u64,
    /// How many gaps were longer than 50 us.
    pub over_50_us: u64,
    /// The share of time that was lost in those, in percent.
    pub lost_percent: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
}

/// Spins on this thread.
pub fn gaps(time: Duration) -> Gaps {
    let begun = Instant::now();
    let (mut last, mut longest, mut lost, mut count) = (begun, Duration::ZERO, Duration::ZERO, 0);
    while last - begun < time {
        let now = Instant::now();
        let gap = now - last;
        if gap > GAP_MIN {
            count += 1;
            lost += gap;
        }
        longest = longest.max(gap);
        last = now;
    }
    let spun = last - begun;
    let rounded = |value: f64, steps: f64| (value * steps).round() / steps;
    Gaps {
        spun_ms: spun.as_millis() as u64,
        over_50_us: count,
        lost_percent: rounded(lost.as_secs_f64() / spun.as_secs_f64() * 100.0, 1_000.0),
        max_us: rounded(longest.as_secs_f64() * 1e6, 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_for_as_long_as_asked() {
        let gaps = gaps(Duration::from_millis(20));
        assert!(gaps.spun_ms >= 20 && gaps.lost_percent <= 100.0, "{gaps:?}");
        assert!(gaps.max_us > 0.0);
    }
}
