//! A shard: its copy of the dataflow, stepped by a driver.
//!
//! A step visits every pipeline once, in the order of description. A driver steps until the shard
//! is idle, then waits for the shard's waker or for the time the shard named, and steps again.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{ConnectorError, DeadLetter, Epoch, StateInfo, StateReader, Timestamp};

use crate::build::BuildContext;
use crate::checkpoint::{Checkpoints, ShardSnapshot};
use crate::counters::Metric;
use crate::dead_letters::DeadLetters;
use crate::flow::{Described, Flow};
use crate::graph::{Graph, GraphNode};
use crate::notices::{Notices, TimeNotices};
use crate::pipeline::{Now, Pipeline, Progress, StepContext};
use crate::pressure::{Need, Pressure};
use crate::process::failure::Failed;

/// What a step left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something moved: step again.
    Busy,
    /// Nothing to do until the shard is woken, or until this steady time.
    Idle(Option<Duration>),
    /// Every stream has ended and every sink has closed.
    Done,
}

/// What came of a visit to every pipeline.
struct Stepped {
    busy: bool,
    /// Whether any is not done.
    open: bool,
    wake_at: Option<Duration>,
}

/// One shard of a running job.
pub struct Shard {
    pipelines: Vec<Option<Box<dyn Pipeline>>>,
    metrics: Vec<Metric>,
    dead_letters: Option<Rc<DeadLetters>>,
    step_records_max: usize,
    step_work_max: usize,
    shard: usize,
    checkpoints: Rc<Checkpoints>,
    states: Arc<[StateInfo]>,
    reader: Option<Rc<dyn StateReader>>,
    /// The epoch that was begun and not yet handed over.
    open: Option<Epoch>,
    pressure: Option<Pressure>,
    /// This machine's clock, for whoever asks within a step.
    clock: Rc<Cell<Timestamp>>,
    /// Whether anybody asks what is due here. Other shards do, which keep watermarks back that matter to nobody. So does a
    /// source that lets event time go on by the clock.
    publishes_due: bool,
    notices: Rc<Notices>,
}

impl Shard {
    /// Builds one shard's copy of `job`, and opens its sources and sinks.
    ///
    /// # Errors
    /// If a source or sink does not open, or the description is faulty. A stream may never be used,
    /// or a job may describe itself differently on each shard.
    pub fn build(job: &dyn Fn(&Flow), cx: &BuildContext) -> Result<Self, ConnectorError> {
        let shards = cx.wakers.len();
        let described = Flow::describe(job, Some(cx.clone()), shards)?;
        let Described { graph, mut pipelines, metrics, dead_letters, .. } = described;
        let Described { checkpoints, states, reader, pressure, clock, notices, .. } = described;
        check_same_everywhere(&graph, cx)?;
        let publishes_due = shards > 1 || pipelines.iter_mut().any(|it| it.closes_by_clock());
        Ok(Self {
            pipelines: pipelines.into_iter().map(Some).collect(),
            metrics,
            dead_letters,
            step_records_max: cx.tuning.step_records_max,
            step_work_max: cx.tuning.step_work_max.max(1),
            shard: cx.shard,
            checkpoints,
            states,
            reader,
            open: None,
            pressure,
            clock,
            publishes_due,
            notices,
        })
    }

    /// Draws the graph of `job` on this many shards. Opens nothing.
    ///
    /// # Errors
    /// If the description itself is faulty.
    pub fn graph(job: &dyn Fn(&Flow), shards: usize) -> Result<Graph, ConnectorError> {
        Ok(Flow::describe(job, None, shards)?.graph)
    }

    /// Visits every pipeline once.
    ///
    /// # Errors
    /// If a source, a sink or a function has failed for good. The shard must not be stepped again.
    ///
    /// # Panics
    /// As a function does, whose [policy](crate::OnError) is to fail the job.
    pub fn step(&mut self, now: Now) -> Result<Step, ConnectorError> {
        let sources_wait = self.sources_wait(now.steady);
        let (records_max, work_max) = (self.step_records_max, self.step_work_max);
        let cx = StepContext { now, records_max, sources_wait, work_max };
        self.clock.set(now.wall);
        let stepped = catch_unwind(AssertUnwindSafe(|| self.step_pipelines(&cx)));
        let Stepped { busy, open, wake_at } = stepped.unwrap_or_else(|panic| {
            // A function of the user's has returned an error, and its job is to fail; or something has panicked.
            panic.downcast::<Failed>().map_or_else(|panic| resume_unwind(panic), |f| Err(f.0))
        })?;
        self.checkpoints.check()?;
        if !open && let Some(pressure) = &mut self.pressure {
            pressure.set_full(false, now.steady);
        }
        Ok(match (open, busy) {
            (false, _) => Step::Done,
            (true, true) => Step::Busy,
            (true, false) => Step::Idle(wake_at),
        })
    }

