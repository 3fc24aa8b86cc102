//! The highest rate that the engine sustains. The rate is doubled until the source falls further and further
//! behind its schedule, then the gap is halved a few times.

use super::line::Line;
use super::measure::Runs;
use super::spec::Spec;

/// How often the gap between the last rate that was sustained and the first that was not is halved, in proportion.
/// The result is then within a fifth.
const HALVINGS: usize = 2;

/// The bounds of a sweep.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The first rate.
    pub from: u64,
    /// No higher rate is tried.
    pub to: u64,
    /// How long each rate lasts.
    pub seconds: f64,
    /// Further behind than this at the end, compared with the middle, and a rate is not sustained.
    pub behind_ms_max: f64,
}

impl Bounds {
    /// Whether the engine kept up.
    pub fn sustained(&self, line: &Line) -> bool {
        line.backlog.is_some_and(|backlog| backlog.growth_ms() <= self.behind_ms_max)
    }
}

/// Runs a sweep. Returns the highest rate that was sustained, if one was.
///
/// # Errors
/// If a run fails.
pub fn sweep(runs: &mut Runs, spec: &Spec, bounds: &Bounds) -> anyhow::Result<Option<u64>> {
    let mut sustains = |rate: u64| {
        let events = events(rate, bounds.seconds);
        let line = runs.measure(&Spec { rate: Some(rate), events, ..spec.clone() }, 1)?;
        Ok(bounds.sustained(line))
    };
    highest(bounds, &mut sustains)
}

/// The number of events at this rate in `seconds`.
pub fn events(rate: u64, seconds: f64) -> u64 {
    (rate as f64 * seconds).ceil() as u64
}

/// The search itself.
fn highest(
    bounds: &Bounds,
    sustains: &mut impl FnMut(u64) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<u64>> {
    let (mut good, mut rate) = (None, bounds.from);
    let mut bad = loop {
        if rate > bounds.to {
            return Ok(good);
        }
        if !sustains(rate)? {
            break rate;
        }
        good = Some(rate);
        rate = rate.saturating_mul(2);
    };
    for _ in 0..HALVINGS {
        let Some(below) = good else { break };
        let between = ((below as f64) * (bad as f64)).sqrt() as u64;
        if sustains(between)? {
            good = Some(between);
        } else {
            bad = between;
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(from: u64, to: u64, limit: u64) -> (Option<u64>, Vec<u64>) {
        let mut tried = Vec::new();
        let bounds = Bounds { from, to, seconds: 1.0, behind_ms_max: 10.0 };
        let rate = highest(&bounds, &mut |rate| {
            tried.push(rate);
            Ok(rate <= limit)
        });
        (rate.unwrap(), tried)
    }

    #[test]
    fn the_highest_sustained_rate_is_found_within_a_fifth() {
        for limit in [150, 999, 1_000, 76_543] {
            let (rate, _) = found(100, u64::MAX, limit);
            let rate = rate.unwrap();
            assert!(rate <= limit && rate as f64 * 1.2 > limit as f64, "{limit}: {rate}");
        }
    }

    #[test]
    fn nothing_beyond_the_bound_is_tried_and_nothing_sustained_is_said() {
        assert_eq!(found(100, 400, u64::MAX), (Some(400), vec![100, 200, 400]));
        assert_eq!(found(100, 400, 50), (None, vec![100]));
    }
}
