//! The head of a pipeline that reads a source: polls the partitions that live on this shard, gives
//! each record its event time, and makes watermarks.

pub(crate) mod collection;

use std::rc::Rc;
use std::time::Duration;

use thalweg_kernel::source::clock_ahead;
use thalweg_kernel::{
    Collector, ConnectorError, DeadLetter, Emit, Mark, Origin, Source, SourceSpec, SourceStatus,
    Timestamp,
};

use crate::counters::{Counter, WatermarkGauge};
use crate::flow::Flow;
use crate::flow::dead_letters::DeadLetters;
use crate::pipeline::{Chain, Now, Progress, StepContext};
use crate::stream::{At, Stream};
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, PartitionClock, Watermarks};

impl Flow {
    /// Begins a stream at `source`, with event time and watermarks by `watermarks`.
    ///
    /// Input that cannot become a record goes to [`Flow::dead_letters`].
    pub fn source<S: SourceSpec, E: EventTime<S::Item>>(
        &self,
        source: S,
        watermarks: Watermarks<E>,
    ) -> Stream<SourceHead<S::Partition, E>> {
        let partitions = source.partitions();
        let producers = partitions.clamp(1, self.shards());
        let node =
            self.add_node::<S::Item>(&format!("Source: {}", source.describe()), producers, vec![]);
        let mut open = Vec::new();
        if let Some(cx) = self.open_context(node, producers) {
            for partition in (cx.shard..partitions).step_by(cx.shards) {
                match source.open(partition, &cx) {
                    Ok(source) => open.push(Partition {
                        source,
                        clock: PartitionClock::new(&watermarks),
                        ended: false,
                    }),
                    Err(error) => self.fail(error),
                }
            }
        }
        let head = SourceHead {
            merge: Merge::new(open.len()),
            partitions: open,
            watermarks,
            dead_letters: self.dead_letters_from(node, producers),
            records_out: self.counter("numRecordsOut", node),
            watermark: self.watermark("currentOutputWatermark", node),
        };
        Stream { flow: self.clone(), chain: head, at: At { node, producers } }
    }
}

struct Partition<S> {
    source: S,
    clock: PartitionClock,
    ended: bool,
}

/// A head that polls source partitions.
pub struct SourceHead<S, E> {
    partitions: Vec<Partition<S>>,
    watermarks: Watermarks<E>,
    merge: Merge,
    dead_letters: Rc<DeadLetters>,
    records_out: Counter,
    watermark: WatermarkGauge,
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<S: Source + 'static, E: EventTime<S::Item>> Chain for SourceHead<S, E>
where
    S::Item: 'static,
{
    type Out = S::Item;

    fn step(
        &mut self,
        cx: &StepContext,
        mut out: impl Collector<S::Item>,
    ) -> Result<Progress, ConnectorError> {
        let records_max = (cx.records_max / self.partitions.len().max(1)).max(1);
        let Now { wall, steady } = cx.now;
        let mut busy = false;
        let mut wake_at: Option<Duration> = None;
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            if partition.ended {
                continue;
            }
            let latest_believed = wall.plus_ms(self.watermarks.clock_guard_ms);
            partition.clock.believe(latest_believed);
            let mut emit = Emitting {
                index,
                clock: &mut partition.clock,
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

    fn stop(&mut self) {
        let open = self.partitions.iter_mut().filter(|partition| !partition.ended);
        open.for_each(|partition| partition.source.stop());
    }
}

/// Where one partition's poll puts its records.
struct Emitting<'a, E, C> {
    index: usize,
    clock: &'a mut PartitionClock,
    merge: &'a mut Merge,
    watermarks: &'a Watermarks<E>,
    now: Timestamp,
    latest_believed: Timestamp,
    dead_letters: &'a DeadLetters,
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
}

impl<T, E: EventTime<T>, C: Collector<T>> Emit<T> for Emitting<'_, E, C> {
    #[inline]
    fn record(&mut self, value: T, received: Timestamp, origin: &impl Origin) {
        let time = self.watermarks.event_time.of(&value, received);
        let news = time >= self.clock.news_from();
        if news {
            if E::FROM_RECORD && time > self.latest_believed {
                return self.refuse(time, origin);
            }
            if self.clock.is_idle() {
                self.wake();
            }
        }
        self.records += 1;
        self.out.record(time, value);
        if news && let Some(watermark) = self.clock.observe(time) {
            let mark = Mark::Watermark(watermark);
            self.merge.mark(self.index, mark, |mark| self.out.mark(mark));
        }
    }

    fn dead_letter(&mut self, letter: DeadLetter) {
        self.letters += 1;
        self.dead_letters.push(letter);
    }
}
