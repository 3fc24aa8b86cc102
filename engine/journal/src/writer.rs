//! The writer: a handle that takes records, and what has them written in groups.
//!
//! Between the handle and whoever writes stands one lock around the *front*: the open group, and what there is to do.
//! It is never held while somebody waits for the disk. So an append costs an uncontended lock, a copy and a checksum.
//! While a group is being written and synced the next one gathers: the slower the disk, the larger the groups. A group goes
//! when it is flushed, or when it is half full. It does not go with a single record: the others would then wait for its sync.
//!
//! # Who writes
//! The segments have one owner at a time. While nobody uses them they lie in the front.
//!
//! - **The thread** (`thread.rs`) takes them out, does all that is due, lays them back and sleeps.
//! - **The shard** (`shard.rs`), where the writer is used on one that offers its tasks: it submits a group while the segments lie
//!   in the front, and they stay there. The thread takes nothing while a group is on its way. The shard submits nothing
//!   while there is something that only the thread does: a new segment, trimming, what found no room, the end.
//!
//! Both are decided under the lock, in [`Front::thread_is_due`] and [`Shared::go_on`]. So a record at a time costs no wake-up of
//! the thread, and whatever may take long never holds up the shard.
//!
//! The next segment is prepared by a thread of its own when the active one is half full.

mod shard;
mod thread;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Instant;

use thalweg_kernel::{JournalError, JournalWriter, Tasks, Timestamp, Watch};

use crate::config::JournalConfig;
use crate::disk::Disk;
use crate::gather::{Gather, Group};
use crate::segments::{Recovery, Segments};
use crate::spare::Spare;
use crate::writer::shard::{Flight, OnShard};
use crate::writer::thread::Thread;

/// What handle, shard and thread share.
pub(crate) struct Shared<D: Disk> {
    name: String,
    front: Mutex<Front<D>>,
    work: Condvar,
    durable: AtomicU64,
    /// The thread has ended, and let go of the directory.
    ended: AtomicBool,
    failed: OnceLock<JournalError>,
    waker: Waker,
}

struct Front<D: Disk> {
    gather: Gather,
    /// The memory of the group before, for the one behind the next.
    buffer: Vec<u8>,
    /// While the thread does not have them.
    segments: Option<Box<Segments<D>>>,
    /// What has groups written without the thread.
    shard: Option<OnShard<D::File>>,
    /// A group that was submitted and is not durable: it had no room, or was not taken.
    again: Option<Group>,
    /// The thread sleeps until there is something to do.
    idle: bool,
    /// The thread waits for room on the disk.
    waiting: bool,
    /// The open group was flushed.
    go: bool,
    closing: bool,
    trim_to: u64,
    /// A trim to here or further removes something.
    removable_at: Option<u64>,
    /// The writer was dropped on its shard with this group on its way.
    left: Option<Flight<D::File>>,
    /// Of a shard that has nothing to watch any more. It is for the shard to drop, since that waits for whoever watches.
    watch: Option<Watch>,
    /// It is time to prepare the next segment, or one is there to be taken.
    wants_spare: bool,
    /// The next segment is being prepared,
    preparing: bool,
    /// is prepared or has failed,
    prepared: Option<Result<Spare<D::File>, JournalError>>,
    /// or found no room, and is not tried again before.
    no_room_until: Option<Instant>,
    /// Why the disk takes nothing for the moment.
    full: Option<JournalError>,
    /// How often the thread was called from its sleep.
    #[cfg(test)]
    calls: u64,
}

impl<D: Disk> Front<D> {
    fn trim_is_due(&self) -> bool {
        self.removable_at.is_some_and(|at| at <= self.trim_to)
    }

    fn group_is_due(&self) -> bool {
        !self.gather.is_empty() && (self.go || self.gather.is_ripe())
    }

    /// Takes the open group, if it holds anything.
    fn take_group(&mut self) -> Option<Group> {
        let buffer = std::mem::take(&mut self.buffer);
        self.gather.take(buffer)
    }

    /// Whether there is something that only the thread does, beside the open group.
    fn thread_is_due(&self) -> bool {
        self.trim_is_due() || self.again.is_some() || self.wants_spare || self.closing
    }

    /// Whether a group is on its way to the disk, and the segments must lie where they are.
    fn is_in_flight(&self) -> bool {
        self.shard.as_ref().is_some_and(OnShard::is_in_flight)
    }

    /// Whether the open group can go without the thread.
    fn may_submit(&self) -> bool {
        self.shard.is_some() && self.segments.is_some() && self.gather.fits_active()
    }
}

