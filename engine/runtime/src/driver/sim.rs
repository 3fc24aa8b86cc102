//! The simulation: every shard of a job on one thread, with a virtual clock. The order in which
//! shards step, how much they read in a step and how small the queues are come from a seed. So a
//! run that fails can be run again.
//!
//! A shard is stepped only if it said it was busy, was woken, or its time has come. So a wake-up that
//! an operator or a lane forgets shows as a stall here, with its seed. In the field it would be a
//! rare hang.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thalweg_flow::{BuildContext, Flow, Now, Shard, Step, Tuning};
use thalweg_kernel::time::millis;
use thalweg_kernel::{Shared, Timestamp, message_of_panic};

use crate::config::RuntimeConfig;
use crate::error::JobError;
use crate::metrics::{Board, Snapshot};
use crate::signal::Signal;

/// When every shard waits without a time, a connector's own thread may still wake one. It has this
/// long of real time for that before it is a stall.
const FOREIGN_WAKE_MAX: Duration = Duration::from_secs(10);

/// A seeded run of a job.
#[derive(Clone, Copy, Debug)]
pub struct Simulation {
    seed: u64,
    random: u64,
    begin: Timestamp,
}

struct Simulated {
    shard: Shard,
    signal: Arc<Signal>,
    last: Step,
}

impl Simulation {
    /// The simulation of this seed. Its clock begins at the first millisecond of 2025 (UTC).
    pub fn new(seed: u64) -> Self {
        Self { seed, random: seed, begin: Timestamp::from_millis(1_735_689_600_000) }
    }

    /// Begins the virtual clock at another time.
    #[must_use]
    pub fn beginning_at(mut self, begin: Timestamp) -> Self {
        self.begin = begin;
        self
    }

    /// A number below `bound`, by SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }

    /// Small numbers often, large ones sometimes: 1 to `max`.
    fn size(&mut self, max: usize) -> usize {
        let bound = 1 << self.below(max.ilog2() as usize + 1);
        1 + self.below(bound.min(max))
    }

    /// Runs `job` to its end on `config.shards` shards and returns its metrics. Sizes in
    /// `config.tuning` are upper bounds.
    ///
    /// # Errors
    /// As for [`Job::run_with`](crate::Job::run_with), and [`JobError::Stalled`].
    pub fn run(
        mut self,
        name: &str,
        job: &dyn Fn(&Flow),
        config: &RuntimeConfig,
    ) -> Result<Snapshot, JobError> {
        config.validate()?;
        let mut now = Now { wall: self.begin, steady: Duration::ZERO };
        let mut shards = self.build(name, job, config)?;
        let step_records_max = config.tuning.step_records_max;
        let board = Board::new(shards.len());
        loop {
            let can_move: Vec<_> =
                (0..shards.len()).filter(|&shard| shards[shard].can_move(now.steady)).collect();
            if can_move.is_empty() {
                let open = || shards.iter().filter(|shard| shard.last != Step::Done);
                if open().next().is_none() {
                    return Ok(board.snapshot(None));
                }
                match open().filter_map(|shard| shard.wake_at()).min() {
                    Some(at) => {
                        let by = at.saturating_sub(now.steady);
                        advance(&mut now, by);
                    }
                    None => self.await_foreign_wake(&shards)?,
                }
                continue;
            }
            let chosen = can_move[self.below(can_move.len())];
            let records = self.size(step_records_max);
            let Simulated { shard, signal, last } = &mut shards[chosen];
            signal.clear();
            shard.set_step_records_max(records);
            let step = catch_unwind(AssertUnwindSafe(|| shard.step(now)));
            *last = step.map_err(|panic| JobError::Panicked {
                shard: chosen,
                message: message_of_panic(&*panic),
            })??;
            if *last == Step::Done {
                board.post(chosen, shard.metrics(), now.wall);
            }
            if self.below(8) == 0 {
                advance(&mut now, Duration::from_millis(self.below(5) as u64));
            }
        }
    }

    fn build(
        &mut self,
        name: &str,
        job: &dyn Fn(&Flow),
        config: &RuntimeConfig,
    ) -> Result<Vec<Simulated>, JobError> {
        let signals: Vec<_> = (0..config.shards).map(|_| Arc::<Signal>::default()).collect();
        let mut cx = BuildContext {
            job: name.into(),
            shard: 0,
            wakers: signals.iter().map(Signal::waker).collect::<Vec<_>>().into(),
            tasks: None,
            shared: Arc::<Shared>::default(),
            key_groups: config.key_groups,
            tuning: Tuning {
                batch_records: self.size(config.tuning.batch_records),
                lane_batches: self.size(config.tuning.lane_batches),
                ..config.tuning
            },
            storage: None,
        };
        let mut shards = Vec::new();
        for (shard, signal) in signals.into_iter().enumerate() {
            cx.shard = shard;
            shards.push(Simulated { shard: Shard::build(job, &cx)?, signal, last: Step::Busy });
        }
        Ok(shards)
    }

    fn await_foreign_wake(&self, shards: &[Simulated]) -> Result<(), JobError> {
        let begun = Instant::now();
        while !shards.iter().any(|shard| shard.signal.is_raised()) {
            if begun.elapsed() > FOREIGN_WAKE_MAX {
                return Err(JobError::Stalled { seed: self.seed });
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

/// Lets both clocks go on.
fn advance(now: &mut Now, by: Duration) {
    now.steady += by;
    now.wall = now.wall.plus_ms(millis(by));
}

impl Simulated {
    fn can_move(&self, steady: Duration) -> bool {
        match self.last {
            Step::Done => false,
            Step::Busy => true,
            Step::Idle(at) => self.signal.is_raised() || at.is_some_and(|at| at <= steady),
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        match self.last {
            Step::Idle(at) => at,
            Step::Busy | Step::Done => None,
        }
    }
}
