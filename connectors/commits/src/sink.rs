//! [`RowSink`]: the description of a sink into a table, whatever the database.

use std::fmt;

use thalweg_kernel::{Changed, ConfigError, ConnectorError, OpenContext, Record, SinkSpec, Str};

use crate::cell::Cell;
use crate::column::Column;
use crate::columns::Columns;
use crate::database::Database;
use crate::record;
use crate::rows::RowCoordinator;
use crate::trouble::Trouble;
use crate::writer::{Limits, RowWriter};

/// Where it is noted which epochs were applied.
pub const COMMITS: &str = "thalweg_commits";

/// A kind of database.
pub trait Server: 'static {
    /// Where a database of this kind is.
    type Address: Clone + fmt::Debug + 'static;
    /// The database, open.
    type Database: Database;

    /// Kind and address for the job graph and for errors, without secrets.
    fn name(address: &Self::Address) -> String;

    /// Checks the address, and the names of the table and its columns. Connects to nothing.
    ///
    /// # Errors
    /// Names what will not do.
    fn check(address: &Self::Address, table: &str, columns: &[Column]) -> Result<(), ConfigError>;

    /// Opens the database. What can be waited out is left to the first transaction.
    ///
    /// # Errors
    /// Why the job cannot start.
    fn open(target: Target<Self::Address>) -> Result<Self::Database, Trouble>;
}

/// What is written where, and for whom.
#[derive(Clone, Debug)]
pub struct Target<A> {
    /// Where the database is.
    pub address: A,
    /// The table's name.
    pub table: String,
    /// Its columns that are written.
    pub columns: Vec<Column>,
    /// Rows leave the table too, by their key.
    pub deletes: bool,
    /// The job's name.
    pub job: Str,
    /// The sink's stable name.
    pub sink: Str,
}

/// Writes each record as a row of a table, with the effect of once.
///
/// Columns are bound to functions of the record. Where some are bound as [`key`](Self::key), a row replaces
/// the one that has the same key; otherwise rows are appended. A table that is not there is created;
/// one that is there is checked.
///
/// In a job with checkpoints rows are held back until their epoch exists. Then they are applied in one
/// transaction for all shards, together with the number of the epoch (in the table `thalweg_commits`).
/// Another connection sees whole epochs only, and no crash makes one appear twice or not at all; see the
/// [crate](crate). Without checkpoints, or with [`at_least_once`](Self::at_least_once), rows are applied as
/// they come.
///
/// A stream of changes ([`Changed`]) is written in one of two ways: [`changelog`](Self::changelog) makes the table
/// follow it, [`kind_column`](Self::kind_column) keeps every change as a row.
///
/// A row that the table refuses for what it holds (a constraint, a number out of range) is left out and logged. It
/// is counted in `thalweg_sql_refused_rows_total`, and becomes a dead letter with the database's words. Rows are
/// committed after their epoch, and so is the letter. A crash right then may lose it, and what is committed once the
/// stream has ended is counted and logged alone. What passes (a lock, a full disk, a server that is away) is waited
/// out; anything else ends the job.
pub struct RowSink<T, S: Server> {
    address: S::Address,
    table: String,
    columns: Columns<T>,
    limits: Limits,
    at_least_once: bool,
}

