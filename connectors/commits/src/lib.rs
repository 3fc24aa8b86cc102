//! What exactly-once sinks share.
//!
//! | module | what it does |
//! |---|---|
//! | [`commit_thread`] | [`CommitThread`]: the one thread behind the shards, in steps; what it waits out |
//! | [`common`] | [`Common`]: what the shards and that thread share |
//! | [`trouble`] | [`Trouble`]: why something could not be done |
//!
//! The rest is for SQL databases, whatever the database. Rows are gathered per epoch, kept in the
//! epoch's notes, and applied in one transaction with the number of the epoch.
//!
//! | module | what it does |
//! |---|---|
//! | [`cell`] | [`Value`] and [`Cell`]: what a column can hold |
//! | [`column`] | [`Column`]: what a table's column is called, and what it holds |
//! | [`columns`] | [`Columns`]: how a record becomes a row |
//! | `record` | columns of records that can be asked for their fields |
//! | [`note`] | [`Note`]: rows as bytes, describing themselves |
//! | [`writer`] | [`RowWriter`]: the sink's instance on a shard |
//! | [`ledger`] | what is to be applied next: pure |
//! | [`claim`] | [`Claim`]: what commits mean to the job that finds them: pure |
//! | [`refused`] | [`Refused`]: rows that a table does not want, and why |
//! | [`database`] | [`Database`]: the seam that a database implements |
//! | [`sink`] | [`RowSink`]: the description of a sink |
//! | [`rows`] | [`RowCoordinator`]: what all instances share, and [`RowCommitter`], which applies their rows |
//! | [`row_port`] | [`RowPort`](row_port::RowPort): what the thread has done for one instance |
//!
//! And for tests there is [`model`]: the engine's part, played by hand.
//!
//! # The protocol for rows
//! 1. A shard encodes rows into notes; at a barrier it leaves them in the epoch. They are durable if and
//!    only if the epoch is, so nothing needs to be written before.
//! 2. Once *all* instances have been told that an epoch exists, its rows, and those of epochs before it,
//!    are applied in one transaction. A reader sees whole epochs of the whole job.
//! 3. The same transaction notes, per instance, the newest epoch that was applied. Notes of that epoch and
//!    of older ones are refused: however often an epoch is committed, and by whichever instance
//!    after the number of shards has changed, it has the effect of once.
//! 4. Notes that were applied are deleted with a later epoch.
//!
//! After a restart the notes that are left are applied first, in the order of their epochs, when all
//! instances have opened.
//!
//! # Changelogs
//! Where a stream tells how a table changes ([`Changed`](thalweg_kernel::Changed)), the notes carry each row's
//! kind. The table has after each epoch what all changes up to it come to: [`RowSink::changelog`]. A note has
//! one shard's changes in their order, and notes are applied in the order of their epochs. So the changes of one
//! key keep their order if they come through one shard, on any number of shards in the next run. A change that
//! is applied again puts or deletes the same row again.
//!
//! # Going back
//! A job that begins anew, or that resumes from an epoch older than the table has seen, would find its
//! results refused. So commits of epochs that do not exist (any more) are forgotten at the start, and
//! that is logged. Rows of those epochs stay, and are written again. With key columns that replaces
//! them; without, they are there twice.
//!
//! Commits by the epochs of *another* state directory are refused, unless they are taken over; see
//! [`claim`].
//!
//! # Bounds
//! An instance is ready while the rows that it holds (written, but not applied) are fewer than
//! [`HELD_ROWS_MAX`] and [`HELD_BYTES_MAX`]. They leave it only through a commit, so the bound is also
//! one on rows per epoch. Where it is reached, the sink waits for the next epoch. What is written
//! nevertheless, such as what stands in front of a barrier, is taken.

pub mod cell;
pub mod claim;
pub mod column;
pub mod columns;
pub mod commit_thread;
pub mod common;
pub mod database;
pub mod ledger;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "it is for tests")]
pub mod model;
pub mod note;
mod record;
pub mod refused;
pub mod row_port;
pub mod rows;
pub mod sink;
pub mod trouble;
pub mod writer;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod sink_tests;

pub use cell::{Cell, Kind, Value};
pub use claim::{Claim, Commit};
pub use column::Column;
pub use columns::Columns;
pub use commit_thread::{CommitThread, Committer, Progress, Step};
pub use common::{Common, Port};
pub use database::{Database, Transaction, Written};
pub use note::{Note, NoteDamaged};
pub use refused::{Refusal, Refused};
pub use rows::{RowCommitter, RowCoordinator};
pub use sink::{RowSink, Server};
pub use trouble::Trouble;
pub use writer::{Limits, RowWriter};

/// A shard holds at most this many rows that are not applied, unless it is told otherwise.
pub const HELD_ROWS_MAX: usize = 1_000_000;
/// A shard holds at most this many bytes of rows that are not applied, unless it is told otherwise.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A note is closed when it has this many bytes.
pub const NOTE_BYTES: usize = 256 * 1024;
