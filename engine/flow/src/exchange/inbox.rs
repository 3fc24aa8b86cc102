//! The head of a pipeline that is fed by other pipelines: merges its ports in the order batches
//! arrive, and their watermarks by minimum.

use thalweg_kernel::{Batch, Collector, ConnectorError, Mark, Timestamp};

use super::lane::LaneReceiver;
use super::local::LocalInbox;
use crate::counters::{Counter, WatermarkGauge};
use crate::pipeline::{Chain, Progress, StepContext};
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
    /// The buffers of the last batch, empty, to be swapped for the next.
    batch: Batch<T>,
    /// The port to begin with, so that none is favoured.
    first: usize,
    records_in: Counter,
    watermark: WatermarkGauge,
}

impl<T> Inbox<T> {
    pub(crate) fn new(ports: Vec<Port<T>>, records_in: Counter, watermark: WatermarkGauge) -> Self {
        let merge = Merge::new(ports.len());
        Self { ports, merge, batch: Batch::default(), first: 0, records_in, watermark }
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<T: 'static> Chain for Inbox<T> {
    type Out = T;

    fn step(
        &mut self,
        _cx: &StepContext,
        mut out: impl Collector<T>,
    ) -> Result<Progress, ConnectorError> {
        let ports = self.ports.len();
        let mut busy = false;
        for n in 0..ports {
            let port = (self.first + n) % ports;
            if !self.ports[port].take(&mut self.batch) {
                continue;
            }
            busy = true;
            self.records_in.add(self.batch.len());
            self.batch.drain_into(&mut Merging { port, merge: &mut self.merge, out: &mut out });
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

    fn stop(&mut self) {}
}

/// Passes one port's records on, and its marks through the merge.
struct Merging<'a, C> {
    port: usize,
    merge: &'a mut Merge,
    out: &'a mut C,
}

impl<T, C: Collector<T>> Collector<T> for Merging<'_, C> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        debug_assert!(self.merge.may_send_records(self.port), "a record after idle or end");
        self.out.record(time, value);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.merge.mark(self.port, mark, |mark| self.out.mark(mark));
    }
}
