//! The stream API and its operators: what a job *means*, with no I/O, threads, clock or randomness.
//!
//! A job is a closure that describes a dataflow on a [`Flow`]:
//!
//! ```
//! # use std::time::Duration;
//! # use thalweg_flow::*;
//! # let results = Collected::new();
//! # let sink = results.sink();
//! let job = move |flow: &Flow| {
//!     flow.source(
//!         Collection::new([("a", 1_000, 2.0), ("b", 2_000, 5.0), ("a", 3_000, 4.0)]),
//!         Watermarks::monotonous().timestamps(|&(_, ts, _)| ts),
//!     )
//!     .filter(|&(_, _, temp)| temp > 0.0)
//!     .key_by(|&(device, _, _)| device)
//!     .window(Tumbling::of(Duration::from_secs(10)))
//!     .aggregate(Average::of(|&(_, _, temp)| temp))
//!     .sink(sink.clone());
//! };
//! # let mut shard = Shard::build(&job, &BuildContext::single("example")).unwrap();
//! # while shard.step(Now::default()).unwrap() != Step::Done {}
//! # let mut averages: Vec<_> = results.take().into_iter().map(|w| (w.key, w.value)).collect();
//! # averages.sort_by_key(|&(device, _)| device);
//! # assert_eq!(averages, [("a", 3.0), ("b", 5.0)]);
//! ```
//!
//! # How it runs
//! Every shard calls the closure once and so builds its own copy of the dataflow: operators need
//! no `Send` and meet no lock. A driver *steps* the [`Shard`]; a step polls sources, drains what
//! other shards sent, runs operators and flushes what is for others. The closure is called once
//! more to draw the [`Graph`].
//!
//! # How it is fast
//! Operators fuse. A [`Stream`] carries its chain of operators as a type. Closing it with a sink or
//! an exchange yields one pipeline behind one `dyn` call per step. Within it a record passes from
//! operator to operator by inlined calls.
//!
//! # How it stays bounded
//! A pipeline runs only when everything behind it has room, so pressure travels back to the
//! sources. No step ever waits: shards that send to each other in a circle cannot deadlock.

mod at_end;
mod build;
mod checkpoint;
mod columns;
mod counters;
mod dead_letters;
mod exchange;
mod flow;
mod graph;
#[doc(hidden)]
pub mod internals;
mod notices;
mod operators;
mod pipeline;
mod pressure;
mod process;
mod shard;
mod sink;
mod source;
mod state;
mod stream;
mod sync;
mod table_hash;
#[cfg(test)]
mod testing;
mod time;
mod tuning;
mod uid;
mod window;

pub use at_end::AtEnd;
pub use build::BuildContext;
pub use checkpoint::{OpenReader, Permissions, ShardSnapshot, Storage};
pub use columns::{
    CHUNK_ROWS_MAX, Chunk, ChunkInbox, Column, ColumnKey, ColumnStream, DataType, Fields, Keep,
    KeyedColumns, KeyedRows, Nulls, Project, TextColumn, ToColumns, ToRows,
};
pub use counters::{Counter, Gauge, Metric, MetricKind};
pub use exchange::connected::{Connected, Input, Inputs, TwoInputs};
pub use exchange::key_by::{Keyed, KeyedStream, Placed, Placement, Unplaced, Values};
pub use exchange::ports::InputProgress;
pub use exchange::side::SideTag;
pub use flow::Flow;
pub use graph::{Edge, Graph, GraphNode};
pub use notices::{AheadRecord, LateRecord, TimeMover, TimeNotices};
pub use operators::boxed::{Boxed, BoxedKeyedStream, BoxedStream};
pub use operators::connect::{ConnectedBroadcast, ConnectedKeyed, ConnectedStreams};
pub use operators::deduplicate::{DEDUPLICATE_WINDOW, Deduplicate, JUDGED, Numbers, Repetition};
pub use operators::side_output::{Side, SideOutput};
pub use pipeline::{Budget, Chain, Now, Operator, StepContext};
pub use process::{
    Both, CoProcess, Context, Fired, FunctionError, KeepKey, KeyedProcessing, LeftOf, NoKey,
    OfBoth, OnError, OneOf, Process, Processing, TIMERS_MAX, Tagged, TimerSpace,
};
pub use shard::{Shard, Step};
pub use sink::collected::{Collected, CollectedSink};
pub use source::collection::Collection;
pub use state::operator::broadcast::{BROADCAST_ENTRIES_MAX, BroadcastFull, BroadcastState};
pub use state::operator::{
    Items, LIST_BYTES_MAX, LIST_ITEMS_MAX, ListFull, ListOptions, OperatorListState, OperatorStates,
};
pub use state::{
    AggregatingState, ListItems, ListState, MapEntries, MapState, Overflow, ReducingState, Refresh,
    STATE_BYTES_MAX, STATE_ENTRIES_MAX, STATE_KEYS_MAX, StateOptions, States, TimeDomain, Ttl,
    ValueState,
};
pub use stream::Stream;
pub use time::generator::{BoundedDisorder, Periodic, Punctuated, WatermarkGenerator};
pub use time::watermarks::{EventTime, FromRecord, Named, Received, Watermarks};
pub use tuning::Tuning;
pub use window::aggregate::{
    Aggregate, Average, Count, Fold, Max, Min, Reduce, Retract, Stats, StatsValue, Sum,
};
pub use window::assigner::{Aligned, Assigner, Layout, PerKey, Slices};
pub use window::content::{Rows, ToList, WindowFunction, Windowed};
pub use window::float_sum::{FloatSum, Summand};
pub use window::session::Session;
pub use window::sliding::Sliding;
pub use window::time_window::TimeWindow;
pub use window::trigger::{Fires, OnWatermark, Trigger, TriggerContext};
pub use window::tumbling::Tumbling;
pub use window::variance::Variance;
pub use window::{WINDOW_KEYS_MAX, WINDOWS_MAX, WindowedStream};
