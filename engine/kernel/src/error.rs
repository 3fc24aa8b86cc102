//! Errors of connectors and of configuration, phrased for the person who must act on them.

use std::any::Any;
use std::fmt;

use crate::{JournalError, StateError};

/// A connector cannot go on.
///
/// Bad *data* is never one of these: it becomes a [`DeadLetter`](crate::DeadLetter) and the stream
/// goes on. Weather that a connector can wait out (a broker that is away) is not one either.
#[derive(Debug, thiserror::Error)]
#[error("{connector}: {what}")]
pub struct ConnectorError {
    /// Which connector, with its address: `file out.csv`, `mqtt://broker:1883`.
    pub connector: String,
    /// What went wrong, and what to do about it.
    pub what: String,
    /// The underlying error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Another attempt in this process cannot mend it: the job ends, whatever its restart strategy.
    pub lasting: bool,
}

impl ConnectorError {
    /// An error of `connector` that says `what`.
    pub fn new(connector: impl Into<String>, what: impl Into<String>) -> Self {
        Self { connector: connector.into(), what: what.into(), source: None, lasting: false }
    }

    /// The same with its cause; the cause's text becomes part of the message. It lasts if the cause
    /// does.
    #[must_use]
    pub fn caused_by(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.what = format!("{}: {cause}", self.what);
        self.lasting |= lasts(&cause);
        self.source = Some(Box::new(cause));
        self
    }

    /// The same, which another attempt cannot mend.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }
}

/// Whether what was caused by this stays as it is: a wrong setting, damage, and storage that has failed, of which
/// nobody knows what it wrote.
fn lasts(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<ConfigError>() || cause.is::<StateError>() || cause.is::<JournalError>()
}

/// The message of a caught panic.
pub fn message_of_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// A wrong setting: names the key, the value and what is allowed. Programs exit with code 2 on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key as the user wrote it: `mqtt.qos`, `--shards`, the query parameter of a URL.
    pub key: String,
    /// The value as the user wrote it; passwords are replaced by `***`.
    pub value: String,
    /// What would be accepted.
    pub allowed: String,
}

impl ConfigError {
    /// `key` has `value`, but only `allowed` would do.
    pub fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }
}

/// A message shows this much of a value.
const VALUE_CHARS_MAX: usize = 200;

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, allowed } = self;
        match value.char_indices().nth(VALUE_CHARS_MAX) {
            None => write!(f, "{key} = {value:?}")?,
            Some((end, _)) => write!(f, "{key} = {:?}...", &value[..end])?,
        }
        write!(f, " is not allowed; allowed: {allowed}")
    }
}

impl std::error::Error for ConfigError {}
