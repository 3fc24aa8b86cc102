//! Runs jobs: one shard per core, stepped by a driver.
//!
//! | driver | waits by | for |
//! |---|---|---|
//! | [`threads`](DriverKind::Threads) | `ppoll` on the pinned thread, for the shard's connections, too | the default |
//! | [`glommio`](DriverKind::Glommio) | io_uring, one executor per pinned thread | connections that have threads of their own |
//! | [`simulated`](DriverKind::Simulated) | never: a virtual clock jumps | tests: one thread, all chance from a seed |
//!
//! All three step the same [`Shard`](thalweg_flow::Shard)s. [`DriverKind::Auto`] is
//! `threads`, which costs less for each message (ARCHITECTURE.md has the figures). Where glommio is asked for, io_uring's
//! operations are probed first, and an executor must sleep and be woken from another thread within a deadline.
//!
//! # The life of a job
//! [`Job::start`] builds a shard on each thread (sources and sinks open there) and reports back when
//! all are built. [`Running::stop`] drains: sources stop, what is in flight reaches the sinks, the
//! sinks close. [`Running::suspend`] ends a job with stored state so that it can go on later. Nothing
//! more is taken in, one more epoch is stored, windows stay open. [`Stopper::abort`] waits for nothing.
//!
//! A *supervisor* has a thread of its own. It lets epochs begin, stores them when all shards have handed over,
//! and tells the shards so. If a shard fails or panics it ends the others, and starts the job again from the
//! newest epoch, if its [`RestartStrategy`] allows. Otherwise [`Running::wait`] returns the first error. What
//! supervisor and shards decide is the [`protocol`], which has no clock and no thread.

mod clock;
mod config;
mod driver;
mod error;
mod job;
mod metrics;
pub mod protocol;
mod running;
mod signal;
mod storage;
mod supervisor;
mod sync;
mod times;

pub use clock::wall_clock;
pub use config::{CheckpointRules, RuntimeConfig, StateConfig};
pub use driver::affinity::cores;
pub use driver::kind::DriverKind;
pub use driver::sim::Simulation;
pub use error::JobError;
pub use job::Job;
pub use metrics::{CheckpointStats, MetricSample, PrometheusError, Snapshot, serve_prometheus};
pub use protocol::RestartStrategy;
pub use running::{Running, Stopper};
pub use storage::directory::StateDirectory;
pub use storage::{EpochStore, OpenedStore, Opening, StateBackend};
pub use thalweg_journal::JournalConfig;
pub use thalweg_store::{EpochRecord, StoreError, StoreOptions};
