//! How long a job with many keys takes from its start until it takes records again. Small under `cargo test`; with
//! a million keys of 64 bytes:
//!
//! ```text
//! cargo test --release -p thalweg-runtime --test recovery_time -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use thalweg_flow::*;
use thalweg_kernel::{
    Collector, ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Source,
    SourceSpec, SourceStatus, Timestamp,
};
use thalweg_runtime::*;

const KEYS: u64 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
const SHARDS: usize = 2;
/// Records of a step.
const STEP: u64 = 1_024;

/// Each key in turn; then, again and again, keys that it has had before. Never ends by itself.
#[derive(Clone)]
struct Keys;

struct Numbers {
    next: u64,
    last: u64,
}

impl SourceSpec for Keys {
    type Item = u64;
    type Partition = Numbers;

    fn describe(&self) -> String {
        "keys".into()
    }

    fn open(&self, _: &PartitionId, cx: &OpenContext) -> Result<Numbers, ConnectorError> {
        let position = cx.durability.position.as_deref();
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        Ok(Numbers { next, last: u64::MAX })
    }
}

impl Source for Numbers {
    type Item = u64;

    fn poll(
        &mut self,
        now: Timestamp,
        _: usize,
        out: &mut impl Emit<u64>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..STEP {
            if self.next == self.last {
                return Ok(SourceStatus::Ended);
            }
            out.record(self.next % KEYS, now, &Generated);
            self.next += 1;
        }
        Ok(match self.next < KEYS {
            true => SourceStatus::Ready,
            false => SourceStatus::Waiting(Some(Duration::from_millis(1))),
        })
    }

    fn stop(&mut self) {
        self.last = self.next;
    }

    fn snapshot(&mut self, _: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.next.to_le_bytes());
    }
}

/// What the job has done, seen from outside.
#[derive(Clone, Default)]
struct Watch {
    records: Arc<AtomicU64>,
    first: Arc<Mutex<Option<Instant>>>,
    /// Keys that nothing was known of.
    new: Arc<AtomicU64>,
}

struct Remember {
    value: ValueState<u64, [u64; 8]>,
    watch: Watch,
}

impl Process<u64, u64> for Remember {
    type Out = u64;

    fn record(&mut self, key: u64, cx: &mut Context<'_, u64>, _: &mut impl Collector<u64>) {
        let seen = self.value.with(cx, |before| before.map_or(0, |before| before[0]));
        match seen {
            0 => _ = self.watch.new.fetch_add(1, SeqCst),
            seen => assert_eq!(seen, key + 1),
        }
        self.watch.records.fetch_add(1, SeqCst);
        self.watch.first.lock().unwrap().get_or_insert_with(Instant::now);
        self.value.set(cx, [key + 1; 8]);
    }
}

fn job(watch: &Watch) -> Job {
    let watch = watch.clone();
    Job::new("remember", move |flow: &Flow| {
        let watch = watch.clone();
        flow.source(Keys, Watermarks::monotonous())
            .key_by(|key| *key)
            .process(move |states| Remember { value: states.value("value"), watch: watch.clone() })
            .sink(Collected::new().sink());
    })
}

#[test]
fn a_job_with_many_keys_is_soon_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateConfig::new(StateDirectory::new(dir.path().join("job")).backend());
    state.checkpoints.interval = Duration::from_millis(100);
    let config = RuntimeConfig { shards: SHARDS, state: Some(state), ..RuntimeConfig::default() };
    let watch = Watch::default();
    for life in 0..4 {
        *watch.first.lock().unwrap() = None;
        let before = watch.records.load(SeqCst);
        let begun = Instant::now();
        let running = job(&watch).start(&config).unwrap();
        let enough = KEYS.max(before + 2 * STEP);
        while watch.records.load(SeqCst) < enough {
            thread::sleep(Duration::from_millis(1));
        }
        let first = watch.first.lock().unwrap().unwrap();
        running.suspend();
        running.wait().unwrap();
        assert_eq!(watch.new.load(SeqCst), KEYS, "nothing is forgotten in life {life}");
        if life > 0 {
            println!("{KEYS} keys: the first record {:?} after the start", first - begun);
        }
    }
}
