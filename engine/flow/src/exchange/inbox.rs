//! The head of a pipeline that is fed by other pipelines: merges its ports in the order batches
//! arrive, their watermarks by minimum, and their barriers into one: a port that has brought the barrier of
//! an epoch is left alone until all others have brought it, or have ended.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, Mark, Timestamp};

use super::lane::LaneReceiver;
use super::local::LocalInbox;
use crate::counters::{Counter, WatermarkGauge};
use crate::pipeline::{Chain, Head, Progress, StepContext};
use crate::time::merge::Merge;

/// Where batches come from.
pub(crate) enum Port<T> {
    /// A pipeline of this shard.
    Local(LocalInbox<T>),
    /// A shard, this one included.
    Lane(LaneReceiver<T>),
}

impl<T> Port<T> {
    fn take(&mut self, batch: &mut Batch<T>) -> bool {
        match self {
            Self::Local(inbox) => inbox.take(batch),
            Self::Lane(receiver) => receiver.take(batch),
        }
    }
}

/// A head that drains its ports.
pub struct Inbox<T> {
    ports: Vec<Port<T>>,
    merge: Merge,
    barrier: Alignment,
    /// The buffers of the last batch, empty, to be swapped for the next.
    batch: Batch<T>,
    /// The port to begin with, so that none is favoured.
    first: usize,
    records_in: Counter,
    watermark: WatermarkGauge,
}

impl<T> Inbox<T> {
    /// `together` says that its ports go back to the same streams.
    pub(crate) fn new(
        ports: Vec<Port<T>>,
        together: bool,
        records_in: Counter,
        watermark: WatermarkGauge,
    ) -> Self {
        let merge = Merge::new(ports.len()).together(together);
        let barrier = Alignment::new(ports.len());
        Self { ports, merge, barrier, batch: Batch::default(), first: 0, records_in, watermark }
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<T: 'static> Chain for Inbox<T> {
    type Out = T;

    fn step<C: Collector<T>>(
        &mut self,
        _cx: &StepContext,
        mut out: C,
    ) -> Result<Progress, ConnectorError> {
        let ports = self.ports.len();
        let mut busy = false;
        for n in 0..ports {
            let port = (self.first + n) % ports;
            if self.barrier.has_come(port) || !self.ports[port].take(&mut self.batch) {
                continue;
            }
            busy = true;
            self.records_in.add(self.batch.len());
            let Self { merge, barrier, batch, .. } = self;
            batch.drain_into(&mut Merging { port, merge, barrier, out: &mut out });
        }
        self.first = (self.first + 1) % ports.max(1);
        if busy {
            self.watermark.set(self.merge.watermark());
        }
        Ok(if self.merge.ended() {
            Progress::Done
        } else if busy {
            Progress::Busy
        } else {
            Progress::Idle(None)
        })
    }

    fn ready(&self) -> bool {
        true
    }

    fn barrier(&mut self, epoch: Epoch, mut out: impl Collector<T>) {
        out.mark(Mark::Barrier(epoch));
    }

    fn tick(&mut self, _cx: &StepContext, _out: impl Collector<T>) -> Option<Timestamp> {
        None
    }

    fn settle(&mut self, _out: impl Collector<T>) {}

    fn source(&mut self) -> Option<&mut dyn Head> {
        None
    }
}

/// Which ports have brought the barrier that is awaited.
struct Alignment {
    epoch: Epoch,
    come: Vec<bool>,
    waiting: bool,
}

impl Alignment {
    fn new(ports: usize) -> Self {
        Self { epoch: Epoch::NONE, come: vec![false; ports], waiting: false }
    }

    /// Whether this port is to be left alone.
    fn has_come(&self, port: usize) -> bool {
        self.waiting && self.come[port] && !seeded(Defect::FlowNoAlignment)
    }

    /// A port has brought the barrier of an epoch.
    fn bring(&mut self, port: usize, epoch: Epoch) {
        debug_assert!(!self.waiting || self.epoch == epoch, "two epochs at a time");
        (self.epoch, self.waiting) = (epoch, true);
        self.come[port] = true;
    }

    /// The epoch whose barrier has come from everywhere, once.
    fn complete(&mut self, has_ended: impl Fn(usize) -> bool) -> Option<Epoch> {
        let complete = self.waiting
            && self.come.iter().enumerate().all(|(port, come)| *come || has_ended(port));
        if !complete {
            return None;
        }
        self.waiting = false;
        self.come.fill(false);
        Some(self.epoch)
    }
}

/// Passes one port's records on, and its marks through the merge.
struct Merging<'a, C> {
    port: usize,
    merge: &'a mut Merge,
    barrier: &'a mut Alignment,
    out: &'a mut C,
}

impl<T, C: Collector<T>> Collector<T> for Merging<'_, C> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        debug_assert!(self.merge.may_send_records(self.port), "a record after idle or end");
        debug_assert!(!self.barrier.has_come(self.port), "a record behind a barrier");
        self.out.record(time, value);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        match mark {
            // Of a sender that takes part in one more epoch after its end: nobody waits for it.
            Mark::Barrier(_) if self.merge.has_ended(self.port) => return,
            Mark::Barrier(epoch) => self.barrier.bring(self.port, epoch),
            _ => self.merge.mark(self.port, mark, |mark| self.out.mark(mark)),
        }
        if let Mark::Barrier(_) | Mark::End = mark
            && let Some(epoch) = self.barrier.complete(|port| self.merge.has_ended(port))
        {
            self.out.mark(Mark::Barrier(epoch));
        }
    }
}
