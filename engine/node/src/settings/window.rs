//! `[window]`.

use std::time::Duration;

use thalweg_kernel::options;

/// Longer windows are mistakes, and would never close.
const WINDOW_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1_000;

options! {
    #[derive(Clone, Debug)]
    pub(crate) struct Window {
        /// Tumbling windows of this size, aligned to the Unix epoch.
        #[range(1, WINDOW_MS_MAX)]
        #[example = "10s"]
        pub(crate) size: Duration,
        /// How far behind the latest reading one may come and still count.
        pub(crate) out_of_orderness: Duration = Duration::ZERO,
        /// A source that is silent for this long no longer holds results back.
        pub(crate) idle_after: Duration = Duration::from_secs(30),
        /// When all readings have been silent for this long, windows that are over close by the clock, and do not wait for the
        /// next reading. Give it more than the pauses of devices whose clocks are behind.
        pub(crate) close_after: Duration = Duration::from_secs(5),
        /// A reading further ahead of this machine's clock becomes a dead letter.
        pub(crate) clock_guard: Duration = Duration::from_secs(5 * 60),
    }
}
