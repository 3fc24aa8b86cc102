//! The job whose state does not fit. Either it keeps a value for each key, which it reads, checks and changes. Or it
//! keeps a window for each key, whose contents it checks when the window fires.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use thalweg::flow::{
    Aggregate, Context, Process, TimeWindow, Tumbling, Tuning, ValueState, WindowFunction,
};
use thalweg::kernel::Collector;
use thalweg::prelude::*;
use thalweg::runtime::{RestartStrategy, RuntimeConfig, StateConfig, StateDirectory};
use thalweg_file::RollingFiles;

use crate::keys::{Given, Keys};
use crate::plan::{VALUE_BYTES, value};

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
    /// Whether it keeps windows.
    pub(crate) windows: bool,
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

/// Where it says what it was given, if it keeps windows: those say nothing before the end.
pub(crate) fn given_dir(dir: &Path) -> PathBuf {
    dir.join("given")
}

/// Where its state is.
pub(crate) fn state_dir(dir: &Path) -> PathBuf {
    dir.join("job")
}

struct Change {
    value: ValueState<u64, Vec<u64>>,
}

impl Process<u64, Given> for Change {
    type Out = Seen;

    fn record(
        &mut self,
        Given { key, .. }: Given,
        cx: &mut Context<'_, u64>,
        out: &mut impl Collector<Seen>,
    ) {
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

/// The steps in which a key was given, and the sum of the values that it had then.
struct Sums;

type Content = (Vec<u64>, Vec<u64>);

fn add(sums: &mut [u64], values: &[u64]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
}

impl Aggregate<Given> for Sums {
    type Accumulator = Content;
    type Output = Content;

    fn create(&self) -> Content {
        (Vec::new(), vec![0; VALUE_BYTES / size_of::<u64>()])
    }

    fn add(&self, (steps, sums): &mut Content, Given { key, step }: Given) {
        steps.push(step);
        add(sums, &value(key, step));
    }

    fn merge(&self, (steps, sums): &mut Content, (more, values): &Content) {
        steps.extend_from_slice(more);
        add(sums, values);
    }

    fn result(&self, content: &Content) -> Content {
        content.clone()
    }

    fn finish(&self, content: Content) -> Content {
        content
    }
}

/// Says of each step that it was seen, as a version.
struct Tell;

impl WindowFunction<u64, Content> for Tell {
    type Out = Seen;

    fn fire(
        &mut self,
        key: u64,
        window: TimeWindow,
        (mut steps, sums): Content,
        out: &mut impl Collector<Seen>,
    ) {
        steps.sort_unstable();
        let mut expected = vec![0; sums.len()];
        steps.iter().for_each(|step| add(&mut expected, &value(key, *step)));
        let right = expected == sums && steps.windows(2).all(|pair| pair[0] < pair[1]);
        for version in 0..steps.len() as u64 {
            out.record(window.last, Seen { key, version, right, at_ms: 0 });
        }
    }
}

fn job(dir: &Path, keys: Keys, windows: bool) -> Job {
    let files = |dir: PathBuf| {
        move || RollingFiles::new(&dir, JsonLines).roll_bytes(1 << 20).roll_after(SHORT)
    };
    let (seen, given) = (files(out_dir(dir)), files(given_dir(dir)));
    Job::new("large", move |flow: &Flow| {
        let all = flow.source(keys, Watermarks::monotonous());
        if !windows {
            let keyed = all.key_by(|given| given.key);
            return keyed.process(|states| Change { value: states.value("value") }).sink(seen());
        }
        let [all, told] = all.split();
        told.map(|Given { key, step }| Seen { key, version: step, right: true, at_ms: 0 })
            .sink(given());
        // One window takes all: event time is the number of the step.
        all.key_by(|given| given.key)
            .window(Tumbling::of(Duration::from_millis(keys.plan.len())))
            .keys_max(usize::MAX)
            .aggregate_with(Sums, Tell)
            .sink(seen());
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
    thalweg_tests::life::run(&job(&life.dir, life.keys, life.windows), &config)
}
