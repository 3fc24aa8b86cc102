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
//! The others have a cargo feature each. `mqtt` and `log` are there unless a program takes `default-features = false`; `full` is
//! all of them, with the command line.

#[cfg(feature = "cli")]
mod asking;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod connectors;
mod control;
#[cfg(feature = "cli")]
mod dead_letters;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "demo")]
mod engine;
#[cfg(feature = "cli")]
mod inspect;
#[cfg(feature = "log")]
mod logging;
mod program;
#[cfg(feature = "cli")]
mod registry;
#[cfg(feature = "cli")]
mod settings;
mod shutdown;
#[cfg(feature = "cli")]
mod statistics;
mod status;
#[cfg(feature = "cli")]
mod status_command;

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

pub use program::{run, run_with};
pub use shutdown::{Shutdown, Watch};
pub use status::Status;

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

/// A duration of `seconds`.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
