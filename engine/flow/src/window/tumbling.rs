//! Tumbling windows: fixed size, aligned to the epoch, no overlap.

use std::fmt;
use std::time::Duration;

use thalweg_kernel::{Timestamp, time::millis};

/// Windows of one size that follow each other without gap or overlap. They are aligned to the Unix
/// epoch, whatever the first record's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    size_ms: i64,
    offset_ms: i64,
}

impl Tumbling {
    /// Windows of `size`, which is at least one millisecond: a job with shorter ones does not start.
    /// What is beyond whole milliseconds is cut off.
    pub fn of(size: Duration) -> Self {
        Self { size_ms: millis(size), offset_ms: 0 }
    }

    /// Whether no record could ever fall into one.
    pub(crate) fn is_empty(self) -> bool {
        self.size_ms == 0
    }

    /// Moves the alignment by `offset`: days from 02:00 UTC on are `of(day).offset(2 h)`.
    #[must_use]
    pub fn offset(mut self, offset: Duration) -> Self {
        self.offset_ms = millis(offset).checked_rem(self.size_ms).unwrap_or(0);
        self
    }

    /// The first millisecond of the window that `time` falls into.
    #[inline]
    pub(crate) fn start_of(self, time: Timestamp) -> Timestamp {
        time.minus_ms(self.into_window(time))
    }

    /// The last millisecond of the window that begins at `start`.
    #[inline]
    pub(crate) fn last_of(self, start: Timestamp) -> Timestamp {
        // Zero, but for the window that began before time does.
        let into = self.into_window(start);
        start.plus_ms(self.size_ms - 1 - into)
    }

    /// How far `time` is behind the beginning of its window. (Nothing here overflows, whatever the time.)
    #[inline]
    fn into_window(self, time: Timestamp) -> i64 {
        (time.as_millis().rem_euclid(self.size_ms) - self.offset_ms).rem_euclid(self.size_ms)
    }
}

impl fmt::Display for Tumbling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tumbling window of {:?}", Duration::from_millis(self.size_ms.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(windows: Tumbling, ms: i64) -> i64 {
        windows.start_of(ms.into()).as_millis()
    }

    #[test]
    fn windows_are_aligned_to_the_epoch_on_both_sides_of_it() {
        let tens = Tumbling::of(Duration::from_millis(10));
        for (time, first) in [(0, 0), (9, 0), (10, 10), (-1, -10), (-10, -10), (-11, -20)] {
            assert_eq!(start(tens, time), first, "{time}");
        }
    }

    #[test]
    fn an_offset_moves_the_alignment() {
        let windows = Tumbling::of(Duration::from_millis(10)).offset(Duration::from_millis(13));
        for (time, first) in [(3, 3), (12, 3), (13, 13), (2, -7)] {
            assert_eq!(start(windows, time), first, "{time}");
        }
    }

    /// Goal: each time is in one window, which is the one between its neighbours, up to the ends of time.
    #[test]
    fn windows_at_the_ends_of_time_do_not_overlap() {
        for (size, offset) in [(10, 0), (10, 3), (7, 6), (1_000, 999), (1, 0)] {
            let windows =
                Tumbling::of(Duration::from_millis(size)).offset(Duration::from_millis(offset));
            for times in [i64::MIN..i64::MIN + 5_000, i64::MAX - 5_000..i64::MAX] {
                let mut before = None;
                for time in times.map(Timestamp::from_millis) {
                    let start = windows.start_of(time);
                    let last = windows.last_of(start);
                    assert!(start <= time && time <= last, "{start} {time} {last}");
                    match before {
                        Some((start_before, _)) if start_before == start => {}
                        Some((_, last_before)) => assert_eq!(start, last_before),
                        None => {}
                    }
                    before = Some((start, last.plus_ms(1)));
                }
            }
        }
    }

    #[test]
    fn extreme_times_saturate() {
        let windows = Tumbling::of(Duration::from_secs(10));
        let start = windows.start_of(Timestamp::MAX);
        assert_eq!(windows.last_of(start), Timestamp::MAX);
        assert_eq!(windows.start_of(Timestamp::MIN), Timestamp::MIN);
    }
}
