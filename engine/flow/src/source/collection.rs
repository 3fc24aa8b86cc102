//! A bounded source over records in memory: for tests, examples and lookup tables.

use std::sync::Arc;

use thalweg_kernel::{
    ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Partitions, Source,
    SourceSpec, SourceStatus, Timestamp,
};

/// A source that yields the elements of in-memory partitions, in order.
#[derive(Clone, Debug)]
pub struct Collection<T>(Vec<Arc<[T]>>);

impl<T> Collection<T> {
    /// One partition with these records.
    pub fn new(records: impl IntoIterator<Item = T>) -> Self {
        Self(vec![records.into_iter().collect()])
    }

    /// Several partitions; order is kept within each.
    pub fn partitioned(partitions: impl IntoIterator<Item: IntoIterator<Item = T>>) -> Self {
        Self(partitions.into_iter().map(|records| records.into_iter().collect()).collect())
    }
}

impl<T: Clone + 'static> SourceSpec for Collection<T> {
    type Item = T;
    type Partition = CollectionPartition<T>;

    fn describe(&self) -> String {
        format!("collection of {}", self.0.iter().map(|part| part.len()).sum::<usize>())
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }

    fn open(
        &self,
        partition: &PartitionId,
        cx: &OpenContext,
    ) -> Result<Self::Partition, ConnectorError> {
        let records =
            partition.number().and_then(|number| self.0.get(number)).cloned().ok_or_else(|| {
                ConnectorError::new(
                    cx.operator.as_str(),
                    format!("there is no partition {partition}"),
                )
            })?;
        let position = cx.durability.position.as_deref().and_then(|bytes| bytes.try_into().ok());
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes) as usize);
        let next = next.min(records.len());
        Ok(CollectionPartition { records, next })
    }
}

/// One open partition of a [`Collection`].
#[derive(Debug)]
pub struct CollectionPartition<T> {
    records: Arc<[T]>,
    next: usize,
}

impl<T: Clone> Source for CollectionPartition<T> {
    type Item = T;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<T>,
    ) -> Result<SourceStatus, ConnectorError> {
        let rest = &self.records[self.next..];
        for value in rest.iter().take(records_max) {
            out.record(value.clone(), now, &Generated);
        }
        self.next += rest.len().min(records_max);
        let ended = self.next == self.records.len();
        Ok(if ended { SourceStatus::Ended } else { SourceStatus::Ready })
    }

    fn stop(&mut self) {
        self.next = self.records.len();
    }

    fn snapshot(&mut self, _epoch: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&(self.next as u64).to_le_bytes());
    }
}
