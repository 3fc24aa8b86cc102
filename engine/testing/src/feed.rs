//! Sources that a test fills while the job runs. They have no position: what was read does not come again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thalweg_kernel::{
    ConnectorError, Emit, Generated, OpenContext, PartitionId, Partitions, Source, SourceSpec,
    SourceStatus, Timestamp,
};

/// One partition that a test fills, and a source of this partition alone. Clones are of one partition.
#[derive(Debug)]
pub struct Feed<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    ends: bool,
    is_deaf: bool,
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { waiting: VecDeque::new(), ends: false, is_deaf: false })))
    }
}

impl<T> Feed<T> {
    /// Adds a record.
    pub fn push(&self, record: T) {
        self.extend([record]);
    }

    /// Adds records.
    pub fn extend(&self, records: impl IntoIterator<Item = T>) {
        self.state().waiting.extend(records);
    }

    /// Whether all records have been read.
    pub fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Whether it would hear of something new.
    pub fn listen(&self, listens: bool) {
        self.state().is_deaf = !listens;
    }

    /// Ends the partition behind what was added.
    pub fn end(&self) {
        self.state().ends = true;
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: 'static> SourceSpec for Feed<T> {
    type Item = T;
    type Partition = Self;

    fn describe(&self) -> String {
        "feed".into()
    }

    fn open(&self, _: &PartitionId, _: &OpenContext) -> Result<Self, ConnectorError> {
        Ok(self.clone())
    }
}

impl<T> Source for Feed<T> {
    type Item = T;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<T>,
    ) -> Result<SourceStatus, ConnectorError> {
        let mut state = self.state();
        let count = records_max.min(state.waiting.len());
        state.waiting.drain(..count).for_each(|record| out.record(record, now, &Generated));
        Ok(match (state.waiting.is_empty(), state.ends) {
            (false, _) => SourceStatus::Ready,
            (true, false) => SourceStatus::Waiting(None),
            (true, true) => SourceStatus::Ended,
        })
    }

    fn listens(&self) -> bool {
        !self.state().is_deaf
    }

    fn stop(&mut self) {
        self.end();
    }
}

/// A source of several such partitions.
#[derive(Debug)]
pub struct Feeds<T>(pub Vec<Feed<T>>);

impl<T> Clone for Feeds<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: 'static> SourceSpec for Feeds<T> {
    type Item = T;
    type Partition = Feed<T>;

    fn describe(&self) -> String {
        "feeds".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }

    fn open(&self, id: &PartitionId, _: &OpenContext) -> Result<Feed<T>, ConnectorError> {
        let feed = id.number().and_then(|number| self.0.get(number));
        feed.cloned().ok_or_else(|| ConnectorError::new("feeds", format!("no partition {id}")))
    }
}
