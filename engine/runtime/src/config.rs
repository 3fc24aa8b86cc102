//! How a job is run: shards, driver, waiting, sizes.

use std::time::Duration;

use thalweg_flow::{Permissions, Tuning};
use thalweg_kernel::{ConfigError, KeyGroups};

use crate::driver::affinity;
use crate::driver::kind::DriverKind;
use crate::protocol::RestartStrategy;
use crate::storage::StateBackend;

/// Input that gathers for longer is no stream.
const LATENCY_BUDGET_MAX: Duration = Duration::from_secs(1);

/// When checkpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRules {
    /// The time from the beginning of one to that of the next: 10 s.
    pub interval: Duration,
    /// The time from the end of one to the beginning of the next, at least: none.
    pub pause_min: Duration,
    /// How long one may take: 10 minutes. After that it counts as failed.
    pub timeout: Duration,
    /// How many may fail in a row before the job does: none.
    pub failures_max: u32,
}

impl Default for CheckpointRules {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            pause_min: Duration::ZERO,
            timeout: Duration::from_secs(600),
            failures_max: 0,
        }
    }
}

/// A job's stored state.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// Where it is.
    pub backend: StateBackend,
    /// When checkpoints are taken.
    pub checkpoints: CheckpointRules,
    /// What may be dropped of stored state that the job has no use for: nothing. Otherwise such a job does not
    /// start.
    pub allowed: Permissions,
}

impl StateConfig {
    /// State in `backend`, with the defaults.
    pub fn new(backend: StateBackend) -> Self {
        Self { backend, checkpoints: CheckpointRules::default(), allowed: Permissions::default() }
    }
}

/// How a job is run.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The number of shards; by default one per core this process may use. At most the number of
    /// key groups.
    pub shards: usize,
    /// The cores that the job's threads run on; none of them means every core this process may use.
    pub cores: Vec<usize>,
    /// Who steps them.
    pub driver: DriverKind,
    /// Whether each shard's thread is pinned to a core of its own: shard 0 to the first of `cores`, and so on.
    /// Never done when there are more shards than cores. The driver on threads pins a shard while it works, and lets it loose while
    /// it sleeps often. A wake-up is sooner, and cheaper, where there is room.
    pub pin: bool,
    /// How long an idle shard spins before it sleeps. Spinning saves the wake-up (some
    /// microseconds) and costs power; zero by default.
    pub spin: Duration,
    /// Key groups: never change them for a job that has state.
    pub key_groups: KeyGroups,
    /// Sizes of batches and queues.
    pub tuning: Tuning,
    /// Where the job's state outlives the process; without it the job takes no checkpoints.
    pub state: Option<StateConfig>,
    /// What happens when the job fails.
    pub restart: RestartStrategy,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            cores: Vec::new(),
            driver: DriverKind::Auto,
            pin: true,
            spin: Duration::ZERO,
            key_groups: KeyGroups::default(),
            tuning: Tuning::default(),
            state: None,
            restart: RestartStrategy::Auto,
        }
    }
}

impl RuntimeConfig {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let groups = self.key_groups.count();
        if self.shards == 0 || self.shards > usize::from(groups) {
            let allowed = format!("1 to {groups} (the number of key groups)");
            return Err(ConfigError::new("shards", self.shards, allowed));
        }
        affinity::check(&self.cores)?;
        if let Some(state) = &self.state
            && state.checkpoints.interval.is_zero()
        {
            let allowed = "1 ms or more; 10 ms is practical";
            return Err(ConfigError::new("checkpoint.interval", "0", allowed));
        }
        let latency_budget = self.tuning.latency_budget;
        if latency_budget > LATENCY_BUDGET_MAX {
            let given = format!("{latency_budget:?}");
            return Err(ConfigError::new("tuning.latency_budget", given, "0 s to 1 s"));
        }
        let Tuning { step_records_max, step_work_max, batch_records, lane_batches, .. } =
            self.tuning;
        let sizes = [
            ("tuning.step_records_max", step_records_max, 1 << 20),
            ("tuning.step_work_max", step_work_max, 1 << 20),
            ("tuning.batch_records", batch_records, 1 << 16),
            ("tuning.lane_batches", lane_batches, 1 << 12),
        ];
        match sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
            Some((key, size, most)) => Err(ConfigError::new(key, size, format!("1 to {most}"))),
            None => Ok(()),
        }
    }
}
