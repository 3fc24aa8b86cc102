//! [`RollingWriter`]: the sink's instance on a shard.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use thalweg_commits::Common;
use thalweg_kernel::{ConnectorError, Encode, Epoch, Pending, PendingId, Sink, Timestamp};

use super::parts::Parts;
use super::port::{FilePort, Message};
use super::{QUEUED_BYTES_MAX, Rolling};
use crate::egress::CHUNK_BYTES;

/// A [`RollingFiles`](super::RollingFiles) on one shard.
pub struct RollingWriter<E> {
    encoder: E,
    rolling: Rolling,
    /// What each part begins with, once the first record was there.
    header: Option<Vec<u8>>,
    /// Whole lines of the part in progress, or of the one that is to come.
    chunk: Vec<u8>,
    parts: Parts,
    holds: bool,
    /// The note in the store, and its number.
    note: Vec<u8>,
    /// The parts of this run that could be seen when it was written.
    noted: u64,
    stored: Option<PendingId>,
    /// Notes of earlier runs.
    recovered: Vec<PendingId>,
    sealed: Epoch,
    closed: bool,
    port: Arc<FilePort>,
    to_thread: flume::Sender<Message>,
    spare: flume::Receiver<Vec<u8>>,
    common: Arc<Common<FilePort>>,
}

impl<E> RollingWriter<E> {
    #[allow(clippy::too_many_arguments)] // Each is one field.
    pub(super) fn new(
        encoder: E,
        rolling: Rolling,
        parts: Parts,
        holds: bool,
        recovered: Vec<PendingId>,
        port: Arc<FilePort>,
        (to_thread, spare): (flume::Sender<Message>, flume::Receiver<Vec<u8>>),
        common: Arc<Common<FilePort>>,
    ) -> Self {
        Self {
            encoder,
            rolling,
            header: None,
            chunk: Vec::new(),
            parts,
            holds,
            note: Vec::new(),
            noted: 0,
            stored: None,
            recovered,
            sealed: Epoch::NONE,
            closed: false,
            port,
            to_thread,
            spare,
            common,
        }
    }

    fn say(&self, message: Message) {
        // Should the thread have gone, it has told why.
        let _ = self.to_thread.send(message);
    }

    /// Begins a part with its header.
    #[cold]
    fn begin<T>(&mut self, first: &T) -> Result<(), ConnectorError>
    where
        E: Encode<T>,
    {
        if self.header.is_none() {
            let mut header = Vec::new();
            self.encoder
                .header(first, &mut header)
                .map_err(|cause| self.common.error("cannot write the header").caused_by(cause))?;
            if !header.is_empty() {
                header.push(b'\n');
            }
            self.header = Some(header);
        }
        self.chunk.extend_from_slice(self.header.as_deref().unwrap_or_default());
        Ok(())
    }

    fn send(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let next = self.spare.try_recv().unwrap_or_default();
        let chunk = std::mem::replace(&mut self.chunk, next);
        let (name, at) = self.parts.append(chunk.len() as u64);
        self.port.queued_bytes.fetch_add(chunk.len(), SeqCst);
        self.say(Message::Write(name, at, chunk));
    }

    fn roll(&mut self) {
        self.send();
        if let Some(name) = self.parts.roll() {
            self.say(Message::Roll(name));
            self.show();
        }
    }

    /// Rolls the part in progress if it is old or silent enough.
    #[inline]
    fn roll_if_due(&mut self) {
        let due = self.port.roll.load(SeqCst);
        if due != 0 && self.parts.current().is_some_and(|name| 1 + u64::from(name.number) == due) {
            self.roll();
        }
    }

    /// Lets be seen what may be.
    fn show(&mut self) {
        self.parts.renamed(self.port.renamed.load(SeqCst));
        let due = self.parts.due();
        if !due.is_empty() {
            self.say(Message::Show(self.port.instance, due));
        }
    }
}

impl<T, E: Encode<T>> Sink<T> for RollingWriter<E> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.common.check()?;
        self.roll_if_due();
        let room = |port: &FilePort| port.queued_bytes.load(SeqCst) < QUEUED_BYTES_MAX;
        if room(&self.port) {
            return Ok(true);
        }
        // The thread makes room and then looks whether somebody waits; here it is the other way round.
        self.port.waits.store(true, SeqCst);
        Ok(room(&self.port))
    }

    /// Its thread writes what waits, whatever becomes of the epoch.
    fn awaits_epoch(&self) -> bool {
        false
    }

    #[inline]
    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        if self.chunk.is_empty() && self.parts.current().is_none() {
            self.begin(&value)?;
        }
        self.encoder
            .encode(&value, &mut self.chunk)
            .map_err(|cause| self.common.error("a record does not fit").caused_by(cause))?;
        self.chunk.push(b'\n');
        if self.parts.bytes() + self.chunk.len() as u64 >= self.rolling.bytes {
            self.roll();
        } else if self.chunk.len() >= CHUNK_BYTES {
            self.send();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.send();
        self.roll_if_due();
        self.common.check()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.send();
        if self.parts.has_unsealed() {
            let what = "ended with results that belong to no epoch";
            return Err(self.common.error(what));
        }
        self.roll();
        self.show();
        let done = self.port.recovered.load(SeqCst) && self.parts.all_seen();
        if done && !self.closed {
            self.closed = true;
            self.say(Message::Close(true));
        }
        // A failure is told before anything else is, so whoever sees no answer sees the failure.
        self.common.check().map(|()| done)
    }

    fn has_news(&self) -> bool {
        let renamed = self.holds && self.noted < self.port.renamed.load(SeqCst);
        renamed || !self.recovered.is_empty() && self.port.recovered.load(SeqCst)
    }

    fn seal(&mut self, epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.send();
        self.roll_if_due();
        if self.rolling.at_checkpoints {
            self.roll();
        }
        self.parts.seal(epoch);
        self.parts.renamed(self.port.renamed.load(SeqCst));
        self.noted = self.parts.seen();
        if self.port.recovered.load(SeqCst) {
            self.recovered.drain(..).for_each(|id| pending.delete(id));
        }
        if self.holds {
            let note = self.parts.note(&self.rolling.suffix);
            if note != self.note {
                // It says all that the one before did.
                if let Some(before) = self.stored.take() {
                    pending.delete(before);
                }
                self.stored = (!note.is_empty()).then(|| pending.put(&note));
                self.note = note;
            }
        }
        self.sealed = epoch;
        self.say(Message::Seal(self.port.instance, epoch));
        self.common.check()
    }

    fn sealed(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        // One that has ended is asked about later epochs, too.
        let sealed = self.port.sealed.load(SeqCst) >= epoch.min(self.sealed).number();
        self.common.check().map(|()| sealed)
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        self.parts.commit(epoch);
        self.show();
        self.common.check()
    }

    fn settled(&mut self) -> Result<bool, ConnectorError> {
        self.show();
        let seen = self.port.recovered.load(SeqCst) && self.parts.all_due_seen();
        self.common.check().map(|()| seen)
    }
}

impl<E> Drop for RollingWriter<E> {
    fn drop(&mut self) {
        if !self.closed {
            self.common.leave();
            // Wakes the thread.
            self.say(Message::Close(false));
        }
    }
}
