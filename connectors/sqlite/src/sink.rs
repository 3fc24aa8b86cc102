//! [`SqliteSink`]: rows into a table of a SQLite file.

use std::path::PathBuf;

use thalweg_kernel::{ConfigError, ConnectorError, OpenContext, SinkSpec};

use crate::commits::{Cell, Columns, Limits, Office, RowWriter};
use crate::database::{Sqlite, Target};
use crate::statements::COMMITS;

/// Writes each record as a row, with the effect of once.
///
/// Columns are bound to functions of the record. Where some are bound as [`key`](Self::key), a row replaces
/// the one that has the same key; otherwise rows are appended. A table that is not there is created;
/// one that is there is checked.
///
/// In a job with checkpoints rows are held back until their epoch exists, and then applied in one
/// transaction for all shards together with the number of the epoch (in the table `thalweg_commits`):
/// another connection sees whole epochs only, and no crash makes one appear twice or not at all; see
/// [`commits`](crate::commits). Without checkpoints, or with [`at_least_once`](Self::at_least_once), rows
/// are applied as they come.
///
/// A row that the table refuses (a constraint, NaN in a key) is left out, logged, and counted in
/// `thalweg_sql_refused_rows_total`. A lock or a full disk is waited out; anything else ends the job.
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
#[derive(Debug)]
pub struct SqliteSink<T> {
    path: PathBuf,
    table: String,
    columns: Columns<T>,
    limits: Limits,
    at_least_once: bool,
}

impl<T> SqliteSink<T> {
    /// A sink into `table` of the file at `path`, which is created if it is not there. Bind its columns
    /// next.
    pub fn new(path: impl Into<PathBuf>, table: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            table: table.into(),
            columns: Columns::new(),
            limits: Limits::default(),
            at_least_once: false,
        }
    }

    /// Adds a column that belongs to the key. Its value may not be NULL.
    #[must_use]
    pub fn key<C: Cell>(
        mut self,
        name: impl Into<String>,
        get: impl Fn(&T) -> C + Send + Sync + 'static,
    ) -> Self {
        self.columns.bind(name, true, get);
        self
    }

    /// Adds a column of text that belongs to the key, borrowed from the record.
    #[must_use]
    pub fn key_text(
        mut self,
        name: impl Into<String>,
        get: impl Fn(&T) -> &str + Send + Sync + 'static,
    ) -> Self {
        self.columns.bind_text(name, true, get);
        self
    }

    /// Adds a column.
    #[must_use]
    pub fn column<C: Cell>(
        mut self,
        name: impl Into<String>,
        get: impl Fn(&T) -> C + Send + Sync + 'static,
    ) -> Self {
        self.columns.bind(name, false, get);
        self
    }

    /// Adds a column of text, borrowed from the record.
    #[must_use]
    pub fn text(
        mut self,
        name: impl Into<String>,
        get: impl Fn(&T) -> &str + Send + Sync + 'static,
    ) -> Self {
        self.columns.bind_text(name, false, get);
        self
    }

    /// Applies rows as they come, also in a job with checkpoints: after a crash some may be there twice.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// A shard that holds this many rows that are not applied is not ready; by default
    /// [`HELD_ROWS_MAX`](crate::commits::HELD_ROWS_MAX). They leave it once per epoch at most.
    #[must_use]
    pub fn held_rows_max(mut self, rows: usize) -> Self {
        self.limits.rows_max = rows;
        self
    }

    /// The same in bytes; by default [`HELD_BYTES_MAX`](crate::commits::HELD_BYTES_MAX).
    #[must_use]
    pub fn held_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.bytes_max = bytes;
        self
    }

    /// Checks the settings. Opens nothing.
    ///
    /// # Errors
    /// Names the first one that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let table = &self.table;
        let taken = table.eq_ignore_ascii_case(COMMITS) || table.starts_with("sqlite_");
        if table.is_empty() || table.contains('\0') || taken {
            let allowed = format!("a table's name, other than {COMMITS} and sqlite_*");
            return Err(ConfigError::new("table", table, allowed));
        }
        // Both are gone when the connection closes.
        if self.path.as_os_str().is_empty() || self.path.as_os_str() == ":memory:" {
            return Err(ConfigError::new("path", self.path.display(), "the path of a file"));
        }
        for (key, value) in
            [("held_rows_max", self.limits.rows_max), ("held_bytes_max", self.limits.bytes_max)]
        {
            if value == 0 {
                return Err(ConfigError::new(key, value, "1 or more"));
            }
        }
        self.columns.check()
    }

    fn name(&self) -> String {
        format!("sqlite {} {}", self.path.display(), self.table)
    }

    fn start(&self, cx: &OpenContext) -> Result<Office, ConnectorError> {
        let name = self.name();
        self.check()
            .map_err(|cause| ConnectorError::new(&name, "wrong setting").caused_by(cause))?;
        let stable = &cx.durability.operator;
        let target = Target {
            path: self.path.clone(),
            table: self.table.clone(),
            columns: self.columns.names(),
            job: cx.job.clone(),
            sink: if stable.is_empty() { cx.operator.clone() } else { stable.clone() },
        };
        let database =
            Sqlite::open(target).map_err(|error| ConnectorError::new(&name, error.to_string()))?;
        Office::start(name, cx, database)
    }
}

// Derived, it would ask the same of the record.
impl<T> Clone for SqliteSink<T> {
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            table: self.table.clone(),
            columns: self.columns.clone(),
            limits: self.limits,
            at_least_once: self.at_least_once,
        }
    }
}

impl<T: 'static> SinkSpec<T> for SqliteSink<T> {
    type Writer = RowWriter<T>;

    fn describe(&self) -> String {
        self.name()
    }

    fn open(&self, cx: &OpenContext) -> Result<RowWriter<T>, ConnectorError> {
        let office = cx.shared.get_or_try_init(cx.operator_id, || self.start(cx))?;
        Ok(office.open(cx, self.columns.clone(), self.limits, self.at_least_once))
    }
}
