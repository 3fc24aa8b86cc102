//! What the work of a connection can wait for.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use thalweg_kernel::{Descriptors, Watch};

/// No time is waited for.
const NEVER: u64 = u64::MAX;
/// The most reads of one poll. A peer that sends without end holds up nobody.
const READS_MAX: u32 = 8;

/// What the work of one connection can wait for. It belongs to that work, and is used by one thread at a time.
#[derive(Clone, Debug)]
pub struct Reactor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    descriptors: Descriptors,
    /// How long what comes in may gather.
    gathers: Duration,
    /// Raised when the work is to go on.
    due: Arc<AtomicBool>,
    /// Times are nanoseconds since then.
    begun: Instant,
    /// When the poll that is going on began: the clock is read once for each.
    now: AtomicU64,
    /// The reads that the poll that is going on has left.
    reads_left: AtomicU32,
    /// The first time that the last poll has waited for.
    next: AtomicU64,
    /// Its descriptors. One at a time, as a rule.
    watches: Mutex<Vec<Weak<Watch>>>,
}

impl Reactor {
    pub(crate) fn new(descriptors: Descriptors, due: Arc<AtomicBool>, gathers: Duration) -> Self {
        let (begun, now, next) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(NEVER));
        let watches = Mutex::default();
        let reads_left = AtomicU32::new(READS_MAX);
        Self(Arc::new(Inner { descriptors, gathers, due, begun, now, reads_left, next, watches }))
    }

    /// One that nobody drives: for tests.
    ///
    /// # Errors
    /// If the system gives no descriptor for waking.
    pub fn by_hand() -> io::Result<Self> {
        Ok(Self::new(Descriptors::new()?, Arc::default(), Duration::ZERO))
    }

    /// A poll begins.
    pub(crate) fn begin(&self) {
        self.begin_at(Instant::now());
    }

    /// A poll begins, at this time: what it does not wait for is not waited for.
    pub fn begin_at(&self, now: Instant) {
        self.watches().retain(|watch| watch.upgrade().inspect(|it| it.want_nothing()).is_some());
        self.0.now.store(self.nanos(now), Ordering::Relaxed);
        self.0.next.store(NEVER, Ordering::Relaxed);
        self.0.reads_left.store(READS_MAX, Ordering::Relaxed);
    }

    /// Whether the poll that is going on may read once more. If not, the work is to be called again: there may be
    /// deadlines to see, and others to do on this thread.
    pub(crate) fn may_read(&self) -> bool {
        let left = self.0.reads_left.load(Ordering::Relaxed);
        self.0.reads_left.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }

    /// The first time that the last poll has waited for.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self.0.next.load(Ordering::Relaxed) {
            NEVER => None,
            nanos => Some(self.0.begun + Duration::from_nanos(nanos)),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.0.begun).as_nanos();
        u64::try_from(nanos).unwrap_or(NEVER)
    }

    fn watches(&self) -> MutexGuard<'_, Vec<Weak<Watch>>> {
        self.0.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what comes in is input, and may gather. Until then it is what a connection begins with.
    pub fn gather(&self) {
        let watches = self.watches();
        watches.iter().filter_map(Weak::upgrade).for_each(|watch| watch.gather(self.0.gathers));
    }

    /// Whether the poll that is going on has read all that there was, as far as its socket was asked.
    pub fn has_reads_left(&self) -> bool {
        self.0.reads_left.load(Ordering::Relaxed) > 0
    }

    /// Watches a descriptor for this work. What is wanted of it is wanted until the next poll begins.
    pub fn watch(&self, descriptor: Arc<dyn AsFd + Send + Sync>) -> Arc<Watch> {
        let watch = Arc::new(self.0.descriptors.watch(descriptor, &self.0.due));
        self.watches().push(Arc::downgrade(&watch));
        watch
    }

    /// When the poll that is going on began.
    pub fn now(&self) -> Instant {
        self.0.begun + Duration::from_nanos(self.0.now.load(Ordering::Relaxed))
    }

    /// Whether this time has come. If not, the work goes on when it has.
    pub fn poll_until(&self, at: Instant) -> Poll<()> {
        let at = self.nanos(at);
        if at <= self.0.now.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        self.0.next.fetch_min(at, Ordering::Relaxed);
        Poll::Pending
    }

    /// Waits for a time.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { reactor: self.clone(), at }
    }

    /// Waits for this long.
    pub fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(self.now() + time)
    }

    /// Waits for `work`, but no longer than `longest`.
    ///
    /// # Errors
    /// If that time is over first.
    pub async fn timeout<F: Future>(
        &self,
        longest: Duration,
        work: F,
    ) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        let until = self.now() + longest;
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_until(until).map(|()| Err(Elapsed)),
        })
        .await
    }
}

/// The time for it was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for a time.
#[derive(Debug)]
pub struct Sleep {
    reactor: Reactor,
    at: Instant,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        self.reactor.poll_until(self.at)
    }
}
