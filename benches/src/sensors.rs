//! Statistics of 1,000 devices over ten seconds, from JSON lines to JSON lines. A Thalweg job runs beside a loop
//! written by hand, each in a process of its own.
//!
//! | module | what it is |
//! |---|---|
//! | [`data`] | the input, which is arithmetic |
//! | [`job`] | the job, as a user would write it |
//! | [`hand`] | the loop written by hand |
//! | [`rows`] | the check that both outputs hold equal rows |
//!
//! The input lies in the page cache. On one core the whole process has one: reading and writing, which Thalweg
//! leaves to threads of their own, share it. CPU time is that of the process, from before the files are opened
//! until the results are written. A Thalweg job has also synced them to the disk then.

pub mod data;
pub mod hand;
pub mod job;
pub mod rows;
pub(crate) mod sums;
