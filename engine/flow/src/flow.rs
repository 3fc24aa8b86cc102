//! [`Flow`]: where a job is described, once per shard and once for its graph.

pub(crate) mod dead_letters;

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use thalweg_kernel::{ConnectorError, KeyGroups, OpenContext, Shared, Str, Timestamp};

use self::dead_letters::DeadLetters;
use crate::counters::{Counter, Metric, MetricKind, Registry, WatermarkGauge};
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::lane::Mesh;
use crate::graph::{Edge, Graph};
use crate::pipeline::Pipeline;

/// Sizes that trade latency, throughput and memory. The defaults suit a 1 GB gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A source emits at most this many records in one step: 1,024.
    pub step_records_max: usize,
    /// A batch to another shard is sent at the latest when it holds this many records: 256.
    pub batch_records: usize,
    /// A lane from one shard to another holds this many batches: 16.
    pub lane_batches: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { step_records_max: 1_024, batch_records: 256, lane_batches: 16 }
    }
}

/// What a shard must know to build its copy of a job.
#[derive(Clone, Debug)]
pub struct BuildContext {
    /// The job's name.
    pub job: Str,
    /// The shard that is being built.
    pub shard: usize,
    /// One waker for each shard of the job, in order.
    pub wakers: Arc<[Waker]>,
    /// Where the shards of the job meet while they are being built.
    pub shared: Arc<Shared>,
    /// The key groups of the job.
    pub key_groups: KeyGroups,
    /// Sizes of queues and batches.
    pub tuning: Tuning,
    /// The shard's clock at the time of building.
    pub now: Timestamp,
}

impl BuildContext {
    /// A job on one shard whose driver never sleeps: for tests and examples.
    pub fn single(job: &str) -> Self {
        Self {
            job: job.into(),
            shard: 0,
            wakers: Arc::new([Waker::noop().clone()]),
            shared: Arc::default(),
            key_groups: KeyGroups::default(),
            tuning: Tuning::default(),
            now: Timestamp::default(),
        }
    }
}

/// A job under description. Cloning it gives another handle to the same description.
#[derive(Clone)]
pub struct Flow(Rc<Inner>);

struct Inner {
    /// `None` when only the graph is wanted: then nothing is opened.
    build: Option<BuildContext>,
    shards: usize,
    graph: RefCell<Graph>,
    pipelines: RefCell<Vec<Box<dyn Pipeline>>>,
    metrics: RefCell<Registry>,
    failed: RefCell<Option<ConnectorError>>,
    dead_letters: RefCell<Option<Rc<DeadLetters>>>,
}

/// What a description yields.
pub(crate) struct Described {
    pub(crate) graph: Graph,
    pub(crate) pipelines: Vec<Box<dyn Pipeline>>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) dead_letters: Option<Rc<DeadLetters>>,
}

impl Flow {
    /// Runs `job` on a new description for one shard, or for the graph alone.
    pub(crate) fn describe(
        job: &dyn Fn(&Self),
        build: Option<BuildContext>,
        shards: usize,
    ) -> Result<Described, ConnectorError> {
        let flow = Self(Rc::new(Inner {
            build,
            shards,
            graph: RefCell::default(),
            pipelines: RefCell::default(),
            metrics: RefCell::default(),
            failed: RefCell::default(),
            dead_letters: RefCell::default(),
        }));
        job(&flow);
        let inner = &flow.0;
        let dead_letters = inner.dead_letters.take();
        if let Some(dead_letters) = &dead_letters {
            dead_letters.complete(&mut inner.graph.borrow_mut());
        }
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        Ok(Described {
            graph: inner.graph.take(),
            pipelines: inner.pipelines.take(),
            metrics: inner.metrics.take().into_metrics(),
            dead_letters,
        })
    }

    /// The number of shards the job runs on.
    pub fn shards(&self) -> usize {
        self.0.shards
    }

    /// Ends the description with an error: the job will not start. The first one counts.
    pub fn fail(&self, error: ConnectorError) {
        self.0.failed.borrow_mut().get_or_insert(error);
    }

