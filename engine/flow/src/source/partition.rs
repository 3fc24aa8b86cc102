//! One open partition of a source: its source, its clock and its watermark generator.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Collector, ConnectorError, Epoch, Mark, OpenContext, PartitionId, Source, SourceStatus,
    StateId, Timestamp,
};

use super::emitting::Emitting;
use super::letters::MessageLetters;
use super::stored::{self, Found, StoredPartition};
use crate::checkpoint::Checkpoints;
use crate::counters::Counter;
use crate::dead_letters::DeadLetterOutput;
use crate::notices::SourceNotices;
use crate::pipeline::Now;
use crate::time::generator::WatermarkGenerator;
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, PartitionClock, Watermarks};

pub(super) struct Partition<S, G> {
    pub(super) id: PartitionId,
    /// What schema 1 left of it, under this number, is to be deleted.
    first: Option<usize>,
    source: S,
    clock: PartitionClock,
    generator: G,
    /// Its input of the merge.
    input: usize,
    pub(super) ended: bool,
    /// It had nothing when it was polled last.
    waits: bool,
    /// Since when its source would hear of something, in steady time.
    listens_since: Option<Duration>,
    /// When it fell silent last, in steady time, and its watermark then.
    silence: Option<(Duration, Timestamp)>,
    /// When the silence before began, and its latest event time then; or those of its first records.
    spoke_from: Option<(Duration, Timestamp)>,
    /// It was asked to end, so its end is not that of what it reads.
    stopped: bool,
    /// The epoch that holds its end.
    pub(super) sealed: Option<Epoch>,
}

/// The context of an operator for a partition that goes on from here.
pub(super) fn resuming(cx: &OpenContext, position: Option<&[u8]>) -> OpenContext {
    let mut cx = cx.clone();
    cx.durability.position = position.map(Bytes::copy_from_slice);
    cx
}

impl<S, G> Partition<S, G> {
    /// A partition that goes on from what was found of it, in a stream that has got to `merged`.
    pub(super) fn new<T, E>(
        id: PartitionId,
        input: usize,
        source: S,
        found: Found,
        watermarks: &Watermarks<E, G>,
        merged: Timestamp,
    ) -> Result<Self, ConnectorError>
    where
        G: WatermarkGenerator<T>,
    {
        let mut clock = PartitionClock::new(watermarks);
        let mut generator = watermarks.generator.clone();
        if !seeded(Defect::FlowForgetsSourceClock) {
            found.resume(&mut clock, &mut generator).map_err(|why| {
                let what = format!(
                    "what was stored of the watermarks of partition \"{id}\" is not what its generator wrote \
                     ({why}); start it with the strategy that wrote it, or give the source another stable \
                     name to begin anew"
                );
                ConnectorError::new("source", what).lasting()
            })?;
        }
        clock.advance(merged);
        let first = found.first_number();
        let (ended, stopped, sealed) = (false, false, None);
        let (waits, silence, spoke_from) = (false, None, None);
        Ok(Self {
            id,
            first,
            source,
            clock,
            generator,
            input,
            ended,
            waits,
            listens_since: None,
            silence,
            spoke_from,
            stopped,
            sealed,
        })
    }

    /// Since when it has had nothing, in steady time, if it has nothing now. While its source would hear of nothing, it does
    /// not count as silent.
    pub(super) fn silent_since(&self) -> Option<Duration> {
        let heard_at = self.clock.heard_at().filter(|_| self.waits)?;
        Some(heard_at.max(self.listens_since?))
    }

    /// While it is silent: its watermark when the silence began.
    pub(super) fn left_at(&mut self, since: Duration) -> Timestamp {
        let watermark = self.clock.watermark();
        match &mut self.silence {
            Some((at, left)) if *at == since => *left,
            silence => silence.insert((since, watermark)).1,
        }
    }

    /// How far event time has come from one silence to the next, in milliseconds, and how long that took.
    pub(super) fn passed(&self) -> Option<(i64, Duration)> {
        let (from, latest) = self.spoke_from?;
        let took = self.clock.heard_at()?.saturating_sub(from);
        Some((self.clock.latest().ms_since(latest), took))
    }

    /// Records have come at this steady time.
    #[inline]
    fn heard(&mut self, steady: Duration, before: Timestamp) {
        if self.silence.take().is_some() {
            self.spoke_from = self.clock.heard_at().map(|at| (at, before));
        }
        self.spoke_from.get_or_insert((steady, self.clock.first()));
        self.clock.heard(steady);
    }

    /// Its latest event time.
    pub(super) fn latest(&self) -> Timestamp {
        self.clock.latest()
    }

    /// Event time goes on without a record, to there. Whether that is news.
    pub(super) fn goes_on<T>(
        &mut self,
        to: Timestamp,
        merge: &mut Merge,
        out: &mut impl Collector<T>,
    ) -> bool {
        let goes_on = to > self.clock.watermark();
        if goes_on {
            if !seeded(Defect::FlowForgetsTimeByClock) {
                self.clock.advance(to);
            }
            merge.mark(self.input, Mark::Watermark(to), |mark| out.mark(mark));
        }
        goes_on
    }

    /// Where it begins.
    pub(super) fn watermark(&self) -> Timestamp {
        self.clock.watermark()
    }
}

/// What a poll of a partition did.
pub(super) struct Polled {
    pub(super) busy: bool,
    pub(super) records: usize,
    /// When it is to be polled again at the latest.
    pub(super) wake_at: Option<Duration>,
}

