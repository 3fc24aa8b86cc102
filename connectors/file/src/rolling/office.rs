//! What all shards and the thread share, and what they say to each other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;

use thalweg_kernel::{ConnectorError, Epoch, OpenContext};

use super::Rolling;
use super::desk::Desk;
use super::disk::Disk;
use super::parts::{INPROGRESS, Name, Noted, OPEN, Parts, read_note};
use super::writer::RollingWriter;

/// Written chunks that are kept for use again.
const CHUNKS_SPARE_MAX: usize = 32;

/// What a shard says.
#[derive(Debug)]
pub(crate) enum Message {
    /// It is there, and has recovered these parts.
    Open(Vec<Noted>),
    /// Whole lines of a part, and where they belong.
    Write(Name, u64, Vec<u8>),
    /// A part gets no more.
    Roll(Name),
    /// All that an instance has written is to survive a power cut.
    Seal(u16, Epoch),
    /// Parts of an instance may be seen.
    Show(u16, Vec<Name>),
    /// An instance says no more.
    Close,
}

/// What the shards and the thread share.
pub(crate) struct Common {
    pub(crate) name: String,
    failure: OnceLock<String>,
    /// A shard has gone without closing: the job has ended, and may be started again.
    pub(crate) gone: AtomicBool,
    pub(crate) closed: AtomicUsize,
    ports: Mutex<Vec<Arc<Port>>>,
}

impl Common {
    pub(crate) fn check(&self) -> Result<(), ConnectorError> {
        self.failure.get().map_or(Ok(()), |what| Err(ConnectorError::new(&self.name, what)))
    }

    /// Never left half-changed, so a panic elsewhere does not matter.
    pub(crate) fn ports(&self) -> MutexGuard<'_, Vec<Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        self.closed.fetch_add(1, SeqCst);
    }

    #[cold]
    pub(crate) fn fail(&self, what: String) {
        // Only the first one tells what happened.
        let _ = self.failure.set(what);
        self.ports().iter().for_each(|port| port.waker.wake_by_ref());
    }
}

/// What the thread has done for one instance.
pub(crate) struct Port {
    pub(crate) instance: u16,
    pub(crate) recovered: AtomicBool,
    /// The newest epoch whose bytes are synced.
    pub(crate) sealed: AtomicU64,
    /// How many of its parts can be seen.
    pub(crate) renamed: AtomicU64,
    pub(crate) queued_bytes: AtomicUsize,
    /// The shard waits for room in the queue.
    pub(crate) waits: AtomicBool,
    /// 1 + the number of the part that is old or silent enough to be rolled.
    pub(crate) roll: AtomicU64,
    pub(crate) waker: Waker,
}

/// What all instances share.
pub(crate) struct Office {
    to_desk: flume::Sender<Message>,
    spare: flume::Receiver<Vec<u8>>,
    common: Arc<Common>,
}

impl Office {
    /// Starts the thread.
    pub(crate) fn start(
        name: String,
        cx: &OpenContext,
        rolling: &Rolling,
        tag: u64,
        holds: bool,
        disk: impl Disk,
    ) -> Result<Self, ConnectorError> {
        let (office, desk) = Self::new(name, cx, rolling, tag, holds, disk);
        thread::Builder::new()
            .name(format!("files-out-{}", cx.operator_id))
            .spawn(move || desk.run())
            .map_err(|cause| {
                ConnectorError::new(&office.common.name, "cannot start its I/O thread")
                    .caused_by(cause)
            })?;
        Ok(office)
    }

    /// The office, and the desk for the caller to step.
    pub(crate) fn new<D: Disk>(
        name: String,
        cx: &OpenContext,
        rolling: &Rolling,
        tag: u64,
        holds: bool,
        disk: D,
    ) -> (Self, Desk<D>) {
        // Unbounded as a channel; `queued_bytes` is its bound.
        let (to_desk, inbox) = flume::unbounded();
        let (give_back, spare) = flume::bounded(CHUNKS_SPARE_MAX);
        let common = Arc::new(Common {
            name,
            failure: OnceLock::new(),
            gone: AtomicBool::new(false),
            closed: AtomicUsize::new(0),
            ports: Mutex::new(Vec::new()),
        });
        let kind = if holds { INPROGRESS } else { OPEN };
        let desk = Desk::new(
            disk,
            rolling.clone(),
            (tag, kind),
            cx.instances,
            (inbox, give_back),
            Arc::clone(&common),
        );
        (Self { to_desk, spare, common }, desk)
    }

    /// The instance on the shard of `cx`, whose parts are numbered from `next` on.
    pub(crate) fn open<E>(
        &self,
        cx: &OpenContext,
        encoder: E,
        rolling: Rolling,
        holds: bool,
        next: Name,
    ) -> Result<RollingWriter<E>, ConnectorError> {
        let mut noted = Vec::new();
        for (id, note) in &cx.durability.pending {
            noted.extend(read_note(note).ok_or_else(|| {
                let what =
                    format!("its note {id} cannot be read: was it written by a later version?");
                ConnectorError::new(&self.common.name, what)
            })?);
        }
        let port = Arc::new(Port {
            instance: next.instance,
            recovered: AtomicBool::new(false),
            sealed: AtomicU64::new(0),
            renamed: AtomicU64::new(0),
            queued_bytes: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            roll: AtomicU64::new(0),
            waker: cx.waker.clone(),
        });
        self.common.ports().push(Arc::clone(&port));
        // Should the thread have gone, it has told why.
        let _ = self.to_desk.send(Message::Open(noted));
        Ok(RollingWriter::new(
            encoder,
            rolling,
            Parts::new(next, holds),
            holds,
            cx.durability.pending.iter().map(|(id, _)| *id).collect(),
            port,
            (self.to_desk.clone(), self.spare.clone()),
            Arc::clone(&self.common),
        ))
    }
}

/// Tells the shards if the thread panics.
pub(crate) struct Witness(pub(crate) Arc<Common>);

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            let what = "the I/O thread ended unexpectedly; its panic message is in the log";
            self.0.fail(what.to_owned());
        }
    }
}
