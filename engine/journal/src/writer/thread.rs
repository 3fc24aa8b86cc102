//! The thread of a journal: it does whatever is due, and waits for the disk. Where groups go by the shard, it sleeps. It is
//! called for what may take long: a new segment, trimming, a disk that is full, the end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thalweg_kernel::{JournalError, beside};

use super::{Front, Shared};
use crate::disk::Disk;
use crate::gather::{Group, Place};
use crate::segments::Segments;

/// What the thread does next.
enum Work {
    Trim(u64),
    Write(Group),
    /// Nothing but what precedes all work: preparing the next segment.
    Prepare,
    End,
}

impl<D: Disk> Front<D> {
    /// Takes what is to be done, if there is something.
    fn take_work(&mut self) -> Option<Work> {
        if self.trim_is_due() {
            return Some(Work::Trim(self.trim_to));
        }
        if let Some(group) = self.again.take() {
            return Some(Work::Write(group));
        }
        if self.go || self.closing || self.gather.is_ripe() {
            self.go = false;
            if let Some(group) = self.take_group() {
                return Some(Work::Write(group));
            }
            if self.closing {
                return Some(Work::End);
            }
        }
        std::mem::take(&mut self.wants_spare).then_some(Work::Prepare)
    }
}

pub(super) struct Thread<D: Disk> {
    shared: Arc<Shared<D>>,
    preparing: Option<JoinHandle<()>>,
    /// Preparing ahead found no room; not tried again before.
    no_room_until: Option<Instant>,
    full_retry: Duration,
}

