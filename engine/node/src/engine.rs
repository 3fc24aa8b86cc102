//! How the engine runs where no file says so.

use clap::Args;
use thalweg_kernel::ConfigError;
use thalweg_runtime::{DriverKind, RuntimeConfig};

/// How the engine runs, for a command whose job no file describes.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Shards; one per core by default
    #[arg(long, value_name = "N")]
    shards: Option<usize>,

    /// auto, glommio or threads
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    driver: String,
}

impl EngineArgs {
    pub(crate) fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
        let driver = self.driver.parse::<DriverKind>()?;
        let default = RuntimeConfig::default();
        let config =
            RuntimeConfig { driver, shards: self.shards.unwrap_or(default.shards), ..default };
        config.validate()?;
        Ok(config)
    }
}
