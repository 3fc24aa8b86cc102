//! The ledger: what went wrong, and what the journal was seen to hold. It stands between the engine's
//! journals and whoever uses them, and believes neither.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use thalweg_journal::sim::SimJournals;
use thalweg_kernel::{
    Epoch, JournalError, JournalReader, JournalRecord, JournalWriter, Journals, Timestamp,
};

/// See the module. Clones are the same ledger.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    violations: Vec<String>,
    journals: BTreeMap<String, Seen>,
    oldest: Epoch,
}

/// What a journal was seen to hold.
#[derive(Default)]
struct Seen {
    records: Vec<Vec<u8>>,
    durable: u64,
    failed: bool,
    /// The positions that its source noted, by epoch.
    positions: BTreeMap<Epoch, u64>,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that must never happen has happened.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        let mut entries = self.entries();
        // The first few say it all.
        if entries.violations.len() < 20 {
            entries.violations.push(what.into());
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.entries().violations.clone()
    }

    pub(crate) fn is_violated(&self) -> bool {
        !self.entries().violations.is_empty()
    }

    /// The oldest epoch that can be restored.
    pub(crate) fn set_oldest(&self, oldest: Epoch) {
        self.entries().oldest = oldest;
    }

    /// A source has noted this position for an epoch.
    pub(crate) fn position(&self, journal: &str, epoch: Epoch, position: u64) {
        self.seen(journal, |seen| {
            seen.positions.insert(epoch, position);
        });
    }

    /// A record was acknowledged to the broker: it must be durable.
    pub(crate) fn acknowledged(&self, journal: &str, bytes: &[u8]) {
        let durable = self.seen(journal, |seen| {
            let durable = &seen.records[..seen.durable as usize];
            durable.iter().rev().any(|record| record == bytes)
        });
        if !durable {
            self.violation(format!("acknowledged before it was durable, in {journal}"));
        }
    }

    /// All that a journal holds and held, from its beginning.
    pub(crate) fn records(&self, journal: &str) -> Vec<Vec<u8>> {
        self.seen(journal, |seen| seen.records.clone())
    }

    fn seen<T>(&self, journal: &str, look: impl FnOnce(&mut Seen) -> T) -> T {
        let journals = &mut self.entries().journals;
        match journals.get_mut(journal) {
            Some(seen) => look(seen),
            None => look(journals.entry(journal.to_owned()).or_default()),
        }
    }
}

/// Journals that are watched.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) inner: SimJournals,
    pub(crate) ledger: Ledger,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Journals for Watched {
    fn open(&self, name: &str, durable: Waker) -> Result<Box<dyn JournalWriter>, JournalError> {
        let inner = self.inner.open(name, durable)?;
        let (end, ledger, name) = (inner.end(), self.ledger.clone(), name.to_owned());
        let (known, durable) = ledger.seen(&name, |seen| {
            let before = (seen.records.len() as u64, seen.durable);
            seen.records.truncate(end as usize);
            (seen.failed, seen.durable) = (false, end.min(before.0));
            before
        });
        if end < durable {
            ledger.violation(format!(
                "{name} was durable up to {durable}, and ends at {end} when it is opened again"
            ));
        }
        if end > known {
            ledger.violation(format!("{name} was given {known} records and has {end}"));
        }
        Ok(Box::new(Writer { inner, ledger, name }))
    }

    fn read(&self, name: &str, from: u64) -> Result<Box<dyn JournalReader>, JournalError> {
        let inner = self.inner.read(name, from)?;
        let ledger = self.ledger.clone();
        Ok(Box::new(Reader { inner, ledger, name: name.to_owned(), next: from }))
    }
}

struct Writer {
    inner: Box<dyn JournalWriter>,
    ledger: Ledger,
    name: String,
}

impl JournalWriter for Writer {
    fn end(&self) -> u64 {
        self.inner.end()
    }

    fn append(&mut self, received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError> {
        let appended = self.inner.append(received, record);
        let expected = self.ledger.seen(&self.name, |seen| {
            let expected = seen.records.len() as u64;
            match &appended {
                Ok(_) => seen.records.push(record.concat()),
                Err(JournalError::Failed(_)) => seen.failed = true,
                Err(_) => {}
            }
            expected
        });
        if let Ok(position) = appended
            && position != expected
        {
            self.ledger
                .violation(format!("{} gave record {expected} the position {position}", self.name));
        }
        appended
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn durable(&self) -> Result<u64, JournalError> {
        let durable = self.inner.durable();
        let known = self.ledger.seen(&self.name, |seen| {
            match &durable {
                Ok(durable) => seen.durable = seen.durable.max(*durable),
                Err(_) => seen.failed = true,
            }
            (seen.records.len() as u64, seen.durable)
        });
        if let Ok(durable) = durable
            && (durable > known.0 || durable < known.1)
        {
            self.ledger.violation(format!(
                "{} says {durable} records are durable, of {}; before, {} were",
                self.name, known.0, known.1
            ));
        }
        durable
    }

    fn trim(&mut self, position: u64) {
        let oldest = self.ledger.entries().oldest;
        // A source that has ended notes no more positions: its last one stays.
        let needed = self.ledger.seen(&self.name, |seen| {
            seen.positions.range(..=oldest).next_back().map(|(_, position)| *position)
        });
        if position > needed.unwrap_or(0) {
            self.ledger.violation(format!(
                "{} is trimmed below {position}; epoch {oldest} needs what is from {needed:?} on",
                self.name
            ));
        }
        self.inner.trim(position);
    }
}

struct Reader {
    inner: Box<dyn JournalReader>,
    ledger: Ledger,
    name: String,
    next: u64,
}

impl JournalReader for Reader {
    fn next(&mut self) -> Result<Option<JournalRecord<'_>>, JournalError> {
        let Some(record) = self.inner.next()? else { return Ok(None) };
        let at = record.position as usize;
        let same = self.ledger.seen(&self.name, |seen| {
            seen.records.get(at).is_some_and(|known| known == record.bytes)
        });
        if !same || record.position != self.next {
            self.ledger.violation(format!("{} has another record {at} than before", self.name));
        }
        self.next = record.position + 1;
        Ok(Some(record))
    }
}
