//! The generator inside the engine: a source with a partition per core, as fast as it is polled.

use thalweg::kernel::{
    ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Partitions, Source,
    SourceSpec, SourceStatus, Timestamp,
};

use super::workload::{Ads, Event, Slice};

/// A source of this many events, in this many partitions.
#[derive(Clone, Debug)]
pub struct Generator {
    /// In all partitions together.
    pub events: u64,
    /// Partition `p` of `n` emits every `n`-th event from event `p` on.
    pub partitions: usize,
}

impl SourceSpec for Generator {
    type Item = Event;
    type Partition = Generating;

    fn describe(&self) -> String {
        format!("generator of {} ad events", self.events)
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.partitions)
    }

    fn open(
        &self,
        partition: &PartitionId,
        cx: &OpenContext,
    ) -> Result<Generating, ConnectorError> {
        let partition = partition.number().unwrap_or_default();
        let mut slice = Ads.slice(partition, self.partitions, self.events);
        if let Some(bytes) =
            cx.durability.position.as_deref().and_then(|bytes| bytes.try_into().ok())
        {
            slice.skip_to(u64::from_le_bytes(bytes));
        }
        Ok(Generating { slice, stopped: false })
    }
}

/// An open partition of a [`Generator`].
#[derive(Debug)]
pub struct Generating {
    slice: Slice,
    stopped: bool,
}

impl Source for Generating {
    type Item = Event;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Event>,
    ) -> Result<SourceStatus, ConnectorError> {
        if self.stopped {
            return Ok(SourceStatus::Ended);
        }
        for event in self.slice.take_up_to(records_max) {
            out.record(event, now, &Generated);
        }
        Ok(if self.slice.is_empty() { SourceStatus::Ended } else { SourceStatus::Ready })
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn snapshot(&mut self, _epoch: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.slice.position().to_le_bytes());
    }
}
