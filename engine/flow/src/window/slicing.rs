//! Aligned windows as slices: stretches of time that no window divides.
//!
//! Windows of `size` that begin every `slide` overlap, and a record would have to be added to each window that
//! contains it. So time is cut into slices of `gcd(size, slide)` instead. A record is added to its one slice, and a
//! window is merged from its slices when it fires. Tumbling windows are the case in which a window is one slice.
//!
//! # Three times of a slice
//! ```text
//!   start         last   due                      closes
//!     |-- slice --|       |                          |
//!   |---- the first window that contains it ----|    |
//!                 |---- the last window that contains it ----|
//! ```
//! `due` is the last millisecond of the first window that contains the slice: a record that comes later misses that
//! window. `closes` is the last millisecond of the last such window: a record that comes later is late for all of
//! them. In tumbling windows both are the last millisecond of the slice.
//!
//! # The ends of time
//! Nothing here overflows. The window in which time ends is the last one, and is cut off at the end of time. Windows
//! that would begin later and end beyond it do not exist. Windows that begin before time does are cut off likewise.

use thalweg_kernel::Timestamp;

use super::time_window::TimeWindow;

/// Points in time at equal distances, and the cells between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    cell_ms: i64,
    offset_ms: i64,
}

impl Grid {
    /// Cells of `cell_ms` milliseconds, of which one begins at `offset_ms`.
    pub(crate) fn new(cell_ms: i64, offset_ms: i64) -> Self {
        Self { cell_ms, offset_ms: offset_ms.checked_rem_euclid(cell_ms).unwrap_or(0) }
    }

    /// The first millisecond of the cell of `time`.
    #[inline]
    pub(crate) fn start_of(self, time: Timestamp) -> Timestamp {
        time.minus_ms(self.into_cell(time))
    }

    /// The last millisecond of the cell of `time`.
    #[inline]
    pub(crate) fn last_of(self, time: Timestamp) -> Timestamp {
        time.plus_ms(self.cell_ms - 1 - self.into_cell(time))
    }

    #[inline]
    fn into_cell(self, time: Timestamp) -> i64 {
        (time.as_millis().rem_euclid(self.cell_ms) - self.offset_ms).rem_euclid(self.cell_ms)
    }
}

/// How aligned windows lie in time: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slicing {
    slices: Grid,
    /// Its cells end where windows do.
    fires: Grid,
    /// How far a window reaches back beyond the cell in whose last millisecond it fires.
    back_ms: i64,
    size_ms: i64,
}

impl Slicing {
    /// Windows of `size_ms` that begin every `slide_ms`, one of them at `offset_ms`. The slide is at most the size.
    pub(crate) fn new(size_ms: i64, slide_ms: i64, offset_ms: i64) -> Self {
        Self {
            slices: Grid::new(gcd(size_ms, slide_ms), offset_ms),
            fires: Grid::new(
                slide_ms,
                size_ms.checked_rem(slide_ms).unwrap_or(0)
                    + offset_ms.checked_rem(slide_ms).unwrap_or(0),
            ),
            back_ms: size_ms - slide_ms,
            size_ms,
        }
    }

    /// Whether no record could ever fall into a window.
    pub(crate) fn is_empty(self) -> bool {
        self.size_ms == 0 || self.fires.cell_ms == 0
    }

    /// How many slices a window has.
    pub(crate) fn slices_per_window(self) -> u64 {
        self.size_ms.checked_div(self.slices.cell_ms).unwrap_or(1).unsigned_abs()
    }

    /// The first millisecond of the slice of `time`.
    #[inline]
    pub(crate) fn start_of(self, time: Timestamp) -> Timestamp {
        self.slices.start_of(time)
    }

    /// The last millisecond of the slice of `time`.
    #[inline]
    pub(crate) fn last_of(self, time: Timestamp) -> Timestamp {
        self.slices.last_of(time)
    }

    /// The last millisecond of the first window that ends at `time` or later.
    #[inline]
    pub(crate) fn fires_from(self, time: Timestamp) -> Timestamp {
        self.fires.last_of(time)
    }

