//! The threaded writer: a handle that takes records, and a thread that writes them in groups.
//!
//! Between the two stands one lock around the open group. The thread holds it while it swaps a buffer, never while
//! it waits for the disk. So an append costs an uncontended lock, a copy and a checksum. While a group is being
//! written and synced the next one gathers: the slower the disk, the larger the groups. A flush wakes a sleeping
//! thread, and so does an open group that is half full. A single record does not: the others would then wait for
//! its sync.
//!
//! The next segment is prepared by a thread of its own when the active one is half full.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use thalweg_kernel::{JournalError, JournalWriter, Timestamp};

use crate::config::JournalConfig;
use crate::disk::Disk;
use crate::gather::{Gather, Group, Place};
use crate::segments::{Recovery, Segments, Spare, SpareOrder};

/// What handle and thread share.
pub(crate) struct Shared {
    front: Mutex<Front>,
    work: Condvar,
    durable: AtomicU64,
    failed: OnceLock<JournalError>,
    waker: Waker,
}

struct Front {
    gather: Gather,
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
    /// Why the disk takes nothing for the moment.
    full: Option<JournalError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Front> {
        // Nothing that is done under this lock leaves it half done when it panics.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durable(&self) -> Result<u64, JournalError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(self.durable.load(Ordering::Acquire)),
        }
    }

    /// Lets the thread run, if it sleeps.
    #[inline]
    fn notify(&self, front: &mut Front) {
        if front.idle || front.waiting {
            front.idle = false;
            front.waiting = false;
            self.work.notify_one();
        }
    }

    fn fail(&self, error: JournalError) {
        // Only the first one counts: what follows is its consequence.
        let _ = self.failed.set(error);
        self.waker.wake_by_ref();
    }
}

/// Appends to one journal.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    end: u64,
}

