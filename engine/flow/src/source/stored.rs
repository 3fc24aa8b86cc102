//! What is stored of a source's partitions, so that each goes on where it was.
//!
//! # Layout
//! The state `positions` of the source has schema 2. Its keys have the group 0 and then the partition's id in UTF-8,
//! and its values are [`StoredPartition`]s. In schema 1 a key had the partition's number in place of the group and
//! nothing behind it, and the value was a [`FirstStored`]. What schema 1 left is read, and moves to schema 2 with the
//! next epoch. An older release refuses what schema 2 wrote, and says so.
//!
//! A value may have at most 4 GiB, as any in storage.

use std::collections::BTreeMap;

use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    ConnectorError, Durable, Layout, OpenContext, PartitionId, StateError, StateId, StateKind,
    StateReader, Timestamp,
};

use crate::checkpoint::{Description, Outgoing, Reads};
use crate::flow::Flow;
use crate::time::generator::WatermarkGenerator;
use crate::time::watermarks::PartitionClock;

/// What is stored of a partition.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
pub(crate) struct StoredPartition {
    /// The latest event time.
    pub(crate) latest: Timestamp,
    /// The last watermark.
    pub(crate) watermark: Timestamp,
    /// Whether its source has ended, and not because it was asked to.
    pub(crate) ended: bool,
    /// What its watermark generator keeps.
    pub(crate) generator: Vec<u8>,
    /// What its source keeps.
    pub(crate) position: Vec<u8>,
}

/// What schema 1 stored of a partition, when every watermark strategy was a bounded disorder.
#[derive(Archive, Serialize, Deserialize)]
struct FirstStored {
    latest: Timestamp,
    position: Vec<u8>,
}

/// Describes the state, for the job's catalogue.
pub(crate) fn describe(node: u32) -> Description {
    Description {
        schema: 2,
        // What schema 1 left is read here, and not by a migration of a value.
        migrations: vec![Reads {
            schema: 1,
            layout: Layout::of::<u16, FirstStored>(),
            types: None,
        }],
        ..Description::of::<String, StoredPartition>(node, "positions", StateKind::Source)
    }
}

/// What was found of a partition.
pub(crate) enum Found {
    Nothing,
    Stored(StoredPartition),
    /// As schema 1 has it: its number, the latest event time and the position.
    First(usize, Timestamp, Vec<u8>),
}

impl Found {
    /// The position, where there is one.
    pub(crate) fn position(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::Stored(stored) => Some(&stored.position),
            Self::First(_, _, position) => Some(position),
        }
    }

    /// The number under which schema 1 has it.
    pub(crate) fn first_number(&self) -> Option<usize> {
        match self {
            Self::First(number, _, _) => Some(*number),
            Self::Nothing | Self::Stored(_) => None,
        }
    }

    /// Lets a clock and a generator go on.
    pub(crate) fn resume<T, G: WatermarkGenerator<T>>(
        &self,
        clock: &mut PartitionClock,
        generator: &mut G,
    ) -> Result<(), String> {
        let watermark = match self {
            Self::Nothing => return Ok(()),
            Self::Stored(stored) => {
                clock.resume(stored.latest);
                if !seeded(Defect::FlowForgetsGenerator) {
                    generator.restore(&stored.generator)?;
                }
                Some(stored.watermark)
            }
            Self::First(_, latest, _) => {
                clock.resume(*latest);
                generator.latest(*latest)
            }
        };
        if let Some(watermark) = watermark {
            clock.advance(watermark);
        }
        Ok(())
    }
}

impl Flow {
    /// Looks for what is stored of the partition `id`, which was the one with this number before there were ids.
    pub(crate) fn stored_partition(
        &self,
        state: StateId,
        id: &PartitionId,
        number: usize,
    ) -> Result<Found, ConnectorError> {
        let Some(reader) = self.reader() else { return Ok(Found::Nothing) };
        let found = find(reader.as_ref(), state, id, number);
        found.map_err(unreadable)
    }

    /// All partitions that are stored and belong to the shard of `cx`, where partitions are discovered.
    pub(crate) fn known_partitions(
        &self,
        state: StateId,
        cx: &OpenContext,
    ) -> Result<BTreeMap<PartitionId, StoredPartition>, ConnectorError> {
        let mut known = BTreeMap::new();
        let Some(reader) = self.reader() else { return Ok(known) };
        let (from, to) = state.range(0..u16::MAX);
        let scanned = reader.scan(&from, &to, &mut |key, value| {
            let id = StateId::split_key(key).map(|(_, id)| str::from_utf8(id));
            let id = match id {
                Some(Ok(id)) if !id.is_empty() => PartitionId::new(id),
                Some(Ok(_)) => {
                    let what = "the source had a fixed list of partitions when it was stored, and now it looks for \
                                them; give it another stable name to begin anew, or the list that it had";
                    return Err(StateError::Other(what.into()));
                }
                _ => return Err(StateError::Other("the id of a partition is damaged".into())),
            };
            if id.shard(cx.shards) == cx.shard && !seeded(Defect::FlowForgetsPartition) {
                known.insert(id, StoredPartition::read(value)?);
            }
            Ok(())
        });
        scanned.map_err(unreadable)?;
        Ok(known)
    }
}

