//! [`Flow`]: where a job is described, once per shard and once for its graph.

pub(crate) mod dead_letters;

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    ConnectorError, Durability, KeyGroups, OpenContext, PendingId, Shared, StateError, StateId,
    StateInfo, StateReader, Str, Timestamp,
};

use self::dead_letters::DeadLetters;
use crate::checkpoint::{Checkpoints, Storage};
use crate::counters::{Counter, Gauge, Metric, MetricKind, Registry, WatermarkGauge};
use crate::exchange::connected::Together;
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::lane::{Mesh, Meshes};
use crate::exchange::route::InputId;
use crate::graph::{Edge, Graph};
use crate::pipeline::Pipeline;
use crate::pressure::Pressure;
use crate::process::failure::{Failures, OnError};
use crate::stream::At;

/// A table of more bytes than this does not stay in a second-level cache.
pub(crate) const CACHE_BYTES: usize = 512 * 1_024;

/// Sizes that trade latency, throughput and memory. The defaults suit a 1 GB gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A source emits at most this many records in one step: 1,024.
    pub step_records_max: usize,
    /// An operator does about this many units of work at most in one step, and puts down the rest until the next: 2,048. A
    /// timer that fires is a unit, and so is a record that it emits.
    pub step_work_max: usize,
    /// A batch to another shard is sent at the latest when it holds this many records: 256.
    pub batch_records: usize,
    /// A lane from one shard to another holds this many batches: 16.
    pub lane_batches: usize,
    /// State takes about this many bytes of memory on a shard, all of it together: 128 MiB. Keyed state and windows that
    /// are more are read from storage, in a job that has stored state. Timers and lists of operators stay in memory, and
    /// leave the rest the less; the job goes on if they alone are more.
    pub state_memory_bytes_max: usize,
    /// On top of that, state of a shard may take about this many bytes that storage cannot give back yet, since they
    /// have changed: 32 MiB. With half as many changed bytes an epoch begins at once; with more than that sources wait.
    /// (While an epoch is on its way to storage, its changes are in memory twice more.)
    pub state_pending_bytes_max: usize,
    /// A keyed state of more bytes than this does not stay in a processor's cache: 512 KiB. Records of a process function
    /// with such a state wait for each other within a step, and what is kept of their keys is fetched together.
    pub state_cache_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            step_records_max: 1_024,
            step_work_max: 2_048,
            batch_records: 256,
            lane_batches: 16,
            state_memory_bytes_max: 128 * 1_024 * 1_024,
            state_pending_bytes_max: 32 * 1_024 * 1_024,
            state_cache_bytes: CACHE_BYTES,
        }
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
    /// Where the job's state lives; without it the job takes no checkpoints.
    pub storage: Option<Storage>,
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
            storage: None,
        }
    }
}

/// A job under description. Cloning it gives another handle to the same description.
#[derive(Clone)]
pub struct Flow(Rc<Inner>);

/// The stable name of an operator.
pub(crate) struct Uid {
    pub(crate) name: Str,
    /// The user gave it.
    pub(crate) given: bool,
    /// The operator has opened under it.
    settled: bool,
}

struct Inner {
    /// `None` when only the graph is wanted: then nothing is opened.
    build: Option<BuildContext>,
    shards: usize,
    checkpoints: Rc<Checkpoints>,
    /// Stored state, where there is any.
    reader: Option<Rc<dyn StateReader>>,
    graph: RefCell<Graph>,
    /// The stable names of the operators.
    uids: RefCell<Vec<Uid>>,
    /// Nodes whose stream has not been used yet.
    unused: RefCell<BTreeSet<u32>>,
    pipelines: RefCell<Vec<Box<dyn Pipeline>>>,
    metrics: RefCell<Registry>,
    failed: RefCell<Option<ConnectorError>>,
    dead_letters: RefCell<Option<Rc<DeadLetters>>>,
    /// Of the operators that call functions of the user's.
    failures: RefCell<BTreeMap<u32, Failures>>,
    clock: Rc<Cell<Timestamp>>,
}

