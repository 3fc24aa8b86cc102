//! What the supervisor of a job and its shards decide, as two stepped machines without clock, threads or storage.
//!
//! [`Supervision`] decides for the job, [`Follower`] for one shard. Both are told what has happened and when; they
//! answer with what is to be done. Whoever acts on that (the supervisor's thread and the drivers, or a simulation)
//! decides nothing of its own. So a simulation tests the decisions of the product.
//!
//! ```text
//!  handle of the job ──[News: a wish, a savepoint]──►┌─────────────┐──[Decision]──► acts: starts shards, stores,
//!  store ────────────[News: stored, full, failed]───►│ Supervision │              writes savepoints, tidies, ends
//!  shards ───────────[News: Report]─────────────────►└─────────────┘──[Orders]──► Follower of each shard
//! ```
//!
//! # The states of a job
//! ```text
//!            all are built                 an error, or wished for
//! Building ───────────────► Running ──────────────────────────────┐
//!    │ ▲                      │ all shards have ended             ▼
//!    │ │ the delay is over    └──────────────► Over ◄────────── Failing
//!    │ └──────────────── Resting ◄────────────────────────────────┤
//!    │                      └─ a wish ─► Over   all have ended:   │
//!    └─────────────────────────────────────────────────────────► ─┘
//! ```
//! - A *life* is the time from Building to the end of its last shard. [`Decision::Start`] begins one.
//! - The first error of a life counts. It takes the life to Failing, where shards are ordered to abort. When the last
//!   shard has ended the restart strategy says whether Resting follows, or Over.
//! - Only what another start can mend is started again, and only a job that nobody has asked to end, and that has
//!   been built once.
//! - Shards that are ordered to drain, or to hold with an epoch to end with, end by themselves: from Running to Over.
//!
//! # The progress of an epoch
//! One epoch is open at a time; its number goes through these words in this order, and through no other.
//!
//! ```text
//!  Supervision      begun ───────────────────────────────────► complete ──► stored ──► announced
//!  (the job)          │ orders                              ▲ all shards    │ the       │ orders
//!                     ▼                                     │ have          │ store     ▼
//!  Follower, Shard  noted ──► barrier ──► sealed ──► handed over            │        committed ──► acknowledged, trimmed
//!  (each shard)     by        passes      by sinks   positions and          ▼        by sinks      by sources
//!                   sources   operators              sealed results      folded: readable
//!                                                    are durable         in the base
//! ```
//! - *begun*: the orders name it. Sources *note* their positions and emit its barrier when they see that.
//! - *sealed*: sinks have noted what it takes to commit its results. *Durable* is what would survive a crash now.
//! - *complete*: each shard that has not ended has handed over. From here on nothing of the shards can stop it.
//! - *stored*: the store's one transaction has committed. The epoch exists if and only if it has.
//! - *announced*: savepoints that waited for it are written, and the orders name it as stored. So shards are told.
//! - *committed*: its results may be seen. What sources hold for it is acknowledged, and journals are trimmed.
//! - An epoch that is *late* is complete later than its timeout. It counts as failed, and is stored nevertheless.
//! - An epoch that finds no room stays complete, and is tried again after [`FULL_RETRY`].
//!
//! # A job that has nothing new
//! An epoch that would hold nothing new is not begun. A shard has *moved* when the next epoch would hold anything else of
//! it than the last one did. When an epoch is due and no shard is known to have moved, the supervision dozes
//! ([`Decision::Doze`]). It has no time to wake up at then; the first shard that moves reports it, see [`Doze`]. Whoever
//! waits for an epoch gets it at once nevertheless.

mod coordinator;
mod doze;
mod follower;
mod restart;
mod supervision;
#[cfg(test)]
mod tests;

pub use coordinator::Complete;
pub use doze::Doze;
pub use follower::{Follower, Orders, SETTLE_MAX};
pub use restart::RestartStrategy;
pub use supervision::{Decision, FULL_RETRY, News, Report, Rules, Stored, Supervision};

/// What the shards of a job are asked to do. A later phase replaces an earlier one, never the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// To go on.
    Running,
    /// To take nothing more from the sources. The job ends with an epoch, from which it can go on.
    Suspending,
    /// To end as if the sources were at an end.
    Draining,
    /// To end at once.
    Aborting,
}
