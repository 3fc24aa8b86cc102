//! The log: lines on standard error.

use std::io::{IsTerminal, stderr};

use thalweg_kernel::ConfigError;
use tracing_subscriber::EnvFilter;

/// Names what a program logs, where it says nothing itself: `warn`, `info`, `warn,thalweg_mqtt=debug`.
pub(crate) const VARIABLE: &str = "THALWEG_LOG";

/// Logs what `filter` lets through, unless this process logs already.
///
/// # Errors
/// If it is no filter; `key` is what it was given by.
pub(crate) fn begin(key: &str, filter: &str) -> Result<(), ConfigError> {
    let parsed = filter.parse::<EnvFilter>().map_err(|error| {
        let allowed =
            "error, warn, info, debug, trace, or directives such as warn,thalweg_mqtt=debug";
        ConfigError::new(key, filter, format!("{allowed} ({error})"))
    })?;
    // Colours are for people: a journal or a file gets plain text.
    let colours = stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_writer(stderr).with_ansi(colours);
    // Whoever has set up a log of their own keeps it.
    let _has_one = lines.with_env_filter(parsed).try_init();
    Ok(())
}