    /// The last millisecond of the last window that contains the slice which begins at `start`.
    #[inline]
    pub(crate) fn closes(self, start: Timestamp) -> Timestamp {
        self.fires.last_of(start.plus_ms(self.back_ms))
    }

    /// Shows `window` each window that contains `time`.
    pub(super) fn assign(self, time: Timestamp, window: &mut impl FnMut(TimeWindow)) {
        let closes = self.closes(self.start_of(time));
        let mut last = self.fires_from(self.last_of(time));
        while last <= closes {
            window(TimeWindow { start: self.window_of(last), last });
            if last == Timestamp::MAX {
                return;
            }
            last = self.fires_from(last.plus_ms(1));
        }
    }

    /// The first millisecond of the window whose last one is `last`.
    #[inline]
    pub(crate) fn window_of(self, last: Timestamp) -> Timestamp {
        self.fires.start_of(last).minus_ms(self.back_ms)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The windows of `size` every `slide` that contain `time`, by their first and last milliseconds.
    fn naive(size: i64, slide: i64, offset: i64, time: i64) -> Vec<(i64, i64)> {
        let first = (time - size + 1 - offset).div_euclid(slide) - 1;
        (first..)
            .map(|n| n * slide + offset)
            .skip_while(|start| start + size <= time)
            .take_while(|&start| start <= time)
            .map(|start| (start, start + size - 1))
            .collect()
    }

    #[test]
    fn a_slice_is_in_the_windows_that_contain_its_times() {
        for (size, slide, offset) in [
            (10, 10, 0),
            (10, 5, 0),
            (10, 5, 3),
            (60, 1, 0),
            (7, 3, 2),
            (9, 6, 0),
            (9, 6, 20),
            (8, 7, 5),
        ] {
            let slicing = Slicing::new(size, slide, offset);
            for time in -50..50 {
                let windows = naive(size, slide, offset, time);
                let at = Timestamp::from_millis(time);
                let (start, last) = (slicing.start_of(at), slicing.last_of(at));
                assert!(start <= at && at <= last);
                for within in start.as_millis()..=last.as_millis() {
                    assert_eq!(naive(size, slide, offset, within), windows, "one slice, {within}");
                }
                let due = slicing.fires_from(last).as_millis();
                assert_eq!(due, windows[0].1, "{size} {slide} {offset} at {time}");
                let closes = slicing.closes(start).as_millis();
                assert_eq!(closes, windows.last().unwrap().1, "{size} {slide} {offset} at {time}");
                for (first, end) in windows {
                    assert_eq!(slicing.window_of(end.into()).as_millis(), first);
                }
            }
        }
    }

    /// Goal: each time is in one slice, which is the one between its neighbours, up to the ends of time.
    #[test]
    fn slices_at_the_ends_of_time_do_not_overlap() {
        for (size, slide, offset) in
            [(10, 10, 0), (10, 5, 3), (7, 3, 6), (1_000, 1, 999), (1, 1, 0)]
        {
            let slicing = Slicing::new(size, slide, offset);
            for times in [i64::MIN..i64::MIN + 5_000, i64::MAX - 5_000..i64::MAX] {
                let mut before = None;
                for time in times.map(Timestamp::from_millis) {
                    let (start, last) = (slicing.start_of(time), slicing.last_of(time));
                    assert!(start <= time && time <= last, "{start} {time} {last}");
                    let (due, closes) = (slicing.fires_from(last), slicing.closes(start));
                    assert!(last <= due && due <= closes, "{last} {due} {closes}");
                    assert!(slicing.window_of(due) <= start && slicing.window_of(closes) <= start);
                    match before {
                        Some((start_before, _)) if start_before == start => {}
                        Some((_, last_before)) => assert_eq!(start, last_before),
                        None => {}
                    }
                    before = Some((start, last.plus_ms(1)));
                }
            }
            assert_eq!(slicing.closes(slicing.start_of(Timestamp::MAX)), Timestamp::MAX);
        }
    }
}
