//! The job whose state does not fit: a value for each key, read, held against what it must be, and changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use thalweg::flow::{Context, Process, Tuning, ValueState};
use thalweg::kernel::Collector;
use thalweg::prelude::*;
use thalweg::runtime::{RestartStrategy, RuntimeConfig, StateConfig, StateDirectory};
use thalweg_file::RollingFiles;

use crate::keys::Keys;
use crate::plan::value;

/// What a life of the job is told on its command line.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) dir: PathBuf,
    pub(crate) keys: Keys,
    pub(crate) shards: usize,
    /// What state may take of memory on a shard, and what on top of that on its way to the store.
    pub(crate) state_memory_bytes_max: usize,
    pub(crate) state_pending_bytes_max: usize,
    pub(crate) checkpoint: Duration,
}

/// What the job says of a key it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Seen {
    pub(crate) key: u64,
    /// How often it was changed before.
    pub(crate) version: u64,
    /// Its value was that of this version.
    pub(crate) right: bool,
    /// This machine's clock.
    pub(crate) at_ms: i64,
}

/// Where it says what it has seen.
pub(crate) fn out_dir(dir: &Path) -> PathBuf {
    dir.join("seen")
}

/// Where its state is.
pub(crate) fn state_dir(dir: &Path) -> PathBuf {
    dir.join("job")
}

struct Change {
    value: ValueState<u64, Vec<u64>>,
}

impl Process<u64, u64> for Change {
    type Out = Seen;

    fn record(&mut self, key: u64, cx: &mut Context<'_, u64>, out: &mut impl Collector<Seen>) {
        let at_ms = cx.processing_time().as_millis();
        let seen = self.value.with(cx, |before| match before {
            None => Seen { key, version: 0, right: true, at_ms },
            Some(before) => {
                let version = before.first().copied().unwrap_or(u64::MAX);
                Seen { key, version, right: *before == value(key, version), at_ms }
            }
        });
        self.value.set(cx, value(key, seen.version + 1));
        out.record(cx.time(), seen);
    }
}

fn job(dir: &Path, keys: Keys) -> Job {
    let out = out_dir(dir);
    Job::new("large", move |flow: &Flow| {
        flow.source(keys, Watermarks::monotonous())
            .key_by(|key| *key)
            .process(|states| Change { value: states.value("value") })
            .sink(RollingFiles::new(&out, JsonLines).roll_bytes(1 << 20).roll_after(SHORT));
    })
}

/// What was seen can be seen outside so soon.
const SHORT: Duration = Duration::from_millis(500);

/// Runs a life of the job to its end: that of its keys, or suspended on SIGTERM.
pub(crate) fn live(life: &Life) -> Result<()> {
    let mut state = StateConfig::new(StateDirectory::new(state_dir(&life.dir)).backend());
    state.checkpoints.interval = life.checkpoint;
    let Life { state_memory_bytes_max, state_pending_bytes_max, .. } = *life;
    let config = RuntimeConfig {
        shards: life.shards,
        tuning: Tuning { state_memory_bytes_max, state_pending_bytes_max, ..Tuning::default() },
        state: Some(state),
        // A failure must be seen by whoever runs this.
        restart: RestartStrategy::Never,
        ..RuntimeConfig::default()
    };
    thalweg_tests::life::run(&job(&life.dir, life.keys), &config)
}
