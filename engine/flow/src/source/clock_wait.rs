//! A source waits while this machine's clock cannot be right.
//!
//! A gateway without a battery-backed clock boots with an old time, and its first connections are often up before the clock is
//! set. Every record would be ahead of the clock then, and a dead letter. While the clock shows a time that has passed for
//! certain, a source with [`wait_for_clock`](crate::Watermarks::wait_for_clock) is not polled. What comes meanwhile lies in the
//! connection's queue and in its journal, and beyond that with the sender. It was received by the wrong clock, so the source is
//! told by how much the clock was set.
//!
//! Limit: a clock that stands between the last record of an earlier run and now cannot be told from one that is right.

use std::ops::Range;
use std::time::Duration;

use thalweg_kernel::Timestamp;
use thalweg_kernel::time::millis;

use crate::counters::Gauge;
use crate::pipeline::Now;

/// 2026-01-01T00:00:00Z: nobody had this code earlier.
const EARLIEST: Timestamp = Timestamp::from_millis(1_767_225_600_000);
/// A clock that jumps by more than this was set, and did not merely run a little fast.
const SET_MS: i64 = 2_000;
/// How often the clock is looked at while the source waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct ClockWait {
    longest: Duration,
    /// The clock is not right below this.
    earliest: Timestamp,
    begun: Option<Now>,
    /// The clock was wrong at these times of it, and was set by this number of milliseconds.
    set: Option<(Range<Timestamp>, i64)>,
    /// One while the source waits.
    shown: Gauge,
    is_over: bool,
}

impl ClockWait {
    pub(super) fn new(longest: Duration, shown: Gauge) -> Self {
        Self { longest, earliest: EARLIEST, begun: None, set: None, shown, is_over: false }
    }

    /// An earlier run has believed a record of this time, with a clock guard of so much.
    pub(super) fn has_believed(&mut self, latest: Timestamp, guard_ms: i64) {
        self.earliest = self.earliest.max(latest.minus_ms(guard_ms));
    }

    /// If the clock was set while the source waited: at which times it was wrong, and by how much. Asked once, behind the wait.
    pub(super) fn take_set(&mut self) -> Option<(Range<Timestamp>, i64)> {
        self.set.take()
    }

    /// Until when the source waits, if it does.
    pub(super) fn until(&mut self, now: Now) -> Option<Duration> {
        if self.is_over {
            return None;
        }
        let begun = *self.begun.get_or_insert(now);
        let last = begun.steady.saturating_add(self.longest);
        self.is_over = now.wall >= self.earliest || now.steady >= last;
        if self.is_over {
            let waited = now.steady.saturating_sub(begun.steady);
            let until = begun.wall.plus_ms(millis(waited));
            let by_ms = now.wall.ms_since(until);
            // Connections begin a little before the first step. What an earlier run received was received by another clock.
            let wrong = begun.wall.minus_ms(SET_MS)..until.plus_ms(SET_MS / 2);
            self.set = (by_ms > SET_MS).then_some((wrong, by_ms));
        }
        self.shown.set(i64::from(!self.is_over));
        (!self.is_over).then(|| last.min(now.steady.saturating_add(LOOK_EVERY)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: Timestamp, seconds: u64) -> Now {
        Now { wall, steady: Duration::from_secs(seconds) }
    }

    #[test]
    fn it_waits_until_the_clock_is_set_and_not_for_ever() {
        let begin = || ClockWait::new(Duration::from_secs(60), Gauge::default());
        let boot = Timestamp::from(5_000);
        let mut wait = begin();
        assert_eq!(wait.until(at(boot, 10)), Some(Duration::from_secs(11)));
        assert_eq!(wait.take_set(), None);
        assert_eq!(wait.until(at(EARLIEST, 20)), None);
        let (wrong, by_ms) = wait.take_set().unwrap();
        // Ten seconds have passed meanwhile.
        assert_eq!(boot.plus_ms(10_000).plus_ms(by_ms), EARLIEST);
        assert!(wrong.contains(&boot) && wrong.contains(&boot.plus_ms(10_000)));
        assert!(!wrong.contains(&EARLIEST) && !wrong.contains(&Timestamp::from(0)));
        assert_eq!(wait.take_set(), None, "once");
        assert_eq!(wait.until(at(boot, 21)), None, "it waits at the beginning alone");
        let mut wait = begin();
        assert_eq!(wait.until(at(boot, 10)), Some(Duration::from_secs(11)));
        assert_eq!(wait.until(at(boot, 69)), Some(Duration::from_secs(70)));
        assert_eq!((wait.until(at(boot, 70)), wait.take_set()), (None, None));
    }

    #[test]
    fn a_clock_before_what_was_believed_is_not_right() {
        let mut wait = ClockWait::new(Duration::from_secs(60), Gauge::default());
        let believed = EARLIEST.plus_ms(1_000_000);
        wait.has_believed(believed, 300_000);
        assert!(wait.until(at(believed.minus_ms(300_001), 0)).is_some());
        assert!(wait.until(at(believed.minus_ms(300_000), 1)).is_none());
    }
}
