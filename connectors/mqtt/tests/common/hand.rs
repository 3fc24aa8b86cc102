//! Journals in memory whose disk is moved by hand: what is appended becomes durable when the test says so.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use thalweg_kernel::{
    Durability, Epoch, JournalError, JournalReader, JournalRecord, JournalWriter, Journals,
    OpenContext, Timestamp,
};

use super::context;

/// One journal, under whatever name.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    records: Vec<(Timestamp, Vec<u8>)>,
    /// The first one not trimmed.
    oldest: u64,
    durable: u64,
    /// Everything is durable once it is flushed.
    swift: bool,
    /// The most records that are kept.
    cap: Option<u64>,
    record_bytes_max: Option<usize>,
    failed: Option<JournalError>,
    name: String,
    waker: Option<Waker>,
}

impl Hand {
    /// One that is durable once it is flushed.
    pub(crate) fn swift() -> Self {
        let hand = Self::default();
        hand.state().swift = true;
        hand
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("the journal")
    }

    /// What a source is told in a job that keeps this journal.
    pub(crate) fn context(&self) -> OpenContext {
        self.context_at(None)
    }

    /// A source as above, in a job that resumes from a checkpoint.
    pub(crate) fn context_at(&self, position: Option<&[u8]>) -> OpenContext {
        OpenContext { durability: self.durability(position), ..context() }
    }

    fn durability(&self, position: Option<&[u8]>) -> Durability {
        Durability {
            operator: "sensors".into(),
            checkpoints: true,
            restored: position.map(|_| Epoch::new(1)),
            position: position.map(Bytes::copy_from_slice),
            journals: Some(Arc::new(self.clone())),
            ..Durability::default()
        }
    }

    pub(crate) fn appended(&self) -> u64 {
        self.state().records.len() as u64
    }

    pub(crate) fn durable(&self) -> u64 {
        self.state().durable
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.state().oldest
    }

    pub(crate) fn name(&self) -> String {
        self.state().name.clone()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state().waker.is_some()
    }

    /// The disk has synced up to here.
    pub(crate) fn sync_to(&self, durable: u64) {
        self.change(|state| state.durable = durable);
    }

    pub(crate) fn fail(&self, what: &str) {
        self.change(|state| state.failed = Some(JournalError::Failed(what.to_owned())));
    }

    pub(crate) fn cap(&self, records: Option<u64>) {
        self.change(|state| state.cap = records);
    }

    pub(crate) fn record_bytes_max(&self, bytes: usize) {
        self.change(|state| state.record_bytes_max = Some(bytes));
    }

    /// Loses what is not durable.
    pub(crate) fn crash(&self) {
        let durable = self.durable();
        self.crash_at(durable);
    }

    /// Loses what is behind `end`: of a group that was being written, a beginning may survive.
    pub(crate) fn crash_at(&self, end: u64) {
        let mut state = self.state();
        assert!((state.durable..=state.records.len() as u64).contains(&end), "a promise");
        state.records.truncate(end as usize);
        state.durable = end;
        state.waker = None;
    }

    pub(crate) fn trim_to(&self, oldest: u64) {
        self.state().oldest = oldest;
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hand")
    }
}

impl Journals for Hand {
    fn open(&self, name: &str, durable: Waker) -> Result<Box<dyn JournalWriter>, JournalError> {
        let mut state = self.state();
        if state.waker.is_some() {
            return Err(JournalError::Failed(format!("journal {name} is open already: by hand")));
        }
        state.waker = Some(durable);
        state.name = name.to_owned();
        Ok(Box::new(Writer(self.clone())))
    }

    fn read(&self, _: &str, from: u64) -> Result<Box<dyn JournalReader>, JournalError> {
        let state = self.state();
        if !(state.oldest..=state.durable).contains(&from) {
            let what =
                format!("position {from} is not kept: {} to {} are", state.oldest, state.durable);
            return Err(JournalError::Position(what));
        }
        let end = state.durable;
        Ok(Box::new(Reader { hand: self.clone(), next: from, end, bytes: Vec::new() }))
    }
}

struct Writer(Hand);

impl JournalWriter for Writer {
    fn end(&self) -> u64 {
        self.0.appended()
    }

    fn append(&mut self, received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError> {
        let mut state = self.0.state();
        let position = state.records.len() as u64;
        let record = record.concat();
        if state.record_bytes_max.is_some_and(|most| record.len() > most) {
            return Err(JournalError::TooLarge(format!("{} bytes are too many", record.len())));
        }
        if state.cap.is_some_and(|cap| position - state.oldest >= cap) {
            return Err(JournalError::Full("at its cap".to_owned()));
        }
        state.records.push((received, record));
        Ok(position)
    }

    fn flush(&mut self) {
        let mut state = self.0.state();
        if state.swift {
            state.durable = state.records.len() as u64;
            let waker = state.waker.clone();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn durable(&self) -> Result<u64, JournalError> {
        let state = self.0.state();
        state.failed.clone().map_or(Ok(state.durable), Err)
    }

    fn trim(&mut self, position: u64) {
        self.0.change(|state| state.oldest = position);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.state().waker = None;
    }
}

struct Reader {
    hand: Hand,
    next: u64,
    end: u64,
    bytes: Vec<u8>,
}

impl JournalReader for Reader {
    fn next(&mut self) -> Result<Option<JournalRecord<'_>>, JournalError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let position = self.next;
        self.next += 1;
        let (received, bytes) = self.hand.state().records[position as usize].clone();
        self.bytes = bytes;
        Ok(Some(JournalRecord { position, received, bytes: &self.bytes }))
    }
}
