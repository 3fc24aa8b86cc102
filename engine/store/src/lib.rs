//! The durable store of one job's state, on LMDB: epochs, the folded base, recovery and savepoints.
//!
//! It knows bytes only: blocks of changes ([`Changes`](thalweg_kernel::Changes)), stored keys and values.
//! It has no operators and no threads: one thread of its caller commits and folds, shards read.
//!
//! # How state is kept
//! A state directory holds one LMDB environment (`data.mdb`, `lock.mdb`) and the owner's lock (`owner.lock`). **An
//! epoch is one transaction**: its record and its blocks of changes go into a changelog as they are. So an epoch
//! exists whole or not at all, and costs its own bytes and a few pages. From time to time the oldest epochs are
//! *folded* into the base, a B-tree of all keys, in bounded steps between the commits. Many epochs fold together,
//! since each change otherwise rewrites a page of the base. When a fold is due is a pure function
//! ([`FoldPolicy`]).
//!
//! | module | what it holds |
//! |---|---|
//! | `env` | opens LMDB; all unsafe code |
//! | `lock`, `stillborn`, `room` | one owner per directory; what a power cut left of the very first start; room on the disk before a transaction begins |
//! | `envelope` | versions and checksums around stored bytes |
//! | `base`, `tables` | the databases, and how keys and values lie in them |
//! | `plan`, `fold`, `policy` | the last change of each key; the steps of folding; what is decided |
//! | `store`, `reader` | the owner; what shards read |
//! | `view`, `savepoint`, `inspect` | the state as of an epoch; as a file; from outside |
//!
//! # The contract of readers
//! A [reader](Store::reader) sees the newest base, which folding changes while shards run. A shard asks it only
//! for two kinds of keys. Some it has not changed since the job began, and of the others the last change is in an
//! epoch that is [readable](Store::readable). All others are in its memory. Deleting a range counts as a change of
//! every key in it. So nothing newer or older than the shard's own past is ever read.
//!
//! # Errors and limits
//! [`StoreError::Full`] means that nothing was written and the call may be tried again. A commit that fails
//! otherwise is final: the process ends and recovers, nothing is retried. Whatever is read is checked; damage
//! stops with an error that names the place. Keys have at least 10 bytes (state and group) and at most 65,535, a
//! block of changes at most [`BLOCK_BYTES_MAX`] bytes. Planning a fold takes 32 bytes of memory for each change.

mod base;
mod env;
mod envelope;
mod error;
mod inspect;
mod lock;
mod plan;
mod policy;
mod reader;
mod record;
mod room;
mod stillborn;
mod store;
mod tables;
mod view;

pub use error::StoreError;
pub use inspect::{Inspector, StateSummary};
pub use policy::{FoldPolicy, Resume};
pub use record::{EpochInfo, EpochRecord};
pub use store::fold::Folding;
pub use store::savepoint::Savepoint;
pub use store::{BLOCK_BYTES_MAX, Store, StoreOptions};

#[cfg(test)]
mod measure_tests;
