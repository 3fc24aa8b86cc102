//! What a shard waits for beside its waker: the descriptors of its sources and sinks.
//!
//! A connector that does its input and output on the shard [watches](Descriptors::watch) a descriptor and says what it
//! [wants](Watch::want) of it. The driver waits for all of them, for the shard's
//! waker and for the next time at which the shard is due ([`Descriptors::wait`]). One system call waits for whatever comes first. So nothing stands between a socket
//! and the shard that reads it, neither a thread nor a queue.
//!
//! - **Levels, told once.** A descriptor that is ready is told once ([`Watch::is_ready`]), and not waited for again until
//!   its owner has [used that up](Watch::used_up). So a driver that wakes for it and cannot step its owner does not spin.
//! - **Whose it is.** A descriptor that is ready raises the flag of the task that watches it, so that a step costs a task
//!   with nothing to do one look at a flag.
//! - **Input may gather.** A descriptor that brings input may have a [latency budget](Watch::gather). A wait that such descriptors
//!   end goes on for that time, so that what arrives meanwhile costs no wake-up of its own. Anything else ends it at once. It is the one
//!   place where input waits: what goes on from shard to shard, to a disk or to a sink does not.
//! - All of it belongs to one thread at a time. The atomics let it be handed to another one, and are never waited for.
//!
//! Who watches descriptors on a shard, and what becomes of it, is in [`tasks`](crate::tasks).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use smallvec::SmallVec;

/// A wait for at most this number of descriptors allocates nothing.
const POLLED_IN_PLACE: usize = 8;

/// What is wanted of a descriptor, and what it is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Readiness {
    /// It has something to read, or has ended.
    Read = 1,
    /// It takes something, or has failed.
    Write = 2,
}

const BOTH: u8 = Readiness::Read as u8 | Readiness::Write as u8;

/// A descriptor that is watched. To be dropped is to be watched no more.
#[derive(Debug)]
pub struct Watch {
    entry: Arc<Entry>,
    table: Arc<Table>,
}

struct Entry {
    descriptor: Arc<dyn AsFd + Send + Sync>,
    wanted: AtomicU8,
    ready: AtomicU8,
    /// How long it may wait for more, in nanoseconds.
    gather: AtomicU64,
    /// Raised when it becomes ready for what is wanted.
    due: Arc<AtomicBool>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:?})", self.descriptor.as_fd())
    }
}

impl Entry {
    /// What is to be waited for: wanted, and not ready already.
    fn awaited(&self) -> u8 {
        self.wanted.load(Ordering::Relaxed) & !self.ready.load(Ordering::Relaxed)
    }
}

impl Watch {
    /// It brings input, which may gather for this long before its owner goes on.
    pub fn gather(&self, latency_budget: Duration) {
        let nanos = u64::try_from(latency_budget.as_nanos()).unwrap_or(u64::MAX);
        self.entry.gather.store(nanos, Ordering::Relaxed);
        self.table.gathers.fetch_or(nanos > 0, Ordering::Relaxed);
    }

    /// Waits for this readiness, too, from now on.
    #[inline]
    pub fn want(&self, readiness: Readiness) {
        self.entry.wanted.fetch_or(readiness as u8, Ordering::Relaxed);
    }

    /// Waits for nothing from now on.
    #[inline]
    pub fn want_nothing(&self) {
        self.entry.wanted.store(0, Ordering::Relaxed);
    }

    /// Whether it may be ready: nobody has found out otherwise.
    #[inline]
    pub fn is_ready(&self, readiness: Readiness) -> bool {
        self.entry.ready.load(Ordering::Relaxed) & readiness as u8 != 0
    }

    /// It is not ready any more.
    #[inline]
    pub fn used_up(&self, readiness: Readiness) {
        self.entry.ready.fetch_and(!(readiness as u8), Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut entries = self.table.lock();
        entries.retain(|entry| !Arc::ptr_eq(entry, &self.entry));
        self.table.len.store(entries.len(), Ordering::Relaxed);
    }
}

struct Table {
    /// Few: a connection each. Locked by one thread at a time, so the lock is free.
    entries: Mutex<Vec<Arc<Entry>>>,
    len: AtomicUsize,
    /// Whether any may gather.
    gathers: AtomicBool,
    alarm: Arc<Alarm>,
    waker: Waker,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lock().iter()).finish()
    }
}

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a wait from another thread.
struct Alarm(OwnedFd);

