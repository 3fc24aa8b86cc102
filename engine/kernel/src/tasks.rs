//! What a shard does beside its steps: the input and output of its connectors.
//!
//! A connector that need not block gives its connection to the shard as a [`Task`]. The driver goes on with it when a
//! descriptor is ready, a time has come, or somebody has called it. In that turn it steps the shard, too. So a message
//! goes from the socket to the operators on one thread, by one wake-up. A task goes on whatever its pipeline does, also while a sink
//! has no room or sources are held. It says itself when it is done.
//!
//! A driver that cannot wait for descriptors offers no tasks ([`OpenContext::tasks`](crate::OpenContext::tasks)). There
//! connectors give each task a thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::Descriptors;

/// What is left of a task after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// Nothing to do until its flag is raised, or until this time.
    Waiting(Option<Instant>),
    /// It has ended; it is not stepped again.
    Done,
}

/// One thing that goes on beside the steps of a shard. It never blocks.
pub trait Task: Send {
    /// Goes on as far as that is possible at once.
    fn step(&mut self) -> TaskStatus;
}

/// How often whoever waits for the end of a task looks for what other threads tell it.
const FINISH_LOOK_EVERY: Duration = Duration::from_millis(1);

struct Slot {
    /// Raised when there is something to do.
    due: Arc<AtomicBool>,
    /// Locked by one thread at a time: its shard's, which drives it and ends it.
    state: Mutex<State>,
}

struct State {
    /// Until it is done.
    task: Option<Box<dyn Task>>,
    due_at: Option<Instant>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with it if something has come. When it is due next, if it is not done.
    fn step(&self, now: Instant) -> Option<Option<Instant>> {
        let mut state = self.lock();
        let due = self.due.load(Ordering::Relaxed) && self.due.swap(false, Ordering::AcqRel);
        if !due && state.due_at.is_none_or(|at| at > now) {
            return state.task.is_some().then_some(state.due_at);
        }
        // One that panics is not there any more: whoever ends the shard then must not step it again.
        let mut task = state.task.take()?;
        match task.step() {
            TaskStatus::Waiting(at) => {
                state.task = Some(task);
                state.due_at = at;
                Some(at)
            }
            TaskStatus::Done => None,
        }
    }
}

/// The tasks of one shard, and the descriptors that they wait for.
#[derive(Clone)]
pub struct Tasks(Arc<Shared>);

struct Shared {
    descriptors: Descriptors,
    /// Locked while they are stepped.
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Those that were added since the last step. A task may add another one while it is stepped.
    added: Mutex<Vec<Arc<Slot>>>,
    len: AtomicUsize,
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn added(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tasks({})", self.0.len.load(Ordering::Relaxed))
    }
}

impl Tasks {
    /// None yet; they will wait for these descriptors.
    pub fn new(descriptors: Descriptors) -> Self {
        let (slots, added, len) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Shared { descriptors, slots, added, len }))
    }

    /// The descriptors that they wait for.
    pub fn descriptors(&self) -> &Descriptors {
        &self.0.descriptors
    }

    /// Has `task` go on whenever `due` is raised or its time has come; first of all in the next turn. Whoever raises the
    /// flag wakes the shard. To be called on the shard.
    pub fn add(&self, task: Box<dyn Task>, due: Arc<AtomicBool>) -> TaskHandle {
        due.store(true, Ordering::Release);
        let state = Mutex::new(State { task: Some(task), due_at: None });
        let slot = Arc::new(Slot { due, state });
        self.0.added().push(Arc::clone(&slot));
        self.0.len.fetch_add(1, Ordering::Relaxed);
        TaskHandle { slot, tasks: Arc::downgrade(&self.0), descriptors: self.0.descriptors.clone() }
    }

    /// Whether any was added since the last step.
    #[inline]
    pub fn were_added(&self) -> bool {
        !self.0.added().is_empty()
    }

    /// Drops all of them, done or not.
    pub fn end(&self) {
        let mut slots = std::mem::take(&mut *self.0.slots());
        slots.append(&mut self.0.added());
        self.0.len.store(0, Ordering::Relaxed);
        // A task may hold what stands for its shard.
        slots.iter().for_each(|slot| drop(slot.lock().task.take()));
    }

    /// Goes on with those that are due at `now`. When the next one is due, if any is.
    #[inline]
    pub fn step(&self, now: Instant) -> Option<Instant> {
        if self.0.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut next: Option<Instant> = None;
        let mut slots = self.0.slots();
        slots.append(&mut self.0.added());
        slots.retain(|slot| {
            let Some(at) = slot.step(now) else { return false };
            next = [next, at].into_iter().flatten().min();
            true
        });
        // Those that were added meanwhile raise their flags and wake nobody: the next turn is at once.
        let added = self.0.added().len();
        self.0.len.store(slots.len() + added, Ordering::Relaxed);
        if added > 0 { Some(now) } else { next }
    }
}

/// A task that was given to a shard. It goes on if this is dropped.
pub struct TaskHandle {
    slot: Arc<Slot>,
    tasks: Weak<Shared>,
    descriptors: Descriptors,
}

