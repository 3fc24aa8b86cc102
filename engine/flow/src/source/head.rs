//! The head of a pipeline that reads a source.

use std::rc::Rc;
use std::time::Duration;

use thalweg_kernel::{
    Collector, ConnectorError, Discovery, Epoch, Mark, PartitionId, Source, StateId, Timestamp,
};

use super::clock_wait::ClockWait;
use super::discovery::{Discovering, Opening};
use super::partition::Partition;
use super::quiet::Quiet;
use super::stored::Found;
use crate::at_end::AtEnd;
use crate::checkpoint::Checkpoints;
use crate::counters::{Counter, WatermarkGauge};
use crate::dead_letters::DeadLetterOutput;
use crate::flow::Flow;
use crate::notices::SourceNotices;
use crate::pipeline::{Chain, Head, Now, Progress, StepContext};
use crate::time::generator::WatermarkGenerator;
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, Watermarks};

/// A head that polls source partitions.
pub struct SourceHead<S, E, G> {
    partitions: Vec<Partition<S, G>>,
    /// How many of them have not ended.
    open: usize,
    /// Where partitions come and go.
    pub(super) discovering: Option<Discovering<S>>,
    watermarks: Watermarks<E, G>,
    /// What lets event time go on by the clock, if anything does.
    quiet: Option<Quiet>,
    clock_wait: Option<ClockWait>,
    pub(super) merge: Merge,
    dead_letters: DeadLetterOutput,
    records_out: Counter,
    /// Records that were ahead of this machine's clock, and what there is to tell of them.
    ahead: Counter,
    notices: Rc<SourceNotices>,
    watermark: WatermarkGauge,
    checkpoints: Rc<Checkpoints>,
    /// It was asked to end.
    stopping: bool,
    /// The newest barrier that it has emitted.
    passed: Epoch,
    /// All partitions had ended before a barrier: the end that was held back comes when all sources have got so far.
    is_sealed: bool,
    pub(super) state: StateId,
    /// Where inputs of the merge begin, to be emitted first.
    pub(super) resumed: Vec<(usize, Timestamp)>,
}

impl<S, E, G> SourceHead<S, E, G> {
    pub(super) fn new(
        flow: &Flow,
        node: u32,
        producers: usize,
        state: StateId,
        watermarks: Watermarks<E, G>,
    ) -> Self {
        if flow.runs_here(producers) {
            flow.checkpoints().ending().has_source();
        }
        let advances = || flow.counter("numWatermarksByClock", node);
        Self {
            quiet: watermarks.close_after.map(|after| Quiet::new(after, advances())),
            clock_wait: watermarks
                .clock_wait
                .map(|longest| ClockWait::new(longest, flow.gauge("waitsForClock", node))),
            partitions: Vec::new(),
            open: 0,
            discovering: None,
            watermarks,
            merge: Merge::new(0),
            dead_letters: flow.dead_letters_from(node, producers),
            records_out: flow.counter("numRecordsOut", node),
            ahead: flow.counter("numRecordsAheadOfClock", node),
            notices: flow.notices().source(),
            watermark: flow.watermark("currentOutputWatermark", node),
            checkpoints: Rc::clone(flow.checkpoints()),
            stopping: false,
            passed: Epoch::NONE,
            is_sealed: false,
            state,
            resumed: Vec::new(),
        }
    }

    /// Adds an open partition with its input of the merge.
    pub(super) fn add<T>(
        &mut self,
        id: PartitionId,
        input: usize,
        source: S,
        found: Found,
    ) -> Result<(), ConnectorError>
    where
        G: WatermarkGenerator<T>,
    {
        let merged = self.merge.watermark();
        let partition = Partition::new(id, input, source, found, &self.watermarks, merged)?;
        self.resumed.push((input, partition.watermark()));
        if let Some(wait) = &mut self.clock_wait {
            wait.has_believed(partition.latest(), self.watermarks.clock_guard_ms);
        }
        self.partitions.push(partition);
        self.open += 1;
        Ok(())
    }
}

