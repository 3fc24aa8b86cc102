//! Thalweg, a stream engine for the gateways at the edge: the crate that programs depend on, and the
//! `thalweg` binary.
//!
//! ```no_run
//! use serde::Deserialize;
//! use thalweg::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Reading { device: Str, ts: i64, temp: f64 }
//!
//! fn main() -> Result<(), JobError> {
//!     let broker: MqttConfig = "mqtt://localhost".parse()?;
//!     thalweg::run(&Job::new("averages", move |flow| {
//!         let readings = MqttSource::new(broker.clone(), Json::<Reading>::new()).topic("sensors/{device}/temp");
//!         flow.source(readings, Watermarks::bounded_out_of_orderness(secs(2)).timestamps(|r: &Reading| r.ts))
//!             .key_by(|r| r.device.clone())
//!             .window(Tumbling::of(secs(10)))
//!             .aggregate(Average::of(|r: &Reading| r.temp))
//!             .sink(StdoutSink::new());
//!     }))
//! }
//! ```
//!
//! The engine's parts are crates, which this one re-exports: [`flow`] (the stream API), [`runtime`] (drivers,
//! jobs), [`kernel`] (seams), and the connectors. [`file`](mod@file) and [`format`](mod@format) are always there.
//! The others have a cargo feature each, and are there unless a program takes `default-features = false`.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod connectors;
#[cfg(feature = "cli")]
mod control;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "cli")]
mod engine;
#[cfg(feature = "cli")]
mod inspect;
#[cfg(feature = "cli")]
mod registry;
#[cfg(feature = "cli")]
mod settings;
mod shutdown;
#[cfg(feature = "cli")]
mod statistics;

use std::time::Duration;

#[cfg(feature = "blackhole")]
pub use thalweg_blackhole as blackhole;
#[cfg(feature = "datagen")]
pub use thalweg_datagen as datagen;
pub use thalweg_file as file;
pub use thalweg_flow as flow;
pub use thalweg_format as format;
pub use thalweg_kernel as kernel;
#[cfg(feature = "mqtt")]
pub use thalweg_mqtt as mqtt;
#[cfg(feature = "postgres")]
pub use thalweg_postgres as postgres;
pub use thalweg_runtime as runtime;
#[cfg(feature = "sqlite")]
pub use thalweg_sqlite as sqlite;

use thalweg_runtime::{Job, JobError, RuntimeConfig};

pub use shutdown::{Shutdown, Watch};

/// What most programs use.
pub mod prelude {
    pub use crate::{run, run_with, secs};
    #[cfg(feature = "blackhole")]
    pub use thalweg_blackhole::BlackholeSink;
    #[cfg(feature = "datagen")]
    pub use thalweg_datagen::{DatagenOptions, DatagenSource};
    pub use thalweg_file::{FileSink, FileSource, RollingFiles, StdoutSink};
    pub use thalweg_flow::{
        Average, Chain, CoProcess, Collected, Collection, Context, Count, Flow, Fold, ListFull,
        ListState, MapState, Max, Min, NoKey, OnError, OperatorListState, OperatorStates, Overflow,
        Process, Reduce, Session, Sliding, StateOptions, States, Stats, Stream, Sum, Ttl, Tumbling,
        ValueState, Watermarks, Windowed,
    };
    #[cfg(feature = "shapes")]
    pub use thalweg_format::shape::{Payload, Shape, Shaped, TimeUnit};
    pub use thalweg_format::{Csv, Json, JsonLines, Raw, Text};
    pub use thalweg_kernel::{Collector, DeadLetter, Str, Timestamp};
    #[cfg(feature = "mqtt")]
    pub use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource};
    #[cfg(feature = "postgres")]
    pub use thalweg_postgres::PostgresSink;
    pub use thalweg_runtime::{
        DriverKind, Job, JobError, RestartStrategy, RuntimeConfig, StateConfig, StateDirectory,
    };
    #[cfg(feature = "sqlite")]
    pub use thalweg_sqlite::SqliteSink;
}

/// Runs a job to its end with the default configuration: one shard per core. Ctrl-C and SIGTERM
/// drain it; a second one ends it at once.
///
/// # Errors
/// If the job does not start, or a source or sink fails for good.
pub fn run(job: &Job) -> Result<(), JobError> {
    run_with(job, &RuntimeConfig::default())
}

/// Runs a job to its end, or to the signal that ends it. A job with stored state is suspended by it, and
/// goes on with the next start.
///
/// # Errors
/// As for [`run`].
pub fn run_with(job: &Job, config: &RuntimeConfig) -> Result<(), JobError> {
    let shutdown = Shutdown::watch();
    let running = job.start(config)?;
    let _watch = shutdown.ends(&running);
    running.wait().map(|_| ())
}

/// A duration of `seconds`.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
