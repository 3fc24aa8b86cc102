//! SQLite behind the seam of [`thalweg_commits`].
//!
//! The file is in WAL mode, so readers see the last whole transaction and hold nobody up, with
//! `synchronous = FULL`: what was committed survives a power cut. A transaction takes the write
//! lock when it begins.
//!
//! # What is waited out, and what is not
//! | trouble | |
//! |---|---|
//! | another writer has the lock (`SQLITE_BUSY`, `SQLITE_LOCKED`) | waits |
//! | the disk is full (`SQLITE_FULL`; `SQLITE_IOERR_SHMSIZE`) | waits |
//! | a row that the table refuses (a constraint, a type, a size) | left out, logged, counted |
//! | read-only, corrupt, no database, a failed write or sync | final |

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi, params};
use thalweg_commits::sink::Target;
use thalweg_commits::{Column, Commit, Database, Note, Transaction, Trouble, Value, Written};
use thalweg_kernel::Epoch;
use tracing::warn;

use crate::statements;

/// SQLite itself tries this long for a lock before it says that it is busy.
const BUSY_MS_MAX: u64 = 250;

/// An open file.
pub struct Sqlite {
    connection: Connection,
    target: Target<PathBuf>,
    /// The tables are there and were checked.
    prepared: bool,
    /// The statement for notes with this head: nearly always the same.
    insert: (Vec<u8>, String),
    refused: u64,
}

impl Sqlite {
    /// Opens the file. With the first transaction the tables are created and checked.
    pub(crate) fn open(target: Target<PathBuf>) -> Result<Self, Trouble> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&target.address, flags).map_err(|error| {
            match trouble(error) {
                Trouble::Wait(why) => Trouble::Final(why),
                trouble => trouble,
            }
        })?;
        let insert = Default::default();
        Ok(Self { connection, target, prepared: false, insert, refused: 0 })
    }

    fn prepare(&mut self) -> Result<(), Trouble> {
        let connection = &mut self.connection;
        connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX)).map_err(trouble)?;
        let mode: String = connection
            .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
            .map_err(trouble)?;
        if !mode.eq_ignore_ascii_case("wal") {
            warn!(
                "sqlite {}: no write-ahead log here (mode {mode}): readers and the job hold each \
                 other up",
                self.target.address.display()
            );
        }
        connection.pragma_update(None, "synchronous", "FULL").map_err(trouble)?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(trouble)?;
        let Target { table, columns, .. } = &self.target;
        transaction.execute_batch(statements::CREATE_COMMITS).map_err(trouble)?;
        let named =
            transaction.query_row(statements::COMMITS_NAME_DIRECTORIES, [], |row| row.get(0));
        if !named.map_err(trouble)? {
            // From before commits said by whose count.
            transaction.execute_batch(statements::NAME_DIRECTORIES).map_err(trouble)?;
        }
        transaction.execute_batch(&statements::create(table, columns)).map_err(trouble)?;
        check(&transaction, table, columns)?;
        transaction.commit().map_err(trouble)?;
        self.prepared = true;
        Ok(())
    }
}

/// Checks that a table that was there takes the rows.
fn check(connection: &Connection, table: &str, columns: &[Column]) -> Result<(), Trouble> {
    let mut statement = connection
        .prepare(
            "SELECT name, \"notnull\" AND dflt_value IS NULL AND pk = 0 FROM pragma_table_info(?1)",
        )
        .map_err(trouble)?;
    let found = statement
        .query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(trouble)?;
    let names = || found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    for column in columns {
        if !found.iter().any(|(name, _)| name.eq_ignore_ascii_case(&column.name)) {
            return Err(Trouble::Final(format!(
                "table {table} has no column {}; it has: {}. Add it, or write to another table",
                column.name,
                names()
            )));
        }
    }
    let bound = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    if let Some((name, _)) = found.iter().find(|(name, needed)| *needed && !bound(name)) {
        return Err(Trouble::Final(format!(
            "column {name} of table {table} must not be NULL and has no default: bind it too"
        )));
    }
    match connection.prepare(&statements::insert(table, columns)) {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("ON CONFLICT") => {
            let keys: Vec<_> =
                columns.iter().filter(|column| column.key).map(|c| c.name.as_str()).collect();
            let keys = keys.join(", ");
            Err(Trouble::Final(format!(
                "table {table} has no primary key or unique index on exactly ({keys}): create one, \
                 or bind those columns that are its key with `key`"
            )))
        }
        Err(error) => Err(trouble(error)),
    }
}

impl Database for Sqlite {
    type Transaction<'a> = Open<'a>;

