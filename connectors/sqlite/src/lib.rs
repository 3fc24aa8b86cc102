//! A SQLite sink, exactly once.
//!
//! | module | what it does |
//! |---|---|
//! | [`sink`] | [`SqliteSink`]: rows into a table of a SQLite file |
//! | [`database`] | SQLite behind the seam of [`thalweg_commits`] |
//! | [`connector`] | what it is as a connector, and what it can be told |
//! | `statements` | the SQL text |
//!
//! All reading and writing is done by one thread for all shards; a shard only appends to a buffer of
//! its own.

pub mod connector;
pub mod database;
pub mod sink;
mod statements;

pub use connector::SqliteConnector;
pub use sink::{SqliteFile, SqliteSink};
pub use thalweg_commits::{Cell, Kind, RowSink, RowWriter, Server, Value};