impl<T, S: Server> RowSink<T, S> {
    /// A sink into `table` of the database at `address`. Bind its columns next.
    pub fn new(address: impl Into<S::Address>, table: impl Into<String>) -> Self {
        Self {
            address: address.into(),
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

    /// Lets the table follow a changelog, whose rows the columns bound so far are of. An insert or an
    /// update-after puts its row in the place of the one with its key. A delete takes the row with its key
    /// away. So does an update-before, unless an update-after with its key follows at once: the two are one
    /// update.
    ///
    /// The changes of one key must come through one shard, in their order. Key the stream by the columns of the
    /// table's key, or let it run on one shard. The table has after each epoch what the changes up to that epoch
    /// come to. [At least once](Self::at_least_once) a row may be away for a moment between the two halves of its
    /// update. A crash repeats changes of the last moments, in their order.
    ///
    /// A table without key columns takes inserts alone: the first other change ends the job, and says why.
    ///
    /// ```no_run
    /// # use thalweg_commits::{RowSink, Server};
    /// # use thalweg_kernel::{Changed, SinkSpec};
    /// struct Count { device: String, count: u64 }
    ///
    /// # fn into<S: Server>(sink: RowSink<Count, S>) -> impl SinkSpec<Changed<Count>> {
    /// sink.key_text("device", |c: &Count| c.device.as_str()).column("count", |c| c.count).changelog()
    /// # }
    /// ```
    #[must_use]
    pub fn changelog(self) -> RowSink<Changed<T>, S>
    where
        T: 'static,
    {
        self.of_changes(true)
    }

    /// Keeps every change of a changelog as a row of its own, whose kind (`+I`, `-U`, `+U`, `-D`) stands in the
    /// text column `name`. The columns bound so far are of the changelog's rows. Where some are bound as key,
    /// the table has the newest change of each key, also where that is a delete.
    #[must_use]
    pub fn kind_column(self, name: impl Into<String>) -> RowSink<Changed<T>, S>
    where
        T: 'static,
    {
        self.of_changes(false).column(name, |change: &Changed<T>| change.kind)
    }

    fn of_changes(self, follows: bool) -> RowSink<Changed<T>, S>
    where
        T: 'static,
    {
        let Self { address, table, columns, limits, at_least_once } = self;
        let columns = columns.of_changes(follows);
        RowSink { address, table, columns, limits, at_least_once }
    }

    /// Adds a column for each field of the record.
    #[must_use]
    pub fn columns(mut self, columns: &[thalweg_kernel::Column]) -> Self
    where
        T: Record,
    {
        record::bind(&mut self.columns, columns);
        self
    }

    /// Applies rows as they come, also in a job with checkpoints: after a crash some may be there twice.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// A shard that holds this many rows that are not applied is not ready; by default
    /// [`HELD_ROWS_MAX`](crate::HELD_ROWS_MAX). They leave it once per epoch at most.
    #[must_use]
    pub fn held_rows_max(mut self, rows: usize) -> Self {
        self.limits.rows_max = rows;
        self
    }

    /// The same in bytes; by default [`HELD_BYTES_MAX`](crate::HELD_BYTES_MAX).
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
        if table.is_empty() || table.contains('\0') || table.eq_ignore_ascii_case(COMMITS) {
            let allowed = format!("a table's name, other than {COMMITS}");
            return Err(ConfigError::new("table", table, allowed));
        }
        S::check(&self.address, table, &self.columns.names())?;
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
        format!("{} {}", S::name(&self.address), self.table)
    }

    fn start(&self, cx: &OpenContext) -> Result<RowCoordinator, ConnectorError> {
        let name = self.name();
        self.check()
            .map_err(|cause| ConnectorError::new(&name, "wrong setting").caused_by(cause))?;
        let stable = &cx.durability.operator;
        let target = Target {
            address: self.address.clone(),
            table: self.table.clone(),
            columns: self.columns.names(),
            deletes: self.columns.kind().is_some() && self.columns.has_key(),
            job: cx.job.clone(),
            sink: if stable.is_empty() { cx.operator.clone() } else { stable.clone() },
        };
        let database = S::open(target).map_err(|trouble| trouble.error(&name))?;
        RowCoordinator::start(name, cx, database)
    }
}

// Derived, these would ask the same of the record.
impl<T, S: Server> Clone for RowSink<T, S> {
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            table: self.table.clone(),
            columns: self.columns.clone(),
            limits: self.limits,
            at_least_once: self.at_least_once,
        }
    }
}

impl<T, S: Server> fmt::Debug for RowSink<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowSink")
            .field("address", &self.address)
            .field("table", &self.table)
            .field("columns", &self.columns)
            .field("limits", &self.limits)
            .field("at_least_once", &self.at_least_once)
            .finish()
    }
}

impl<T: 'static, S: Server> SinkSpec<T> for RowSink<T, S> {
    type Writer = RowWriter<T>;

    fn describe(&self) -> String {
        self.name()
    }

    fn open(&self, cx: &OpenContext) -> Result<RowWriter<T>, ConnectorError> {
        let coordinator = cx.shared.get_or_try_init(cx.operator_id, || self.start(cx))?;
        Ok(coordinator.open(cx, self.columns.clone(), self.limits, self.at_least_once))
    }
}