impl<S: Source, G: WatermarkGenerator<S::Item>> Partition<S, G> {
    /// Polls it once, for at most `records_max` records. Its end comes out at once, unless the head `holds_end` back.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "what a head has, apart from its partitions")]
    pub(super) fn poll<E: EventTime<S::Item>, C: Collector<S::Item>>(
        &mut self,
        now: Now,
        records_max: usize,
        watermarks: &Watermarks<E, G>,
        merge: &mut Merge,
        (dead_letters, notices, ahead): (&DeadLetterOutput, &SourceNotices, &Counter),
        holds_end: bool,
        out: &mut C,
    ) -> Result<Polled, ConnectorError> {
        let Now { wall, steady } = now;
        let (latest_believed, before) =
            (wall.plus_ms(watermarks.clock_guard_ms), self.clock.watermark());
        let latest_before = self.clock.latest();
        self.clock.believe(latest_believed);
        let mut emit = Emitting {
            index: self.input,
            clock: self.clock,
            generator: &mut self.generator,
            merge,
            watermarks,
            now: wall,
            latest_believed,
            holds_at: if watermarks.held_to_clock { wall } else { Timestamp::MAX },
            notices,
            ahead,
            dead_letters,
            partition: &self.id,
            out,
            records: 0,
            letters: 0,
            of_message: MessageLetters::default(),
        };
        let status = self.source.poll(wall, records_max, &mut emit)?;
        if let Some(watermark) = emit.generator.tick(now) {
            emit.generated(watermark);
        }
        let (records, letters) = (emit.records, emit.letters);
        self.clock = emit.clock;
        // A generator may go on by itself, with time.
        let busy = records + letters > 0 || self.clock.watermark() > before;
        let mut polled = Polled { busy, records, wake_at: None };
        if records > 0 {
            self.heard(steady, latest_before);
        }
        self.waits = matches!(status, SourceStatus::Waiting(_)) && !polled.busy;
        match status {
            SourceStatus::Ready => polled.busy = true,
            SourceStatus::Waiting(pause) => {
                if self.source.listens() || seeded(Defect::FlowDeafIsSilent) {
                    self.listens_since.get_or_insert(steady);
                } else {
                    self.listens_since = None;
                }
                if self.clock.falls_idle(steady) {
                    polled.busy = true;
                    merge.mark(self.input, Mark::Idle, |mark| out.mark(mark));
                }
                let resume_at = pause.map(|pause| steady.saturating_add(pause));
                let due = [resume_at, self.clock.idle_at(), self.generator.tick_at()];
                polled.wake_at = due.into_iter().flatten().min();
            }
            SourceStatus::Ended => {
                polled.busy = true;
                self.ended = true;
                if !holds_end {
                    end_input(merge, self.input, self.clock.is_idle(), out);
                } else if !self.clock.falls_idle_now() {
                    merge.mark(self.input, Mark::Idle, |mark| out.mark(mark));
                }
            }
        }
        Ok(polled)
    }

    /// Its end, which was held back, comes out: with the end of time, or without.
    pub(super) fn end<T>(
        &mut self,
        with_time: bool,
        merge: &mut Merge,
        out: &mut impl Collector<T>,
    ) {
        if with_time {
            return end_input(merge, self.input, true, out);
        }
        merge.mark(self.input, Mark::Active, |mark| out.mark(mark));
        merge.mark(self.input, Mark::End, |mark| out.mark(mark));
    }

    pub(super) fn stop(&mut self) {
        if !self.ended {
            self.stopped = true;
            self.source.stop();
        }
    }

    pub(super) fn clock_was_set(&mut self, at: Range<Timestamp>, by_ms: i64) {
        self.source.clock_was_set(at, by_ms);
    }

    pub(super) fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        self.source.durable(epoch)
    }

    pub(super) fn committed(&mut self, epoch: Epoch, oldest: Epoch) {
        self.source.committed(epoch, oldest);
    }

    /// What is to be stored of it at the barrier of `epoch`.
    fn state(&mut self, epoch: Epoch) -> StoredPartition {
        let (mut position, mut generator) = (Vec::new(), Vec::new());
        self.source.snapshot(epoch, &mut position);
        self.generator.save(&mut generator);
        let (latest, watermark) = (self.clock.latest(), self.clock.watermark());
        let ended = self.ended && !self.stopped;
        StoredPartition { latest, watermark, ended, generator, position }
    }

    /// Closes its source; what is to be known of it.
    pub(super) fn into_last(mut self) -> (PartitionId, StoredPartition) {
        let last = self.state(self.sealed.unwrap_or(Epoch::NONE));
        (self.id, last)
    }

    /// Stores it with `epoch`, unless its end is stored already.
    pub(super) fn store(&mut self, epoch: Epoch, state: StateId, checkpoints: &Checkpoints) {
        let stored = self.state(epoch);
        checkpoints.write(|out| {
            if let Some(number) = self.first.take() {
                stored::delete_first(state, number, out);
            }
            out.put(|key| stored::key(state, &self.id, key), &stored)
        });
        if self.ended {
            self.sealed.get_or_insert(epoch);
        }
    }
}

/// An input of the merge ends: it says so as the grammar wants it.
pub(super) fn end_input<T>(
    merge: &mut Merge,
    input: usize,
    idle: bool,
    out: &mut impl Collector<T>,
) {
    if idle {
        merge.mark(input, Mark::Active, |mark| out.mark(mark));
    }
    merge.mark(input, Mark::Watermark(Timestamp::MAX), |mark| out.mark(mark));
    merge.mark(input, Mark::End, |mark| out.mark(mark));
}