    pub(crate) fn add_node(&self, name: &str, parallelism: usize, inputs: Vec<(u32, Edge)>) -> u32 {
        self.0.graph.borrow_mut().add(name, parallelism, inputs)
    }

    pub(crate) fn rename(&self, node: u32, name: &str) {
        self.0.graph.borrow_mut().nodes[node as usize].name = name.into();
        self.0.metrics.borrow_mut().rename(node, name);
    }

    pub(crate) fn set_inputs(&self, node: u32, inputs: Vec<(u32, Edge)>) {
        self.0.graph.borrow_mut().nodes[node as usize].inputs = inputs;
    }

    fn name_of(&self, node: u32) -> Ref<'_, Str> {
        Ref::map(self.0.graph.borrow(), |graph| &graph.nodes[node as usize].name)
    }

    pub(crate) fn add_pipeline(&self, pipeline: Box<dyn Pipeline>) {
        self.0.pipelines.borrow_mut().push(pipeline);
    }

    /// This shard's number; 0 when only the graph is wanted.
    pub(crate) fn shard(&self) -> usize {
        self.0.build.as_ref().map_or(0, |build| build.shard)
    }

    pub(crate) fn key_groups(&self) -> KeyGroups {
        self.0.build.as_ref().map_or_else(KeyGroups::default, |build| build.key_groups)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.build.as_ref().map_or_else(Timestamp::default, |build| build.now)
    }

    /// Whether a stream that runs on shards `0..producers` runs on this one.
    pub(crate) fn runs_here(&self, producers: usize) -> bool {
        self.0.build.as_ref().is_some_and(|build| build.shard < producers)
    }

    /// What a connector needs to open, if it opens here.
    pub(crate) fn open_context(&self, node: u32, producers: usize) -> Option<OpenContext> {
        let build = self.0.build.as_ref().filter(|build| build.shard < producers)?;
        Some(OpenContext {
            job: build.job.clone(),
            operator: self.name_of(node).clone(),
            operator_id: node,
            shard: build.shard,
            shards: self.shards(),
            waker: build.wakers[build.shard].clone(),
            shared: Arc::clone(&build.shared),
        })
    }

    /// The lanes of the exchange in front of `node`.
    pub(crate) fn mesh<T: Send + 'static>(
        &self,
        node: u32,
        producers: usize,
    ) -> Option<Arc<Mesh<T>>> {
        let build = self.0.build.as_ref()?;
        let Tuning { lane_batches, batch_records, .. } = build.tuning;
        let make = || {
            Ok::<_, ConnectorError>(Mesh::new(
                producers,
                &build.wakers,
                lane_batches,
                batch_records,
            ))
        };
        build.shared.get_or_try_init(node, make).map_err(|error| self.fail(error)).ok()
    }

    pub(crate) fn inbox<T>(&self, ports: Vec<Port<T>>, node: u32) -> Inbox<T> {
        let records_in = self.counter("numRecordsIn", node);
        Inbox::new(ports, records_in, self.watermark("currentInputWatermark", node))
    }

    pub(crate) fn counter(&self, name: &'static str, node: u32) -> Counter {
        Counter(self.metric(name, MetricKind::Counter, node, None))
    }

    pub(crate) fn watermark(&self, name: &'static str, node: u32) -> WatermarkGauge {
        let gauge = WatermarkGauge(self.metric(name, MetricKind::Gauge, node, None));
        gauge.set(Timestamp::MIN);
        gauge
    }

    fn metric(
        &self,
        name: &'static str,
        kind: MetricKind,
        node: u32,
        label: Option<(&'static str, &'static str)>,
    ) -> Rc<std::cell::Cell<i64>> {
        // Where the operator does not run it has no metrics: a watermark that never moves there
        // would look like one that is stuck.
        if !self.runs_here(self.0.graph.borrow().nodes[node as usize].parallelism) {
            return Rc::default();
        }
        let operator = (node, self.name_of(node).clone());
        self.0.metrics.borrow_mut().register(name, kind, operator, label)
    }
}
