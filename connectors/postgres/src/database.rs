//! [`Postgres`]: PostgreSQL behind the seam of [`thalweg_commits`].
//!
//! # A transaction
//! ```text
//! BEGIN; pg_advisory_xact_lock(job, sink)      nobody else begins for this sink
//! SELECT .. FROM thalweg_commits               what was applied already
//! SAVEPOINT; DELETE .. USING unnest(..); INSERT .. SELECT FROM unnest(..) ON CONFLICT ..; RELEASE
//!                                              for each note, in one go
//! INSERT INTO thalweg_commits ..; COMMIT       in one go
//! ```
//! Rows go as one array a column, and nothing is prepared beforehand. A note (256 KiB) is one statement and one
//! round trip, and poolers need not know the session.
//!
//! # Rows that leave the table
//! Of the changes of one key in a note only the last one is sent: its row is put, or deleted. So no order is left
//! between the two statements, unless PostgreSQL takes keys for equal that differ for us (`citext`, `real`,
//! `numeric(6,2)`). Such notes are halved until rows only come or only leave, and the halves keep the order.
//!
//! # When the connection breaks
//! Then nobody knows what became of the transaction. Nobody needs to. It is tried again from its beginning,
//! and finds in `thalweg_commits` what was committed, also where only the answer to `COMMIT` was lost. The
//! backend of the broken connection may still be at work, and commit later. It holds the lock, so until it has
//! ended nothing is read. One that has not got the lock has nothing to do behind it, since no more is sent
//! before the lock's answer is there.
//!
//! A connection that was cut while it was idle costs one attempt more, at once.
//!
//! # Rows that the table refuses
//! Their note's statement fails and is undone. Then halves of the note are tried, and halves of the halves,
//! until the rows that are refused are alone. Each costs about two statements for each doubling of the rows.
//!
//! # What is expected of the server
//! It must keep what it has committed: `fsync` on (a warning says so if not), `synchronous_commit` not off (it is
//! turned on here). Who fails over to an asynchronous standby loses what that has not received, as with any
//! client: notes are deleted once they are committed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{join, join4};
use thalweg_commits::sink::Target;
use thalweg_commits::{Commit, Database, Note, Transaction, Trouble, Written};
use thalweg_kernel::Epoch;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};
use tracing::warn;

use crate::batch::{Array, Rows};
use crate::config::PostgresConfig;
use crate::session::{LOCK_MS_MAX, ROW_LOCK_MS_MAX, Session, runtime};
use crate::statements;
use crate::trouble::{is_lost, refuses, text, trouble};

/// An answer that takes longer is asked after in the log; then after twice as long, and so on.
const TELL_AFTER_S: u64 = 10;

/// See the [module](self).
pub struct Postgres {
    runtime: Runtime,
    target: Target<PostgresConfig>,
    session: Option<Session>,
    statements: Statements,
}

/// The statements for notes with this head: nearly always of one head.
#[derive(Default)]
struct Statements {
    head: Vec<u8>,
    insert: String,
    delete: String,
    /// Keys that differ for us differ in the table.
    tells_keys_apart: bool,
}

impl Postgres {
    pub(crate) fn open(target: Target<PostgresConfig>) -> Result<Self, Trouble> {
        let statements = Statements::default();
        Ok(Self { runtime: runtime()?, target, session: None, statements })
    }

    /// Makes a session if there is none, and begins a transaction in it.
    fn try_begin(&mut self) -> Result<(), Trouble> {
        if self.session.is_none() {
            let opened = self.runtime.block_on(Session::open(&self.target))?;
            self.session = Some(opened);
            // The table may be another by now.
            self.statements = Statements::default();
        }
        let Some(Session { client, .. }) = &self.session else { return Err(gone()) };
        let Target { job, sink, .. } = &self.target;
        let lock = statements::lock(&["thalweg", job, sink]);
        let begin = statements::begin(lock, LOCK_MS_MAX, ROW_LOCK_MS_MAX);
        let begun = self.wait(client.batch_execute(&begin));
        begun.map_err(|error| self.failed(&error))
    }

