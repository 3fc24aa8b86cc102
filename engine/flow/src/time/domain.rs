//! [`TimeDomain`]: which of the two times something goes by.

/// Which clock time to live goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeDomain {
    /// The operator's watermark, or for a timer its own time: as right as the stream's own times.
    EventTime,
    /// This machine's clock, which may jump.
    ProcessingTime,
}
