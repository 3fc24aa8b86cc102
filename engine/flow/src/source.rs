//! The head of a pipeline that reads a source: polls the partitions that live on this shard, gives
//! each record its event time, and makes watermarks.

pub(crate) mod collection;
mod emitting;
mod stored;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Collector, ConnectorError, Epoch, Mark, Source, SourceSpec, SourceStatus, StateId, Timestamp,
};

use self::emitting::Emitting;
use self::stored::{Found, StoredPartition};
use crate::checkpoint::Checkpoints;
use crate::counters::{Counter, WatermarkGauge};
use crate::flow::Flow;
use crate::flow::dead_letters::DeadLetterOutput;
use crate::pipeline::{Chain, Head, Now, Progress, StepContext};
use crate::stream::{At, Stream};
use crate::time::generator::WatermarkGenerator;
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, PartitionClock, Watermarks};

impl Flow {
    /// Begins a stream at `source`, with event time and watermarks by `watermarks`.
    ///
    /// Input that cannot become a record goes to [`Flow::dead_letters`]. The source's stable name, by which
    /// its positions are found again, is what it is and where: another address is another source.
    pub fn source<S: SourceSpec, E: EventTime<S::Item>, G: WatermarkGenerator<S::Item>>(
        &self,
        source: S,
        watermarks: Watermarks<E, G>,
    ) -> Stream<SourceHead<S::Partition, E, G>> {
        self.open_source(None, source, watermarks)
    }

    /// The same with a stable name of your own.
    pub fn source_as<S: SourceSpec, E: EventTime<S::Item>, G: WatermarkGenerator<S::Item>>(
        &self,
        uid: &str,
        source: S,
        watermarks: Watermarks<E, G>,
    ) -> Stream<SourceHead<S::Partition, E, G>> {
        self.open_source(Some(uid), source, watermarks)
    }

    fn open_source<S: SourceSpec, E: EventTime<S::Item>, G: WatermarkGenerator<S::Item>>(
        &self,
        uid: Option<&str>,
        source: S,
        watermarks: Watermarks<E, G>,
    ) -> Stream<SourceHead<S::Partition, E, G>> {
        let partitions = source.partitions();
        let producers = partitions.clamp(1, self.shards());
        let node =
            self.add_node::<S::Item>(&format!("Source: {}", source.describe()), producers, vec![]);
        let state = self.fix_uid(node, uid, "positions");
        self.checkpoints().register(stored::describe(node), None);
        let mut head = SourceHead {
            partitions: Vec::new(),
            watermarks,
            merge: Merge::new((self.shard()..partitions).step_by(self.shards()).count()),
            dead_letters: self.dead_letters_from(node, producers),
            records_out: self.counter("numRecordsOut", node),
            watermark: self.watermark("currentOutputWatermark", node),
            checkpoints: Rc::clone(self.checkpoints()),
            state,
            resumed: Vec::new(),
        };
        if let Some(cx) = self.open_context(node, producers) {
            for partition in (cx.shard..partitions).step_by(cx.shards) {
                let id = partition.to_string();
                let added = self.stored_partition(state, &id, partition).and_then(|found| {
                    let mut cx = cx.clone();
                    cx.durability.position = found.position().map(Bytes::copy_from_slice);
                    head.add(id, partition, source.open(partition, &cx)?, &found)
                });
                if let Err(error) = added {
                    self.fail(error);
                }
            }
        }
        Stream { flow: self.clone(), chain: head, at: At { node, producers } }
    }
}

struct Partition<S, G> {
    id: String,
    /// What schema 1 left of it, under this number, is to be deleted.
    first: Option<usize>,
    source: S,
    clock: PartitionClock,
    generator: G,
    ended: bool,
}

/// A head that polls source partitions.
pub struct SourceHead<S, E, G> {
    partitions: Vec<Partition<S, G>>,
    watermarks: Watermarks<E, G>,
    merge: Merge,
    dead_letters: DeadLetterOutput,
    records_out: Counter,
    watermark: WatermarkGauge,
    checkpoints: Rc<Checkpoints>,
    state: StateId,
    /// Watermarks of an earlier run, to be emitted first.
    resumed: Vec<(usize, Timestamp)>,
}

