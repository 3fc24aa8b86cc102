//! The machine's own noise: a loop that does nothing but read the clock, and the gaps in it. What
//! interrupts this loop (the hypervisor, other processes) also interrupts what is measured, so
//! a tail is judged against these gaps.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::Serialize;

use crate::quantiles::Durations;

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

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spun_ms, over_50_us, lost_percent, max_us } = self;
        write!(
            f,
            "{over_50_us} gaps over 50 us in {spun_ms} ms, the longest {max_us:.0} us, {lost_percent:.3} % lost"
        )
    }
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

/// How long threads have to start.
const LEAD: Duration = Duration::from_millis(20);

/// The loops start anew after this time, so that what they have noted is small beside the job's own memory.
const PIECE: Duration = Duration::from_millis(500);

/// A faster stream would measure the loop's own bookkeeping.
const RATE_MAX: u64 = 1_000_000;

/// How late a bare loop sees each of the events that are due every `period` from `begun` on, in nanoseconds, until
/// `late` is full. The loop only reads the clock.
fn open_loop(begun: Instant, period: Duration, late: &mut [u64]) {
    let mut due = begun;
    let mut late = late.iter_mut().peekable();
    while late.peek().is_some() {
        let now = Instant::now();
        // After a gap, those due within it.
        while due <= now
            && let Some(late) = late.next()
        {
            *late = (now - due).as_nanos() as u64;
            due += period;
        }
    }
}

/// What this machine itself adds to the tail of a stream, for a job of `shards` shards. The stream has `rate`
/// events a second, a million at the most. On each of the shards' cores a loop does nothing but wait for each
/// event. An event is as late as the **last** of the loops sees it. (A row waits for the watermarks of all shards,
/// so an interruption of any of them is in it.) The loops spin for about as long as the job runs: only then do
/// they see noise that comes a few times a second.
///
/// # Errors
/// If a thread cannot be started.
pub fn open_loops(cores: usize, rate: u64, time: Duration) -> anyhow::Result<Durations> {
    let mut late = Durations::new()?;
    let mut left = time;
    while !left.is_zero() {
        let piece = left.min(PIECE);
        late.add(&open_loops_for(cores, rate, piece)?);
        left -= piece;
    }
    Ok(late)
}

fn open_loops_for(cores: usize, rate: u64, time: Duration) -> anyhow::Result<Durations> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    // More shards than cores are not pinned, and then nothing is learnt from more loops than cores.
    let ids = ids.into_iter().take(cores.max(1));
    let period = Duration::from_secs(1) / rate.clamp(1, RATE_MAX) as u32;
    let events = (time.as_nanos() / period.as_nanos().max(1)) as usize;
    // By then all threads are up and pinned.
    let begun = Instant::now() + LEAD;
    let loops = ids.map(|core| {
        // Not zeros: those would be pages that are made when the loop first writes to them.
        let mut late = vec![1; events];
        thread::Builder::new().name("noise".into()).spawn(move || {
            let _unpinned = core_affinity::set_for_current(core);
            open_loop(begun, period, &mut late);
            late
        })
    });
    let loops: Vec<_> = loops.collect::<Result<_, _>>()?;
    let mut last = vec![0; events];
    for spinning in loops {
        let late = spinning.join().map_err(|_| anyhow!("a spinning thread panicked"))?;
        last.iter_mut().zip(late).for_each(|(last, late): (&mut u64, u64)| *last = late.max(*last));
    }
    let mut late = Durations::new()?;
    last.into_iter().for_each(|nanos| late.record(Duration::from_nanos(nanos)));
    Ok(late)
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

    #[test]
    fn every_event_that_is_due_is_seen() {
        for cores in [1, 2] {
            let late = open_loops(cores, 10_000, Duration::from_millis(20)).unwrap();
            assert_eq!(late.len(), 200, "{cores}");
        }
    }

    #[test]
    fn what_is_due_in_a_gap_is_late_by_what_is_left_of_it() {
        let (period, mut late) = (Duration::from_millis(10), [0; 4]);
        let begun = Instant::now();
        thread::sleep(Duration::from_millis(25));
        open_loop(begun, period, &mut late);
        let ms = |nanos: u64| nanos / 1_000_000;
        assert!(ms(late[0]) >= 25 && ms(late[1]) >= 15 && ms(late[2]) >= 5, "{late:?}");
        assert_eq!(late[0] - late[2], 20_000_000, "seen at once: {late:?}");
    }
}
