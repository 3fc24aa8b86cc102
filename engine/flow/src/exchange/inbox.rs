//! The head of a pipeline that is fed by other pipelines: drains its ports in the order in which batches arrive. What
//! becomes of their marks is the business of [`Ports`].

use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, Mark, Timestamp};

use super::lane::LaneReceiver;
use super::local::LocalInbox;
use super::ports::Ports;
use crate::counters::{Counter, WatermarkGauge};
use crate::pipeline::{Chain, Head, Progress, StepContext};

/// Where batches come from.
pub(crate) enum Port<T> {
    /// A pipeline of this shard.
    Local(LocalInbox<T>),
    /// A shard, this one included.
    Lane(LaneReceiver<T>),
}

impl<T> Port<T> {
    /// Swaps what is next for the empty `batch`; false if there is nothing.
    pub(crate) fn take(&mut self, batch: &mut Batch<T>) -> bool {
        match self {
            Self::Local(inbox) => inbox.take(batch),
            Self::Lane(receiver) => receiver.take(batch),
        }
    }

    /// Whether its sender has to wait until something is taken.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Local(inbox) => inbox.is_full(),
            Self::Lane(receiver) => receiver.is_full(),
        }
    }
}

/// A head that drains its ports.
pub struct Inbox<T> {
    sources: Vec<Port<T>>,
    ports: Ports,
    /// The buffers of the last batch, empty, to be swapped for the next.
    batch: Batch<T>,
    /// The port to begin with, so that none is favoured.
    first: usize,
    records_in: Counter,
    watermark: WatermarkGauge,
}

impl<T> Inbox<T> {
    /// `together` says that its ports go back to one set of streams.
    pub(crate) fn new(
        sources: Vec<Port<T>>,
        together: bool,
        records_in: Counter,
        watermark: WatermarkGauge,
    ) -> Self {
        let ports = Ports::one(sources.len(), together);
        Self { sources, ports, batch: Batch::default(), first: 0, records_in, watermark }
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
        let count = self.sources.len();
        let mut busy = false;
        for n in 0..count {
            let port = (self.first + n) % count;
            if self.ports.is_blocked(port) || !self.sources[port].take(&mut self.batch) {
                continue;
            }
            busy = true;
            self.records_in.add(self.batch.len());
            let Self { ports, batch, .. } = self;
            batch.drain_into(&mut Merging { port, ports, out: &mut out });
        }
        self.first = (self.first + 1) % count.max(1);
        if busy {
            self.watermark.set(self.ports.watermark());
        }
        Ok(if self.ports.ended() {
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

/// Passes one port's records on, and its marks through the merge.
struct Merging<'a, C> {
    port: usize,
    ports: &'a mut Ports,
    out: &'a mut C,
}

impl<T, C: Collector<T>> Collector<T> for Merging<'_, C> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        debug_assert!(
            self.ports.may_send_records(self.port),
            "a record after idle, end or barrier"
        );
        self.out.record(time, value);
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.ports.mark(self.port, mark, |_, mark| self.out.mark(mark));
    }
}