impl<D> Thread<D>
where
    D: Disk + Clone + 'static,
    D::File: 'static,
{
    pub(super) fn new(shared: &Arc<Shared<D>>, full_retry: Duration) -> Self {
        Self { shared: Arc::clone(shared), preparing: None, no_room_until: None, full_retry }
    }

    pub(super) fn start(self, segments: Box<Segments<D>>) -> std::io::Result<JoinHandle<()>> {
        beside::spawn("journal", move || self.run(segments))
    }

    fn run(mut self, mut segments: Box<Segments<D>>) {
        let end = End(Arc::clone(&self.shared));
        let ended = loop {
            if let Err(error) = self.prepare(&mut segments) {
                break Err(error);
            }
            let work;
            (work, segments) = self.next_work(segments);
            let done = match work {
                Work::End => break Ok(()),
                Work::Prepare => Ok(true),
                Work::Trim(position) => self.trim(&mut segments, position),
                Work::Write(group) => self.write(&mut segments, group),
            };
            match done {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = ended {
            self.shared.fail(error);
        }
        // Nothing that the spare's thread may report matters now.
        let _ = self.collect(&mut segments, true);
        segments.close();
        // With it goes the lock of the directory. Whoever waits for the end may open the journal again.
        drop(segments);
        self.shared.lock().close_shard();
        drop(end);
    }

    /// Lays the segments back and waits until there is something to do with them.
    fn next_work(&self, segments: Box<Segments<D>>) -> (Work, Box<Segments<D>>) {
        let mut front = self.shared.lock();
        front.preparing = self.preparing.is_some();
        front.no_room_until = self.no_room_until;
        front.segments = Some(segments);
        loop {
            front = self.shared.complete_left(front);
            if !front.is_in_flight()
                && let Some(segments) = front.segments.take()
            {
                let work = match self.shared.failed.get() {
                    // Behind a failure nothing is written.
                    Some(_) => front.closing.then_some(Work::End),
                    None => front.take_work(),
                };
                match work {
                    Some(work) => return (work, segments),
                    None => front.segments = Some(segments),
                }
            }
            front.idle = true;
            if front.gather.has_no_room() && !front.preparing {
                // Others may make room.
                let waited = self.shared.work.wait_timeout(front, self.full_retry);
                front = waited.unwrap_or_else(PoisonError::into_inner).0;
                front.wants_spare |= !front.preparing;
            } else {
                front = self.shared.work.wait(front).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Writes a group, waiting for room as long as there is none. `false`: closing, and there still is none.
    fn write(&mut self, segments: &mut Segments<D>, group: Group) -> Result<bool, JournalError> {
        if !matches!(group.place, Place::Active) {
            self.collect(segments, true)?;
        }
        loop {
            match segments.commit(&group) {
                Ok(()) => break,
                Err(error @ JournalError::Full(_)) => {
                    if !self.wait_for_room(segments, error, &group)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.shared.durable.store(group.end(), Ordering::Release);
        let mut front = self.shared.lock();
        front.buffer = group.bytes;
        front.removable_at = segments.removable_at();
        let again = front.full.take().is_some();
        drop(front);
        if again {
            tracing::info!(journal = self.shared.name, "there is room again: the journal goes on");
        }
        self.shared.waker.wake_by_ref();
        Ok(true)
    }

    /// Waits until the disk should be tried again. `false`: closing.
    fn wait_for_room(
        &mut self,
        segments: &mut Segments<D>,
        error: JournalError,
        group: &Group,
    ) -> Result<bool, JournalError> {
        let shared = Arc::clone(&self.shared);
        let journal = &shared.name;
        let mut front = shared.lock();
        if front.full.is_none() {
            tracing::warn!(journal, %error, "the journal takes nothing for now");
        }
        front.full = Some(error);
        let until = Instant::now() + self.full_retry;
        loop {
            if front.closing {
                let lost = front.gather.end() - group.first;
                tracing::warn!(
                    journal,
                    records = lost,
                    "closed while the disk is full: the last records are not durable, and were never \
                     reported as such"
                );
                return Ok(false);
            }
            if front.trim_is_due() {
                let position = front.trim_to;
                drop(front);
                return self.trim(segments, position);
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

    /// The next segment finds no room on the disk, or has found some.
    fn tell_room(&self, why: Option<JournalError>) {
        let mut front = self.shared.lock();
        let journal = &self.shared.name;
        match (front.gather.has_no_room(), &why) {
            (false, Some(error)) => {
                tracing::warn!(journal, %error, "the journal has no room for its next segment: it takes what the last one holds");
            }
            (true, None) => {
                tracing::info!(journal, "there is room for the next segment: the journal goes on");
            }
            _ => {}
        }
        front.gather.set_no_room(why);
        drop(front);
        self.shared.waker.wake_by_ref();
    }

    fn trim(&mut self, segments: &mut Segments<D>, position: u64) -> Result<bool, JournalError> {
        let freed = segments.trim(position)?;
        let mut front = self.shared.lock();
        front.gather.freed(freed);
        front.wants_spare |= freed > 0 && front.gather.has_no_room();
        if freed > 0 {
            self.no_room_until = None;
        }
        front.removable_at = segments.removable_at();
        drop(front);
        self.shared.waker.wake_by_ref();
        Ok(true)
    }

    /// Has the next segment prepared, if it is time; takes the one that is ready.
    fn prepare(&mut self, segments: &mut Segments<D>) -> Result<(), JournalError> {
        self.collect(segments, false)?;
        if self.preparing.is_some() || !segments.wants_spare() {
            return Ok(());
        }
        if self.no_room_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        if self.shared.lock().gather.plan().may_prepare() {
            let order = segments.spare_order();
            let (mut disk, shared) = (segments.disk.clone(), Arc::clone(&self.shared));
            let fill = move || {
                let prepared = order.fill(&mut disk);
                drop(disk);
                let mut front = shared.lock();
                front.prepared = Some(prepared);
                front.wants_spare = true;
                shared.go_on(&mut front);
            };
            // Without a thread for it, rolling prepares it on the spot.
            self.preparing = beside::spawn("journal-spare", fill).ok();
        }
        Ok(())
    }

    /// Takes the spare that was prepared; `wait` until it is ready.
    fn collect(&mut self, segments: &mut Segments<D>, wait: bool) -> Result<(), JournalError> {
        let Some(thread) = self.preparing.take() else { return Ok(()) };
        let mut prepared = self.shared.lock().prepared.take();
        if prepared.is_none() {
            if !wait {
                self.preparing = Some(thread);
                return Ok(());
            }
            // A panic there leaves nothing.
            let _ = thread.join();
            prepared = self.shared.lock().prepared.take();
        }
        match prepared {
            Some(Ok(spare)) => {
                self.no_room_until = None;
                segments.give_spare(spare);
                self.tell_room(None);
                Ok(())
            }
            Some(Err(error @ JournalError::Full(_))) => {
                self.no_room_until = Some(Instant::now() + self.full_retry);
                self.tell_room(Some(error));
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => {
                let name = &self.shared.name;
                let what = format!("journal {name}: preparing a segment panicked");
                Err(JournalError::Failed(what))
            }
        }
    }
}

/// Tells of the end of the thread. A panic is a failure of the journal, so that nobody waits for it for ever.
struct End<D: Disk>(Arc<Shared<D>>);

impl<D: Disk> Drop for End<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "the journal's thread panicked; restart to go on from what is durable";
            self.0.fail(JournalError::Failed(what.to_owned()));
        }
        self.0.ended.store(true, Ordering::Release);
        self.0.waker.wake_by_ref();
    }
}
