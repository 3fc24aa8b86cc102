//! Groups on the shard: submitted in the call that lets them go, completed by a task of the shard when the kernel says so.
//!
//! No other thread runs, and nobody waits: [`Submit`] writes and syncs beside its caller. The task watches a descriptor. So
//! the shard's driver wakes for a group as for a socket, and the connection goes on in the next turn.
//! The writer and the task are used by that one thread. A group that is on its way when the writer is dropped is the
//! journal's thread's to wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Weak};

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{JournalError, Readiness, Task, TaskStatus, Tasks, Watch};

use super::{Front, Shared};
use crate::disk::{Disk, Submit, WriteError};
use crate::gather::Group;

/// A group that is on its way, without its bytes, and what knows how far it is.
pub(super) struct Flight<F> {
    group: Group,
    submit: Box<dyn Submit<F>>,
}

/// What has groups written, while the shard goes on.
pub(super) struct OnShard<F> {
    watch: Watch,
    submit: Box<dyn Submit<F>>,
    /// The group that is on its way, without its bytes.
    flight: Option<Group>,
    /// Raised when the task has something to do.
    due: Arc<AtomicBool>,
}

impl<F> OnShard<F> {
    /// For the shard of `tasks`, if this disk can write beside its caller.
    pub(super) fn new<D: Disk<File = F>>(
        disk: &D,
        tasks: &Tasks,
        due: &Arc<AtomicBool>,
    ) -> Option<Self> {
        let submit = disk.submitter()?;
        let watch = tasks.descriptors().watch(submit.descriptor(), due);
        Some(Self { watch, submit, flight: None, due: Arc::clone(due) })
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Has the shard wake when the group is complete.
    fn await_completion(&self) {
        self.watch.used_up(Readiness::Read);
        self.watch.want(Readiness::Read);
    }
}

impl<D: Disk> Shared<D> {
    /// Lets the open group go, which [may be submitted](Front::may_submit).
    pub(super) fn submit(&self, front: &mut Front<D>) {
        front.go = false;
        let Some(mut group) = front.take_group() else { return };
        let (Some(shard), Some(segments)) = (&mut front.shard, &mut front.segments) else { return };
        if seeded(Defect::JournalNoSync) && segments.write(&group).is_ok() {
            let written = Ok(group.bytes.len());
            self.completed(front, group, written);
            return self.waker.wake_by_ref();
        }
        if segments.submit(&mut group, &mut *shard.submit) {
            shard.await_completion();
            shard.flight = Some(group);
        } else {
            front.again = Some(group);
            self.call_thread(front);
        }
    }

    /// Completes the group that is on its way: whether it was complete.
    fn complete(&self, front: &mut Front<D>) -> bool {
        let Some(shard) = &mut front.shard else { return false };
        let Some(mut group) = shard.flight.take() else { return false };
        let Some(completion) = shard.submit.complete(false) else {
            shard.flight = Some(group);
            shard.await_completion();
            return false;
        };
        shard.watch.want_nothing();
        group.bytes = completion.bytes;
        self.completed(front, group, completion.written);
        true
    }

    /// Waits for the group that was on its way when the shard went, if there is one.
    pub(super) fn complete_left<'a>(
        &'a self,
        mut front: MutexGuard<'a, Front<D>>,
    ) -> MutexGuard<'a, Front<D>> {
        let Some(Flight { mut group, mut submit }) = front.left.take() else { return front };
        drop(front);
        let completion = submit.complete(true);
        let mut front = self.lock();
        if let Some(completion) = completion {
            group.bytes = completion.bytes;
            self.completed(&mut front, group, completion.written);
        }
        front
    }

    fn completed(&self, front: &mut Front<D>, group: Group, written: Result<usize, WriteError>) {
        let Some(segments) = &mut front.segments else { return };
        match segments.complete(&group, written) {
            Ok(true) => {
                self.durable.store(group.end(), Ordering::Release);
                front.removable_at = segments.removable_at();
                let tries = |until| std::time::Instant::now() >= until;
                front.wants_spare |= segments.wants_spare()
                    && !front.preparing
                    && front.gather.plan().may_prepare()
                    && front.no_room_until.is_none_or(tries);
                front.buffer = group.bytes;
            }
            // What was not written at once, or finds no room, takes the thread's way.
            Ok(false) | Err(JournalError::Full(_)) => front.again = Some(group),
            Err(error) => self.fail(error),
        }
    }
}

impl<D: Disk> Front<D> {
    /// The journal is closed: nothing is held of its directory.
    pub(super) fn close_shard(&mut self) {
        let Some(OnShard { watch, due, .. }) = self.shard.take() else { return };
        self.watch = Some(watch);
        due.store(true, Ordering::Release);
    }

    /// Nothing is submitted any more. To be called on the shard, which is not to wait for the disk.
    pub(super) fn leave_shard(&mut self) {
        self.watch = None;
        let Some(OnShard { submit, flight, due, watch: _ }) = self.shard.take() else { return };
        self.left = flight.map(|group| Flight { group, submit });
        // The task has ended.
        due.store(true, Ordering::Release);
    }
}

/// The task of the shard that completes groups.
pub(super) struct Completes<D: Disk>(Weak<Shared<D>>);

impl<D: Disk> Completes<D> {
    pub(super) fn new(shared: &Arc<Shared<D>>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

impl<D> Task for Completes<D>
where
    D: Disk,
    D::File: 'static,
{
    fn step(&mut self) -> TaskStatus {
        let Some(shared) = self.0.upgrade() else { return TaskStatus::Done };
        let mut front = shared.lock();
        if front.shard.is_none() {
            front.watch = None;
            return TaskStatus::Done;
        }
        if shared.complete(&mut front) {
            shared.go_on(&mut front);
            drop(front);
            shared.waker.wake_by_ref();
        }
        TaskStatus::Waiting(None)
    }
}
