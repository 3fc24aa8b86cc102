//! [`Database`]: the seam that a database implements, and [`apply`], which decides what goes through it.

use std::collections::BTreeMap;

use thalweg_kernel::Str;
use thalweg_kernel::defects::{Defect, seeded};

use crate::claim::{Claim, Commit};
use crate::ledger::Work;
use crate::note::Note;
use crate::refused::Refused;
use crate::trouble::Trouble;

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
    fn commits(&mut self) -> Result<Vec<Commit>, Trouble>;

    /// Notes that an epoch of an instance is applied, and all before it. [`Epoch::NONE`]: forgets it.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn set_commit(&mut self, commit: &Commit) -> Result<(), Trouble>;

    /// Does to the table what the rows of a note say, as if one after the other. A row that
    /// [puts](thalweg_kernel::RowKind::puts) is inserted, or replaces the one with its key. The others take the
    /// row with their key away, and need not find one. Rows that the table refuses for what they hold are left
    /// out, and noted in `written` with their cause. One bad row must not stop a job.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn write(&mut self, note: Note<'_>, written: &mut Written) -> Result<(), Trouble>;

    /// Makes everything visible and durable.
    ///
    /// # Errors
    /// See [`Trouble`]. Where nobody knows whether it was done, since the answer was lost, it is
    /// [`Trouble::Wait`]. The next transaction reads what is noted, and skips what is.
    fn commit(self) -> Result<(), Trouble>;
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many the table has followed.
    pub rows: u64,
    /// The table did not want these.
    pub refused: Refused,
}

/// What became of a piece of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its rows.
    pub written: Written,
    /// Notes whose epoch had been applied before.
    pub skipped: u64,
    /// Commits that were forgotten, wholly or in part, since the job knows no such epochs.
    pub forgotten: Vec<Commit>,
    /// The state directory whose commits were taken over.
    pub taken_over: Option<Str>,
}

/// Looks whether the job may write to the database, without changing anything in its tables.
///
/// # Errors
/// See [`Trouble`].
pub fn check_claim(database: &mut impl Database, claim: Option<&Claim>) -> Result<(), Trouble> {
    let mut transaction = database.begin()?;
    let Some(claim) = claim else { return Ok(()) };
    transaction.commits()?.iter().try_for_each(|commit| claim.means(commit, true).map(drop))
}

/// Applies `work` in one transaction, but for notes that were applied before; `None` if it was too late.
/// Without a claim there are no epochs, and commits are left alone.
///
/// `gone` says whether the job has ended without closing. It may have been started again since, and its
/// next run may have applied more: so that is asked once no other transaction can begin. What is asked
/// earlier could be old when the transaction begins, and would have this one forget the commits of the
/// next run.
///
/// # Errors
/// See [`Trouble`]; nothing was applied then, unless the answer to a commit was lost.
pub fn apply<D: Database>(
    database: &mut D,
    claim: Option<&Claim>,
    work: &Work,
    gone: impl Fn() -> bool,
) -> Result<Option<Applied>, Trouble> {
    let mut applied = Applied::default();
    if claim.is_none() && work.direct.is_empty() && work.notes.is_empty() {
        return Ok(Some(applied));
    }
    let mut transaction = database.begin()?;
    if gone() && !work.is_direct() {
        return Ok(None);
    }
    let mut changed = !work.direct.is_empty();
    let mut commits = BTreeMap::new();
    if let Some(claim) = claim.filter(|_| !work.is_direct()) {
        for found in transaction.commits()? {
            let mut epoch = claim.means(&found, work.restored.is_some())?;
            if let Some(restored) = work.restored {
                epoch = epoch.min(restored);
            }
            commits.insert(found.instance, epoch);
            let directory = claim.directory().clone();
            if (found.epoch, &found.directory) == (epoch, &directory) {
                continue;
            }
            transaction.set_commit(&Commit { instance: found.instance, epoch, directory })?;
            changed = true;
            if !found.directory.is_empty() && found.directory != *claim.directory() {
                applied.taken_over = Some(found.directory.clone());
            }
            if epoch < found.epoch {
                applied.forgotten.push(found);
            }
        }
    }
    let mut newest = BTreeMap::new();
    for held in &work.notes {
        let id = held.id;
        if commits.get(&id.instance).is_some_and(|&commit| id.epoch <= commit) {
            applied.skipped += 1;
            continue;
        }
        let forgets = work.restored.is_some() && seeded(Defect::SqliteForgetsKinds);
        applied.written.refused.instance = id.instance;
        write(&mut transaction, &held.note, forgets, &mut applied.written)?;
        newest.insert(id.instance, id.epoch);
    }
    for (&instance, &epoch) in newest.iter().filter(|_| !seeded(Defect::SqliteNoCommitRow)) {
        let directory = claim.map(|claim| claim.directory().clone()).unwrap_or_default();
        transaction.set_commit(&Commit { instance, epoch, directory })?;
    }
    for held in &work.direct {
        applied.written.refused.instance = held.instance;
        write(&mut transaction, &held.note, false, &mut applied.written)?;
    }
    if changed || !newest.is_empty() {
        transaction.commit()?;
    }
    Ok(Some(applied))
}

fn write(
    transaction: &mut impl Transaction,
    note: &[u8],
    forgets_kinds: bool,
    written: &mut Written,
) -> Result<(), Trouble> {
    let mut note = Note::read(note)?;
    if forgets_kinds {
        note.forget_kinds();
    }
    transaction.write(note, written)
}
