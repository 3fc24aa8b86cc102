//! How a shard is woken: a flag for "something happened" and the waker of whoever sleeps.
//!
//! A shard clears the flag *before* it steps. So that step sees whatever was announced before, and
//! whatever comes later sets the flag again. Before it sleeps it says so and looks at the flag once
//! more; a waker sets the flag and then looks whether anyone sleeps. Both sides use sequentially
//! consistent operations, so one of them always sees the other. Waking a shard that is awake is one
//! exchange on a flag.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, AtomicWaker};

/// One shard's signal.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    notified: AtomicBool,
    sleeping: AtomicBool,
    sleeper: AtomicWaker,
}

impl Signal {
    /// The waker that raises this signal, for other shards, and for the threads of connectors.
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Takes the flag down; call before each step. Whether it was up.
    #[inline]
    pub(crate) fn clear(&self) -> bool {
        self.notified.swap(false, SeqCst)
    }

    /// Whether the flag is up.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.notified.load(SeqCst)
    }

    /// Spins until the flag is up or something `has_come`, for `spin` at the longest. Whether either is so.
    pub(crate) fn spin(&self, spin: Duration, mut has_come: impl FnMut() -> bool) -> bool {
        if spin.is_zero() {
            return self.is_raised();
        }
        let begun = Instant::now();
        loop {
            if self.is_raised() || has_come() {
                return true;
            }
            std::hint::spin_loop();
            if begun.elapsed() >= spin {
                return false;
            }
        }
    }

    /// Resolves when the flag is up.
    pub(crate) async fn raised(&self) {
        // Also when the sleep is given up for a timer: a later wake-up must find nobody asleep.
        let _awake = Awake(&self.sleeping);
        poll_fn(|cx| self.poll_raised(cx)).await;
    }

    /// What is returned drops the waker of whoever slept last, at its own end.
    pub(crate) fn forgets(self: &Arc<Self>) -> Forgets {
        Forgets(Arc::clone(self))
    }

    fn poll_raised(&self, cx: &Context<'_>) -> Poll<()> {
        self.sleeper.register(cx.waker());
        self.sleeping.store(true, SeqCst);
        if self.is_raised() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Lets this thread `sleep` once, unless the flag is up. `waker` must end that sleep, and the next one if there is
    /// none.
    pub(crate) fn sleep<T>(&self, waker: &Waker, sleep: impl FnOnce() -> T) -> Option<T> {
        let _awake = Awake(&self.sleeping);
        self.poll_raised(&Context::from_waker(waker)).is_pending().then(sleep)
    }
}

/// Nobody will sleep any more when this is dropped, so no waker is kept.
pub(crate) struct Forgets(Arc<Signal>);

impl Drop for Forgets {
    fn drop(&mut self) {
        drop(self.0.sleeper.take());
    }
}

/// Says at its end that nobody sleeps any more.
struct Awake<'a>(&'a AtomicBool);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.notified.swap(true, SeqCst) && self.sleeping.load(SeqCst) {
            self.sleeper.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use thalweg_kernel::Descriptors;

    use super::*;

    fn park(signal: &Signal, descriptors: &Descriptors, longest: Duration) {
        signal.sleep(descriptors.waker(), || descriptors.wait(longest));
    }

    /// Two threads wake each other in turn: a lost wake-up would cost the whole timeout.
    #[test]
    fn no_wake_up_is_lost() {
        let signals = [Arc::<Signal>::default(), Arc::default()];
        let begun = Instant::now();
        let turns = 20_000;
        thread::scope(|scope| {
            for me in 0..2 {
                let (mine, other) = (Arc::clone(&signals[me]), signals[1 - me].waker());
                scope.spawn(move || {
                    let descriptors = Descriptors::new().unwrap();
                    for turn in 0..turns {
                        // One begins; after that each answers the other.
                        if me == 0 || turn > 0 {
                            other.wake_by_ref();
                        }
                        while !mine.clear() {
                            park(&mine, &descriptors, Duration::from_secs(20));
                        }
                    }
                    other.wake_by_ref();
                });
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(20), "a wake-up was lost");
    }

    #[test]
    fn a_signal_raised_before_parking_does_not_park() {
        let signal = Arc::<Signal>::default();
        signal.waker().wake();
        let begun = Instant::now();
        park(&signal, &Descriptors::new().unwrap(), Duration::from_secs(10));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