#[cold]
fn unreadable(error: StateError) -> ConnectorError {
    let what = "the stored position of a source cannot be read";
    ConnectorError::new("source", what).caused_by(error)
}

fn find(
    reader: &dyn StateReader,
    state: StateId,
    id: &PartitionId,
    number: usize,
) -> Result<Found, StateError> {
    let mut found = Found::Nothing;
    let mut bytes = Vec::new();
    key(state, id, &mut bytes);
    reader.get(&bytes, &mut |value| {
        found = Found::Stored(StoredPartition::read(value)?);
        Ok(())
    })?;
    if let (Found::Nothing, Ok(group)) = (&found, u16::try_from(number)) {
        bytes.clear();
        state.begin_key(group, &mut bytes);
        reader.get(&bytes, &mut |value| {
            let FirstStored { latest, position } = FirstStored::read(value)?;
            found = Found::First(number, latest, position);
            Ok(())
        })?;
    }
    Ok(found)
}

/// Writes the key of a partition.
pub(crate) fn key(state: StateId, id: &PartitionId, out: &mut Vec<u8>) {
    state.begin_key(0, out);
    out.extend_from_slice(id.as_str().as_bytes());
}

/// Deletes what schema 1 left of the partition with this number.
pub(crate) fn delete_first(state: StateId, number: usize, out: &mut Outgoing) {
    if let Ok(number) = u16::try_from(number) {
        out.changes.delete_with(|key| state.begin_key(number, key));
    }
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::{Change, Changes, Epoch, StateInfo};

    use super::*;
    use crate::time::generator::BoundedDisorder;
    use crate::time::watermarks::Watermarks;

    /// Stored keys and values, and nothing else.
    struct Stored(BTreeMap<Vec<u8>, Vec<u8>>);

    impl StateReader for Stored {
        fn restored(&self) -> Option<Epoch> {
            Some(Epoch::new(1))
        }

        fn states(&self) -> &[StateInfo] {
            &[]
        }

        fn scan(
            &self,
            from: &[u8],
            to: &[u8],
            each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
        ) -> Result<(), StateError> {
            let mut range = self.0.range(from.to_vec()..to.to_vec());
            range.try_for_each(|(key, value)| each(key, value))
        }

        fn get(
            &self,
            key: &[u8],
            found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
        ) -> Result<bool, StateError> {
            self.0.get(key).map_or(Ok(false), |value| found(value).map(|()| true))
        }

        fn readable(&self) -> Epoch {
            Epoch::new(1)
        }
    }

    fn resumed(found: &Found) -> (Timestamp, Timestamp) {
        let mut generator = BoundedDisorder { lateness_ms: 5 };
        let mut clock = PartitionClock::new(&Watermarks::monotonous());
        found.resume::<u8, _>(&mut clock, &mut generator).unwrap();
        (clock.latest(), clock.watermark())
    }

    /// Goal: what the release before ids wrote is found under the partition's number, goes on, and moves.
    #[test]
    fn what_schema_1_stored_is_read_and_moves() {
        let state = StateId::of("source", "positions");
        // A latest event time of 1,000, and the position 7, 8, 9.
        let value = b"\x07\x08\x09\xe8\x03\0\0\0\0\0\0\xf5\xff\xff\xff\x03\0\0\0";
        let mut first = Vec::new();
        state.begin_key(3, &mut first);
        let mut stored = Stored([(first, value.to_vec())].into());
        let found = find(&stored, state, &PartitionId::new("c"), 3).unwrap();
        assert_eq!(found.position(), Some(&[7, 8, 9][..]));
        assert_eq!(resumed(&found), (1_000.into(), 994.into()));
        assert!(matches!(find(&stored, state, &PartitionId::new("3"), 4).unwrap(), Found::Nothing));

        let mut out = Outgoing::default();
        delete_first(state, 3, &mut out);
        let now = StoredPartition {
            latest: 2_000.into(),
            watermark: 1_500.into(),
            ended: false,
            generator: vec![1],
            position: vec![2],
        };
        out.put(|out| key(state, &PartitionId::new("c"), out), &now).unwrap();
        for change in Changes::read(out.changes.as_bytes()) {
            match change.unwrap() {
                Change::Put { key, value } => drop(stored.0.insert(key.into(), value.into())),
                Change::Delete { key } => drop(stored.0.remove(key)),
                Change::DeleteRange { .. } => panic!("a range is deleted"),
            }
        }
        assert_eq!(stored.0.len(), 1);
        let found = find(&stored, state, &PartitionId::new("c"), 3).unwrap();
        assert_eq!(found.position(), Some(&[2][..]));
        assert_eq!(resumed(&found), (2_000.into(), 1_500.into()));
    }
}
