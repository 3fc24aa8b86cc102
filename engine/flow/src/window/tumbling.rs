//! Tumbling windows: fixed size, aligned to the epoch, no overlap.

use std::fmt;
use std::time::Duration;

use thalweg_kernel::Timestamp;
use thalweg_kernel::time::millis;

use super::assigner::{Aligned, Assigner, Slices};
use super::slicing::Slicing;
use super::time_window::TimeWindow;

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

    /// Moves the alignment by `offset`: days from 02:00 UTC on are `of(day).offset(2 h)`.
    #[must_use]
    pub fn offset(mut self, offset: Duration) -> Self {
        self.offset_ms = millis(offset).checked_rem(self.size_ms).unwrap_or(0);
        self
    }
}

impl Assigner for Tumbling {
    type Layout = Slices;

    fn assign(&self, time: Timestamp, window: &mut impl FnMut(TimeWindow)) {
        self.slicing().assign(time, window);
    }

    fn problem(&self) -> Option<String> {
        self.slicing().is_empty().then(|| "allowed: 1 ms or more".into())
    }
}

impl Aligned for Tumbling {
    fn slicing(&self) -> Slicing {
        Slicing::new(self.size_ms, self.size_ms, self.offset_ms)
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
        windows.slicing().start_of(ms.into()).as_millis()
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
}
