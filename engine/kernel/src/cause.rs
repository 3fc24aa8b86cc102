//! [`Cause`] and [`DecodeError`]: why an input was refused.

use std::fmt;

use serde::Serialize;

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Not well-formed in its format: broken JSON, an unterminated quote.
    Malformed,
    /// A field that the job reads is not there.
    MissingField,
    /// A field is there with another type, or out of its type's range.
    WrongType,
    /// Text that is not UTF-8.
    InvalidUtf8,
    /// A payload, line or field over its limit.
    TooLarge,
    /// Nested deeper than the limit.
    TooDeep,
    /// Not a number, or infinite, where a number is due.
    NotANumber,
    /// The timestamp is further ahead of this machine's clock than the clock guard allows.
    ClockAhead,
    /// Its key would be one more than an operator may keep state of.
    StateFull,
    /// A function of the job's has returned an error for it, or panicked.
    FunctionFailed,
    /// A result that a sink cannot pass on, or that its target does not take.
    ResultRefused,
}

impl Cause {
    /// Every cause, in order: for tables and counters.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::MissingField,
        Self::WrongType,
        Self::InvalidUtf8,
        Self::TooLarge,
        Self::TooDeep,
        Self::NotANumber,
        Self::ClockAhead,
        Self::StateFull,
        Self::FunctionFailed,
        Self::ResultRefused,
    ];

    /// The name used in metrics, logs and dead-letter files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::NotANumber => "not_a_number",
            Self::ClockAhead => "clock_ahead",
            Self::StateFull => "state_full",
            Self::FunctionFailed => "function_failed",
            Self::ResultRefused => "result_refused",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a message did not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {reason}")]
pub struct DecodeError {
    /// The cause as counted.
    pub cause: Cause,
    /// Which field, what was found, what was expected.
    pub reason: String,
    /// The offending byte's position in the payload.
    pub position: Option<u64>,
}

impl DecodeError {
    /// A refusal for `cause` with its reason, at a byte of the payload where there is one.
    pub fn new(cause: Cause, reason: impl Into<String>, position: Option<usize>) -> Self {
        Self { cause, reason: reason.into(), position: position.map(|byte| byte as u64) }
    }
}
