//! A shard: its copy of the dataflow, stepped by a driver.
//!
//! A step visits every pipeline once, in the order of description. A driver steps until the shard
//! is idle, then waits for the shard's waker or for the time the shard named, and steps again.

use std::rc::Rc;

use thalweg_kernel::{ConnectorError, DeadLetter, Timestamp};

use crate::counters::Metric;
use crate::flow::dead_letters::DeadLetters;
use crate::flow::{BuildContext, Described, Flow};
use crate::graph::Graph;
use crate::pipeline::{Pipeline, Progress, StepContext};

/// What a step left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something moved: step again.
    Busy,
    /// Nothing to do until the shard is woken, or until this time of its clock.
    Idle(Option<Timestamp>),
    /// Every stream has ended and every sink has closed.
    Done,
}

/// One shard of a running job.
pub struct Shard {
    pipelines: Vec<Option<Box<dyn Pipeline>>>,
    metrics: Vec<Metric>,
    dead_letters: Option<Rc<DeadLetters>>,
    step_records_max: usize,
}

impl Shard {
    /// Builds one shard's copy of `job`, and opens its sources and sinks.
    ///
    /// # Errors
    /// If a source or sink does not open.
    pub fn build(job: &dyn Fn(&Flow), cx: &BuildContext) -> Result<Self, ConnectorError> {
        let shards = cx.wakers.len();
        let described = Flow::describe(job, Some(cx.clone()), shards)?;
        let Described { pipelines, metrics, dead_letters, .. } = described;
        Ok(Self {
            pipelines: pipelines.into_iter().map(Some).collect(),
            metrics,
            dead_letters,
            step_records_max: cx.tuning.step_records_max,
        })
    }

    /// Draws the graph of `job` on this many shards. Opens nothing.
    ///
    /// # Errors
    /// If the description itself is faulty.
    pub fn graph(job: &dyn Fn(&Flow), shards: usize) -> Result<Graph, ConnectorError> {
        Ok(Flow::describe(job, None, shards)?.graph)
    }

    /// Visits every pipeline once. `now` is the shard's clock; it may jump either way,
    /// as the clocks of gateways do.
    ///
    /// # Errors
    /// If a source or sink has failed for good. The shard must not be stepped again.
    pub fn step(&mut self, now: Timestamp) -> Result<Step, ConnectorError> {
        let cx = StepContext { now, records_max: self.step_records_max };
        let mut busy = false;
        let mut open = false;
        let mut wake_at: Option<Timestamp> = None;
        for slot in &mut self.pipelines {
            let Some(pipeline) = slot else { continue };
            match pipeline.step(&cx)? {
                Progress::Done => {
                    *slot = None;
                    busy = true;
                    continue;
                }
                Progress::Busy => busy = true,
                Progress::Idle(at) => wake_at = [wake_at, at].into_iter().flatten().min(),
            }
            open = true;
        }
        Ok(match (open, busy) {
            (false, _) => Step::Done,
            (true, true) => Step::Busy,
            (true, false) => Step::Idle(wake_at),
        })
    }

    /// Asks every source for an orderly end. The shard is done once all that was received has
    /// reached the sinks; keep stepping it.
    pub fn stop(&mut self) {
        self.pipelines.iter_mut().flatten().for_each(|pipeline| pipeline.stop());
    }

    /// Sets how many records a source may emit in one step.
    pub fn set_step_records_max(&mut self, records: usize) {
        self.step_records_max = records.max(1);
    }

    /// The metrics of this shard's operators. Reading one is reading a cell.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Takes the latest dead letter, if the job does not read them as a stream: for the log.
    pub fn take_latest_dead_letter(&self) -> Option<DeadLetter> {
        self.dead_letters.as_ref()?.take_latest()
    }
}
