//! Batches: results on their way from a shard to the connection in flat buffers, which come back empty. A shard has
//! [`BATCHES_MAX`] of them, so they bound what is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use bytes::Bytes;
use thalweg_kernel::RefusedResults;

/// The most results of one batch; a batch of the engine may take it over.
pub const BATCH_MESSAGES_MAX: usize = 512;
/// A batch with this many bytes is full; a batch of the engine may take it over.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// The batches of one shard. All results that were written and have not arrived are in them, so
/// they bound a sink's memory.
pub const BATCHES_MAX: usize = 8;

/// A shard's end of the way back.
pub(crate) struct Port {
    done: AtomicU64,
    /// Results that were dropped.
    pub(crate) refused: RefusedResults,
    empty: flume::Sender<Box<ResultBatch>>,
    waker: Waker,
}

impl Port {
    /// A shard's port, and where its batches come back: all of them are there.
    pub(crate) fn open(waker: &Waker) -> (Arc<Self>, flume::Receiver<Box<ResultBatch>>) {
        let (to_shard, empty) = flume::bounded(BATCHES_MAX);
        let (done, waker) = (AtomicU64::new(0), waker.clone());
        let refused = RefusedResults::default();
        let port = Arc::new(Self { done, refused, empty: to_shard, waker });
        for _ in 0..BATCHES_MAX {
            port.give_back(Box::default());
        }
        (port, empty)
    }

    /// How many results have arrived or were dropped so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// One more result has arrived or was dropped.
    pub(crate) fn done(&self) {
        self.done.fetch_add(1, Ordering::Release);
    }

    /// A batch's results have all arrived.
    pub(crate) fn give_back(&self, mut batch: Box<ResultBatch>) {
        // A batch that lies here must not keep the port.
        batch.port = None;
        // There is room for all batches; a shard that has gone needs none.
        let _gone = self.empty.try_send(batch);
        self.waker.wake_by_ref();
    }
}

/// Results in one flat buffer.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) bytes: Vec<u8>,
    /// Where each topic and each payload ends.
    pub(crate) ends: Vec<(usize, usize)>,
}

/// The beginning of a message's id, and its number in its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdStem {
    pub(crate) stem: String,
    pub(crate) first: usize,
}

/// Results on their way to the connection.
#[derive(Default)]
pub(crate) struct ResultBatch {
    pub(crate) results: Results,
    /// How the ids of the results begin, if they have any.
    pub(crate) ids: Option<IdStem>,
    /// They are of an earlier run: another program may have let topics pass that this one would not.
    pub(crate) unchecked: bool,
    /// Where it comes back to, while it is on its way.
    pub(crate) port: Option<Arc<Port>>,
}

impl Results {
    pub(crate) fn is_full(&self) -> bool {
        self.ends.len() >= BATCH_MESSAGES_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Where the last result begins, if there is one.
    fn last(&self) -> Option<usize> {
        let before = self.ends.len().checked_sub(1)?.checked_sub(1);
        Some(before.map_or(0, |before| self.ends[before].1))
    }

    /// The topic of the last result; empty if there is none.
    pub(crate) fn last_topic(&self) -> &[u8] {
        match (self.last(), self.ends.last()) {
            (Some(from), Some(&(topic, _))) => &self.bytes[from..topic],
            _ => &[],
        }
    }

    /// Takes the last result away.
    pub(crate) fn pop(&mut self) {
        if let Some(from) = self.last() {
            self.bytes.truncate(from);
            self.ends.pop();
        }
    }

    /// Takes out the results, leaving none.
    pub(crate) fn unpack(&mut self) -> impl Iterator<Item = (Bytes, Bytes)> + use<'_> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let mut from = 0;
        self.ends.drain(..).map(move |(topic, payload)| {
            let parts = (bytes.slice(from..topic), bytes.slice(topic..payload));
            from = payload;
            parts
        })
    }
}
