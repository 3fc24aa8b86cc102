//! A PostgreSQL sink, exactly once.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | [`PostgresConfig`]: where the server is, from a URL |
//! | [`connector`] | what it is as a connector, and what it can be told |
//! | [`sink`] | [`PostgresSink`]: rows into a table |
//! | [`database`] | PostgreSQL behind the seam of [`thalweg_commits`]: connections and transactions |
//! | `session` | a connection: made, prepared |
//! | `table` | which columns a table has, and how values come into them: pure |
//! | `batch` | the rows of a note as arrays, one a column: pure |
//! | `statements` | the SQL text: pure |
//! | `trouble` | what an error means: pure |
//! | [`testing`] | a private server for tests (feature `testing`) |
//!
//! All reading and writing is done by one thread for all shards; a shard only appends to a buffer of
//! its own.

mod batch;
pub mod config;
pub mod connector;
pub mod database;
mod session;
pub mod sink;
mod statements;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod trouble;

pub use config::PostgresConfig;
pub use connector::PostgresConnector;
pub use sink::{PostgresServer, PostgresSink};
pub use thalweg_commits::{Cell, Kind, RowSink, RowWriter, Server, Value};
