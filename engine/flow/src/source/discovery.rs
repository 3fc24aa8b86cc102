//! The partitions of a source that appear and end while the job runs.
//!
//! ```text
//!  awaited --found--> open --end--> ended --epoch--> kept --found--> open again, where it was
//!     \                                                \
//!      +--gone--> counted as lost                       +--gone--> forgotten
//! ```
//! A partition that the job resumes and that had not ended is *awaited*: it holds event time back until the source has
//! found it again. A partition that is gone by then takes its unread records with it, and `numPartitionsLost` counts it.
//! When a partition ends, its source is closed as soon as an epoch holds the end. Its position is *kept*, so that nothing
//! is read twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::partition::SOURCE_PARTITIONS_MAX;
use thalweg_kernel::{
    Collector, ConnectorError, Discover, Discovery, Epoch, KnownPartition, Mark, OpenContext,
    PartitionId, PartitionNews, SourceSpec, StateId, Timestamp,
};

use super::partition::{end_input, resuming};
use super::stored::{self, Found, StoredPartition};
use super::{is_too_long, too_long};
use crate::checkpoint::Checkpoints;
use crate::counters::Counter;
use crate::time::merge::Merge;

/// The input of the merge that stands for the look for partitions.
const LOOK: usize = 0;

/// What a shard knows of a partition.
enum Known {
    /// The job resumes it; its input of the merge.
    Awaited(usize, StoredPartition),
    /// It is open, or its end is not in an epoch yet.
    Open { again: bool, gone: bool },
    /// It has ended.
    Kept(StoredPartition),
}

/// A partition that is to be opened: an input of the merge where it has one already, and what was stored of it.
pub(super) struct Opening {
    pub(super) id: PartitionId,
    pub(super) input: Option<usize>,
    pub(super) found: Found,
}

/// Looks for partitions.
pub(super) struct Discovering<S> {
    discover: Box<dyn Discover>,
    open: Box<dyn Fn(&PartitionId, &OpenContext) -> Result<S, ConnectorError>>,
    /// The context of the operator, as of the newest epoch that exists.
    cx: OpenContext,
    name: String,
    known: BTreeMap<PartitionId, Known>,
    /// Ids whose position is to be deleted with the next epoch.
    forgotten: Vec<PartitionId>,
    has_forgotten: bool,
    news: Vec<PartitionNews>,
    /// Have ended and were found again meanwhile.
    again: Vec<Opening>,
    state: State,
    /// No partition will appear any more.
    exhausted: bool,
    stopping: bool,
    lost: Counter,
    shard: usize,
    shards: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its input of the merge holds event time back.
    Listing,
    /// That input is idle.
    Listed,
    /// That input has ended.
    Ended,
}

