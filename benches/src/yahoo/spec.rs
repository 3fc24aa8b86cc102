//! What a measured process is told to do: [`Spec`].

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use thalweg::prelude::*;

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// This one.
    Thalweg,
    /// This one, with the job put together at run time.
    Plan,
    /// A loop written by hand for this workload.
    Handloop,
    /// That loop without the branch that no processor can guess.
    HandloopGathered,
    /// timely dataflow.
    Timely,
    /// timely dataflow, which adds up in front of the exchange too.
    TimelyLocal,
    /// renoir.
    Renoir,
}

impl Engine {
    /// Its name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thalweg => "thalweg",
            Self::Plan => "plan",
            Self::Handloop => "handloop",
            Self::HandloopGathered => "handloop-gathered",
            Self::Timely => "timely",
            Self::TimelyLocal => "timely-local",
            Self::Renoir => "renoir",
        }
    }

    /// Whether it is known to lose counts: see [`renoir`](super::peers::renoir).
    pub(crate) const fn is_lossy(self) -> bool {
        matches!(self, Self::Renoir)
    }
}

/// Where the events come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// From a generator inside the engine
    #[default]
    Memory,
    /// As JSON lines from memory
    Json,
    /// As JSON through an MQTT broker
    Mqtt,
}

impl Mode {
    /// Its name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Json => "json",
            Self::Mqtt => "mqtt",
        }
    }
}

/// What a measured process is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Who counts.
    pub engine: Engine,
    /// Where the events come from.
    pub mode: Mode,
    /// Threads, or shards.
    pub cores: usize,
    /// How many events.
    pub events: u64,
    /// The window's length.
    pub window_ms: i64,
    /// Events a second; as fast as it goes without.
    pub rate: Option<u64>,
    /// The driver of thalweg.
    pub driver: String,
    /// How long an idle shard spins.
    pub spin_us: u64,
    /// How long to watch a bare spin loop before and after a run at a rate.
    pub noise_ms: u64,
    /// Host and port of the broker, in mode `mqtt`.
    pub broker: Option<(String, u16)>,
    /// The quality of service, in mode `mqtt`.
    pub qos: u8,
    /// How often thalweg takes a checkpoint, to a directory of its own; never without.
    pub checkpoint_ms: Option<u64>,
}

impl Spec {
    /// How thalweg is run, and its state directory, which goes with the handle.
    ///
    /// # Errors
    /// If the driver is not one, or there is no room for temporary files.
    pub fn config(&self) -> anyhow::Result<(RuntimeConfig, Option<TempDir>)> {
        let dir = self.checkpoint_ms.map(|_| tempfile::tempdir()).transpose()?;
        let state = dir.as_ref().zip(self.checkpoint_ms).map(|(dir, interval_ms)| {
            let mut state = StateConfig::new(StateDirectory::new(dir.path()).backend());
            state.checkpoints.interval = Duration::from_millis(interval_ms);
            state
        });
        let config = RuntimeConfig {
            state,
            shards: self.cores,
            driver: DriverKind::from_str(&self.driver)?,
            spin: Duration::from_micros(self.spin_us),
            ..RuntimeConfig::default()
        };
        Ok((config, dir))
    }

    /// The window.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms.unsigned_abs())
    }
}
