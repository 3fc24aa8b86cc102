//! [`FileCoordinator`]: what all instances of the sink share, and what starts their thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use thalweg_commits::{CommitThread, Common};
use thalweg_kernel::{ConnectorError, OpenContext};

use super::Rolling;
use super::committer::FileCommitter;
use super::disk::Disk;
use super::parts::{INPROGRESS, Name, OPEN, Parts, read_note};
use super::port::{FilePort, Message};
use super::writer::RollingWriter;

/// Written chunks that are kept for use again.
const CHUNKS_SPARE_MAX: usize = 32;

/// What all instances share.
pub(crate) struct FileCoordinator {
    to_thread: flume::Sender<Message>,
    spare: flume::Receiver<Vec<u8>>,
    common: Arc<Common<FilePort>>,
}

impl FileCoordinator {
    /// Starts the thread.
    pub(crate) fn start(
        name: String,
        cx: &OpenContext,
        rolling: &Rolling,
        tag: u64,
        holds: bool,
        disk: impl Disk,
    ) -> Result<Self, ConnectorError> {
        let (coordinator, thread) = Self::new(name, cx, rolling, tag, holds, disk);
        thread.start(cx)?;
        Ok(coordinator)
    }

    /// The coordinator, and its thread for the caller to step.
    pub(crate) fn new<D: Disk>(
        name: String,
        cx: &OpenContext,
        rolling: &Rolling,
        tag: u64,
        holds: bool,
        disk: D,
    ) -> (Self, CommitThread<FileCommitter<D>>) {
        // Unbounded as a channel; `queued_bytes` is its bound.
        let (to_thread, inbox) = flume::unbounded();
        let (give_back, spare) = flume::bounded(CHUNKS_SPARE_MAX);
        let common = Common::new(name);
        let kind = if holds { INPROGRESS } else { OPEN };
        let rolling = rolling.clone();
        let committer = FileCommitter::new(
            disk,
            rolling,
            (tag, kind),
            cx.instances,
            give_back,
            Arc::clone(&common),
        );
        let thread = CommitThread::new(committer, inbox, Arc::clone(&common));
        (Self { to_thread, spare, common }, thread)
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
        let _ = self.to_thread.send(Message::Open(noted));
        Ok(RollingWriter::new(
            encoder,
            rolling,
            Parts::new(next, holds),
            holds,
            cx.durability.pending.iter().map(|(id, _)| *id).collect(),
            port,
            (self.to_thread.clone(), self.spare.clone()),
            Arc::clone(&self.common),
        ))
    }
}