    /// Waits for an answer, and says so when that takes long: the server may be stopped, or its disk.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let mut answer = pin!(answer);
            let (mut waited, mut patience) = (Duration::ZERO, Duration::from_secs(TELL_AFTER_S));
            loop {
                if let Ok(answer) = timeout(patience, answer.as_mut()).await {
                    return answer;
                }
                waited += patience;
                patience = waited;
                let address = &self.target.address;
                warn!("postgres {address}: no answer for {waited:?}; results wait for it");
            }
        })
    }

    /// What an error means; the session ends with it, unless it could go on.
    #[cold]
    fn failed(&mut self, error: &Error) -> Trouble {
        if is_lost(error) || !self.roll_back() {
            self.session = None;
        }
        trouble(error)
    }

    /// Ends what was begun; whether the session can go on.
    fn roll_back(&self) -> bool {
        let Some(Session { client, .. }) = &self.session else { return false };
        !client.is_closed() && self.wait(client.batch_execute("ROLLBACK")).is_ok()
    }
}

#[cold]
fn gone() -> Trouble {
    Trouble::Wait("there is no connection".into())
}

impl Database for Postgres {
    type Transaction<'a> = Open<'a>;

    fn begin(&mut self) -> Result<Open<'_>, Trouble> {
        let was_idle = self.session.is_some();
        let mut begun = self.try_begin();
        if was_idle && self.session.is_none() {
            // Cut while nothing was under way.
            begun = self.try_begin();
        }
        begun?;
        Ok(Open { postgres: self, commits: BTreeMap::new(), ended: false })
    }
}

/// A transaction under way.
pub struct Open<'a> {
    postgres: &'a mut Postgres,
    /// What is to be noted when it is committed.
    commits: BTreeMap<u16, Commit>,
    /// It is committed, or there is no session left.
    ended: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended && !self.postgres.roll_back() {
            self.postgres.session = None;
        }
    }
}

impl Open<'_> {
    /// Waits for an answer.
    fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        self.try_ask(question)?.map_err(|error| self.failed(&error))
    }

    fn try_ask<T>(
        &self,
        question: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<Result<T, Error>, Trouble> {
        let Some(Session { client, .. }) = &self.postgres.session else { return Err(gone()) };
        Ok(self.postgres.wait(question(client)))
    }

    #[cold]
    fn failed(&mut self, error: &Error) -> Trouble {
        self.ended = true;
        self.postgres.failed(error)
    }

    /// Lets the table follow the rows `from..to` of a note.
    fn follow(
        &mut self,
        rows: &Rows<'_>,
        (from, to): (usize, usize),
        written: &mut Written,
    ) -> Result<(), Trouble> {
        let middle = from + (to - from) / 2;
        if rows.is_mixed(from, to) && !self.postgres.statements.tells_keys_apart {
            self.follow(rows, (from, middle), written)?;
            return self.follow(rows, (middle, to), written);
        }
        let Err(error) = self.try_follow(rows, from, to)? else {
            written.rows += (to - from) as u64;
            return Ok(());
        };
        if !refuses(&error, rows.columns()) {
            return Err(self.failed(&error));
        }
        let undo = "ROLLBACK TO SAVEPOINT note; RELEASE SAVEPOINT note";
        self.ask(async |client| client.batch_execute(undo).await)?;
        if to - from > 1 {
            // In this order: the later row of a key wins.
            self.follow(rows, (from, middle), written)?;
            return self.follow(rows, (middle, to), written);
        }
        written.refused.add(rows.columns(), rows.row(from), text(&error));
        Ok(())
    }

    /// As [`follow`](Self::follow), all or none.
    fn try_follow(
        &mut self,
        rows: &Rows<'_>,
        from: usize,
        to: usize,
    ) -> Result<Result<(), Error>, Trouble> {
        let last = rows.last_of_each(from, to);
        let (leave, come): (Vec<_>, Vec<_>) = last.into_iter().partition(|&row| rows.leaves(row));
        let (Some(leaving), Some(coming)) = (rows.arrays(&leave, true), rows.arrays(&come, false))
        else {
            let what = "a note holds a value of another kind than its column";
            return Err(Trouble::Lasting(what.into()));
        };
        let keys: Vec<_> = leaving.iter().map(Array::parameter).collect();
        let values: Vec<_> = coming.iter().map(Array::parameter).collect();
        let Statements { insert, delete, .. } = &self.postgres.statements;
        if !leave.is_empty() && delete.is_empty() {
            return Err(Trouble::Lasting("a note deletes rows that have no key".into()));
        }
        self.try_ask(async |client| {
            let execute = async |sql, parameters, rows: &[usize]| match rows {
                [] => Ok(0),
                _ => client.execute_typed(sql, parameters).await,
            };
            let answers = join4(
                client.batch_execute("SAVEPOINT note"),
                execute(delete, &keys, &leave),
                execute(insert, &values, &come),
                client.batch_execute("RELEASE SAVEPOINT note"),
            );
            let (begun, deleted, inserted, released) = answers.await;
            begun?;
            deleted?;
            inserted?;
            released
        })
    }
}