impl<S: Source + 'static, E, G: WatermarkGenerator<S::Item>> SourceHead<S, E, G> {
    /// Looks for partitions, and opens what was found. When to look again, and whether anything was news.
    #[inline(never)]
    fn discover(
        &mut self,
        now: Now,
        out: &mut impl Collector<S::Item>,
    ) -> Result<(bool, Option<Duration>), ConnectorError> {
        let Some(discovering) = &mut self.discovering else { return Ok((false, None)) };
        let (openings, discovery) = discovering.look(now.wall, self.open, &mut self.merge, out)?;
        let mut busy = !openings.is_empty() || discovering.has_forgotten();
        openings.into_iter().try_for_each(|opening| self.open(opening, out))?;
        if let Some(discovering) = &mut self.discovering {
            busy |= discovering.looked(discovery, &mut self.merge, out);
        }
        let look_at = match discovery {
            Discovery::Listed(pause) => pause.map(|pause| now.steady.saturating_add(pause)),
            Discovery::Listing | Discovery::Ended => None,
        };
        Ok((busy, look_at))
    }

    fn open(
        &mut self,
        Opening { id, input, found }: Opening,
        out: &mut impl Collector<S::Item>,
    ) -> Result<(), ConnectorError> {
        let Some(discovering) = &self.discovering else { return Ok(()) };
        let source = discovering.open(&id, &found)?;
        let input = input.unwrap_or_else(|| self.merge.join(|mark| out.mark(mark)));
        self.add(id, input, source, found)?;
        self.resume(out);
        Ok(())
    }

    /// Lets the inputs of the merge begin where their partitions do.
    fn resume(&mut self, out: &mut impl Collector<S::Item>) {
        for (input, watermark) in self.resumed.drain(..) {
            self.merge.mark(input, Mark::Watermark(watermark), |mark| out.mark(mark));
        }
    }

    /// Whether its end waits for an epoch that holds the windows which are open then.
    fn holds_end(&self) -> bool {
        self.checkpoints.enabled()
            && self.checkpoints.at_end().get() != AtEnd::Finish
            && self.discovering.is_none()
            && !self.stopping
    }

    /// All partitions have ended: lets the ends out that were held back, if it is time. Whether it was.
    #[cold]
    fn end_held(&mut self, holds_end: bool, out: &mut impl Collector<S::Item>) -> bool {
        let last = self.checkpoints.ending().last();
        let waits = !self.is_sealed || last.is_none_or(|last| self.passed < last);
        if holds_end && waits {
            if !self.is_sealed {
                self.checkpoints.wants_end().set(true);
            }
            return false;
        }
        let with_time = !holds_end || self.checkpoints.at_end().get() == AtEnd::GoOn;
        for partition in &mut self.partitions {
            partition.end(with_time, &mut self.merge, out);
        }
        true
    }

    /// Closes the sources of discovered partitions that have ended and that nothing waits for.
    fn close_ended(&mut self, is_due: impl Fn(&Partition<S, G>) -> bool) {
        let Some(discovering) = &mut self.discovering else { return };
        for partition in self.partitions.extract_if(.., |one| one.ended && is_due(one)) {
            let (id, last) = partition.into_last();
            discovering.closed(id, last);
        }
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<S: Source + 'static, E: EventTime<S::Item>, G: WatermarkGenerator<S::Item>> Chain
    for SourceHead<S, E, G>
where
    S::Item: 'static,
{
    type Out = S::Item;

    // By itself, the loop over records has more registers than inside the code of a pipeline's step.
    #[inline(never)]
    fn step<C: Collector<S::Item>>(
        &mut self,
        cx: &StepContext,
        mut out: C,
    ) -> Result<Progress, ConnectorError> {
        let (mut busy, mut wake_at) = (false, None);
        let wait = self.clock_wait.as_mut().filter(|_| !self.stopping);
        if let Some(until) = wait.and_then(|wait| wait.until(cx.now)) {
            return Ok(Progress::Idle(Some(until)));
        }
        if let Some((at, by_ms)) = self.clock_wait.as_mut().and_then(ClockWait::take_set) {
            self.partitions.iter_mut().for_each(|one| one.clock_was_set(at.clone(), by_ms));
        }
        self.resume(&mut out);
        if self.discovering.is_some() {
            (busy, wake_at) = self.discover(cx.now, &mut out)?;
        }
        let records_max = (cx.records_max / self.open.max(1)).max(1);
        let (open_before, holds_end) = (self.open, self.holds_end());
        for partition in &mut self.partitions {
            if partition.ended {
                continue;
            }
            let merge = &mut self.merge;
            let notes = (&self.dead_letters, &*self.notices, &self.ahead);
            let polled = partition.poll(
                cx.now,
                records_max,
                &self.watermarks,
                merge,
                notes,
                holds_end,
                &mut out,
            )?;
            if polled.records > 0 {
                self.records_out.add(polled.records);
            }
            busy |= polled.busy;
            wake_at = [wake_at, polled.wake_at].into_iter().flatten().min();
            self.open -= usize::from(partition.ended);
        }
        if busy {
            self.quiet.iter_mut().for_each(Quiet::speaks);
        } else if let Some(quiet) = &mut self.quiet {
            let (partitions, merge) = (&mut self.partitions, &mut self.merge);
            let (moved, at) = quiet.go_on(cx.now, partitions, merge, &mut out);
            if moved {
                self.notices.moves(None, merge.watermark());
            }
            busy |= moved;
            wake_at = [wake_at, at].into_iter().flatten().min();
        }
        if self.open < open_before && !self.checkpoints.enabled() {
            self.close_ended(|_| true);
        }
        if self.open == 0 && !self.merge.ended() && self.discovering.is_none() {
            busy |= self.end_held(holds_end, &mut out);
        }
        if self.merge.inputs() == 0 {
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
        if let Some(discovering) = &mut self.discovering {
            discovering.store(self.state, &self.checkpoints);
        }
        for partition in &mut self.partitions {
            partition.store(epoch, self.state, &self.checkpoints);
        }
        self.passed = epoch;
        if self.open == 0 && !self.is_sealed && self.holds_end() && !self.merge.ended() {
            self.is_sealed = true;
            self.checkpoints.ending().seal(epoch);
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

    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }

    fn publish(&mut self, _due: Timestamp) -> bool {
        false
    }
}

impl<S: Source + 'static, E, G: WatermarkGenerator<S::Item>> Head for SourceHead<S, E, G> {
    fn stop(&mut self) {
        self.stopping = true;
        if let Some(discovering) = &mut self.discovering {
            discovering.stop();
        }
        self.partitions.iter_mut().for_each(Partition::stop);
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        for partition in &mut self.partitions {
            if !partition.durable(epoch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn committed(&mut self, epoch: Epoch, oldest: Epoch) {
        for partition in &mut self.partitions {
            partition.committed(epoch, oldest);
        }
        if let Some(discovering) = &mut self.discovering {
            discovering.committed(epoch);
        }
        self.close_ended(|partition| partition.sealed.is_some_and(|sealed| sealed <= epoch));
    }

    fn closes_by_clock(&self) -> bool {
        self.quiet.is_some()
    }

    fn is_quiet(&self, steady: Duration) -> bool {
        self.quiet.as_ref().is_some_and(|quiet| quiet.has_come(steady, &self.partitions))
    }

    fn wait_for(&mut self, due: Timestamp) {
        self.quiet.iter_mut().for_each(|quiet| quiet.wait_for(due));
    }
}
