//! A job's journals on [`SimDisk`]s, stepped by their owner: no thread, no clock, all chance from the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use thalweg_kernel::{
    ConfigError, JournalError, JournalReader, JournalWriter, Journals, Timestamp,
};

use crate::config::JournalConfig;
use crate::errors::failed;
use crate::format::name_hash;
use crate::log::Log;
use crate::reader::{Reader, end_of};
use crate::sim::SimDisk;

/// The journals of one simulated machine. Clones are one set of journals.
#[derive(Clone)]
pub struct SimJournals(Arc<Mutex<State>>);

struct State {
    seed: u64,
    config: JournalConfig,
    journals: BTreeMap<String, Journal>,
}

struct Journal {
    disk: SimDisk,
    /// How often it was opened or lost: an older writer has nothing to say any more.
    generation: u64,
    open: Option<(Log<SimDisk>, Waker)>,
    trim_to: u64,
}

impl SimJournals {
    /// A machine without journals.
    ///
    /// # Errors
    /// If the sizes in `config` do not go together.
    pub fn new(seed: u64, config: JournalConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self(Arc::new(Mutex::new(State { seed, config, journals: BTreeMap::new() }))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk of the journal called `name`, to make it fail.
    pub fn disk(&self, name: &str) -> SimDisk {
        self.state().journal(name).disk.clone()
    }

    /// The names of the journals that there are.
    pub fn names(&self) -> Vec<String> {
        self.state().journals.keys().cloned().collect()
    }

    /// Takes one step in each open journal: completes the group that is written, or else trims, prepares
    /// a segment and writes the next group. Wakes those whose durable end or room has changed. Whether
    /// there is more to do, even if it can only be tried, as on a full disk.
    pub fn step(&self) -> bool {
        let names = self.names();
        names.iter().fold(false, |more, name| self.step_one(name) | more)
    }

    /// As [`step`](Self::step), in one journal.
    pub fn step_one(&self, name: &str) -> bool {
        let mut state = self.state();
        let journal = state.journal(name);
        let trim_to = std::mem::take(&mut journal.trim_to);
        let Some((log, waker)) = &mut journal.open else { return false };
        if log.durable().is_err() {
            return false;
        }
        // What fails here for good is told by `durable` and `append`; a full disk is tried again.
        let completed = log.complete_group();
        let begun = match completed {
            Ok(false) => {
                let first = log.first();
                let trimmed = log.trim(trim_to).and_then(|()| log.prepare());
                let begun = log.begin_group();
                Ok(first != log.first() || (trimmed.is_err() && begun.is_err()))
            }
            other => other,
        };
        let more = log.has_work();
        // Also where only the preparation has failed: nobody else tells of it.
        let wake = !matches!(begun, Ok(false)) || log.durable().is_err();
        let waker = waker.clone();
        drop(state);
        if wake {
            waker.wake();
        }
        more
    }

    /// The process is gone, the machine is not: what was written stays as it is, synced or not.
    pub fn kill(&self) {
        for journal in self.state().journals.values_mut() {
            journal.open = None;
            journal.generation += 1;
        }
    }

    /// The power goes and comes back: what was not synced is lost, wholly or in part.
    pub fn crash(&self) {
        self.kill();
        for journal in self.state().journals.values() {
            journal.disk.power_on();
        }
    }
}

impl State {
    fn journal(&mut self, name: &str) -> &mut Journal {
        let seed = self.seed;
        self.journals.entry(name.to_owned()).or_insert_with(|| Journal {
            disk: SimDisk::new(seed ^ name_hash(name)),
            generation: 0,
            open: None,
            trim_to: 0,
        })
    }
}

impl fmt::Debug for SimJournals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimJournals")
    }
}

impl Journals for SimJournals {
    fn open(&self, name: &str, durable: Waker) -> Result<Box<dyn JournalWriter>, JournalError> {
        let mut state = self.state();
        let config = state.config.clone();
        let tag = state.seed.rotate_left(32) ^ name_hash(name);
        let journal = state.journal(name);
        if journal.open.is_some() {
            return Err(JournalError::Failed(format!("journal {name} is open already")));
        }
        let log = Log::open(journal.disk.clone(), name, &config, tag)?;
        let end = log.end();
        journal.open = Some((log, durable));
        journal.generation += 1;
        journal.trim_to = 0;
        let generation = journal.generation;
        Ok(Box::new(SimWriter { journals: self.clone(), name: name.to_owned(), generation, end }))
    }

    fn read(&self, name: &str, from: u64) -> Result<Box<dyn JournalReader>, JournalError> {
        let mut state = self.state();
        let journal = state.journal(name);
        let mut disk = journal.disk.clone();
        let end = match &journal.open {
            Some((log, _)) => log.durable()?,
            None => end_of(&mut disk, name)?.0,
        };
        Ok(Box::new(Reader::new(disk, name, from, end)?))
    }
}

struct SimWriter {
    journals: SimJournals,
    name: String,
    generation: u64,
    end: u64,
}

impl SimWriter {
    /// Does something with this writer's log, while it is its own.
    fn with<T>(
        &self,
        what: impl FnOnce(&mut Log<SimDisk>, &mut u64) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut state = self.journals.state();
        let journal = state.journal(&self.name);
        match &mut journal.open {
            Some((log, _)) if journal.generation == self.generation => {
                what(log, &mut journal.trim_to)
            }
            _ => Err(failed(&self.name, "writing", &std::io::Error::other("the power went"))),
        }
    }
}

impl JournalWriter for SimWriter {
    fn end(&self) -> u64 {
        self.end
    }

    fn append(&mut self, received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError> {
        let position = self.with(|log, _| log.append(received, record))?;
        self.end = position + 1;
        Ok(position)
    }

    /// A step takes what there is in any case.
    fn flush(&mut self) {}

    fn durable(&self) -> Result<u64, JournalError> {
        self.with(|log, _| log.durable())
    }

    fn trim(&mut self, position: u64) {
        // A journal that failed has nothing to trim.
        let _ = self.with(|_, trim_to| {
            *trim_to = position.max(*trim_to);
            Ok(())
        });
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        // As the real one: what was appended becomes durable, if it can.
        let _ = self.with(|log, _| {
            while log.has_work() {
                log.begin_group()?;
                log.complete_group()?;
            }
            Ok(())
        });
        let mut state = self.journals.state();
        let journal = state.journal(&self.name);
        if journal.generation == self.generation {
            journal.open = None;
        }
    }
}
