//! [`SqliteSink`]: rows into a table of a SQLite file.

use std::path::PathBuf;

use thalweg_commits::sink::{COMMITS, RowSink, Server, Target};
use thalweg_commits::{Column, Trouble};
use thalweg_kernel::ConfigError;

use crate::database::Sqlite;

/// Writes each record as a row into a table of a SQLite file, with the effect of once. [`RowSink`] says what it
/// promises and what can be set. The file is created if it is not there. SQLite stores NaN as NULL, and no
/// integers beyond 64 bits: their rows are refused, unless the column has the type TEXT.
///
/// ```no_run
/// # use thalweg_sqlite::SqliteSink;
/// # use thalweg_kernel::Timestamp;
/// struct Average { device: String, end: Timestamp, avg: f64, alarm: Option<bool> }
///
/// let sink = SqliteSink::new("/var/lib/plant.db", "averages")
///     .key_text("device", |a: &Average| a.device.as_str())
///     .key("window_end", |a| a.end)
///     .column("avg", |a| a.avg)
///     .column("alarm", |a| a.alarm);
/// sink.check()?;
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
pub type SqliteSink<T> = RowSink<T, SqliteFile>;

/// A SQLite file as a [`Server`].
#[derive(Debug)]
pub struct SqliteFile(());

impl Server for SqliteFile {
    type Address = PathBuf;
    type Database = Sqlite;

    fn name(path: &PathBuf) -> String {
        format!("sqlite {}", path.display())
    }

    fn check(path: &PathBuf, table: &str, _: &[Column]) -> Result<(), ConfigError> {
        if table.starts_with("sqlite_") {
            let allowed = format!("a table's name, other than {COMMITS} and sqlite_*");
            return Err(ConfigError::new("table", table, allowed));
        }
        // Both are gone when the connection closes.
        if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
            return Err(ConfigError::new("path", path.display(), "the path of a file"));
        }
        Ok(())
    }

    fn open(target: Target<PathBuf>) -> Result<Sqlite, Trouble> {
        Sqlite::open(target)
    }
}
