//! This crate exists for its integration tests, one file each beside this one, and for the programs in `bin`. They
//! prove what no test of some seconds could.
//!
//! | test | what it holds the project to |
//! |---|---|
//! | `layers` | layers point one way; files stay small, documented and free of `unsafe` |
//! | `broker/counts` | through a real broker, counts are exact on any number of shards and every driver |
//! | `broker/restart` | a broker that is killed and comes back costs no acknowledged message |
//! | `jobs/words` | a word count over a file equals a naive one, on every driver |
//! | `jobs/averages` | windowed averages over files equal naive ones, on every driver |
//! | `jobs/folder` | files that appear and grow are read once, from life to life on other numbers of shards |
//! | `crash/kills` | a real process under QoS 1 load, killed again and again, loses and repeats nothing: also the program `crash` |
//! | `images/recovers` | what a power cut may leave of every write is recovered: also the program `images` |
//! | `large/fits` | state larger than what memory may keep is right in the end: also the program `large` |
//! | `simulate/seeds` | nothing is lost or repeated in simulated crashes: [`simulate`], also a program |
//!
//! The program `mutants` proves these proofs: it puts defects into the engine, and says which of them is caught by what.
//!
//! Tests of the program as a user runs it are in `engine/node/tests`, where cargo builds it for them.

pub mod life;
pub mod proof;
pub mod simulate;
