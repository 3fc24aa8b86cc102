//! The log: lines on standard error.

use std::io::{self, IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};

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
    let lines = tracing_subscriber::fmt().with_writer(|| Lines).with_ansi(colours);
    // Whoever has set up a log of their own keeps it.
    let _has_one = lines.with_env_filter(parsed).try_init();
    Ok(())
}

/// Whoever has a live picture on the terminal, and shows the lines in it.
static SCREEN: Mutex<Option<flume::Sender<Vec<u8>>>> = Mutex::new(None);

/// Has lines come here from now on, instead of to standard error. A full queue loses none: they go to standard error.
#[cfg(feature = "demo")]
pub(crate) fn divert(to: flume::Sender<Vec<u8>>) {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
}

/// Lines go to standard error again.
#[cfg(feature = "demo")]
pub(crate) fn undivert() {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Where a line goes. Each is written at once.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let screen = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
        match screen.as_ref().map(|screen| screen.try_send(line.to_vec())) {
            Some(Ok(())) => {}
            _ => stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}