    fn step_pipelines(&mut self, cx: &StepContext) -> Result<Stepped, ConnectorError> {
        let mut stepped = Stepped { busy: false, open: false, wake_at: None };
        for slot in &mut self.pipelines {
            let Some(pipeline) = slot else { continue };
            match pipeline.step(cx)? {
                Progress::Done => {
                    *slot = None;
                    stepped.busy = true;
                    continue;
                }
                Progress::Busy | Progress::Barrier => stepped.busy = true,
                Progress::Idle(at) => {
                    stepped.wake_at = [stepped.wake_at, at].into_iter().flatten().min();
                }
            }
            stepped.open = true;
        }
        self.publish_due();
        Ok(stepped)
    }

    /// Tells whoever feeds a pipeline for which watermarks it waits.
    fn publish_due(&mut self) {
        // What is news for a pipeline here may change what that one waits for. Mostly the last ones are described last.
        let publish = |news: bool, pipeline: &mut Box<dyn Pipeline>| pipeline.publish_due() | news;
        while self.publishes_due && self.pipelines.iter_mut().rev().flatten().fold(false, publish) {
        }
    }

    /// Asks every source for an orderly end. The shard is done once all that was received has
    /// reached the sinks; keep stepping it.
    pub fn stop(&mut self) {
        self.pipelines.iter_mut().flatten().for_each(|pipeline| pipeline.stop());
    }

    /// Begins an epoch: its barrier leaves the sources. The one before must have been handed over.
    pub fn begin(&mut self, epoch: Epoch) {
        debug_assert!(self.open.is_none(), "{epoch} begun before another was handed over");
        self.open = Some(epoch);
        self.checkpoints.wants_end().set(false);
        self.pipelines.iter_mut().flatten().for_each(|pipeline| pipeline.begin(epoch));
        // What was added up in front of windows is in them now.
        self.publish_due();
    }

    /// The snapshot of the epoch that was begun, once its barrier has passed everywhere and
    /// what connectors hold would survive a crash. To be asked for after a step.
    ///
    /// # Errors
    /// If a source or sink has failed for good, or a state cannot be written.
    pub fn snapshot(&mut self) -> Result<Option<ShardSnapshot>, ConnectorError> {
        let Some(epoch) = self.open else { return Ok(None) };
        for pipeline in self.pipelines.iter_mut().flatten() {
            if !pipeline.durable(epoch)? && !seeded(Defect::FlowHandsOverEarly) {
                return Ok(None);
            }
        }
        self.open = None;
        let (shard, states) = (self.shard, Arc::clone(&self.states));
        let crowded = self.checkpoints.is_crowded();
        let pipelines = self.pipelines.iter_mut().flatten();
        let moved = pipelines.fold(false, |moved, pipeline| pipeline.had_moved() | moved);
        let changes = self.checkpoints.take_changes()?;
        Ok(Some(ShardSnapshot { epoch, shard, changes, states, crowded, moved }))
    }

    /// Whether an epoch that began now could hold anything else of this shard than the last one that was handed over. Not
    /// to be asked between [`begin`](Self::begin) and [`snapshot`](Self::snapshot): then it may say yes in vain.
    pub fn has_moved(&self) -> bool {
        self.pipelines.iter().flatten().any(|pipeline| pipeline.has_moved())
    }

    /// `epoch` exists, with the snapshots of all shards: sinks commit it, sources forget what came before
    /// `oldest`, the oldest epoch that can still be restored.
    ///
    /// # Errors
    /// If a sink has failed for good.
    pub fn committed(&mut self, epoch: Epoch, oldest: Epoch) -> Result<(), ConnectorError> {
        for pipeline in self.pipelines.iter_mut().flatten() {
            pipeline.committed(epoch, oldest)?;
        }
        self.checkpoints.committed(self.readable());
        if let Some(pressure) = &mut self.pressure {
            pressure.committed();
        }
        Ok(())
    }