impl Alarm {
    fn reset(&self) {
        let mut count = [0; 8];
        // One that is not set has nothing to read.
        let _unset = rustix::io::read(&self.0, &mut count);
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It fails where the count is at its end: then it is set.
        let _set = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// The descriptors that one thread waits for.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Table>);

impl Descriptors {
    /// None yet.
    ///
    /// # Errors
    /// If the system gives no descriptor for waking.
    pub fn new() -> io::Result<Self> {
        let alarm = Arc::new(Alarm(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let waker = Waker::from(Arc::clone(&alarm));
        let entries = Mutex::default();
        let (len, gathers) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(Self(Arc::new(Table { entries, len, gathers, alarm, waker })))
    }

    /// Watches `descriptor` for the task of `due`. That flag is raised when the descriptor becomes ready for what is
    /// [wanted](Watch::want). At first it counts as ready: whoever uses it finds out.
    pub fn watch(&self, descriptor: Arc<dyn AsFd + Send + Sync>, due: &Arc<AtomicBool>) -> Watch {
        let (wanted, ready) = (AtomicU8::new(0), AtomicU8::new(BOTH));
        let (gather, due) = (AtomicU64::new(0), Arc::clone(due));
        let entry = Arc::new(Entry { descriptor, wanted, ready, gather, due });
        let mut entries = self.0.lock();
        entries.push(Arc::clone(&entry));
        self.0.len.store(entries.len(), Ordering::Relaxed);
        drop(entries);
        Watch { entry, table: Arc::clone(&self.0) }
    }

    /// Ends the wait that is going on, or the next one.
    pub fn waker(&self) -> &Waker {
        &self.0.waker
    }

    /// Whether any is watched.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.len.load(Ordering::Relaxed) == 0
    }

    /// Waits until a descriptor is ready for what is wanted of it, or until somebody calls the [waker](Self::waker). It waits no
    /// longer than this time. What comes in may [gather](Watch::gather) within it. Whether a descriptor is ready.
    pub fn wait(&self, longest: Duration) -> bool {
        if longest.is_zero() || !self.0.gathers.load(Ordering::Relaxed) {
            return self.wait_once(longest) != Seen::Nothing;
        }
        let begun = Instant::now();
        let budget = match self.wait_once(longest) {
            Seen::Input(budget) => budget,
            seen => return seen == Seen::Ready,
        };
        let gathered = Instant::now();
        let whole = longest.saturating_sub(gathered - begun).min(budget);
        let mut left = whole;
        // What is ready is not waited for again.
        while !left.is_zero()
            && let Seen::Input(_) = self.wait_once(left)
        {
            left = whole.saturating_sub(gathered.elapsed());
        }
        true
    }

    fn wait_once(&self, longest: Duration) -> Seen {
        let entries = self.0.lock();
        let awaited = || entries.iter().filter(|entry| entry.awaited() != 0);
        let mut all = SmallVec::<[PollFd<'_>; POLLED_IN_PLACE]>::new();
        all.push(PollFd::new(&self.0.alarm.0, PollFlags::IN));
        all.extend(awaited().map(|entry| {
            PollFd::from_borrowed_fd(entry.descriptor.as_fd(), flags(entry.awaited()))
        }));
        let timeout = Timespec {
            tv_sec: longest.as_secs().cast_signed(),
            tv_nsec: longest.subsec_nanos().into(),
        };
        // A signal ends it early, as anything may.
        if !poll(&mut all, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            return Seen::Nothing;
        }
        let called = !all[0].revents().is_empty();
        if called {
            self.0.alarm.reset();
        }
        let (mut ready, mut budget) = (false, u64::MAX);
        for (entry, seen) in awaited().zip(&all[1..]) {
            let seen = readiness(seen.revents());
            if seen != 0 {
                entry.ready.fetch_or(seen, Ordering::Relaxed);
                entry.due.store(true, Ordering::Relaxed);
                // Whatever is not input alone is news of the connection.
                let gather = entry.gather.load(Ordering::Relaxed);
                budget = budget.min(if seen == Readiness::Read as u8 { gather } else { 0 });
                ready = true;
            }
        }
        match (ready, called || budget == 0) {
            (false, _) => Seen::Nothing,
            (true, true) => Seen::Ready,
            (true, false) => Seen::Input(Duration::from_nanos(budget)),
        }
    }
}

/// What has ended a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The time, or somebody from outside.
    Nothing,
    /// A descriptor.
    Ready,
    /// Nothing but descriptors with input, which may gather for this long.
    Input(Duration),
}

fn flags(awaited: u8) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, awaited & Readiness::Read as u8 != 0);
    flags.set(PollFlags::OUT, awaited & Readiness::Write as u8 != 0);
    flags
}

fn readiness(seen: PollFlags) -> u8 {
    if seen.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        return BOTH;
    }
    let read = u8::from(seen.contains(PollFlags::IN)) * Readiness::Read as u8;
    let write = u8::from(seen.contains(PollFlags::OUT)) * Readiness::Write as u8;
    read | write
}