impl<D: Disk> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, Front<D>> {
        // Nothing that is done under this lock leaves it half done when it panics.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> Result<u64, JournalError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(self.durable.load(Ordering::Acquire)),
        }
    }

    /// Has done what is due, by whoever can do it.
    #[inline]
    fn go_on(&self, front: &mut Front<D>) {
        // What is on its way goes on here when it is complete.
        if front.is_in_flight() {
            return;
        }
        // Behind a failure nothing is written.
        if self.failed.get().is_some() {
            if front.closing {
                self.call_thread(front);
            }
            return;
        }
        if front.thread_is_due() {
            self.call_thread(front);
        } else if front.group_is_due() {
            if front.may_submit() {
                self.submit(front);
            } else {
                self.call_thread(front);
            }
        }
    }

    /// Lets the thread run, if it sleeps.
    #[inline]
    fn call_thread(&self, front: &mut Front<D>) {
        if front.idle || front.waiting {
            front.idle = false;
            front.waiting = false;
            #[cfg(test)]
            {
                front.calls += 1;
            }
            self.work.notify_one();
        }
    }

    fn fail(&self, error: JournalError) {
        tracing::error!(journal = self.name, %error, "the journal failed");
        // Only the first one counts: what follows is its consequence.
        let _ = self.failed.set(error);
        self.waker.wake_by_ref();
    }
}

/// Appends to one journal.
pub(crate) struct Writer<D: Disk> {
    shared: Arc<Shared<D>>,
    /// To be waited for at the end; none on a shard.
    thread: Option<JoinHandle<()>>,
    end: u64,
}

impl<D> Writer<D>
where
    D: Disk + Clone + 'static,
    D::File: 'static,
{
    /// Opens a journal and starts its thread. A new one has this tag, and begins at this position. With tasks, it is used
    /// on the thread that drives them.
    pub(crate) fn open(
        disk: D,
        name: &str,
        config: &JournalConfig,
        (tag, begin): (u64, u64),
        waker: Waker,
        tasks: Option<&Tasks>,
    ) -> Result<(Self, Recovery), JournalError> {
        let segments = Segments::open(disk, name, config, tag, begin)?;
        let recovery = segments.recovery;
        let end = segments.end();
        let gather = Gather::new(end, segments.tag(), segments.plan(), config);
        let due = Arc::<AtomicBool>::default();
        let shard = tasks.and_then(|tasks| OnShard::new(&segments.disk, tasks, &due));
        let on_shard = shard.is_some();
        let front = Front {
            gather,
            buffer: Vec::new(),
            segments: None,
            shard,
            again: None,
            idle: false,
            waiting: false,
            go: false,
            closing: false,
            trim_to: 0,
            removable_at: segments.removable_at(),
            left: None,
            watch: None,
            wants_spare: false,
            preparing: false,
            prepared: None,
            no_room_until: None,
            full: None,
            #[cfg(test)]
            calls: 0,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            front: Mutex::new(front),
            work: Condvar::new(),
            durable: AtomicU64::new(end),
            ended: AtomicBool::new(false),
            failed: OnceLock::new(),
            waker,
        });
        let thread = Thread::new(&shared, config.full_retry);
        let started = thread.start(Box::new(segments)).map_err(|error| {
            JournalError::Failed(format!("journal {name}: its thread cannot be started: {error}"))
        })?;
        if let Some(tasks) = tasks.filter(|_| on_shard) {
            tasks.add(Box::new(shard::Completes::new(&shared)), due);
        }
        // Whoever is used on a shard never waits.
        let thread = tasks.is_none().then_some(started);
        Ok((Self { shared, thread, end }, recovery))
    }
}

impl<D: Disk> Writer<D> {
    pub(crate) fn shared(&self) -> &Arc<Shared<D>> {
        &self.shared
    }
}

impl<D: Disk> JournalWriter for Writer<D> {
    fn end(&self) -> u64 {
        self.end
    }

    fn append(&mut self, received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError> {
        let mut front = self.shared.lock();
        if let Some(error) = self.shared.failed.get().or(front.full.as_ref()) {
            return Err(error.clone());
        }
        let taken = front.gather.append(received, record);
        // One that finds no room in the open group waits for it to go.
        front.go |= taken.is_err() && !front.gather.is_empty();
        if front.group_is_due() {
            self.shared.go_on(&mut front);
        }
        let position = taken?;
        self.end = position + 1;
        Ok(position)
    }

    fn flush(&mut self) {
        let mut front = self.shared.lock();
        if !front.gather.is_empty() {
            front.go = true;
            self.shared.go_on(&mut front);
        }
    }

    fn durable(&self) -> Result<u64, JournalError> {
        self.shared.durable()
    }

    fn trim(&mut self, position: u64) {
        let mut front = self.shared.lock();
        front.trim_to = front.trim_to.max(position);
        if front.trim_is_due() {
            self.shared.go_on(&mut front);
        }
    }

    fn close(&mut self) -> bool {
        let mut front = self.shared.lock();
        front.closing = true;
        self.shared.go_on(&mut front);
        drop(front);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported as a failure.
            let _ = thread.join();
        }
        self.shared.ended.load(Ordering::Acquire)
    }
}

impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        // The rest is the thread's.
        self.shared.lock().leave_shard();
        self.close();
    }
}

#[cfg(test)]
mod tests;