    /// Whether all that sinks have committed can be seen where it went.
    ///
    /// # Errors
    /// If a sink has failed for good.
    pub fn settled(&mut self) -> Result<bool, ConnectorError> {
        for pipeline in self.pipelines.iter_mut().flatten() {
            if !pipeline.settled()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn readable(&self) -> Epoch {
        self.reader.as_ref().map_or(Epoch::NONE, |reader| reader.readable())
    }

    /// Whether sources are to wait in the step that begins, on this shard or another's account.
    fn sources_wait(&mut self, steady: Duration) -> bool {
        let readable = self.readable();
        let Some(pressure) = &mut self.pressure else { return false };
        let mut takes = self.checkpoints.takes(readable);
        if pressure.is_to_shrink(takes, readable) {
            // What was only read since the last epoch can be dropped.
            let all = self.checkpoints.shrink(readable);
            takes = self.checkpoints.takes(readable);
            pressure.shrunk(takes, readable, all);
        }
        pressure.sources_wait(takes, steady)
    }

    /// Whether the next epoch should begin at once: so much has changed, or a source waits for it before it ends. To be asked
    /// for after [`snapshot`](Self::snapshot).
    pub fn wants_epoch(&self) -> bool {
        if self.checkpoints.wants_end().get() && self.open.is_none() {
            return true;
        }
        let Some(pressure) = self.pressure.as_ref().filter(|_| self.open.is_none()) else {
            return false;
        };
        match pressure.need(self.checkpoints.takes(self.readable())) {
            Need::Nothing => false,
            Need::Epoch | Need::Barrier => true,
            // Where waiting was of no use, more epochs are not either.
            Need::Room => pressure.is_full(),
        }
    }

    /// Whether the sources of all shards wait, since so much has changed on this one that is not in storage yet.
    pub fn is_full(&self) -> bool {
        self.pressure.as_ref().is_some_and(Pressure::is_full)
    }

    /// Whether state takes more than it may, and neither epochs nor what leaves memory make it less: the job goes on.
    pub fn is_over_limit(&self) -> bool {
        self.pressure.as_ref().is_some_and(Pressure::is_over)
    }

    /// Whether all its streams have ended, and an epoch is missing that holds their end.
    pub fn awaits_epoch(&self) -> bool {
        let open = || self.pipelines.iter().flatten();
        open().all(|pipeline| !pipeline.is_running())
            && open().any(|pipeline| pipeline.awaits_epoch())
    }

    /// Takes nothing more from the sources. What they have emitted still reaches the sinks: with an
    /// epoch begun before or after this, a job ends where it can go on later.
    pub fn hold(&mut self) {
        self.pipelines.iter_mut().flatten().for_each(|pipeline| pipeline.hold());
    }

    /// Sets how many records a source may emit in one step.
    pub fn set_step_records_max(&mut self, records: usize) {
        self.step_records_max = records.max(1);
    }

    /// The metrics of this shard's operators. Reading one is reading a cell.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Takes a dead letter that has come since this was asked last: an example for the log.
    pub fn take_latest_dead_letter(&self) -> Option<DeadLetter> {
        self.dead_letters.as_ref()?.take_latest()
    }

    /// Takes what was noticed of time since this was asked last: for the log.
    pub fn take_time_notices(&self) -> TimeNotices {
        self.notices.take()
    }
}

/// Compares this shard's graph with that of the first shard that was built. Shards find each other
/// by the numbers of operators, so a number must mean one operator everywhere.
fn check_same_everywhere(graph: &Graph, cx: &BuildContext) -> Result<(), ConnectorError> {
    let first = cx.shared.get_or_try_init(u32::MAX, || Ok(graph.clone()))?;
    let Some((here, there)) = graph.first_difference(&first) else { return Ok(()) };
    let tell = |node: Option<&GraphNode>| {
        node.map_or("nothing".into(), |node| {
            format!("{:?} of {}", node.name.as_str(), node.records)
        })
    };
    Err(ConnectorError::new(
        "job",
        format!(
            "the job describes itself differently on shard {}: where it has {}, another shard has \
             {}; describe the same operators in the same order on every shard (a HashMap iterates \
             in another order each time)",
            cx.shard,
            tell(here),
            tell(there)
        ),
    ))
}
