//! [`JobError`]: how jobs fail.

use std::fmt;

use thalweg_kernel::{ConfigError, ConnectorError, Epoch};

use crate::driver::kind::DriverKind;

/// Why a job did not start or did not reach its end.
///
/// Its `Debug` is its `Display`: `fn main() -> Result<(), JobError>` prints the former.
#[derive(thiserror::Error)]
pub enum JobError {
    /// A wrong setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A source or sink failed for good.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The driver cannot work on this machine.
    #[error("the {driver} driver is not available: {reason}")]
    Driver {
        /// Which one.
        driver: DriverKind,
        /// Why, and what to use instead.
        reason: String,
    },
    /// User code or the engine panicked.
    #[error("shard {shard} panicked: {message}")]
    Panicked {
        /// The shard it happened on.
        shard: usize,
        /// The panic's message.
        message: String,
    },
    /// Stored state cannot be used, or an epoch could not be stored. The process should end and start again
    /// from what is durable.
    #[error("stored state: {0}")]
    Storage(String),
    /// More checkpoints failed in a row than are tolerated.
    #[error("checkpoint {epoch} was not complete in time: {failures} in a row")]
    Checkpoint {
        /// Which one.
        epoch: Epoch,
        /// How many in a row.
        failures: u32,
    },
    /// It was aborted, by its [`Stopper`](crate::Stopper).
    #[error("the job was ended at once, without draining: what was in flight is lost")]
    Aborted,
    /// No shard can move and nothing will wake any: a bug of an operator or a connector.
    #[error("the job stalled: every shard waits and nothing will wake it (seed {seed})")]
    Stalled {
        /// The seed that shows it.
        seed: u64,
    },
}

impl JobError {
    /// Whether another start may mend it.
    pub(crate) fn may_be_mended(&self) -> bool {
        match self {
            Self::Connector(error) => !error.lasting,
            Self::Panicked { .. } | Self::Checkpoint { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
