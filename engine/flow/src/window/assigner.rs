//! Assigners: which windows a record is in.
//!
//! Windows are put together of three parts. An *assigner* says which windows a record is in. A
//! [trigger](super::trigger) says when a window yields a result, and its [content](super::content) what it keeps and
//! yields.
//!
//! # Two layouts
//! An assigner also says how the windows are kept, by a type:
//!
//! | [`Layout`] | for | a record costs |
//! |---|---|---|
//! | [`Slices`] | [aligned](Aligned) windows with the default trigger | one addition, mostly in front of the exchange |
//! | [`PerKey`] | all others: sessions, triggers, assigners of your own | an entry of keyed state for each of its windows |
//!
//! All keys have the same aligned windows, so what is of one slice of time lies together and fires together. All other
//! windows are entries of keyed state under key and window, with timers.

use std::fmt;

use thalweg_kernel::Timestamp;

use super::slicing::Slicing;
use super::time_window::TimeWindow;
use super::trigger::OnWatermark;

/// Says which windows a record is in. Its text is the operator's name in the graph, and part of its state's
/// description: windows of another text are others.
///
/// ```
/// # use std::fmt;
/// # use thalweg_flow::*;
/// # use thalweg_kernel::Timestamp;
/// /// Windows that double in length: 1 ms, 2 ms, 4 ms and so on, from the Unix epoch.
/// struct Doubling;
///
/// impl fmt::Display for Doubling {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         f.write_str("Doubling window")
///     }
/// }
///
/// impl Assigner for Doubling {
///     type Layout = PerKey<OnWatermark>;
///
///     fn assign(&self, time: Timestamp, window: &mut impl FnMut(TimeWindow)) {
///         let start = (time.as_millis().max(0) as u64 + 1).next_power_of_two() as i64 / 2;
///         window(TimeWindow { start: start.into(), last: (2 * start - 1).into() });
///     }
/// }
/// # let mut windows = vec![];
/// # Doubling.assign(5.into(), &mut |window| windows.push(window.last.as_millis()));
/// # assert_eq!(windows, [7]);
/// ```
pub trait Assigner: fmt::Display + 'static {
    /// How the windows are kept: [`PerKey<OnWatermark>`](PerKey), but for aligned windows.
    type Layout: Layout;

    /// Whether windows of a key that overlap, or follow upon each other without a gap, become one.
    const MERGES: bool = false;

    /// Shows `window` each window that a record of this time is in: one at least, and exactly one if windows
    /// [merge](Self::MERGES). The time is in all of them.
    fn assign(&self, time: Timestamp, window: &mut impl FnMut(TimeWindow));

    /// Why there can be no such windows, and what is allowed: a job with them does not start.
    fn problem(&self) -> Option<String> {
        None
    }
}

/// How windows are kept.
pub trait Layout: Sized + 'static {
    /// With the default trigger.
    #[doc(hidden)]
    fn new() -> Self;
}

/// Aligned windows with the default trigger: by slices of time.
pub struct Slices(());

impl Layout for Slices {
    fn new() -> Self {
        Self(())
    }
}

/// Windows in keyed state, one entry for each key and window, with the trigger `R`.
pub struct PerKey<R>(pub(super) R);

impl Layout for PerKey<OnWatermark> {
    fn new() -> Self {
        Self(OnWatermark)
    }
}

/// Windows that are the same for all keys, at equal distances.
pub trait Aligned: Assigner<Layout = Slices> {
    /// Where they lie.
    #[doc(hidden)]
    fn slicing(&self) -> Slicing;
}