impl TaskHandle {
    /// Goes on with it until it is done, for `longest` at most; whether it is. For the end of a shard, which waits for it.
    /// The shard's other tasks go on meanwhile, since this one may wait for them. Not to be called from within a task.
    pub fn finish(&self, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        loop {
            let now = Instant::now();
            let others = self.tasks.upgrade().and_then(|tasks| Tasks(tasks).step(now));
            // It is none of them any more where they have been dropped.
            let Some(due_at) = self.slot.step(now) else { return true };
            if now >= until {
                return false;
            }
            let next = [due_at, others].into_iter().flatten().fold(until, Instant::min);
            let next = next.saturating_duration_since(now);
            self.descriptors.wait(next.min(FINISH_LOOK_EVERY));
        }
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.slot.lock().task.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counts {
        steps: Arc<AtomicUsize>,
        done_after: usize,
        again_at: Option<Instant>,
    }

    impl Task for Counts {
        fn step(&mut self) -> TaskStatus {
            let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
            if steps >= self.done_after {
                TaskStatus::Done
            } else {
                TaskStatus::Waiting(self.again_at)
            }
        }
    }

    #[test]
    fn a_task_goes_on_when_its_flag_is_raised_or_its_time_has_come() {
        let tasks = Tasks::new(Descriptors::new().unwrap());
        let (steps, due) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        assert_eq!(tasks.step(now), None);
        let counts = Counts { steps: Arc::clone(&steps), done_after: 4, again_at: Some(later) };
        let handle = tasks.add(Box::new(counts), Arc::clone(&due));
        let count = || steps.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(tasks.step(now), Some(later));
            assert_eq!(count(), 1, "once for its beginning");
        }
        due.store(true, Ordering::Release);
        assert_eq!((tasks.step(now), count()), (Some(later), 2));
        assert_eq!((tasks.step(later), count()), (Some(later), 3));
        assert!(!handle.is_done());
        assert_eq!((tasks.step(later), count()), (None, 4));
        assert!(handle.is_done() && handle.finish(Duration::ZERO));
        assert_eq!((tasks.step(later), count()), (None, 4));
    }

    #[test]
    fn whoever_ends_a_shard_goes_on_with_a_task_until_it_is_done() {
        let tasks = Tasks::new(Descriptors::new().unwrap());
        let (steps, due) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let again_at = Some(Instant::now());
        let counts = Counts { steps: Arc::clone(&steps), done_after: 9, again_at };
        let handle = tasks.add(Box::new(counts), Arc::clone(&due));
        assert!(handle.finish(Duration::from_secs(20)));
        assert_eq!(steps.load(Ordering::Relaxed), 9);
        let never = Counts { steps, done_after: usize::MAX, again_at: None };
        let handle = tasks.add(Box::new(never), due);
        assert!(!handle.finish(Duration::from_millis(3)));
    }

    struct Panics;

    impl Task for Panics {
        fn step(&mut self) -> TaskStatus {
            panic!("a task panics")
        }
    }

    #[test]
    fn a_task_that_has_panicked_is_not_stepped_again() {
        let tasks = Tasks::new(Descriptors::new().unwrap());
        let due = Arc::<AtomicBool>::default();
        let handle = tasks.add(Box::new(Panics), Arc::clone(&due));
        let again_at = Some(Instant::now());
        let counts = Counts { steps: Arc::default(), done_after: 5, again_at };
        let other = tasks.add(Box::new(counts), Arc::default());
        let stepped = std::panic::AssertUnwindSafe(|| tasks.step(Instant::now()));
        assert!(std::panic::catch_unwind(stepped).is_err());
        due.store(true, Ordering::Release);
        assert!(other.finish(Duration::from_secs(20)), "it goes on");
        assert!(handle.is_done() && handle.finish(Duration::ZERO));
    }

    /// Adds a task, and is done when that one has raised its flag.
    struct Waits {
        tasks: Option<Tasks>,
        due: Arc<AtomicBool>,
        told: Arc<AtomicBool>,
    }

    /// Raises both flags.
    struct Tells(Arc<AtomicBool>, Arc<AtomicBool>);

    impl Task for Waits {
        fn step(&mut self) -> TaskStatus {
            if let Some(tasks) = self.tasks.take() {
                let tells = Tells(Arc::clone(&self.told), Arc::clone(&self.due));
                tasks.add(Box::new(tells), Arc::default());
            }
            match self.told.load(Ordering::Relaxed) {
                true => TaskStatus::Done,
                false => TaskStatus::Waiting(None),
            }
        }
    }

    impl Task for Tells {
        fn step(&mut self) -> TaskStatus {
            self.0.store(true, Ordering::Relaxed);
            self.1.store(true, Ordering::Relaxed);
            TaskStatus::Done
        }
    }

    #[test]
    fn a_task_may_add_another_one_and_wait_for_it_until_its_end() {
        let tasks = Tasks::new(Descriptors::new().unwrap());
        let waits = || {
            let (due, told) = (Arc::<AtomicBool>::default(), Arc::default());
            let waits = Waits { tasks: Some(tasks.clone()), due: Arc::clone(&due), told };
            tasks.add(Box::new(waits), due)
        };
        let handle = waits();
        let now = Instant::now();
        assert_eq!(tasks.step(now), Some(now), "the other one is due at once");
        assert!(!handle.is_done());
        assert_eq!(
            (tasks.step(now), handle.is_done()),
            (None, false),
            "it was told behind its turn"
        );
        assert_eq!((tasks.step(now), handle.is_done()), (None, true));
        assert!(waits().finish(Duration::from_secs(20)));
        waits();
        tasks.end();
        assert_eq!(tasks.step(now), None);
    }
}
