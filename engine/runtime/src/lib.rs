//! Runs jobs: one shard per core, stepped by a driver.
//!
//! | driver | waits by | for |
//! |---|---|---|
//! | [`glommio`](DriverKind::Glommio) | io_uring, one executor per pinned thread | the default |
//! | [`threads`](DriverKind::Threads) | parking the pinned thread | machines where io_uring is blocked |
//! | [`simulated`](DriverKind::Simulated) | never: a virtual clock jumps | tests: one thread, all chance from a seed |
//!
//! All three step the same [`Shard`](thalweg_flow::Shard)s. [`DriverKind::Auto`] tries glommio
//! first: it probes io_uring's operations and runs an executor that must sleep and be woken from
//! another thread within a deadline, and otherwise takes plain threads and says so in one line.
//!
//! # The life of a job
//! [`Job::start`] builds a shard on each thread (sources and sinks open there) and reports back when
//! all are built. [`Running::stop`] drains: sources stop, what is in flight reaches the sinks, the
//! sinks close. [`Running::abort`] does not wait for that. If a shard fails or panics, the others
//! are aborted and [`Running::wait`] returns the first error.

mod config;
mod driver;
mod job;
mod metrics;
mod running;
mod signal;

pub use config::{DriverKind, RuntimeConfig};
pub use driver::sim::Simulation;
pub use job::Job;
pub use metrics::{MetricSample, PrometheusError, Snapshot, serve_prometheus};
pub use running::{JobError, Running};