/// A borrowed descriptor lives as long as its entry.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.entry.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_ready_is_told_once_until_it_is_used_up() {
        let descriptors = Descriptors::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let due = Arc::<AtomicBool>::default();
        assert!(descriptors.is_empty());
        let socket = Arc::new(far.try_clone().unwrap());
        let watch = descriptors.watch(socket, &due);
        assert!(!descriptors.is_empty() && watch.is_ready(Readiness::Read), "until found out");
        watch.used_up(Readiness::Read);
        near.write_all(b"x").unwrap();
        assert!(!descriptors.wait(Duration::ZERO), "nobody wants it");
        watch.want(Readiness::Read);
        assert!(descriptors.wait(LONG) && due.swap(false, Ordering::Relaxed));
        assert!(watch.is_ready(Readiness::Read));
        assert!(!descriptors.wait(Duration::ZERO), "told");
        far.read_exact(&mut [0]).unwrap();
        watch.used_up(Readiness::Read);
        assert!(!descriptors.wait(Duration::ZERO), "nothing is there");
        drop(near);
        assert!(descriptors.wait(LONG), "its end is there to be read");
        drop(watch);
        assert!(descriptors.is_empty());
    }

    /// Two descriptors: what comes to the first is input, with this budget.
    fn input_and_another(budget: Duration) -> (Descriptors, [(UnixStream, Watch); 2]) {
        let descriptors = Descriptors::new().unwrap();
        let pairs = [budget, Duration::ZERO].map(|budget| {
            let (near, far) = UnixStream::pair().unwrap();
            let watch = descriptors.watch(Arc::new(far), &Arc::default());
            watch.gather(budget);
            watch.used_up(Readiness::Read);
            watch.want(Readiness::Read);
            (near, watch)
        });
        (descriptors, pairs)
    }

    #[test]
    fn input_gathers_for_its_budget_and_no_longer_than_the_wait() {
        let budget = Duration::from_millis(20);
        let (descriptors, [(mut near, watch), _other]) = input_and_another(budget);
        near.write_all(b"x").unwrap();
        let begun = Instant::now();
        assert!(descriptors.wait(LONG) && watch.is_ready(Readiness::Read));
        assert!((budget..LONG / 2).contains(&begun.elapsed()));
        watch.used_up(Readiness::Read);
        watch.gather(LONG);
        let begun = Instant::now();
        assert!(descriptors.wait(budget), "the shard is due");
        assert!((budget..LONG / 2).contains(&begun.elapsed()));
        watch.used_up(Readiness::Read);
        let begun = Instant::now();
        assert!(descriptors.wait(Duration::ZERO) && begun.elapsed() < LONG / 2);
    }

    #[test]
    fn whatever_else_comes_ends_the_gathering() {
        let (descriptors, [(mut near, watch), (mut other, second)]) = input_and_another(LONG);
        let begun = Instant::now();
        near.write_all(b"x").unwrap();
        other.write_all(b"x").unwrap();
        assert!(descriptors.wait(LONG));
        assert!(watch.is_ready(Readiness::Read) && second.is_ready(Readiness::Read));
        watch.used_up(Readiness::Read);
        let waker = descriptors.waker().clone();
        let caller = thread::spawn(move || waker.wake());
        assert!(descriptors.wait(LONG) || descriptors.wait(LONG), "called before it saw the input");
        caller.join().unwrap();
        second.used_up(Readiness::Read);
        let late = thread::spawn(move || other.write_all(b"x").unwrap());
        descriptors.waker().wake_by_ref();
        assert!(begun.elapsed() < LONG);
        late.join().unwrap();
    }

    #[test]
    fn a_waker_ends_a_wait_from_another_thread_and_the_next_one() {
        let descriptors = Descriptors::new().unwrap();
        let begun = Instant::now();
        let waker = descriptors.waker().clone();
        let other = thread::spawn(move || waker.wake());
        assert!(!descriptors.wait(LONG));
        other.join().unwrap();
        descriptors.waker().wake_by_ref();
        assert!(!descriptors.wait(LONG));
        assert!(begun.elapsed() < LONG);
        let begun = Instant::now();
        assert!(!descriptors.wait(Duration::from_millis(5)));
        assert!(begun.elapsed() >= Duration::from_millis(5), "it was reset");
    }
}