/// What a description yields.
pub(crate) struct Described {
    pub(crate) graph: Graph,
    pub(crate) pipelines: Vec<Box<dyn Pipeline>>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) dead_letters: Option<Rc<DeadLetters>>,
    pub(crate) checkpoints: Rc<Checkpoints>,
    pub(crate) states: Arc<[StateInfo]>,
    pub(crate) reader: Option<Rc<dyn StateReader>>,
    pub(crate) pressure: Option<Pressure>,
    pub(crate) clock: Rc<Cell<Timestamp>>,
}

impl Flow {
    /// Runs `job` on a new description for one shard, or for the graph alone.
    pub(crate) fn describe(
        job: &dyn Fn(&Self),
        build: Option<BuildContext>,
        shards: usize,
    ) -> Result<Described, ConnectorError> {
        let storage = build.as_ref().and_then(|build| build.storage.clone());
        let reader = storage.as_ref().map(|storage| (storage.reader)()).transpose();
        let reader = reader.map_err(|error| {
            ConnectorError::new("job", "stored state cannot be opened").caused_by(error)
        })?;
        let reader: Option<Rc<dyn StateReader>> = reader.map(Rc::from);
        let mut registry = Registry::default();
        let pressure = build.as_ref().and_then(|build| Pressure::new(build, &mut registry));
        let groups = build.as_ref().map_or_else(KeyGroups::default, |build| build.key_groups);
        let shard = build.as_ref().map_or(0, |build| build.shard);
        let tuning = build.as_ref().map_or_else(Tuning::default, |build| build.tuning);
        let checkpoints =
            Checkpoints::new(storage.is_some(), groups, shard, tuning.state_memory_bytes_max);
        let checkpoints = Rc::new(checkpoints);
        let flow = Self(Rc::new(Inner {
            build,
            shards,
            checkpoints,
            reader,
            graph: RefCell::default(),
            uids: RefCell::default(),
            unused: RefCell::default(),
            pipelines: RefCell::default(),
            metrics: RefCell::new(registry),
            failed: RefCell::default(),
            dead_letters: RefCell::default(),
            failures: RefCell::default(),
            clock: Rc::default(),
        }));
        job(&flow);
        flow.check_all_used();
        let inner = &flow.0;
        let dead_letters = inner.dead_letters.take();
        if let Some(dead_letters) = &dead_letters {
            dead_letters.complete(&mut inner.graph.borrow_mut());
        }
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        let uids = inner.uids.take();
        let stored = storage.as_ref().and_then(|storage| {
            let reader = inner.reader.as_deref()?;
            reader.restored().map(|_| (reader, &storage.allowed))
        });
        let states = inner.checkpoints.complete(&uids, stored, shards)?;
        Ok(Described {
            checkpoints: Rc::clone(&inner.checkpoints),
            states,
            reader: inner.reader.clone(),
            pressure,
            graph: inner.graph.take(),
            pipelines: inner.pipelines.take(),
            metrics: inner.metrics.take().into_metrics(),
            dead_letters,
            clock: Rc::clone(&inner.clock),
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

    /// Adds the node of a sink, for records of type `T`.
    pub(crate) fn add_sink_node<T>(&self, name: &str, at: At) -> u32 {
        let inputs = vec![(at.node, Edge::Chained)];
        let node = self.0.graph.borrow_mut().add::<T>(name, at.producers, inputs);
        self.name_stably(node);
        node
    }

    /// Adds the node of an operator that emits records of type `T`: a stream that must be used.
    pub(crate) fn add_node<T>(
        &self,
        name: &str,
        parallelism: usize,
        inputs: Vec<(u32, Edge)>,
    ) -> u32 {
        let node = self.0.graph.borrow_mut().add::<T>(name, parallelism, inputs);
        self.0.unused.borrow_mut().insert(node);
        self.name_stably(node);
        node
    }

    /// Gives a new node its stable name: what it is, and its number among those that are the same.
    fn name_stably(&self, node: u32) {
        let graph = self.0.graph.borrow();
        let what = &graph.nodes[node as usize].description;
        let same = graph.nodes.iter().filter(|other| other.description == *what).count();
        let uid = if same == 1 { what.clone() } else { Str::from(format!("{what} #{same}")) };
        self.0.uids.borrow_mut().push(Uid { name: uid, given: false, settled: false });
    }

    /// Gives an operator a stable name of the user's.
    pub(crate) fn set_uid(&self, node: u32, uid: &str) {
        let known = &mut self.0.uids.borrow_mut()[node as usize];
        if known.settled {
            let what = format!(
                "{:?} has opened under its stable name already; use .source_as({uid:?}, ..)",
                known.name
            );
            self.fail(ConnectorError::new("job", what));
        }
        (known.name, known.given) = (uid.into(), true);
    }

    /// Settles the stable name of an operator that opens now; the number of its state called `state`.
    pub(crate) fn fix_uid(&self, node: u32, uid: Option<&str>, state: &str) -> StateId {
        let known = &mut self.0.uids.borrow_mut()[node as usize];
        if let Some(uid) = uid {
            (known.name, known.given) = (uid.into(), true);
        }
        known.settled = true;
        StateId::of(&known.name, state)
    }

    /// The states of this shard.
    pub(crate) fn checkpoints(&self) -> &Rc<Checkpoints> {
        &self.0.checkpoints
    }

    /// Stored state, if the job has any.
    pub(crate) fn reader(&self) -> Option<&Rc<dyn StateReader>> {
        self.0.reader.as_ref()
    }

    /// What the instances of a sink noted in the last epoch, as far as it is this one's to commit.
    pub(crate) fn stored_notes(
        &self,
        state: StateId,
        cx: &OpenContext,
    ) -> Result<Vec<(PendingId, Bytes)>, ConnectorError> {
        let mut notes = Vec::new();
        let Some(reader) = self.reader() else { return Ok(notes) };
        let (from, to) = state.range(0..u16::MAX);
        let read = reader.scan(&from, &to, &mut |key, note| {
            let id = StateId::split_key(key)
                .and_then(|(instance, rest)| PendingId::read(instance, rest))
                .ok_or_else(|| StateError::Other("the key of a note is damaged".into()))?;
            let ours = usize::from(id.instance) % cx.instances == cx.shard;
            if ours && !seeded(Defect::FlowForgetsPending) {
                notes.push((id, Bytes::copy_from_slice(note)));
            }
            Ok(())
        });
        let what = "what it has still to commit cannot be read";
        read.map_err(|error| ConnectorError::new(cx.operator.as_str(), what).caused_by(error))?;
        notes.sort_by_key(|&(id, _)| (id.epoch, id.instance, id.number));
        Ok(notes)
    }

    /// The stream that comes out of `node` has been used.
    pub(crate) fn used(&self, node: u32) {
        self.0.unused.borrow_mut().remove(&node);
    }

    /// Fails the description if a stream leads nowhere: what it carries would be lost in silence,
    /// and who waits for its operator would wait for ever.
    fn check_all_used(&self) {
        if let Some(&node) = self.0.unused.borrow().first() {
            let what = format!(
                "the stream out of operator {node}, {:?}, is never used; end it in .sink(..) or \
                 .discard()",
                self.name_of(node).as_str()
            );
            self.fail(ConnectorError::new("job", what));
        }
    }

    pub(crate) fn rename(&self, node: u32, name: &str) {
        self.0.graph.borrow_mut().nodes[node as usize].name = name.into();
        self.0.metrics.borrow_mut().rename(node, name);
        if let Some(failures) = self.0.failures.borrow().get(&node) {
            failures.rename(name);
        }
    }

    /// This machine's clock, as of the step.
    pub(crate) fn clock(&self) -> &Rc<Cell<Timestamp>> {
        &self.0.clock
    }

    /// The operator at `node` calls functions of the user's.
    pub(crate) fn knows_failures(&self, node: u32, failures: &Failures) {
        self.0.failures.borrow_mut().insert(node, failures.clone());
    }

    /// What becomes of failures of the operator that a stream comes out of.
    pub(crate) fn set_on_error(&self, at: At, policy: OnError) {
        let failures = self.0.failures.borrow().get(&at.node).cloned();
        if let Some(failures) = failures {
            return failures.set_policy(self, at, policy);
        }
        let what = format!(
            "{:?} calls no function that could fail; on_error() belongs directly behind the operator that does",
            self.name_of(at.node).as_str()
        );
        self.fail(ConnectorError::new("job", what));
    }

    pub(crate) fn set_inputs(&self, node: u32, inputs: Vec<(u32, Edge)>) {
        self.0.graph.borrow_mut().nodes[node as usize].inputs = inputs;
    }

    pub(crate) fn name_of(&self, node: u32) -> Ref<'_, Str> {
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
            instances: producers,
            waker: build.wakers[build.shard].clone(),
            shared: Arc::clone(&build.shared),
            durability: Durability {
                operator: self.0.uids.borrow()[node as usize].name.clone(),
                checkpoints: self.0.checkpoints.enabled(),
                restored: self.0.reader.as_ref().and_then(|reader| reader.restored()),
                position: None,
                pending: Vec::new(),
                journals: build.storage.as_ref().and_then(|storage| storage.journals.clone()),
                lineage: build.storage.as_ref().map(|s| s.lineage.clone()).unwrap_or_default(),
            },
        })
    }

