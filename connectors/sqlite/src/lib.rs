//! A SQLite sink, exactly once.
//!
//! | module | what it does |
//! |---|---|
//! | [`sink`] | [`SqliteSink`]: rows into a table of a SQLite file |
//! | [`commits`] | what every sink into an SQL database needs, whatever the database |
//! | `database` | SQLite behind the seam of [`commits`] |
//! | `statements` | the SQL text |
//!
//! All reading and writing is done by one thread for all shards; a shard only appends to a buffer of
//! its own.

pub mod commits;
mod database;
pub mod sink;
mod statements;

pub use commits::{Cell, Kind, Value};
pub use sink::SqliteSink;