impl Writer {
    /// Opens a journal and starts its thread. A new one has this tag, and begins at this position.
    pub(crate) fn open<D>(
        disk: D,
        name: &str,
        config: &JournalConfig,
        (tag, begin): (u64, u64),
        waker: Waker,
    ) -> Result<(Self, Recovery), JournalError>
    where
        D: Disk + Clone + 'static,
        D::File: 'static,
    {
        let segments = Segments::open(disk, name, config, tag, begin)?;
        let recovery = segments.recovery;
        let end = segments.end();
        let gather = Gather::new(end, segments.tag(), segments.plan(), config);
        let front = Front {
            gather,
            idle: false,
            waiting: false,
            go: false,
            closing: false,
            trim_to: 0,
            removable_at: segments.removable_at(),
            full: None,
        };
        let shared = Arc::new(Shared {
            front: Mutex::new(front),
            work: Condvar::new(),
            durable: AtomicU64::new(end),
            failed: OnceLock::new(),
            waker,
        });
        let thread = Thread {
            shared: Arc::clone(&shared),
            segments,
            preparing: None,
            no_room_until: None,
            name: name.to_owned(),
            full_retry: config.full_retry,
        };
        let started = Builder::new().name("journal".to_owned()).spawn(move || thread.run());
        let thread = started.map_err(|error| {
            JournalError::Failed(format!("journal {name}: its thread cannot be started: {error}"))
        })?;
        Ok((Self { shared, thread: Some(thread), end }, recovery))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl JournalWriter for Writer {
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
        if front.idle && (front.go || front.gather.is_ripe()) {
            self.shared.notify(&mut front);
        }
        let position = taken?;
        self.end = position + 1;
        Ok(position)
    }

    fn flush(&mut self) {
        let mut front = self.shared.lock();
        if !front.gather.is_empty() {
            front.go = true;
            self.shared.notify(&mut front);
        }
    }

    fn durable(&self) -> Result<u64, JournalError> {
        self.shared.durable()
    }

    fn trim(&mut self, position: u64) {
        let mut front = self.shared.lock();
        front.trim_to = front.trim_to.max(position);
        if front.removable_at.is_some_and(|at| at <= position) {
            self.shared.notify(&mut front);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut front = self.shared.lock();
        front.closing = true;
        self.shared.notify(&mut front);
        drop(front);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported as a failure.
            let _ = thread.join();
        }
    }
}

/// What the thread does next.
enum Task {
    Trim(u64),
    Write(Group),
    End,
}

struct Thread<D: Disk> {
    shared: Arc<Shared>,
    segments: Segments<D>,
    preparing: Option<JoinHandle<Result<Spare<D::File>, JournalError>>>,
    /// Preparing ahead found no room; not tried again before.
    no_room_until: Option<Instant>,
    name: String,
    full_retry: Duration,
}

impl<D> Thread<D>
where
    D: Disk + Clone + 'static,
    D::File: 'static,
{
    fn run(mut self) {
        let bell = PanicBell(Arc::clone(&self.shared));
        let mut buffer = Vec::new();
        let ended = loop {
            if let Err(error) = self.prepare() {
                break Err(error);
            }
            let done = match self.next_task(&mut buffer) {
                Task::End => break Ok(()),
                Task::Trim(position) => self.trim(position),
                Task::Write(group) => self.write(group, &mut buffer),
            };
            match done {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = ended {
            tracing::error!(journal = self.name, %error, "the journal failed");
            self.shared.fail(error);
        }
        // Nothing that the spare's thread may report matters now.
        let _ = self.collect(true);
        self.segments.close();
        drop(bell);
    }

    /// Waits until there is something to do.
    fn next_task(&mut self, buffer: &mut Vec<u8>) -> Task {
        let shared = Arc::clone(&self.shared);
        let mut front = shared.lock();
        loop {
            if front.removable_at.is_some_and(|at| at <= front.trim_to) {
                return Task::Trim(front.trim_to);
            }
            if front.go || front.closing || front.gather.is_ripe() {
                front.go = false;
                if let Some(group) = front.gather.take(std::mem::take(buffer)) {
                    return Task::Write(group);
                }
                if front.closing {
                    return Task::End;
                }
            }
            front.idle = true;
            front = shared.work.wait(front).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes a group, waiting for room as long as there is none. `false`: closing, and there still is none.
    fn write(&mut self, group: Group, buffer: &mut Vec<u8>) -> Result<bool, JournalError> {
        if !matches!(group.place, Place::Active) {
            self.collect(true)?;
        }
        loop {
            match self.segments.commit(&group) {
                Ok(()) => break,
                Err(error @ JournalError::Full(_)) => {
                    if !self.wait_for_room(error, &group)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.shared.durable.store(group.end(), Ordering::Release);
        *buffer = group.bytes;
        let mut front = self.shared.lock();
        front.removable_at = self.segments.removable_at();
        let again = front.full.take().is_some();
        drop(front);
        if again {
            tracing::info!(journal = self.name, "there is room again: the journal goes on");
        }
        self.shared.waker.wake_by_ref();
        Ok(true)
    }

    /// Waits until the disk should be tried again. `false`: closing.
    fn wait_for_room(&mut self, error: JournalError, group: &Group) -> Result<bool, JournalError> {
        let shared = Arc::clone(&self.shared);
        let mut front = shared.lock();
        if front.full.is_none() {
            tracing::warn!(journal = self.name, %error, "the journal takes nothing for now");
        }
        front.full = Some(error);
        let until = Instant::now() + self.full_retry;
        loop {
            if front.closing {
                let lost = front.gather.end() - group.first;
                tracing::warn!(
                    journal = self.name,
                    records = lost,
                    "closed while the disk is full: the last records are not durable, and were never \
                     reported as such"
                );
                return Ok(false);
            }
            if front.removable_at.is_some_and(|at| at <= front.trim_to) {
                let position = front.trim_to;
                drop(front);
                return self.trim(position);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            front.waiting = true;
            front = shared.work.wait_timeout(front, left).unwrap_or_else(PoisonError::into_inner).0;
            front.waiting = false;
        }
    }

    fn trim(&mut self, position: u64) -> Result<bool, JournalError> {
        let freed = self.segments.trim(position)?;
        let mut front = self.shared.lock();
        front.gather.freed(freed);
        front.removable_at = self.segments.removable_at();
        drop(front);
        self.shared.waker.wake_by_ref();
        Ok(true)
    }

    /// Has the next segment prepared, if it is time; takes the one that is ready.
    fn prepare(&mut self) -> Result<(), JournalError> {
        self.collect(false)?;
        if self.preparing.is_some() || !self.segments.wants_spare() {
            return Ok(());
        }
        if self.no_room_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        if self.shared.lock().gather.plan().may_prepare() {
            let order = self.segments.spare_order();
            let mut disk = self.segments.disk.clone();
            let fill = move || SpareOrder::fill(&order, &mut disk);
            // Without a thread for it, rolling prepares it on the spot.
            self.preparing = Builder::new().name("journal-spare".to_owned()).spawn(fill).ok();
        }
        Ok(())
    }

    /// Takes the spare that was prepared; `wait` until it is ready.
    fn collect(&mut self, wait: bool) -> Result<(), JournalError> {
        let Some(thread) = self.preparing.take_if(|thread| wait || thread.is_finished()) else {
            return Ok(());
        };
        match thread.join() {
            Ok(Ok(spare)) => {
                self.no_room_until = None;
                self.segments.give_spare(spare);
            }
            // Rolling will try again, and tell.
            Ok(Err(JournalError::Full(_))) => {
                self.no_room_until = Some(Instant::now() + self.full_retry);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let what = format!("journal {}: preparing a segment panicked", self.name);
                return Err(JournalError::Failed(what));
            }
        }
        Ok(())
    }
}

/// Reports a panic of the thread as a failure of the journal, so that nobody waits for it for ever.
struct PanicBell(Arc<Shared>);

impl Drop for PanicBell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "the journal's thread panicked; restart to go on from what is durable";
            self.0.fail(JournalError::Failed(what.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
