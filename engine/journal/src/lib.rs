//! The durable log of input that cannot be replayed. What came in over MQTT is acknowledged when it is in here,
//! and read again after a crash.
//!
//! | module | what it does |
//! |---|---|
//! | [`journals`] | [`FileJournals`]: the journals of one job, in real files |
//! | `writer` | the handle that takes records; the shard and the thread that have them written in groups |
//! | [`log`] | [`Log`]: a journal on one thread, stepped |
//! | `gather` | the open group; whether a record may be taken |
//! | `segments`, `spare` | opening, rolling, trimming; writing groups; the next segment |
//! | `scan` | where a journal ends after a crash; torn or damaged |
//! | [`format`](mod@format) | the bytes of a segment |
//! | [`reader`] | [`Reader`]: records in order from a position or a time on |
//! | [`inspect`] | what is there, and whether it is whole |
//! | [`name`] | a journal's name as a directory |
//! | [`disk`] | [`Disk`]: the seam to the file system |
//! | [`files`], `ring` | real files; io_uring |
//! | [`sim`] | a disk in memory that loses, tears and refuses; journals on it, stepped |
//! | [`config`] | sizes and waits |
//! | `errors` | what a journal says when it cannot go on |
//!
//! # Promises
//! - Records are numbered from 0 on without gaps, also across restarts.
//! - What was reported as durable is there after any crash: in order, once, unchanged. What was not may be
//!   there or not, but only as a beginning of what was appended.
//! - At the cap, on a full disk, and while the disk is behind, a record is refused, never dropped.
//! - A failed sync is final.
//!
//! # Recovery
//! A torn end is cut, and its bytes reported; damage anywhere else stops with an error that names the
//! file, offset and position. How the two are told apart stands at the head of `scan.rs`:
//!
//! - a segment is durable zeros before a record is written into it;
//! - a group is written only after the one before is synced, so at most the last group is not durable;
//! - so a bad record is damage if a record of a later group follows it, if a later segment does, or if none of its
//!   sectors is missing (512 bytes of zeros).
//!
//! # Limits
//! One writer per journal. A journal takes at most its cap on disk, and twice its group size in memory.
//! Opening reads the last segment only: damage in an earlier one is met when it is read, or by
//! [`inspect::verify`]. The first record of a new journal waits for its first segment to be prepared.
//!
//! Of device and file system we assume four things. A sector is written whole or not at all. What was synced
//! stays. A full disk ends a write at a sector's border. A successful sync of a directory covers all its earlier
//! changes. Some SD cards break the first on losing power. That shows as damage at the end: the journal stops with
//! an error and does not guess.

pub mod config;
mod direct;
pub mod disk;
mod errors;
pub mod files;
pub mod format;
mod gather;
pub mod inspect;
pub mod journals;
pub mod log;
pub mod name;
pub mod reader;
mod ring;
mod scan;
mod segments;
pub mod sim;
mod spare;
mod writer;

pub use config::{Backend, JournalConfig};
pub use disk::Disk;
pub use files::FileDisk;
pub use journals::FileJournals;
pub use log::Log;
pub use reader::Reader;
pub use segments::Recovery;
