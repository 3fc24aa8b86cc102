//! What all shards and the thread share, and what they say to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::task::Waker;

use thalweg_commits::{Common, Desk, Port};
use thalweg_kernel::{ConnectorError, Epoch, OpenContext};

use super::Rolling;
use super::desk::Filer;
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
    /// An instance says no more: all it has written can be seen, or it has gone before that.
    Close(bool),
}

/// What the thread has done for one instance.
pub(crate) struct FilePort {
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

impl Port for FilePort {
    fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// What all instances share.
pub(crate) struct Office {
    to_desk: flume::Sender<Message>,
    spare: flume::Receiver<Vec<u8>>,
    common: Arc<Common<FilePort>>,
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
        office.common.start(cx, desk)?;
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
    ) -> (Self, Desk<Filer<D>>) {
        // Unbounded as a channel; `queued_bytes` is its bound.
        let (to_desk, inbox) = flume::unbounded();
        let (give_back, spare) = flume::bounded(CHUNKS_SPARE_MAX);
        let common = Common::new(name);
        let kind = if holds { INPROGRESS } else { OPEN };
        let rolling = rolling.clone();
        let filer =
            Filer::new(disk, rolling, (tag, kind), cx.instances, give_back, Arc::clone(&common));
        let desk = Desk::new(filer, inbox, Arc::clone(&common));
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
                self.common.error(what)
            })?);
        }
        let port = self.common.enter(FilePort {
            instance: next.instance,
            recovered: AtomicBool::new(false),
            sealed: AtomicU64::new(0),
            renamed: AtomicU64::new(0),
            queued_bytes: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            roll: AtomicU64::new(0),
            waker: cx.waker.clone(),
        });
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
