//! [`BuildContext`]: what a shard must know to build its copy of a job.

use std::sync::Arc;
use std::task::Waker;

use thalweg_kernel::{KeyGroups, Shared, Str, Tasks};

use crate::checkpoint::Storage;
use crate::tuning::Tuning;

/// What a shard must know to build its copy of a job.
#[derive(Clone, Debug)]
pub struct BuildContext {
    /// The job's name.
    pub job: Str,
    /// The shard that is being built.
    pub shard: usize,
    /// One waker for each shard of the job, in order.
    pub wakers: Arc<[Waker]>,
    /// What the shard does beside its steps, where its driver can wait for descriptors.
    pub tasks: Option<Tasks>,
    /// Where the shards of the job meet while they are being built.
    pub shared: Arc<Shared>,
    /// The key groups of the job.
    pub key_groups: KeyGroups,
    /// Sizes of queues and batches.
    pub tuning: Tuning,
    /// Where the job's state lives; without it the job takes no checkpoints.
    pub storage: Option<Storage>,
}

impl BuildContext {
    /// A job on one shard whose driver never sleeps: for tests and examples.
    pub fn single(job: &str) -> Self {
        Self {
            job: job.into(),
            shard: 0,
            wakers: Arc::new([Waker::noop().clone()]),
            tasks: None,
            shared: Arc::default(),
            key_groups: KeyGroups::default(),
            tuning: Tuning::default(),
            storage: None,
        }
    }
}
