//! A window as a stretch of event time.

use thalweg_kernel::Timestamp;
use thalweg_kernel::defects::{Defect, seeded};

/// A stretch of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeWindow {
    /// The first millisecond.
    pub start: Timestamp,
    /// The last millisecond, which rows of the window carry as their event time.
    pub last: Timestamp,
}

impl TimeWindow {
    /// The first millisecond after the window.
    #[inline]
    pub fn end(self) -> Timestamp {
        self.last.plus_ms(1)
    }

    /// Whether `other` overlaps with this window, or one follows upon the other.
    #[inline]
    pub(super) fn meets(self, other: Self) -> bool {
        let overlap = self.start <= other.last && other.start <= self.last;
        let follows = self.start == other.end() || other.start == self.end();
        overlap || (follows && !seeded(Defect::FlowSessionsStayApart))
    }

    /// The shortest window that contains both.
    #[inline]
    pub(super) fn with(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), last: self.last.max(other.last) }
    }
}
