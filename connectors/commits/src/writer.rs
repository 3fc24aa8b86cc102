//! [`RowWriter`]: the sink's instance on a shard.
//!
//! # Changelogs
//! A row that leaves the table is written with its key alone. An update-before whose update-after follows with the
//! key of the row before is left out: the two are one update, which replaces the row. Where the key changes, the
//! update-before takes the row of the old key away. A note never ends between the two. So at least once a reader
//! does not see the table without the row, unless a flush comes between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    ConnectorError, DeadLetter, Durability, Epoch, Pending, PendingId, RowKind, Sink, Timestamp,
};

use crate::columns::Columns;
use crate::common::Common;
use crate::ledger::{Direct, Message, SealedNote};
use crate::row_port::RowPort;
use crate::{HELD_BYTES_MAX, HELD_ROWS_MAX, NOTE_BYTES, note};

/// How much a shard may hold before it is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows_max: usize,
    /// Bytes of encoded rows.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows_max: HELD_ROWS_MAX, bytes_max: HELD_BYTES_MAX }
    }
}

/// A sink into an SQL database on one shard; see the [crate](crate).
pub struct RowWriter<T> {
    columns: Columns<T>,
    /// What each note begins with.
    head: Vec<u8>,
    limits: Limits,
    /// Rows wait for their epoch.
    holds: bool,
    /// The note under construction, and its rows.
    open: Vec<u8>,
    open_rows: u64,
    /// Where the last row of it begins, if that is an update-before.
    before: Option<usize>,
    /// The key of a row.
    key: Vec<u8>,
    /// Finished notes of the open epoch.
    full: Vec<(Bytes, u64)>,
    /// Notes of epochs that do not exist yet, as far as is known.
    sealed: VecDeque<SealedNote>,
    /// Notes in the store.
    stored: VecDeque<PendingId>,
    /// Rows written up to a seal that are not held back for it.
    marks: VecDeque<(Epoch, u64)>,
    /// All rows of finished notes, and their bytes, in this run.
    rows: u64,
    bytes: u64,
    /// The newest epoch whose notes were committed.
    committed: Epoch,
    /// The newest epoch of which the thread was told.
    told: Epoch,
    closed: bool,
    port: Arc<RowPort>,
    to_thread: flume::Sender<Message>,
    common: Arc<Common<RowPort>>,
}

impl<T> RowWriter<T> {
    pub(crate) fn new(
        columns: Columns<T>,
        limits: Limits,
        holds: bool,
        port: Arc<RowPort>,
        to_thread: flume::Sender<Message>,
        common: Arc<Common<RowPort>>,
        durability: &Durability,
    ) -> Self {
        let recovered = durability.pending.iter().map(|(id, note)| {
            let (id, note) = (*id, note.clone());
            SealedNote { id, rows: 0, note }
        });
        let restored = durability.restored.unwrap_or_default();
        let writer = Self {
            head: note::begin(&columns.names(), columns.kind().is_some()),
            columns,
            limits,
            holds,
            open: Vec::new(),
            open_rows: 0,
            before: None,
            key: Vec::new(),
            full: Vec::new(),
            sealed: VecDeque::new(),
            stored: durability.pending.iter().map(|(id, _)| *id).collect(),
            marks: VecDeque::new(),
            rows: 0,
            bytes: 0,
            committed: Epoch::NONE,
            told: Epoch::NONE,
            closed: false,
            port,
            to_thread,
            common,
        };
        writer.say(Message::Open(restored, recovered.collect()));
        writer
    }

    fn say(&self, message: Message) {
        // Should the thread have gone, it has told why.
        let _ = self.to_thread.send(message);
    }

    /// Adds a row that does what its kind says.
    fn change(&mut self, kind: RowKind, record: &T) -> Result<(), ConnectorError> {
        if kind != RowKind::Insert && !self.columns.has_key() {
            return Err(self.takes_inserts_only(kind));
        }
        let (before, at) = (self.before.take(), self.open.len());
        self.open.push(kind.to_byte());
        if !kind.puts() {
            self.columns.write_key(record, &mut self.open);
            self.open_rows += 1;
            self.before = (kind == RowKind::UpdateBefore).then_some(at);
            return Ok(());
        }
        self.columns.write(record, &mut self.open);
        if let Some(before) = before {
            self.key.clear();
            self.columns.write_key(record, &mut self.key);
            if self.open[before + 1..at] == self.key[..] {
                if seeded(Defect::SqliteUpdateBeforeLast) {
                    self.open[before..].rotate_left(at - before);
                } else {
                    self.open.drain(before..at);
                }
                return Ok(());
            }
        }
        self.open_rows += 1;
        Ok(())
    }

