//! Which driver steps a job's shards, as configurations name it.

use std::fmt;
use std::str::FromStr;

use thalweg_kernel::ConfigError;

/// Who steps the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverKind {
    /// The one that costs least: plain threads.
    #[default]
    Auto,
    /// A glommio executor per shard; connections have threads of their own. Fails where io_uring is blocked.
    Glommio,
    /// A plain thread per shard, which does the input and output of the shard's connections itself.
    Threads,
    /// All shards on the calling thread, with a virtual clock; all chance comes from the seed.
    Simulated {
        /// Decides the order of steps and the sizes of batches.
        seed: u64,
    },
}

impl FromStr for DriverKind {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "auto" => Ok(Self::Auto),
            "glommio" => Ok(Self::Glommio),
            "threads" => Ok(Self::Threads),
            _ => Err(ConfigError::new("driver", text, "auto, glommio, threads")),
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Glommio => f.write_str("glommio"),
            Self::Threads => f.write_str("threads"),
            Self::Simulated { seed } => write!(f, "simulated, seed {seed}"),
        }
    }
}
