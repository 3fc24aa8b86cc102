//! `[window]`.

use std::time::Duration;

use thalweg_flow::AtEnd;
use thalweg_kernel::options::{Table, units};
use thalweg_kernel::{ConfigError, choices, options};

/// Longer windows are mistakes, and would never close.
const WINDOW_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1_000;

/// What becomes of open windows when the input has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    Finish,
    Suspend,
}

choices! { Ends: "finish" => Ends::Finish, "suspend" => Ends::Suspend }

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
        /// next reading. Give it more than the pauses of devices whose clocks are behind, or that send what they gathered. While
        /// the broker is away, nothing closes.
        pub(crate) close_after: Duration = Duration::from_secs(5),
        /// A reading further ahead of this machine's clock becomes a dead letter.
        pub(crate) clock_guard: Duration = Duration::from_secs(5 * 60),
        /// While this machine's clock shows a time that has passed for certain, readings wait, for this long at most.
        pub(crate) clock_wait: Duration = Duration::from_secs(10 * 60),
        /// What becomes of open windows when the input has ended. `finish`: they give their rows. `suspend`: they give none,
        /// and stay open in the state; the next start goes on with them. With `finish`, a state and sinks that replace rows,
        /// they give their rows and stay open, too, so that a later row knows more. With other sinks they are forgotten.
        #[absent = "suspend with [state] and any sink that replaces no rows, otherwise finish"]
        at_end: Option<Ends>,
    }
}

impl Window {
    /// What becomes of open windows when the input has ended. It depends on whether the job has stored state, and whether
    /// its sinks replace rows.
    ///
    /// # Errors
    /// If windows are to stay where nothing stays.
    pub(crate) fn at_end(&self, has_state: bool, replaces: bool) -> Result<AtEnd, ConfigError> {
        match (self.at_end, has_state) {
            (Some(Ends::Suspend), false) => {
                let allowed = "finish; without [state] nothing is kept for a next start";
                Err(ConfigError::new("at_end", "suspend", allowed))
            }
            (_, false) => Ok(AtEnd::Finish),
            (Some(Ends::Suspend), true) => Ok(AtEnd::Suspend),
            (None | Some(Ends::Finish), true) if replaces => Ok(AtEnd::GoOn),
            (Some(Ends::Finish), true) => Ok(AtEnd::Finish),
            (None, true) => Ok(AtEnd::Suspend),
        }
    }

    /// Looks at what was written of the section.
    ///
    /// # Errors
    /// If the size is of a calendar.
    pub(crate) fn check(written: &Table) -> Result<(), ConfigError> {
        let size = written.get("size").and_then(|value| value.raw.as_text());
        let Some(size) = size.filter(|size| units::is_of_a_calendar(size)) else { return Ok(()) };
        let allowed = "days or less, such as 7d; windows are counted from 1970-01-01, a Thursday, so they cannot begin with \
                       the weeks, months and years of a calendar";
        Err(ConfigError::new("size", size, allowed))
    }
}
