//! [`PostgresSink`]: rows into a table of a PostgreSQL database.

use thalweg_commits::sink::{RowSink, Server, Target};
use thalweg_commits::{Column, Trouble};
use thalweg_kernel::ConfigError;

use crate::config::PostgresConfig;
use crate::database::Postgres;

/// PostgreSQL cuts longer names off.
const NAME_BYTES_MAX: usize = 63;

/// Writes each record as a row into a table of a PostgreSQL database, with the effect of once. See [`RowSink`]
/// for what it promises and what can be set.
///
/// A table that is not there is created with columns of `bigint`, `double precision`, `text` and `bytea`. One that
/// is there may have others: smaller numbers, `numeric`, `boolean` and `timestamptz` for integers (milliseconds
/// since 1970), `varchar`, `json`, `uuid` and enums for text. A value may not fit its column (out of range, text
/// with a NUL byte, no JSON). Its row is left out, logged and counted. Integers beyond 64 bits (`u64`, `i128`) fit
/// into a column of type `numeric`. Tables are found, and created, as the `search_path` says; it can be set in the
/// URL: `?options=-csearch_path%3Dplant`.
///
/// ```no_run
/// # use thalweg_postgres::{PostgresConfig, PostgresSink};
/// # use thalweg_kernel::Timestamp;
/// struct Average { device: String, end: Timestamp, avg: f64, alarm: Option<bool> }
///
/// let server: PostgresConfig = "postgres://thalweg@db.example.org/plant".parse()?;
/// let sink = PostgresSink::new(server, "averages")
///     .key_text("device", |a: &Average| a.device.as_str())
///     .key("window_end", |a| a.end)
///     .column("avg", |a| a.avg)
///     .column("alarm", |a| a.alarm);
/// sink.check()?;
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
pub type PostgresSink<T> = RowSink<T, PostgresServer>;

/// A PostgreSQL database as a [`Server`].
#[derive(Debug)]
pub struct PostgresServer(());

impl Server for PostgresServer {
    type Address = PostgresConfig;
    type Database = Postgres;

    fn name(config: &PostgresConfig) -> String {
        format!("postgres {config}")
    }

    fn check(config: &PostgresConfig, table: &str, columns: &[Column]) -> Result<(), ConfigError> {
        let columns = columns.iter().map(|column| ("column", column.name.as_str()));
        for (key, name) in [("table", table)].into_iter().chain(columns) {
            if name.len() > NAME_BYTES_MAX {
                let allowed = format!("a {key}'s name, of at most {NAME_BYTES_MAX} bytes");
                return Err(ConfigError::new(key, name, allowed));
            }
        }
        config.check()
    }

    fn open(target: Target<PostgresConfig>) -> Result<Postgres, Trouble> {
        Postgres::open(target)
    }
}
