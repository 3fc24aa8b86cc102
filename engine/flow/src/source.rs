//! The head of a pipeline that reads a source: polls the partitions that live on this shard, gives
//! each record its event time, and makes watermarks.

pub(crate) mod collection;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::source::clock_ahead;
use thalweg_kernel::{
    Collector, ConnectorError, DeadLetter, Durable, Emit, Epoch, Mark, Origin, Source, SourceSpec,
    SourceStatus, StateId, StateKind, Timestamp,
};

use crate::checkpoint::{Checkpoints, Description};
use crate::counters::{Counter, WatermarkGauge};
use crate::flow::Flow;
use crate::flow::dead_letters::DeadLetterOutput;
use crate::pipeline::{Chain, Head, Now, Progress, StepContext};
use crate::stream::{At, Stream};
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, PartitionClock, Watermarks};

impl Flow {
    /// Begins a stream at `source`, with event time and watermarks by `watermarks`.
    ///
    /// Input that cannot become a record goes to [`Flow::dead_letters`]. The source's stable name, by which
    /// its positions are found again, is what it is and where: another address is another source.
    pub fn source<S: SourceSpec, E: EventTime<S::Item>>(
        &self,
        source: S,
        watermarks: Watermarks<E>,
    ) -> Stream<SourceHead<S::Partition, E>> {
        self.open_source(None, source, watermarks)
    }

    /// The same with a stable name of your own.
    pub fn source_as<S: SourceSpec, E: EventTime<S::Item>>(
        &self,
        uid: &str,
        source: S,
        watermarks: Watermarks<E>,
    ) -> Stream<SourceHead<S::Partition, E>> {
        self.open_source(Some(uid), source, watermarks)
    }

    fn open_source<S: SourceSpec, E: EventTime<S::Item>>(
        &self,
        uid: Option<&str>,
        source: S,
        watermarks: Watermarks<E>,
    ) -> Stream<SourceHead<S::Partition, E>> {
        let partitions = source.partitions();
        let producers = partitions.clamp(1, self.shards());
        let node =
            self.add_node::<S::Item>(&format!("Source: {}", source.describe()), producers, vec![]);
        let state = self.fix_uid(node, uid, "positions");
        let describe = Description::of::<u16, PartitionState>(node, "positions", StateKind::Source);
        self.checkpoints().register(describe, None);
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
                let opened = self.stored_partition(state, partition).and_then(|stored| {
                    let mut cx = cx.clone();
                    cx.durability.position =
                        stored.as_ref().map(|stored| Bytes::copy_from_slice(&stored.position));
                    Ok((source.open(partition, &cx)?, stored))
                });
                match opened {
                    Ok((source, stored)) => head.add(partition, source, stored),
                    Err(error) => self.fail(error),
                }
            }
        }
        Stream { flow: self.clone(), chain: head, at: At { node, producers } }
    }

    fn stored_partition(
        &self,
        state: StateId,
        partition: usize,
    ) -> Result<Option<PartitionState>, ConnectorError> {
        let Some(reader) = self.reader() else { return Ok(None) };
        let mut key = Vec::new();
        state.begin_key(partition as u16, &mut key);
        let mut found = None;
        let read = reader.get(&key, &mut |value| {
            found = Some(PartitionState::read(value)?);
            Ok(())
        });
        let what = "the stored position of a source cannot be read";
        read.map_err(|error| ConnectorError::new("job", what).caused_by(error))?;
        Ok(found)
    }
}

/// What is stored of a partition.
#[derive(Archive, Serialize, Deserialize)]
struct PartitionState {
    latest: Timestamp,
    position: Vec<u8>,
}

struct Partition<S> {
    number: u16,
    source: S,
    clock: PartitionClock,
    ended: bool,
}

/// A head that polls source partitions.
pub struct SourceHead<S, E> {
    partitions: Vec<Partition<S>>,
    watermarks: Watermarks<E>,
    merge: Merge,
    dead_letters: DeadLetterOutput,
    records_out: Counter,
    watermark: WatermarkGauge,
    checkpoints: Rc<Checkpoints>,
    state: StateId,
    /// Watermarks of an earlier run, to be emitted first.
    resumed: Vec<(usize, Timestamp)>,
}

impl<S, E> SourceHead<S, E> {
    fn add(&mut self, number: usize, source: S, stored: Option<PartitionState>) {
        let mut clock = PartitionClock::new(&self.watermarks);
        let stored = stored.filter(|_| !seeded(Defect::FlowForgetsSourceClock));
        if let Some(watermark) = stored.and_then(|stored| clock.resume(stored.latest)) {
            self.resumed.push((self.partitions.len(), watermark));
        }
        self.partitions.push(Partition { number: number as u16, source, clock, ended: false });
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<S: Source + 'static, E: EventTime<S::Item>> Chain for SourceHead<S, E>
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
                    let due = [wake_at, resume_at, partition.clock.idle_at()];
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
            let state = PartitionState { latest: partition.clock.latest(), position };
            let key = |out: &mut Vec<u8>| self.state.begin_key(partition.number, out);
            self.checkpoints.write(|out| out.put(key, &state));
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

impl<S: Source, E> Head for SourceHead<S, E> {
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

/// Where one partition's poll puts its records.
struct Emitting<'a, E, C> {
    index: usize,
    /// A copy, at hand without a look at where the partition is.
    clock: PartitionClock,
    merge: &'a mut Merge,
    watermarks: &'a Watermarks<E>,
    now: Timestamp,
    latest_believed: Timestamp,
    dead_letters: &'a DeadLetterOutput,
    out: &'a mut C,
    records: usize,
    letters: usize,
}

impl<E, C> Emitting<'_, E, C> {
    #[cold]
    fn wake<T>(&mut self)
    where
        C: Collector<T>,
    {
        self.clock.wake();
        self.merge.mark(self.index, Mark::Active, |mark| self.out.mark(mark));
    }

    #[cold]
    fn refuse(&mut self, event: Timestamp, origin: &impl Origin) {
        let error = clock_ahead(event, self.now, self.watermarks.clock_guard_ms);
        self.letters += 1;
        self.dead_letters.push(origin.dead_letter(error));
    }

    /// Time goes on behind a record.
    #[inline(never)]
    fn advance<T>(&mut self, event: Timestamp)
    where
        C: Collector<T>,
    {
        if let Some(watermark) = self.clock.observe(event) {
            let mark = Mark::Watermark(watermark);
            self.merge.mark(self.index, mark, |mark| self.out.mark(mark));
        }
    }
}

impl<T, E: EventTime<T>, C: Collector<T>> Emit<T> for Emitting<'_, E, C> {
    #[inline]
    fn record(&mut self, value: T, received: Timestamp, origin: &impl Origin) {
        let time = self.watermarks.event_time.of(&value, received);
        if time >= self.clock.news_from() {
            if E::FROM_RECORD && time > self.latest_believed {
                return self.refuse(time, origin);
            }
            if self.clock.is_idle() {
                self.wake();
            }
        }
        self.records += 1;
        self.out.record(time, value);
        // Asked again, not kept from above: then the chain is compiled once and not twice.
        if time >= self.clock.news_from() {
            self.advance(time);
        }
    }

    fn dead_letter(&mut self, letter: DeadLetter) {
        self.letters += 1;
        self.dead_letters.push(letter);
    }
}
