//! [`Job`]: a named description, ready to run.

use std::fmt;
use std::sync::Arc;

use thalweg_flow::{Flow, Graph, Shard};
use thalweg_kernel::{ConnectorError, Str};

use crate::config::RuntimeConfig;
use crate::driver::{self, Describe};
use crate::error::JobError;
use crate::metrics::Snapshot;
use crate::running::Running;
use crate::supervisor;

/// A job: its name, and the closure that describes its dataflow.
///
/// The closure is called once on each shard, and once more for the graph; what it captures is
/// cloned into each copy of the dataflow.
#[derive(Clone)]
pub struct Job {
    name: Str,
    describe: Describe,
}

impl Job {
    /// A job called `name`, described by `describe`.
    pub fn new(name: &str, describe: impl Fn(&Flow) + Send + Sync + 'static) -> Self {
        Self { name: name.into(), describe: Arc::new(describe) }
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The job's graph on this many shards. Opens nothing.
    ///
    /// # Errors
    /// If the description itself is faulty.
    pub fn graph(&self, shards: usize) -> Result<Graph, ConnectorError> {
        Shard::graph(&*self.describe, shards)
    }

    /// Starts the job on threads of its own. Returns once every source and sink is open.
    ///
    /// # Errors
    /// If the configuration is wrong, the driver is not available, or a source or sink does not
    /// open. The simulated driver cannot be started, only [run](Self::run).
    pub fn start(&self, config: &RuntimeConfig) -> Result<Running, JobError> {
        supervisor::start(self.name.clone(), Arc::clone(&self.describe), config)
    }

    /// Runs the job to its end on the default configuration.
    ///
    /// # Errors
    /// See [`Self::run_with`].
    pub fn run(&self) -> Result<Snapshot, JobError> {
        self.run_with(&RuntimeConfig::default())
    }

    /// Runs the job to its end, and returns its last metrics.
    ///
    /// # Errors
    /// As for [`start`](Self::start), and if a shard fails or panics on the way.
    pub fn run_with(&self, config: &RuntimeConfig) -> Result<Snapshot, JobError> {
        match driver::simulation(config) {
            Some(simulation) => simulation.run(&self.name, &*self.describe, config),
            None => self.start(config)?.wait(),
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("name", &self.name).finish_non_exhaustive()
    }
}