    fn begin(&mut self) -> Result<Open<'_>, Trouble> {
        if !self.prepared {
            self.prepare()?;
        }
        let Self { connection, target, insert, refused, .. } = self;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(trouble)?;
        Ok(Open { transaction, target, insert, refused })
    }
}

/// A transaction under way.
pub struct Open<'a> {
    transaction: rusqlite::Transaction<'a>,
    target: &'a Target<PathBuf>,
    insert: &'a mut (Vec<u8>, String),
    refused: &'a mut u64,
}

impl Open<'_> {
    fn read_commits(&self) -> rusqlite::Result<Vec<Commit>> {
        let mut statement = self.transaction.prepare_cached(statements::READ_COMMITS)?;
        let rows = statement.query_map(params![&*self.target.job, &*self.target.sink], |row| {
            let epoch = Epoch::new(row.get::<_, i64>(1)? as u64);
            Ok(Commit { instance: row.get(0)?, epoch, directory: row.get::<_, String>(2)?.into() })
        })?;
        rows.collect()
    }
}

#[cold]
fn tell_refused(target: &Target<PathBuf>, count: u64, error: &rusqlite::Error) {
    if count.is_power_of_two() {
        let Target { address, table, .. } = target;
        warn!("sqlite {} {table}: a row was left out: {error} ({count} so far)", address.display());
    }
}

impl Transaction for Open<'_> {
    fn commits(&mut self) -> Result<Vec<Commit>, Trouble> {
        self.read_commits().map_err(trouble)
    }

    fn set_commit(&mut self, commit: &Commit) -> Result<(), Trouble> {
        let Commit { instance, epoch, directory } = commit;
        let (job, sink) = (&*self.target.job, &*self.target.sink);
        let done = if *epoch == Epoch::NONE {
            let statement = self.transaction.prepare_cached(statements::FORGET_COMMIT);
            statement.and_then(|mut statement| statement.execute(params![job, sink, instance]))
        } else {
            let number = epoch.number() as i64;
            let statement = self.transaction.prepare_cached(statements::SET_COMMIT);
            let values = params![job, sink, instance, number, &**directory];
            statement.and_then(|mut statement| statement.execute(values))
        };
        done.map(drop).map_err(trouble)
    }

    fn write(&mut self, mut note: Note<'_>) -> Result<Written, Trouble> {
        if self.insert.0 != note.head() {
            let sql = statements::insert(&self.target.table, note.columns());
            *self.insert = (note.head().to_vec(), sql);
        }
        let mut written = Written::default();
        let mut statement = self.transaction.prepare_cached(&self.insert.1).map_err(trouble)?;
        let mut row = Vec::new();
        while note.next_row(&mut row)? {
            let bound = row.iter().enumerate().try_for_each(|(place, &value)| {
                statement.raw_bind_parameter(place + 1, borrowed(value))
            });
            match bound.and_then(|()| statement.raw_execute()) {
                Ok(_) => written.rows += 1,
                Err(error) if refuses(&error) => {
                    written.refused += 1;
                    *self.refused += 1;
                    tell_refused(self.target, *self.refused, &error);
                }
                Err(error) => return Err(trouble(error)),
            }
        }
        Ok(written)
    }

    fn commit(self) -> Result<(), Trouble> {
        self.transaction.commit().map_err(trouble)
    }
}

fn borrowed(value: Value<'_>) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(number) => ValueRef::Integer(number),
        Value::Real(number) => ValueRef::Real(number),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

/// Whether the table does not want a row for what it holds.
fn refuses(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

/// What an error of SQLite means for the job.
#[cold]
pub(crate) fn trouble(error: rusqlite::Error) -> Trouble {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            return Trouble::Wait(format!("{error}: another program is writing to it"));
        }
        Some(ErrorCode::DiskFull) => {
            return Trouble::Wait(format!("{error}: make room; nothing is lost meanwhile"));
        }
        _ if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => {
            return Trouble::Wait(format!("{error}: no room beside it; make room"));
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "may you write to it?",
        Some(ErrorCode::CannotOpen) => "is its directory there, and may you write?",
        Some(ErrorCode::DatabaseCorrupt) => {
            "the file is damaged: restore it from a copy, or name another one"
        }
        Some(ErrorCode::NotADatabase) => "the file is there, and is something else: name another",
        Some(ErrorCode::SystemIoFailure) => {
            "reading, writing or syncing failed: see the kernel's log; start again to recover"
        }
        _ => "the job cannot go on",
    };
    Trouble::Final(format!("{error}: {advice}"))
}