impl<S, E, G: Clone> SourceHead<S, E, G> {
    fn add<T>(
        &mut self,
        id: String,
        number: usize,
        source: S,
        found: &Found,
    ) -> Result<(), ConnectorError>
    where
        G: WatermarkGenerator<T>,
    {
        let mut clock = PartitionClock::new(&self.watermarks);
        let mut generator = self.watermarks.generator.clone();
        if !seeded(Defect::FlowForgetsSourceClock) {
            let resumed = found.resume(&mut clock, &mut generator).map_err(|why| {
                let what = format!(
                    "what was stored of the watermarks of partition {id:?} is not what its generator wrote \
                     ({why}); start it with the strategy that wrote it, or give the source another stable \
                     name to begin anew"
                );
                ConnectorError::new("source", what)
            })?;
            self.resumed.extend(resumed.map(|watermark| (self.partitions.len(), watermark)));
        }
        let first = matches!(found, Found::First(..)).then_some(number);
        self.partitions.push(Partition { id, first, source, clock, generator, ended: false });
        Ok(())
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<S: Source + 'static, E: EventTime<S::Item>, G: WatermarkGenerator<S::Item>> Chain
    for SourceHead<S, E, G>
where
    S::Item: 'static,
{
    type Out = S::Item;

    fn step<C: Collector<S::Item>>(
        &mut self,
        cx: &StepContext,
        mut out: C,
    ) -> Result<Progress, ConnectorError> {
        let records_max = (cx.records_max / self.partitions.len().max(1)).max(1);
        let Now { wall, steady } = cx.now;
        let mut busy = false;
        for (index, watermark) in self.resumed.drain(..) {
            self.merge.mark(index, Mark::Watermark(watermark), |mark| out.mark(mark));
        }
        let mut wake_at: Option<Duration> = None;
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            if partition.ended {
                continue;
            }
            let latest_believed = wall.plus_ms(self.watermarks.clock_guard_ms);
            partition.clock.believe(latest_believed);
            let mut emit = Emitting {
                index,
                clock: partition.clock,
                generator: &mut partition.generator,
                merge: &mut self.merge,
                watermarks: &self.watermarks,
                now: wall,
                latest_believed,
                dead_letters: &self.dead_letters,
                out: &mut out,
                records: 0,
                letters: 0,
            };
            let status = partition.source.poll(wall, records_max, &mut emit)?;
            if let Some(watermark) = emit.generator.tick(cx.now) {
                emit.generated(watermark);
            }
            let (records, letters) = (emit.records, emit.letters);
            partition.clock = emit.clock;
            busy |= records + letters > 0;
            if records > 0 {
                self.records_out.add(records);
                partition.clock.heard(steady);
            }
            match status {
                SourceStatus::Ready => busy = true,
                SourceStatus::Waiting(pause) => {
                    if partition.clock.falls_idle(steady) {
                        busy = true;
                        self.merge.mark(index, Mark::Idle, |mark| out.mark(mark));
                    }
                    let resume_at = pause.map(|pause| steady.saturating_add(pause));
                    let tick_at = partition.generator.tick_at();
                    let due = [wake_at, resume_at, partition.clock.idle_at(), tick_at];
                    wake_at = due.into_iter().flatten().min();
                }
                SourceStatus::Ended => {
                    busy = true;
                    partition.ended = true;
                    if partition.clock.is_idle() {
                        self.merge.mark(index, Mark::Active, |mark| out.mark(mark));
                    }
                    let end = Mark::Watermark(Timestamp::MAX);
                    self.merge.mark(index, end, |mark| out.mark(mark));
                    self.merge.mark(index, Mark::End, |mark| out.mark(mark));
                }
            }
        }
        if self.partitions.is_empty() {
            // A source without partitions ends where it begins.
            out.mark(Mark::Watermark(Timestamp::MAX));
            out.mark(Mark::End);
        }
        self.watermark.set(self.merge.watermark());
        if self.merge.ended() {
            self.dead_letters.end();
            return Ok(Progress::Done);
        }
        Ok(if busy { Progress::Busy } else { Progress::Idle(wake_at) })
    }

    fn ready(&self) -> bool {
        self.dead_letters.has_room()
    }

    fn barrier(&mut self, epoch: Epoch, mut out: impl Collector<S::Item>) {
        for partition in &mut self.partitions {
            let mut position = Vec::new();
            partition.source.snapshot(epoch, &mut position);
            let mut generator = Vec::new();
            partition.generator.save(&mut generator);
            let (latest, watermark) = (partition.clock.latest(), partition.clock.watermark());
            let stored = StoredPartition { latest, watermark, generator, position };
            self.checkpoints.write(|out| {
                if let Some(number) = partition.first.take() {
                    stored::delete_first(self.state, number, out);
                }
                out.put(|key| stored::key(self.state, &partition.id, key), &stored)
            });
        }
        self.dead_letters.barrier(epoch);
        out.mark(Mark::Barrier(epoch));
    }

    fn tick(&mut self, _cx: &StepContext, _out: impl Collector<S::Item>) -> Option<Timestamp> {
        None
    }

    fn settle(&mut self, _out: impl Collector<S::Item>) {}

    fn source(&mut self) -> Option<&mut dyn Head> {
        Some(self)
    }
}

impl<S: Source, E, G> Head for SourceHead<S, E, G> {
    fn stop(&mut self) {
        let open = self.partitions.iter_mut().filter(|partition| !partition.ended);
        open.for_each(|partition| partition.source.stop());
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        for partition in &mut self.partitions {
            if !partition.source.durable(epoch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn committed(&mut self, epoch: Epoch, oldest: Epoch) {
        for partition in &mut self.partitions {
            partition.source.committed(epoch, oldest);
        }
    }
}
