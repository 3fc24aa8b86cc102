//! Why the connection of a source gives up.
//!
//! What the broker refuses may be mended there, so another attempt of the job is worth making. A journal that
//! is damaged stays so; and after a failed sync nobody knows what it holds, so this process must not read it
//! again.

use std::fmt::Display;

use thalweg_kernel::{ConnectorError, JournalError};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    lasting: bool,
}

impl Fault {
    /// Another attempt would meet it again.
    pub(crate) fn lasting(what: impl Display) -> Self {
        Self { what: what.to_string(), lasting: true }
    }

    /// This fault as the error of the source called `name`.
    pub(crate) fn error(&self, name: &str) -> ConnectorError {
        ConnectorError { lasting: self.lasting, ..ConnectorError::new(name, &self.what) }
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self { what, lasting: false }
    }
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Self {
        Self::lasting(error)
    }
}
