//! What the tests share: contexts whose waker unparks the test's thread, and a shard's loops.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use thalweg_kernel::{
    ConnectorError, DeadLetter, Emit, OpenContext, Origin, Shared, Sink, Source, SourceStatus,
    Timestamp,
};

/// A wake-up that takes longer is lost.
pub(crate) const LOST: Duration = Duration::from_secs(5);

struct Unpark {
    thread: Thread,
    calls: AtomicUsize,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.calls.fetch_add(1, SeqCst);
        self.thread.unpark();
    }
}

/// A shard, run by the test's own thread.
pub(crate) struct Shard {
    pub(crate) cx: OpenContext,
    unpark: Arc<Unpark>,
    seen: usize,
}

impl Shard {
    pub(crate) fn new(shard: usize, shards: usize, shared: &Arc<Shared>) -> Self {
        let unpark = Arc::new(Unpark { thread: thread::current(), calls: AtomicUsize::new(0) });
        let cx = OpenContext {
            job: "job".into(),
            operator: "operator".into(),
            operator_id: 3,
            shard,
            shards,
            instances: shards,
            waker: Waker::from(Arc::clone(&unpark)),
            tasks: None,
            latency_budget: std::time::Duration::ZERO,
            shared: Arc::clone(shared),
            durability: thalweg_kernel::Durability::default(),
        };
        Self { cx, unpark, seen: 0 }
    }

    pub(crate) fn alone() -> Self {
        Self::new(0, 1, &Arc::default())
    }

    /// Waits until the waker was called since the last time. Panics if it never is.
    pub(crate) fn wait(&mut self) {
        let start = std::time::Instant::now();
        while self.unpark.calls.load(SeqCst) == self.seen {
            assert!(start.elapsed() < LOST, "a wake-up was lost");
            thread::park_timeout(LOST);
        }
        self.seen = self.unpark.calls.load(SeqCst);
    }

    pub(crate) fn until_ready<T>(&mut self, sink: &mut impl Sink<T>) -> Result<(), ConnectorError> {
        while !sink.ready()? {
            self.wait();
        }
        Ok(())
    }

    pub(crate) fn until_closed<T>(
        &mut self,
        sink: &mut impl Sink<T>,
    ) -> Result<(), ConnectorError> {
        while !sink.close()? {
            self.wait();
        }
        Ok(())
    }

    /// Polls to the end. Every poll must keep to `records_max`.
    pub(crate) fn read<S: Source>(
        &mut self,
        source: &mut S,
        records_max: usize,
    ) -> Result<Emitted<S::Item>, ConnectorError> {
        let mut all = Emitted::default();
        loop {
            let before = all.events;
            let status = source.poll(Timestamp::default(), records_max, &mut all)?;
            assert!(all.events - before <= records_max);
            match status {
                SourceStatus::Ready => {}
                SourceStatus::Waiting(until) => {
                    assert_eq!(until, None);
                    self.wait();
                }
                SourceStatus::Ended => return Ok(all),
            }
        }
    }
}

/// Everything a source emitted.
pub(crate) struct Emitted<T> {
    pub(crate) records: Vec<T>,
    pub(crate) offsets: Vec<u64>,
    pub(crate) letters: Vec<DeadLetter>,
    events: usize,
}

impl<T> Default for Emitted<T> {
    fn default() -> Self {
        Self { records: Vec::new(), offsets: Vec::new(), letters: Vec::new(), events: 0 }
    }
}

impl<T> Emit<T> for Emitted<T> {
    fn record(&mut self, value: T, received: Timestamp, origin: &impl Origin) {
        assert!(received > 1_600_000_000_000i64.into(), "{received}");
        let described =
            thalweg_kernel::DecodeError::new(thalweg_kernel::Cause::ClockAhead, "", None);
        self.offsets.extend(origin.dead_letter(described).offset);
        self.records.push(value);
        self.events += 1;
    }

    fn dead_letter(&mut self, letter: DeadLetter) {
        self.letters.push(letter);
        self.events += 1;
    }
}

/// A named pipe in `directory`.
pub(crate) fn fifo(directory: &Path) -> PathBuf {
    let path = directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}
