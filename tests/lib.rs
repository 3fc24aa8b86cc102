//! Nothing of its own: this crate exists for its integration tests, one file each beside this one.
//!
//! | test | what it holds the project to |
//! |---|---|
//! | `layers` | layers point one way; files stay small, documented and free of `unsafe` |
//! | `broker/counts` | through a real broker, counts are exact on any number of shards and every driver |
//! | `broker/restart` | a broker that is killed and comes back costs no acknowledged message |
//! | `jobs/words` | a word count over a file equals a naive one, on every driver |
//! | `jobs/averages` | windowed averages over files equal naive ones, on every driver |
//!
//! Tests of the program as a user runs it are in `engine/node/tests`, where cargo builds it for them.
