//! [`Tuning`]: sizes that trade latency, throughput and memory.

use std::time::Duration;

/// A table of more bytes than this does not stay in a second-level cache.
pub(crate) const CACHE_BYTES: usize = 512 * 1_024;

/// Sizes that trade latency, throughput and memory. The defaults suit a 1 GB gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A source emits at most this many records in one step: 1,024.
    pub step_records_max: usize,
    /// An operator does about this many units of work at most in one step, and puts down the rest until the next: 2,048. A
    /// timer that fires is a unit, and so is a record that it emits.
    pub step_work_max: usize,
    /// A batch to another shard is sent at the latest when it holds this many records: 256.
    pub batch_records: usize,
    /// A lane from one shard to another holds this many batches: 16.
    pub lane_batches: usize,
    /// State takes about this many bytes of memory on a shard, all of it together: 128 MiB. Keyed state and windows that
    /// are more are read from storage, in a job that has stored state. Timers and lists of operators stay in memory, and
    /// leave the rest the less; the job goes on if they alone are more.
    pub state_memory_bytes_max: usize,
    /// On top of that, state of a shard may take about this many bytes that have changed and that storage cannot give
    /// back: 32 MiB. With half as many changed bytes an epoch begins at once; with more than that sources wait.
    /// (While an epoch is on its way to storage, its changes are in memory twice more.)
    pub state_pending_bytes_max: usize,
    /// A keyed state of more bytes than this does not stay in a processor's cache: 512 KiB. Records of a process
    /// function with such a state wait for each other within a step. What is kept of their keys is fetched together.
    pub state_cache_bytes: usize,
    /// A watermark that changes nothing on another shard stays at its sender until something else goes there. It stays for
    /// at most this long in steady time: 1 s. Results come no later. Shown watermarks of quiet shards are behind by as much. So is what
    /// such a shard calls late: a record from another sender, for a window that holds nothing, may still be taken there. (How long
    /// such a record has is a race of two shards in any case, mostly of microseconds.) To a shard with state that [expires in event
    /// time](crate::Ttl::event_time) each watermark goes at once. With zero that holds for all shards.
    pub watermark_delay_max: Duration,
    /// Input may gather for this long before a shard that sleeps wakes for it: 0 s. A wake-up costs more than a message. So it pays where
    /// three messages or more come in that time: at 5,000 messages a second 1 ms saves two thirds. Where fewer come it costs a timer. A
    /// message waits once, where it comes in, and not on its way through the job. Sources with a connection have it (MQTT). It
    /// is at most 1 s.
    pub latency_budget: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            step_records_max: 1_024,
            step_work_max: 2_048,
            batch_records: 256,
            lane_batches: 16,
            state_memory_bytes_max: 128 * 1_024 * 1_024,
            state_pending_bytes_max: 32 * 1_024 * 1_024,
            state_cache_bytes: CACHE_BYTES,
            watermark_delay_max: Duration::from_secs(1),
            latency_budget: Duration::ZERO,
        }
    }
}
