//! The head of a pipeline that is fed by other pipelines. It drains its ports in the order in which batches arrive.
//! [`Ports`] says what becomes of their marks, and [`Passing`] what becomes of a record: an inbox of chunks looks into
//! each chunk.

use std::marker::PhantomData;
use std::ops::BitOr;

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

    /// Publishes the due time of what stands behind it, whose watermark of this port is `told`. Whether that is news for a
    /// pipeline of this shard.
    pub(crate) fn publish(&mut self, due: Timestamp, told: Timestamp) -> bool {
        match self {
            Self::Local(inbox) => inbox.publish(due),
            Self::Lane(receiver) => receiver.publish(due, told),
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

/// How an inbox passes on what its ports bring.
pub trait Passing<T>: 'static {
    /// What it passes on.
    type Out: 'static;

    /// How many records of the stream a batch has.
    fn records(batch: &Batch<T>) -> usize;

    /// Passes on what one of the ports has brought.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "sealed: see `AsTheyCome`")]
    fn pass(ports: &mut Ports, port: usize, value: T) -> Self::Out;
}

/// Records are passed on as they come.
pub struct AsTheyCome(());

impl<T: 'static> Passing<T> for AsTheyCome {
    type Out = T;

    #[inline(always)]
    fn records(batch: &Batch<T>) -> usize {
        batch.len()
    }

    #[allow(private_interfaces, reason = "see the trait")]
    #[inline(always)]
    fn pass(_ports: &mut Ports, _port: usize, value: T) -> T {
        value
    }
}

/// A head that drains its ports. `P` is its [`Passing`].
pub struct Inbox<T, P = AsTheyCome> {
    sources: Vec<Port<T>>,
    ports: Ports,
    /// The buffers of the last batch, empty, to be swapped for the next.
    batch: Batch<T>,
    /// The port to begin with, so that none is favoured.
    first: usize,
    records_in: Counter,
    watermark: WatermarkGauge,
    passing: PhantomData<fn(P)>,
}

impl<T, P> Inbox<T, P> {
    /// `together` says that its ports go back to one set of streams.
    pub(crate) fn new(
        sources: Vec<Port<T>>,
        together: bool,
        records_in: Counter,
        watermark: WatermarkGauge,
    ) -> Self {
        let ports = Ports::one(sources.len(), together);
        let (batch, passing) = (Batch::default(), PhantomData);
        Self { sources, ports, batch, first: 0, records_in, watermark, passing }
    }
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl<T: 'static, P: Passing<T>> Chain for Inbox<T, P> {
    type Out = P::Out;

    fn step<C: Collector<P::Out>>(
        &mut self,
        _cx: &StepContext,
        mut out: C,
    ) -> Result<Progress, ConnectorError> {
        let count = self.sources.len();
        let mut progress = Progress::Idle(None);
        for n in 0..count {
            let port = (self.first + n) % count;
            if self.ports.is_blocked(port) || !self.sources[port].take(&mut self.batch) {
                continue;
            }
            progress.took(&self.batch);
            self.records_in.add(P::records(&self.batch));
            let Self { ports, batch, .. } = self;
            let passing = PhantomData::<P>;
            batch.drain_into(&mut Merging { port, ports, passing, out: &mut out });
        }
        self.first = (self.first + 1) % count.max(1);
        if progress != Progress::Idle(None) {
            self.watermark.set(self.ports.watermark());
        }
        Ok(if self.ports.ended() { Progress::Done } else { progress })
    }

    fn ready(&self) -> bool {
        true
    }

    fn barrier(&mut self, epoch: Epoch, mut out: impl Collector<P::Out>) {
        out.mark(Mark::Barrier(epoch));
    }

    fn tick(&mut self, _cx: &StepContext, _out: impl Collector<P::Out>) -> Option<Timestamp> {
        None
    }

    fn settle(&mut self, _out: impl Collector<P::Out>) {}

    fn source(&mut self) -> Option<&mut dyn Head> {
        None
    }

    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }

    fn publish(&mut self, due: Timestamp) -> bool {
        let Self { sources, ports, .. } = self;
        let publish = |(n, port): (usize, &mut Port<T>)| port.publish(due, ports.told(n));
        sources.iter_mut().enumerate().map(publish).fold(false, BitOr::bitor)
    }
}

/// Passes one port's records on, and its marks through the merge.
struct Merging<'a, P, C> {
    port: usize,
    ports: &'a mut Ports,
    passing: PhantomData<P>,
    out: &'a mut C,
}

impl<T, P: Passing<T>, C: Collector<P::Out>> Collector<T> for Merging<'_, P, C> {
    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T) {
        debug_assert!(
            self.ports.may_send_records(self.port),
            "a record after idle, end or barrier"
        );
        self.out.record(time, P::pass(self.ports, self.port, value));
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        self.ports.mark(self.port, mark, |_, mark| self.out.mark(mark));
    }
}