    #[cold]
    fn takes_inserts_only(&self, kind: RowKind) -> ConnectorError {
        let what = format!(
            "the table has no key, so it takes new rows alone, and a change of kind {kind} has come: bind \
             the columns of its key with `key`, or let `kind_column` keep every change as a row"
        );
        self.common.error(what).lasting()
    }

    /// Finishes the open note.
    fn finish_note(&mut self) {
        self.before = None;
        if self.open_rows == 0 {
            return;
        }
        let rows = std::mem::take(&mut self.open_rows);
        let note = Bytes::from(std::mem::take(&mut self.open));
        self.rows += rows;
        self.bytes += note.len() as u64;
        if self.holds {
            self.full.push((note, rows));
        } else {
            self.say(Message::Direct(Direct { instance: self.port.instance, rows, note }));
        }
    }

    fn applied_rows(&self) -> u64 {
        self.port.rows.load(SeqCst)
    }

    /// Notes that were applied need not be kept.
    fn delete_applied(&mut self, pending: &mut Pending<'_>) {
        if !self.port.recovered.load(SeqCst) {
            return;
        }
        let upto = self.port.upto();
        while let Some(id) = self.stored.pop_front_if(|id| id.epoch <= upto) {
            pending.delete(id);
        }
    }
}

impl<T> Sink<T> for RowWriter<T> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.common.check()?;
        let rows = self.rows + self.open_rows - self.applied_rows();
        let bytes = self.bytes + self.open.len() as u64 - self.port.bytes.load(SeqCst);
        // The thread counts first and wakes then, so a no is always followed by a call.
        Ok(rows < self.limits.rows_max as u64 && bytes < self.limits.bytes_max as u64)
    }

    fn awaits_epoch(&self) -> bool {
        self.holds
    }

    #[inline]
    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        if self.open.is_empty() {
            self.open.extend_from_slice(&self.head);
        }
        match self.columns.kind() {
            None => {
                self.columns.write(&value, &mut self.open);
                self.open_rows += 1;
            }
            Some(kind) => self.change(kind(&value), &value)?,
        }
        if self.open.len() >= NOTE_BYTES && self.before.is_none() {
            self.finish_note();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if !self.holds {
            self.finish_note();
        }
        self.common.check()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.flush()?;
        let unsealed = self.open_rows + self.full.iter().map(|(_, rows)| rows).sum::<u64>();
        let waiting = unsealed + self.sealed.iter().map(|held| held.rows).sum::<u64>();
        if waiting > 0 {
            let what = format!("ended with {waiting} rows that belong to no epoch");
            return Err(self.common.error(what));
        }
        let done = self.port.recovered.load(SeqCst)
            && self.port.upto() >= self.committed
            && self.applied_rows() == self.rows;
        if done && !self.closed {
            self.closed = true;
            self.say(Message::Close(self.port.instance));
        }
        // A failure is told before anything else is, so whoever sees no answer sees the failure.
        self.common.check().map(|()| done)
    }

    fn refused(&mut self) -> Option<DeadLetter> {
        self.port.refused.pop()
    }

    fn has_news(&self) -> bool {
        let applied = |id: &PendingId| id.epoch <= self.port.upto();
        self.stored.front().is_some_and(applied) && self.port.recovered.load(SeqCst)
    }

    fn seal(&mut self, epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.finish_note();
        self.delete_applied(pending);
        if !self.holds {
            self.marks.push_back((epoch, self.rows));
        }
        for (note, rows) in self.full.drain(..) {
            let id = pending.put(&note);
            self.stored.push_back(id);
            self.sealed.push_back(SealedNote { id, rows, note });
        }
        self.common.check()
    }

    fn sealed(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        // What is held back is in the epoch itself. What is not must be in the table before the
        // sources may forget it.
        let applied = self.applied_rows();
        while self.marks.pop_front_if(|(_, rows)| *rows <= applied).is_some() {}
        let waits = self.marks.front().is_some_and(|(marked, _)| *marked <= epoch);
        self.common.check().map(|()| !waits)
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        let count = self.sealed.partition_point(|held| held.id.epoch <= epoch);
        let notes: Vec<_> = self.sealed.drain(..count).collect();
        if !notes.is_empty() {
            self.committed = epoch;
        }
        // Also without any: others wait until all have said so.
        self.told = epoch;
        self.say(Message::Commit(self.port.instance, epoch, notes));
        self.common.check()
    }

    fn settled(&mut self) -> Result<bool, ConnectorError> {
        // Also without rows of its own: should this one leave, the thread would stop in front of those of others.
        let applied = self.port.recovered.load(SeqCst) && self.port.upto() >= self.told;
        self.common.check().map(|()| applied)
    }
}

impl<T> Drop for RowWriter<T> {
    fn drop(&mut self) {
        if !self.closed {
            self.common.leave();
            // Wakes the thread, which asks whether somebody has gone first.
            self.say(Message::Close(self.port.instance));
        }
    }
}
