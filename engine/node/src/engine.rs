//! What commands that run the engine share: how it runs where no file says so, and where its metrics are.

use std::net::SocketAddr;

#[cfg(feature = "demo")]
use clap::Args;
#[cfg(feature = "demo")]
use thalweg_kernel::ConfigError;
use thalweg_runtime::serve_prometheus;
#[cfg(feature = "demo")]
use thalweg_runtime::{DriverKind, RuntimeConfig};

/// How the engine runs, for a command whose job no file describes.
#[cfg(feature = "demo")]
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Shards; one per core by default
    #[arg(long, value_name = "N")]
    shards: Option<usize>,

    /// auto, glommio or threads
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    driver: String,
}

#[cfg(feature = "demo")]
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

/// Serves metrics and logs where.
pub(crate) fn serve_metrics(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    let bound = serve_prometheus(address)?;
    tracing::info!("metrics at http://{bound}/metrics");
    Ok(bound)
}
