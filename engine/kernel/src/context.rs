//! What a connector is told when it opens, and the place where the shards of one job meet while
//! they are being built.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use crate::{Epoch, Journals, PendingId, Str, Tasks};

/// What a source partition or a sink is told when it opens on a shard.
#[derive(Clone, Debug)]
pub struct OpenContext {
    /// The job's name.
    pub job: Str,
    /// The operator's name, for logs, metrics and dead letters.
    pub operator: Str,
    /// The operator's number in the job graph: the same on every shard.
    pub operator_id: u32,
    /// The shard it opens on.
    pub shard: usize,
    /// The number of shards of the job.
    pub shards: usize,
    /// On how many of them this operator opens: shards `0..instances`. A source with one partition,
    /// and a sink directly behind it, has one instance on any number of shards.
    pub instances: usize,
    /// Wakes the shard from any thread. Call it when a source has new input, when a sink that was
    /// not ready is ready again, or when it has finished closing.
    pub waker: Waker,
    /// What the shard does beside its steps, where its driver can wait for descriptors. A connector may give its input and
    /// output to it, instead of to a thread of its own.
    pub tasks: Option<Tasks>,
    /// How long the input of a source may gather before the source goes on with it. Zero, as a rule.
    pub latency_budget: Duration,
    /// Where this operator's instances on the shards of the job can share one thing, such as the
    /// one I/O thread that owns a file.
    pub shared: Arc<Shared>,
    /// What outlives the process.
    pub durability: Durability,
}

/// What outlives the process, for a connector that opens.
#[derive(Clone, Debug, Default)]
pub struct Durability {
    /// The operator's stable name, by which its state is found again.
    pub operator: Str,
    /// The job takes checkpoints. A sink that is to be exactly-once holds results back until their
    /// epoch exists; without checkpoints it passes them on at once.
    pub checkpoints: bool,
    /// The epoch that the job resumes from, if it does. For a partition that a source finds while the job runs: the newest
    /// epoch that exists.
    pub restored: Option<Epoch>,
    /// For a source partition: what [`Source::snapshot`](crate::Source::snapshot) wrote at that epoch.
    pub position: Option<Bytes>,
    /// For a sink: the notes that [`Sink::seal`](crate::Sink::seal) left and that are to be committed
    /// (again), in order. If the number of shards has changed they may be another instance's.
    pub pending: Vec<(PendingId, Bytes)>,
    /// Opens journals, where the job has a directory for its state.
    pub journals: Option<Arc<dyn Journals>>,
    /// Whose epochs they are.
    pub lineage: Lineage,
}

/// Whose epochs they are. Their numbers mean something within one state directory only. So whoever notes
/// one outside of it, such as a sink in its database, notes the directory, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The random id of the job's state directory. Empty if it has none.
    pub directory: Str,
    /// The directory of whose savepoint this one was made, and the savepoint's epoch. Up to that epoch,
    /// equal numbers are equal epochs in both.
    pub parent: Option<(Str, Epoch)>,
    /// A directory that is no longer in use, and whose place this one takes: somebody said so.
    pub takes_over: Option<Str>,
}

/// A registry in which the instances of one operator on several shards find what they share, and all operators
/// what belongs to the job.
/// Locked only while shards are being built. One that is slow to make holds up the other shards'
/// building; its `init` must not come here again.
#[derive(Default)]
pub struct Shared(Mutex<HashMap<(Option<u32>, TypeId), Arc<dyn Any + Send + Sync>>>);

impl Shared {
    /// The `T` of operator `operator_id`, made by `init` for the first shard that asks.
    ///
    /// # Errors
    /// Those of `init`; nothing is kept then, and the next shard tries again.
    pub fn get_or_try_init<T: Send + Sync + 'static, E>(
        &self,
        operator_id: u32,
        init: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        self.find(Some(operator_id), init)
    }

    /// The `T` of the job: the same for all its operators, on all shards. It lives as long as this attempt.
    pub fn of_job<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let Ok(found) = self.find(None, || Ok::<T, Infallible>(T::default()));
        found
    }

    fn find<T: Send + Sync + 'static, E>(
        &self,
        owner: Option<u32>,
        init: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        // A panic in `init` leaves the map as it was, so a poisoned lock is still sound.
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = map.get(&(owner, TypeId::of::<T>()))
            && let Ok(found) = Arc::clone(found).downcast::<T>()
        {
            return Ok(found);
        }
        let made = Arc::new(init()?);
        map.insert((owner, TypeId::of::<T>()), made.clone());
        Ok(made)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: operators do not find what belongs to others, nor what belongs to the job.
    #[test]
    fn each_finds_what_is_its_own_and_all_find_what_is_the_jobs() {
        let shared = Shared::default();
        let of = |operator, value| {
            *shared
                .get_or_try_init(operator, || Ok::<u32, Infallible>(value))
                .unwrap_or_else(|e| match e {})
        };
        assert_eq!([of(1, 10), of(1, 11), of(2, 20), of(1, 12)], [10, 10, 20, 10]);
        let text = shared.get_or_try_init(1, || Ok::<_, Infallible>("of another type"));
        assert_eq!(*text.unwrap(), "of another type");
        assert_eq!((*shared.of_job::<u32>(), of(1, 13)), (0, 10));
        assert!(Arc::ptr_eq(&shared.of_job::<u32>(), &shared.of_job::<u32>()));
        let failed = shared.get_or_try_init::<u64, _>(1, || Err("not yet"));
        assert_eq!(failed, Err("not yet"));
        assert_eq!(shared.get_or_try_init::<u64, &str>(1, || Ok(7)).as_deref(), Ok(&7));
    }
}