    pub(crate) fn tuning(&self) -> Tuning {
        self.0.build.as_ref().map_or_else(Tuning::default, |build| build.tuning)
    }

    /// The lanes that lead to `input`, from shards `0..producers` to shards `0..receivers`.
    pub(crate) fn mesh<T: Send + 'static>(
        &self,
        input: InputId,
        producers: usize,
        receivers: usize,
    ) -> Option<Arc<Mesh<T>>> {
        let build = self.0.build.as_ref()?;
        let Tuning { lane_batches, batch_records, .. } = build.tuning;
        let wakers = (&build.wakers[..producers], &build.wakers[..receivers]);
        let meshes = build.shared.of_job::<Meshes>();
        let found = meshes.get_or_make(input, || Mesh::new(wakers, lane_batches, batch_records));
        if found.is_none() {
            let what = "shards describe different records for one operator; describe the same operators in \
                        the same order on every shard";
            self.fail(ConnectorError::new(self.name_of(input.0).as_str(), what));
        }
        found
    }

    pub(crate) fn inbox<T>(&self, ports: Vec<Port<T>>, node: u32) -> Inbox<T> {
        self.counting_inbox(ports, node, "numRecordsIn")
    }

    /// An inbox whose records are counted under this name.
    pub(crate) fn counting_inbox<T>(
        &self,
        ports: Vec<Port<T>>,
        node: u32,
        count: &'static str,
    ) -> Inbox<T> {
        let records_in = self.counter(count, node);
        let together = self.wakes_together(node);
        Inbox::new(ports, together, records_in, self.watermark("currentInputWatermark", node))
    }

    /// Whether what comes into `node` falls idle and wakes up together.
    pub(crate) fn wakes_together(&self, node: u32) -> bool {
        self.0.graph.borrow().wakes_together(node)
    }

    /// How the ports of a node with two inputs belong together.
    pub(crate) fn inputs_together(&self, node: u32) -> Together {
        let graph = self.0.graph.borrow();
        let within = [0, 1].map(|n| graph.input_wakes_together(node, n));
        Together { within, all: graph.inputs_wake_together(node) }
    }

    pub(crate) fn counter(&self, name: &'static str, node: u32) -> Counter {
        let counter = Counter::default();
        self.adopt_counter(name, node, &counter);
        counter
    }

    /// Makes a counter that exists already one of `node`'s.
    pub(crate) fn adopt_counter(&self, name: &'static str, node: u32, counter: &Counter) {
        self.register(name, MetricKind::Counter, node, Rc::clone(&counter.0));
    }

    pub(crate) fn gauge(&self, name: &'static str, node: u32) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, MetricKind::Gauge, node, Rc::clone(&gauge.0));
        gauge
    }

    pub(crate) fn watermark(&self, name: &'static str, node: u32) -> WatermarkGauge {
        let gauge = WatermarkGauge::default();
        self.register(name, MetricKind::Gauge, node, Rc::clone(&gauge.0));
        gauge
    }

    fn register(&self, name: &'static str, kind: MetricKind, node: u32, value: Rc<Cell<i64>>) {
        // Where the operator does not run it has no metrics: a watermark that never moves there
        // would look like one that is stuck.
        if self.runs_here(self.0.graph.borrow().nodes[node as usize].parallelism) {
            let operator = (node, self.name_of(node).clone());
            self.0.metrics.borrow_mut().register(name, kind, operator, None, value);
        }
    }
}
