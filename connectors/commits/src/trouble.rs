//! [`Trouble`]: why something could not be done, and what that means for the job.

use thalweg_kernel::ConnectorError;

use crate::note::NoteDamaged;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Somebody else has the lock, the disk is full, the server is away: it is tried again. Says what
    /// would help.
    #[error("{0}")]
    Wait(String),
    /// The job fails, and is started again as its restart strategy says: somebody may have mended it. Says
    /// what to do.
    #[error("{0}")]
    Final(String),
    /// The job ends: every attempt would meet it again. Says what to do.
    #[error("{0}")]
    Lasting(String),
}

/// A note stays as it is.
impl From<NoteDamaged> for Trouble {
    fn from(error: NoteDamaged) -> Self {
        Self::Lasting(error.to_string())
    }
}

impl Trouble {
    /// The same as the error of the sink called `name`.
    #[cold]
    pub fn error(&self, name: &str) -> ConnectorError {
        let error = ConnectorError::new(name, self.to_string());
        if matches!(self, Self::Lasting(_)) { error.lasting() } else { error }
    }
}
