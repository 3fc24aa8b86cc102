//! [`Flow`]: where a job is described, once per shard and once for its graph.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    ConnectorError, Durability, KeyGroups, OpenContext, PendingId, StateError, StateId, StateInfo,
    StateReader, Str, Timestamp,
};

use crate::at_end::AtEnd;
use crate::build::BuildContext;
use crate::checkpoint::Checkpoints;
use crate::counters::{Counter, Gauge, Metric, MetricKind, Registry, WatermarkGauge};
use crate::dead_letters::{DeadLetterOutput, DeadLetters};
use crate::exchange::inbox::{Inbox, Port};
use crate::exchange::lane::{Mesh, Meshes};
use crate::exchange::ports::Together;
use crate::graph::{At, Edge, Graph, InputId};
use crate::notices::Notices;
use crate::pipeline::Pipeline;
use crate::pressure::Pressure;
use crate::process::failure::{Failures, OnError};
use crate::tuning::Tuning;
use crate::uid::Uid;

/// A job under description. Cloning it gives another handle to the same description.
#[derive(Clone)]
pub struct Flow(Rc<Inner>);

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
    /// Side outputs that no operator has taken over yet.
    loose_sides: RefCell<BTreeSet<u32>>,
    pipelines: RefCell<Vec<Box<dyn Pipeline>>>,
    metrics: RefCell<Registry>,
    failed: RefCell<Option<ConnectorError>>,
    dead_letters: RefCell<Option<Rc<DeadLetters>>>,
    /// Of the operators that call functions of the user's.
    failures: RefCell<BTreeMap<u32, Failures>>,
    clock: Rc<Cell<Timestamp>>,
    notices: Rc<Notices>,
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
    pub(crate) notices: Rc<Notices>,
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
        let pressure = build
            .as_ref()
            .filter(|build| build.storage.is_some())
            .map(|build| Pressure::new(build.tuning, &build.shared, &build.wakers, &mut registry));
        let groups = build.as_ref().map_or_else(KeyGroups::default, |build| build.key_groups);
        let shard = build.as_ref().map_or(0, |build| build.shard);
        let tuning = build.as_ref().map_or_else(Tuning::default, |build| build.tuning);
        let ending = build.as_ref().map(|build| build.shared.of_job()).unwrap_or_default();
        let bytes_max = tuning.state_memory_bytes_max;
        let checkpoints = Checkpoints::new(storage.is_some(), groups, shard, bytes_max);
        let checkpoints = Rc::new(checkpoints.with_ending(ending));
        let flow = Self(Rc::new(Inner {
            build,
            shards,
            checkpoints,
            reader,
            graph: RefCell::default(),
            uids: RefCell::default(),
            unused: RefCell::default(),
            loose_sides: RefCell::default(),
            pipelines: RefCell::default(),
            metrics: RefCell::new(registry),
            failed: RefCell::default(),
            dead_letters: RefCell::default(),
            failures: RefCell::default(),
            clock: Rc::default(),
            notices: Rc::default(),
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
            notices: Rc::clone(&inner.notices),
        })
    }

    /// The number of shards the job runs on.
    pub fn shards(&self) -> usize {
        self.0.shards
    }

    /// Says what becomes of open windows when all input has ended. A job without stored state [finishes](AtEnd::Finish) them
    /// in any case. So does a source that looks for its partitions.
    pub fn at_end(&self, at_end: AtEnd) {
        self.checkpoints().at_end().set(at_end);
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

    /// Adds the node of a side output, whose operator takes it over with [`set_inputs`](Self::set_inputs). Until then it
    /// comes out of what that operator will read: whoever reads the side may ask what it depends on before.
    pub(crate) fn add_side_node<T>(&self, name: &str, upstream: u32, parallelism: usize) -> u32 {
        let node = self.add_node::<T>(name, parallelism, vec![(upstream, Edge::Local)]);
        self.0.loose_sides.borrow_mut().insert(node);
        node
    }

    /// Gives a new node its stable name: what it is, and its number among operators of one
    /// description.
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

    /// Fails the description if a stream leads nowhere, or comes out of nothing. What it carries would be lost in silence,
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
        if let Some(&node) = self.0.loose_sides.borrow().first() {
            let what = format!(
                "the side output {:?} comes out of no operator; a process function or a window has to follow on the \
                 stream that it was asked for on (of two connected streams that is the left one)",
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

    /// The failures of the operator at `node`, which calls functions of the user's.
    pub(crate) fn failures_of(&self, node: u32) -> Failures {
        let errors = self.counter("numFunctionErrors", node);
        let failures = Failures::new(self.name_of(node).clone(), errors, Rc::clone(self.clock()));
        self.0.failures.borrow_mut().insert(node, failures.clone());
        failures
    }

    /// The dead letters, for the operator at `node`.
    pub(crate) fn dead_letters_from(&self, node: u32, producers: usize) -> DeadLetterOutput {
        let shared = self.shared_dead_letters();
        shared.output(&self.0.graph.borrow(), node, self.runs_here(producers))
    }

    /// The dead letters of this shard.
    pub(crate) fn shared_dead_letters(&self) -> Rc<DeadLetters> {
        let mut slot = self.0.dead_letters.borrow_mut();
        let make = || Rc::new(DeadLetters::new(&mut self.0.metrics.borrow_mut()));
        Rc::clone(slot.get_or_insert_with(make))
    }

    /// What becomes of failures of the operator that a stream comes out of.
    pub(crate) fn set_on_error(&self, at: At, policy: OnError) {
        let failures = self.0.failures.borrow().get(&at.node).cloned();
        if let Some(failures) = failures {
            let letters = || self.dead_letters_from(at.node, at.producers);
            return failures.set_policy(policy, letters);
        }
        let what = format!(
            "{:?} calls no function that could fail; on_error() belongs directly behind the operator that does",
            self.name_of(at.node).as_str()
        );
        self.fail(ConnectorError::new("job", what));
    }

    pub(crate) fn set_inputs(&self, node: u32, inputs: Vec<(u32, Edge)>) {
        self.0.loose_sides.borrow_mut().remove(&node);
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
            tasks: build.tasks.clone(),
            latency_budget: build.tuning.latency_budget,
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
        let wakers = (&build.wakers[..producers], &build.wakers[..receivers]);
        let meshes = build.shared.of_job::<Meshes>();
        let found = meshes.get_or_make(input, || Mesh::new(wakers, &build.tuning));
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
    pub(crate) fn counting_inbox<T, P>(
        &self,
        ports: Vec<Port<T>>,
        node: u32,
        count: &'static str,
    ) -> Inbox<T, P> {
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

    /// What is noticed of time on this shard.
    pub(crate) fn notices(&self) -> &Notices {
        &self.0.notices
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
