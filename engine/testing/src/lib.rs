//! What the tests of several crates share. It stands on the kernel alone, and no program that is shipped contains it.
//!
//! | file | what it has |
//! |---|---|
//! | `random` | [`Random`] and [`mix`]: all chance of a test comes from its seed |
//! | `scripted` | [`Scripted`]: a source that does what a script says, and goes on where an epoch has left it |
//! | `feed` | [`Feed`]: a source that a test fills while the job runs |
//!
//! What needs shards and streams as well is in `engine/flow/tests/common`.

mod feed;
mod random;
mod scripted;

pub use feed::{Feed, Feeds};
pub use random::{Number, Random, mix};
pub use scripted::{Act, Scripted, ScriptedPartition};
