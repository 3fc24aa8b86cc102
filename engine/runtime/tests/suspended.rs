//! A job that is suspended ends when its sinks show the results of the last epoch, or when they have had time for that.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use thalweg_flow::*;
use thalweg_kernel::{ConnectorError, Epoch, OpenContext, Sink, SinkSpec, Timestamp};
use thalweg_runtime::protocol::SETTLE_MAX;
use thalweg_runtime::*;
use thalweg_testing::{Act, Scripted};

/// A sink that shows what is committed when somebody else has done so for it.
#[derive(Clone)]
struct Slow {
    /// Who shows an epoch, and wakes the shard.
    to_helper: mpsc::Sender<(Epoch, std::task::Waker)>,
    written: Arc<AtomicU64>,
    shown: Arc<AtomicU64>,
}

struct SlowWriter {
    spec: Slow,
    cx: OpenContext,
    committed: Epoch,
}

impl SinkSpec<u64> for Slow {
    type Writer = SlowWriter;

    fn describe(&self) -> String {
        "slow".into()
    }

    fn open(&self, cx: &OpenContext) -> Result<SlowWriter, ConnectorError> {
        Ok(SlowWriter { spec: self.clone(), cx: cx.clone(), committed: Epoch::NONE })
    }
}

impl Sink<u64> for SlowWriter {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn write(&mut self, _: Timestamp, _: u64) -> Result<(), ConnectorError> {
        self.spec.written.fetch_add(1, SeqCst);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        self.committed = epoch;
        self.spec.to_helper.send((epoch, self.cx.waker.clone())).unwrap();
        Ok(())
    }

    fn settled(&mut self) -> Result<bool, ConnectorError> {
        Ok(self.spec.shown.load(SeqCst) >= self.committed.number())
    }
}

/// Runs a job of two shards with such a sink until it has written, and suspends it. How long that took, and the epochs that were
/// committed and shown by then.
fn suspended(driver: DriverKind, shows: bool) -> (Duration, u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (to_helper, inbox) = mpsc::channel::<(Epoch, std::task::Waker)>();
    let (written, shown) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (committed, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let sink = Slow { to_helper, written: Arc::clone(&written), shown: Arc::clone(&shown) };
    let helper = {
        let (shown, committed, ended) =
            (Arc::clone(&shown), Arc::clone(&committed), Arc::clone(&ended));
        thread::spawn(move || {
            for (epoch, waker) in inbox {
                committed.fetch_max(epoch.number(), SeqCst);
                // Long enough that a shard that does not wait has gone.
                thread::sleep(Duration::from_millis(50));
                if shows {
                    assert!(!ended.load(SeqCst), "the job ended in front of its sink");
                    shown.fetch_max(epoch.number(), SeqCst);
                    waker.wake();
                }
            }
        })
    };
    let job = Job::new("suspended", move |flow| {
        let numbers = Scripted::without_end([vec![Act::Record(1_u64)], vec![Act::Record(2)]]);
        flow.source(numbers, Watermarks::monotonous()).sink(sink.clone());
    });
    let mut state = StateConfig::new(StateDirectory::new(dir.path()).backend());
    // The only epoch is the last one.
    state.checkpoints.interval = Duration::from_secs(3_600);
    let config =
        RuntimeConfig { shards: 2, driver, state: Some(state), ..RuntimeConfig::default() };
    let running = job.start(&config).unwrap();
    while written.load(SeqCst) < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    running.suspend();
    running.wait().unwrap();
    ended.store(true, SeqCst);
    drop(job);
    helper.join().unwrap();
    (begun.elapsed(), committed.load(SeqCst), shown.load(SeqCst))
}

#[test]
fn a_suspended_job_ends_when_its_sinks_show_the_last_results() {
    for driver in [DriverKind::Threads, DriverKind::Glommio] {
        let (took, committed, shown) = suspended(driver, true);
        assert!(committed > 0 && shown == committed, "{driver}: {shown} of {committed}");
        assert!(took < SETTLE_MAX, "{driver}: {took:?}");
    }
}

#[test]
fn a_sink_that_shows_nothing_holds_a_suspended_job_up_for_a_bounded_time() {
    let (took, committed, shown) = suspended(DriverKind::Threads, false);
    assert!(committed > 0 && shown == 0, "{shown} of {committed}");
    assert!(took >= SETTLE_MAX && took < SETTLE_MAX * 4, "{took:?}");
}