impl<S: 'static> Discovering<S> {
    /// Begins to look. The inputs of the merge are: the look itself, and then the partitions that are awaited.
    pub(super) fn begin<Spec: SourceSpec<Partition = S>>(
        source: Spec,
        cx: OpenContext,
        stored: BTreeMap<PartitionId, StoredPartition>,
        lost: Counter,
        merge: &mut Merge,
    ) -> Result<Self, ConnectorError> {
        let known = stored.iter().map(|(id, stored)| KnownPartition {
            id: id.clone(),
            position: Bytes::copy_from_slice(&stored.position),
            ended: stored.ended,
        });
        let discover = source.discover(&known.collect::<Vec<_>>(), &cx)?;
        let mut inputs = LOOK + 1;
        let known = stored.into_iter().map(|(id, stored)| {
            let known = if stored.ended {
                Known::Kept(stored)
            } else {
                inputs += 1;
                Known::Awaited(inputs - 1, stored)
            };
            (id, known)
        });
        let known = known.collect();
        *merge = Merge::new(inputs);
        let (shard, shards, name) = (cx.shard, cx.shards, source.describe());
        Ok(Self {
            discover,
            open: Box::new(move |id, cx| source.open(id, cx)),
            cx,
            name,
            known,
            forgotten: Vec::new(),
            has_forgotten: false,
            news: Vec::new(),
            again: Vec::new(),
            state: State::Listing,
            exhausted: false,
            stopping: false,
            lost,
            shard,
            shards,
        })
    }

    /// Opens a partition where it was left.
    pub(super) fn open(&self, id: &PartitionId, found: &Found) -> Result<S, ConnectorError> {
        (self.open)(id, &resuming(&self.cx, found.position()))
    }

    /// `epoch` exists: what is opened from now on goes on from there.
    pub(super) fn committed(&mut self, epoch: Epoch) {
        if !seeded(Defect::FlowOpensAtOldEpoch) {
            self.cx.durability.restored = Some(epoch);
        }
    }

    /// The watermarks of the partitions that are awaited, by their inputs of the merge.
    pub(super) fn awaited(&self) -> impl Iterator<Item = (usize, Timestamp)> {
        self.known.values().filter_map(|known| match known {
            Known::Awaited(input, stored) => Some((*input, stored.watermark)),
            Known::Open { .. } | Known::Kept(_) => None,
        })
    }

    /// Looks once: what is to be opened, and what is left to do. `open` partitions are open.
    pub(super) fn look<T>(
        &mut self,
        now: Timestamp,
        open: usize,
        merge: &mut Merge,
        out: &mut impl Collector<T>,
    ) -> Result<(Vec<Opening>, Discovery), ConnectorError> {
        if self.stopping || self.state == State::Ended {
            return Ok((Vec::new(), Discovery::Ended));
        }
        let mut openings = std::mem::take(&mut self.again);
        let mut discovery = Discovery::Ended;
        if !self.exhausted {
            discovery = self.discover.discover(now, open, &mut self.news)?;
            self.exhausted = discovery == Discovery::Ended;
        }
        for news in std::mem::take(&mut self.news) {
            match news {
                PartitionNews::Found(id) if id.shard(self.shards) == self.shard => {
                    openings.extend(self.found(id)?);
                }
                PartitionNews::Found(_) => {}
                PartitionNews::Gone(id) => self.gone(id, merge, out),
            }
        }
        // What will be opened once more has not ended yet.
        let is_left = |known: &Known| matches!(known, Known::Open { again: true, .. });
        if self.exhausted && self.known.values().any(is_left) {
            discovery = Discovery::Listed(None);
        }
        Ok((openings, discovery))
    }

    /// What a look has found is open: event time goes on without the look, or the look ends. Whether that was news.
    pub(super) fn looked<T>(
        &mut self,
        discovery: Discovery,
        merge: &mut Merge,
        out: &mut impl Collector<T>,
    ) -> bool {
        match (self.state, discovery) {
            (State::Listing, Discovery::Listed(_)) => {
                self.state = State::Listed;
                merge.mark(LOOK, Mark::Idle, |mark| out.mark(mark));
            }
            (State::Listing | State::Listed, Discovery::Ended) => {
                for known in self.known.values() {
                    if let Known::Awaited(input, _) = known {
                        end_input(merge, *input, false, out);
                    }
                }
                end_input(merge, LOOK, self.state == State::Listed, out);
                self.state = State::Ended;
            }
            _ => return false,
        }
        true
    }

    /// The next epoch deletes what is stored of a partition that is gone.
    fn forget(&mut self, id: PartitionId) {
        self.forgotten.push(id);
        self.has_forgotten = true;
    }

    /// Whether there is more for the next epoch to delete than when this was asked last.
    pub(super) fn has_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.has_forgotten)
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    fn found(&mut self, id: PartitionId) -> Result<Option<Opening>, ConnectorError> {
        let full = self.known.len() >= SOURCE_PARTITIONS_MAX;
        match self.known.get_mut(&id) {
            Some(Known::Open { again, gone }) => {
                (*again, *gone) = (true, false);
                return Ok(None);
            }
            None if full => {
                let what = format!(
                    "shard {} has seen {SOURCE_PARTITIONS_MAX} partitions, and may know no more; take those away \
                     that have been read, so that their positions can be forgotten",
                    self.shard
                );
                return Err(ConnectorError::new(&self.name, what).lasting());
            }
            None if is_too_long(&id) => {
                return Err(ConnectorError::new(&self.name, too_long(&id)).lasting());
            }
            _ => {}
        }
        let known = self.known.insert(id.clone(), Known::Open { again: false, gone: false });
        Ok(Some(match known {
            Some(Known::Awaited(input, stored)) => {
                Opening { id, input: Some(input), found: Found::Stored(stored) }
            }
            Some(Known::Kept(_)) if seeded(Defect::FlowReadsEndedPartition) => {
                Opening { id, input: None, found: Found::Nothing }
            }
            Some(Known::Kept(stored)) => Opening { id, input: None, found: Found::Stored(stored) },
            Some(Known::Open { .. }) | None => Opening { id, input: None, found: Found::Nothing },
        }))
    }

    fn gone<T>(&mut self, id: PartitionId, merge: &mut Merge, out: &mut impl Collector<T>) {
        match self.known.get_mut(&id) {
            None => return,
            Some(Known::Open { again, gone }) => return (*again, *gone) = (false, true),
            Some(Known::Awaited(input, _)) => {
                self.lost.add(1);
                end_input(merge, *input, false, out);
            }
            Some(Known::Kept(_)) => {}
        }
        self.known.remove(&id);
        self.forget(id);
    }

    /// A partition has ended, and its source is closed.
    pub(super) fn closed(&mut self, id: PartitionId, last: StoredPartition) {
        match self.known.remove(&id) {
            Some(Known::Open { gone: true, .. }) => self.forget(id),
            Some(Known::Open { again: true, .. }) => {
                self.known.insert(id.clone(), Known::Open { again: false, gone: false });
                self.again.push(Opening { id, input: None, found: Found::Stored(last) });
            }
            _ => drop(self.known.insert(id, Known::Kept(last))),
        }
    }

    /// Deletes what is stored of partitions that are gone. Comes before the open ones are stored: one of them may have
    /// the id of another that is gone.
    pub(super) fn store(&mut self, state: StateId, checkpoints: &Checkpoints) {
        for id in self.forgotten.drain(..) {
            checkpoints.write(|out| {
                out.changes.delete_with(|key| stored::key(state, &id, key));
                Ok(())
            });
        }
    }
}
