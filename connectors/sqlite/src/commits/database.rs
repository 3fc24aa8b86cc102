//! [`Database`]: the seam that a database implements, and [`apply`], which decides what goes through it.

use std::collections::BTreeMap;

use thalweg_kernel::Epoch;

use super::ledger::Work;
use super::note::Note;

/// A database whose writer is one thread.
pub trait Database: Send + 'static {
    /// A transaction; dropped, it leaves no trace.
    type Transaction<'a>: Transaction
    where
        Self: 'a;

    /// Begins a transaction, alone: until it ends, nobody else's transaction for this sink begins.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn begin(&mut self) -> Result<Self::Transaction<'_>, Trouble>;
}

/// What is done within one transaction, for one sink of one job.
pub trait Transaction {
    /// The newest epoch that was applied, per instance.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn commits(&mut self) -> Result<Vec<(u16, Epoch)>, Trouble>;

    /// Notes that `epoch` of `instance` is applied, and all before it. [`Epoch::NONE`]: forgets it.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn set_commit(&mut self, instance: u16, epoch: Epoch) -> Result<(), Trouble>;

    /// Writes the rows of a note. Rows that the table refuses for what they hold are left out, logged
    /// and counted: one bad row must not stop a job.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn write(&mut self, note: Note<'_>) -> Result<Written, Trouble>;

    /// Makes everything visible and durable.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn commit(self) -> Result<(), Trouble>;
}

/// Why a transaction did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Somebody else has the lock, the disk is full, the server is away: nothing was applied, and it is
    /// tried again. Says what would help.
    #[error("{0}")]
    Wait(String),
    /// The job ends. Says what to do.
    #[error("{0}")]
    Final(String),
}

/// What became of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// They are in the table.
    pub rows: u64,
    /// The table did not want them.
    pub refused: u64,
}

/// What became of a piece of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its rows.
    pub written: Written,
    /// Notes whose epoch had been applied before.
    pub skipped: u64,
    /// Commits that were forgotten since their epochs do not exist: instance and epoch.
    pub forgotten: Vec<(u16, Epoch)>,
}

/// Applies `work` in one transaction, but for notes that were applied before; `None` if it was too late.
///
/// `gone` says whether the job has ended without closing. It may have been started again since, and its
/// next run may have applied more: so that is asked once no other transaction can begin. What is asked
/// earlier could be old when the transaction begins, and would have this one forget the commits of the
/// next run.
///
/// # Errors
/// See [`Trouble`]; nothing was applied then.
pub fn apply<D: Database>(
    database: &mut D,
    work: &Work,
    gone: impl Fn() -> bool,
) -> Result<Option<Applied>, Trouble> {
    let mut transaction = database.begin()?;
    if gone() && !work.is_direct() {
        return Ok(None);
    }
    let mut applied = Applied::default();
    let mut commits = BTreeMap::new();
    let mut changed = !work.direct.is_empty();
    if work.restored.is_some() || !work.notes.is_empty() {
        commits.extend(transaction.commits()?);
    }
    if let Some(restored) = work.restored {
        for (&instance, commit) in commits.iter_mut().filter(|(_, commit)| **commit > restored) {
            applied.forgotten.push((instance, *commit));
            transaction.set_commit(instance, restored)?;
            *commit = restored;
            changed = true;
        }
    }
    let mut newest = BTreeMap::new();
    for held in &work.notes {
        let id = held.id;
        if commits.get(&id.instance).is_some_and(|&commit| id.epoch <= commit) {
            applied.skipped += 1;
            continue;
        }
        write(&mut transaction, &held.note, &mut applied.written)?;
        newest.insert(id.instance, id.epoch);
    }
    for (&instance, &epoch) in &newest {
        transaction.set_commit(instance, epoch)?;
    }
    for held in &work.direct {
        write(&mut transaction, &held.note, &mut applied.written)?;
    }
    if changed || !newest.is_empty() {
        transaction.commit()?;
    }
    Ok(Some(applied))
}

fn write(
    transaction: &mut impl Transaction,
    note: &[u8],
    written: &mut Written,
) -> Result<(), Trouble> {
    let note = Note::read(note).map_err(|error| Trouble::Final(error.to_string()))?;
    let more = transaction.write(note)?;
    written.rows += more.rows;
    written.refused += more.refused;
    Ok(())
}
