//! SQLite behind the seam of [`thalweg_commits`].
//!
//! The file is in WAL mode, so readers see the last whole transaction and hold nobody up. With `synchronous =
//! FULL` what was committed survives a power cut. A transaction takes the write lock when it begins.
//!
//! # What is waited out, and what is not
//! | trouble | |
//! |---|---|
//! | another writer has the lock (`SQLITE_BUSY`, `SQLITE_LOCKED`) | waits |
//! | the disk is full (`SQLITE_FULL`; `SQLITE_IOERR_SHMSIZE`) | waits |
//! | a row that the table refuses (a constraint, a type, a size) | left out, logged, counted |
//! | read-only, corrupt, no database, a failed write or sync | final |

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{
    CachedStatement, Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi, params,
};
use thalweg_commits::sink::Target;
use thalweg_commits::{Column, Commit, Database, Note, Transaction, Trouble, Value, Written};
use thalweg_kernel::Epoch;
use thalweg_kernel::defects::{Defect, seeded};
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
    statements: Statements,
    /// The columns of type TEXT, in lower case: they hold integers of any width, as text.
    texts: HashSet<String>,
}

/// The statements for notes with this head, which rarely changes.
#[derive(Default)]
struct Statements {
    head: Vec<u8>,
    insert: String,
    delete: Option<String>,
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
        let (statements, texts) = Default::default();
        Ok(Self { connection, target, prepared: false, statements, texts })
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
        let texts = check(&transaction, &self.target)?;
        transaction.commit().map_err(trouble)?;
        self.texts = texts;
        self.prepared = true;
        Ok(())
    }
}

/// Checks that a table that was there takes the rows. Its columns of type TEXT, in lower case.
fn check(connection: &Connection, target: &Target<PathBuf>) -> Result<HashSet<String>, Trouble> {
    let Target { table, columns, .. } = target;
    let mut statement = connection
        .prepare(
            "SELECT name, \"notnull\" AND dflt_value IS NULL AND pk = 0, type \
             FROM pragma_table_info(?1)",
        )
        .map_err(trouble)?;
    let mut texts = HashSet::new();
    let found = statement
        .query_map([table], |row| {
            let (name, kind): (String, String) = (row.get(0)?, row.get(2)?);
            // SQLite's own rule.
            let kind = kind.to_ascii_uppercase();
            let is_text = ["CHAR", "CLOB", "TEXT"].iter().any(|word| kind.contains(word));
            if is_text && !kind.contains("INT") {
                texts.insert(name.to_lowercase());
            }
            Ok((name, row.get::<_, bool>(1)?))
        })
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
        Ok(_) => {}
        Err(error) if error.to_string().contains("ON CONFLICT") => {
            let keys: Vec<_> =
                columns.iter().filter(|column| column.key).map(|c| c.name.as_str()).collect();
            let keys = keys.join(", ");
            return Err(Trouble::Final(format!(
                "table {table} has no primary key or unique index on exactly ({keys}): create one, \
                 or bind those columns that are its key with `key`"
            )));
        }
        Err(error) => return Err(trouble(error)),
    }
    if let Some(delete) = statements::delete(table, columns).filter(|_| target.deletes) {
        connection.prepare(&delete).map_err(trouble)?;
    }
    Ok(texts)
}

impl Database for Sqlite {
    type Transaction<'a> = Open<'a>;

    fn begin(&mut self) -> Result<Open<'_>, Trouble> {
        if !self.prepared {
            self.prepare()?;
        }
        let Self { connection, target, statements, texts, .. } = self;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(trouble)?;
        Ok(Open { transaction, target, statements, texts })
    }
}

/// A transaction under way.
pub struct Open<'a> {
    transaction: rusqlite::Transaction<'a>,
    target: &'a Target<PathBuf>,
    statements: &'a mut Statements,
    texts: &'a HashSet<String>,
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

/// Executes a statement with these cells.
fn execute<'a>(
    statement: &mut CachedStatement<'_>,
    cells: impl Iterator<Item = Value<'a>>,
) -> rusqlite::Result<()> {
    for (place, value) in (1..).zip(cells) {
        statement.raw_bind_parameter(place, bound(value))?;
    }
    statement.raw_execute().map(drop)
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

    fn write(&mut self, mut note: Note<'_>, written: &mut Written) -> Result<(), Trouble> {
        if self.statements.head != note.head() {
            let table = &self.target.table;
            *self.statements = Statements {
                head: note.head().to_vec(),
                insert: statements::insert(table, note.columns()),
                delete: statements::delete(table, note.columns()),
            };
        }
        let prepare = |sql: &String| self.transaction.prepare_cached(sql);
        let mut insert = prepare(&self.statements.insert).map_err(trouble)?;
        let delete = self.statements.delete.as_ref().filter(|_| note.has_kinds());
        let mut delete = delete.map(prepare).transpose().map_err(trouble)?;
        let holds_wide = |column: &Column| self.texts.contains(&column.name.to_lowercase());
        let mut row = Vec::new();
        while let Some(kind) = note.next_row(&mut row)? {
            if written.refused.is_too_wide(note.columns(), &row, holds_wide) {
                continue;
            }
            let done = if kind.puts() || seeded(Defect::SqliteInsertsDeleted) {
                execute(&mut insert, row.iter().copied())
            } else {
                let Some(delete) = &mut delete else {
                    return Err(Trouble::Lasting("a note deletes rows that have no key".into()));
                };
                let key = row.iter().zip(note.columns()).filter(|(_, column)| column.key);
                execute(delete, key.map(|(value, _)| *value))
            };
            match done {
                Ok(()) => written.rows += 1,
                Err(error) if refuses(&error) => {
                    written.refused.add(note.columns(), &row, &error);
                }
                Err(error) => return Err(trouble(error)),
            }
        }
        Ok(())
    }

    fn commit(self) -> Result<(), Trouble> {
        self.transaction.commit().map_err(trouble)
    }
}

fn bound(value: Value<'_>) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(number) => ValueRef::Integer(number),
        Value::Wide(number) => return ToSqlOutput::from(number.to_string()),
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
