//! What a shard and the thread behind it tell each other: [`Message`] and [`FilePort`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::task::Waker;

use thalweg_commits::Port;
use thalweg_kernel::Epoch;

use super::parts::{Name, Noted};

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
