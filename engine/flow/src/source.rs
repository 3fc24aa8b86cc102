//! Where streams begin. A head polls the partitions of a source that live on its shard, gives each record its event
//! time, and lets watermarks follow.
//!
//! | module | what it does |
//! |---|---|
//! | `head` | [`SourceHead`](head::SourceHead): the head of a pipeline |
//! | `partition` | one open partition: its source, its clock and its watermark generator |
//! | `emitting` | where a poll puts its records |
//! | `letters` | the dead letters of one message |
//! | `quiet` | what lets event time go on by the clock while all partitions are silent |
//! | `clock_wait` | what waits while this machine's clock cannot be right |
//! | `discovery` | the partitions that appear and end while the job runs |
//! | `stored` | what outlives the process, and its layout |
//!
//! # Time
//! Each open partition is an input of one [`Merge`]. A partition that appears joins at the watermark of the merge, so
//! time does not go back. Nor does time go on without the partition: it stands until the partition has come as
//! far, or is idle. Records that the partition has behind the watermark are late, as records of any partition are. While
//! the first look for partitions lasts, event time stands, so that the partitions of the start begin together. A
//! partition that a checkpoint knows holds time back from the start on, until it is found, or found to be gone.
//!
//! # Limits
//! A shard knows at most [`SOURCE_PARTITIONS_MAX`] partitions of a source, and partitions that have ended count. One
//! more ends the job, in words that say what to do.

mod clock_wait;
pub(crate) mod collection;
mod discovery;
mod emitting;
pub(crate) mod head;
mod letters;
mod partition;
mod quiet;
mod stored;

use std::collections::BTreeSet;

use thalweg_kernel::partition::{PARTITION_ID_BYTES_MAX, SOURCE_PARTITIONS_MAX};
use thalweg_kernel::{ConnectorError, PartitionId, Partitions, SourceSpec};

use self::discovery::Discovering;
use self::head::SourceHead;
use self::partition::resuming;
use crate::flow::Flow;
use crate::graph::At;
use crate::stream::Stream;
use crate::time::generator::WatermarkGenerator;
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, Watermarks};

impl Flow {
    /// Begins a stream at `source`, with event time and watermarks by `watermarks`.
    ///
    /// Input that cannot become a record goes to [`Flow::dead_letters`]. The source's stable name, by which
    /// its positions are found again, is what it is and where: another address is another source.
    pub fn source<S, E, G>(
        &self,
        source: S,
        watermarks: Watermarks<E, G>,
    ) -> Stream<SourceHead<S::Partition, E, G>>
    where
        S: SourceSpec,
        E: EventTime<S::Item>,
        G: WatermarkGenerator<S::Item>,
    {
        self.open_source(None, source, watermarks)
    }

    /// [`source`](Self::source) with a stable name of your own.
    pub fn source_as<S, E, G>(
        &self,
        uid: &str,
        source: S,
        watermarks: Watermarks<E, G>,
    ) -> Stream<SourceHead<S::Partition, E, G>>
    where
        S: SourceSpec,
        E: EventTime<S::Item>,
        G: WatermarkGenerator<S::Item>,
    {
        self.open_source(Some(uid), source, watermarks)
    }

    fn open_source<S, E, G>(
        &self,
        uid: Option<&str>,
        source: S,
        watermarks: Watermarks<E, G>,
    ) -> Stream<SourceHead<S::Partition, E, G>>
    where
        S: SourceSpec,
        E: EventTime<S::Item>,
        G: WatermarkGenerator<S::Item>,
    {
        let partitions = source.partitions();
        let producers = match &partitions {
            Partitions::Fixed(ids) => ids.len().clamp(1, self.shards()),
            Partitions::Discovered => self.shards(),
        };
        let node =
            self.add_node::<S::Item>(&format!("Source: {}", source.describe()), producers, vec![]);
        watermarks.refused("a partition").into_iter().for_each(|error| self.fail(error));
        let state = self.fix_uid(node, uid, "positions");
        self.checkpoints().register(stored::describe(node), None);
        let mut head = SourceHead::new(self, node, producers, state, watermarks);
        let opened = match partitions {
            Partitions::Fixed(ids) => self.open_fixed(&mut head, node, producers, &source, &ids),
            Partitions::Discovered => self.begin_discovery(&mut head, node, producers, source),
        };
        if let Err(error) = opened {
            self.fail(error);
        }
        Stream { flow: self.clone(), chain: head, at: At { node, producers } }
    }

    /// Opens those of a fixed list of partitions that are this shard's.
    fn open_fixed<S: SourceSpec, E, G: WatermarkGenerator<S::Item>>(
        &self,
        head: &mut SourceHead<S::Partition, E, G>,
        node: u32,
        producers: usize,
        source: &S,
        ids: &[PartitionId],
    ) -> Result<(), ConnectorError> {
        check_ids(&source.describe(), ids)?;
        let Some(cx) = self.open_context(node, producers) else { return Ok(()) };
        let ours = ids.iter().enumerate().skip(cx.shard).step_by(cx.shards);
        let ours = ours.collect::<Vec<_>>();
        head.merge = Merge::new(ours.len());
        for (input, (number, id)) in ours.into_iter().enumerate() {
            let found = self.stored_partition(head.state, id, number)?;
            let partition = source.open(id, &resuming(&cx, found.position()))?;
            head.add(id.clone(), input, partition, found)?;
        }
        Ok(())
    }

    fn begin_discovery<S: SourceSpec, E, G: WatermarkGenerator<S::Item>>(
        &self,
        head: &mut SourceHead<S::Partition, E, G>,
        node: u32,
        producers: usize,
        source: S,
    ) -> Result<(), ConnectorError> {
        let Some(cx) = self.open_context(node, producers) else { return Ok(()) };
        let known = self.known_partitions(head.state, &cx)?;
        let lost = self.counter("numPartitionsLost", node);
        let discovering = Discovering::begin(source, cx, known, lost, &mut head.merge)?;
        head.resumed.extend(discovering.awaited());
        head.discovering = Some(discovering);
        Ok(())
    }
}

/// Checks a fixed list of partitions.
fn check_ids(source: &str, ids: &[PartitionId]) -> Result<(), ConnectorError> {
    let mut seen = BTreeSet::new();
    let what = if ids.len() > SOURCE_PARTITIONS_MAX {
        format!("it has {} partitions; {SOURCE_PARTITIONS_MAX} are allowed", ids.len())
    } else if let Some(twice) = ids.iter().find(|id| !seen.insert(*id)) {
        format!("it has the partition \"{twice}\" twice; name each once")
    } else if let Some(long) = ids.iter().find(|id| is_too_long(id)) {
        too_long(long)
    } else {
        return Ok(());
    };
    Err(ConnectorError::new(source, what).lasting())
}

fn is_too_long(id: &PartitionId) -> bool {
    id.as_str().len() > PARTITION_ID_BYTES_MAX
}

fn too_long(id: &PartitionId) -> String {
    let start: String = id.as_str().chars().take(40).collect();
    let bytes = id.as_str().len();
    format!(
        "the id of its partition \"{start}..\" has {bytes} bytes; {PARTITION_ID_BYTES_MAX} are allowed, so \
         give it a shorter name"
    )
}