impl Transaction for Open<'_> {
    fn commits(&mut self) -> Result<Vec<Commit>, Trouble> {
        let (job, sink) = (self.postgres.target.job.clone(), self.postgres.target.sink.clone());
        let rows = self.ask(async |client| {
            let names = [(&&*job as _, Type::TEXT), (&&*sink as _, Type::TEXT)];
            client.query_typed(statements::READ_COMMITS, &names).await
        })?;
        let commit = |row: &tokio_postgres::Row| Commit {
            instance: row.get::<_, i32>(0) as u16,
            epoch: Epoch::new(row.get::<_, i64>(1) as u64),
            directory: row.get::<_, &str>(2).into(),
        };
        Ok(rows.iter().map(commit).collect())
    }

    fn set_commit(&mut self, commit: &Commit) -> Result<(), Trouble> {
        self.commits.insert(commit.instance, commit.clone());
        Ok(())
    }

    fn write(&mut self, mut note: Note<'_>, written: &mut Written) -> Result<(), Trouble> {
        let Postgres { target: Target { table, .. }, session, statements, .. } =
            &mut *self.postgres;
        let Some(Session { shape, .. }) = session else { return Err(gone()) };
        if statements.head != note.head() {
            let wrong = |why| Trouble::Final(format!("table {table} {why}"));
            let columns = note.columns();
            *statements = Statements {
                head: note.head().to_vec(),
                insert: statements::insert(table, columns, shape, false).map_err(wrong)?,
                delete: statements::delete(table, columns, shape, false)
                    .map_err(wrong)?
                    .unwrap_or_default(),
                tells_keys_apart: shape.tells_keys_apart(columns),
            };
        }
        let rows = Rows::read(&mut note, shape, &mut written.refused)?;
        if rows.len() == 0 {
            return Ok(());
        }
        self.follow(&rows, (0, rows.len()), written)
    }

    fn commit(mut self) -> Result<(), Trouble> {
        let (job, sink) = (self.postgres.target.job.clone(), self.postgres.target.sink.clone());
        let commits = std::mem::take(&mut self.commits);
        let (set, forgotten): (Vec<_>, Vec<_>) =
            commits.values().partition(|commit| commit.epoch > Epoch::NONE);
        let instance = |commit: &&Commit| i32::from(commit.instance);
        let forgotten: Vec<_> = forgotten.iter().map(instance).collect();
        let instances: Vec<_> = set.iter().map(instance).collect();
        let epochs: Vec<_> = set.iter().map(|commit| commit.epoch.number() as i64).collect();
        let directory = set.first().map(|commit| commit.directory.clone()).unwrap_or_default();
        self.ask(async |client| {
            let (job, sink): (&(dyn tokio_postgres::types::ToSql + Sync), _) =
                (&&*job, (&&*sink as &(dyn tokio_postgres::types::ToSql + Sync), Type::TEXT));
            let job = (job, Type::TEXT);
            if !forgotten.is_empty() {
                let which = (&forgotten as _, Type::INT4_ARRAY);
                let values = [job.clone(), sink.clone(), which];
                client.execute_typed(statements::FORGET_COMMITS, &values).await?;
            }
            if instances.is_empty() {
                return client.batch_execute("COMMIT").await;
            }
            let values = [
                job,
                sink,
                (&instances as _, Type::INT4_ARRAY),
                (&epochs as _, Type::INT8_ARRAY),
                (&&*directory as _, Type::TEXT),
            ];
            // Should the first fail, the second does nothing.
            let set = client.execute_typed(statements::SET_COMMITS, &values);
            let (set, committed) = join(set, client.batch_execute("COMMIT")).await;
            set?;
            committed
        })?;
        self.ended = true;
        Ok(())
    }
}
