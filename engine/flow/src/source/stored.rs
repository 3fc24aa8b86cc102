//! What is stored of a source's partitions, so that each goes on where it was.
//!
//! # Layout
//! The state `positions` of the source, schema 2. Its keys have the group 0 and then the partition's id in UTF-8, its
//! values are [`StoredPartition`]s. In schema 1 a partition was known by its number, which stood in place of the group with
//! nothing behind it, and the value was a [`FirstStored`]. What schema 1 left is read, and moves to schema 2 with the
//! next epoch. An older release refuses what schema 2 wrote, and says so.
//!
//! A value may have at most 4 GiB, as any in storage.

use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    ConnectorError, Durable, StateError, StateId, StateKind, StateReader, Timestamp,
};

use crate::checkpoint::{Description, Outgoing};
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
    /// What its watermark generator keeps.
    pub(crate) generator: Vec<u8>,
    /// What its source keeps.
    pub(crate) position: Vec<u8>,
}

/// The same in schema 1, when every strategy was a bounded disorder.
#[derive(Archive, Serialize, Deserialize)]
struct FirstStored {
    latest: Timestamp,
    position: Vec<u8>,
}

/// Describes the state, for the job's catalogue.
pub(crate) fn describe(node: u32) -> Description {
    let kind = StateKind::Source;
    Description { schema: 2, ..Description::of::<String, StoredPartition>(node, "positions", kind) }
}

/// What was found of a partition.
pub(crate) enum Found {
    Nothing,
    Stored(StoredPartition),
    /// By its number, as schema 1 has it: the latest event time and the position.
    First(Timestamp, Vec<u8>),
}

impl Found {
    /// The position, where there is one.
    pub(crate) fn position(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::Stored(stored) => Some(&stored.position),
            Self::First(_, position) => Some(position),
        }
    }

    /// Lets a clock and a generator go on; the watermark then, where there is one.
    pub(crate) fn resume<T, G: WatermarkGenerator<T>>(
        &self,
        clock: &mut PartitionClock,
        generator: &mut G,
    ) -> Result<Option<Timestamp>, String> {
        let watermark = match self {
            Self::Nothing => return Ok(None),
            Self::Stored(stored) => {
                clock.resume(stored.latest);
                if !seeded(Defect::FlowForgetsGenerator) {
                    generator.restore(&stored.generator)?;
                }
                Some(stored.watermark)
            }
            Self::First(latest, _) => {
                clock.resume(*latest);
                generator.latest(*latest)
            }
        };
        Ok(watermark.filter(|&watermark| clock.advance(watermark)))
    }
}

impl Flow {
    /// Looks for what is stored of the partition `id`, which was the one with this number before there were ids.
    pub(crate) fn stored_partition(
        &self,
        state: StateId,
        id: &str,
        number: usize,
    ) -> Result<Found, ConnectorError> {
        let Some(reader) = self.reader() else { return Ok(Found::Nothing) };
        let found = find(reader.as_ref(), state, id, number);
        let what = "the stored position of a source cannot be read";
        found.map_err(|error| ConnectorError::new("job", what).caused_by(error))
    }
}

fn find(
    reader: &dyn StateReader,
    state: StateId,
    id: &str,
    number: usize,
) -> Result<Found, StateError> {
    let mut found = Found::Nothing;
    let mut bytes = Vec::new();
    key(state, id, &mut bytes);
    reader.get(&bytes, &mut |value| {
        found = Found::Stored(StoredPartition::read(value)?);
        Ok(())
    })?;
    if let (Found::Nothing, Ok(number)) = (&found, u16::try_from(number)) {
        bytes.clear();
        state.begin_key(number, &mut bytes);
        reader.get(&bytes, &mut |value| {
            let FirstStored { latest, position } = FirstStored::read(value)?;
            found = Found::First(latest, position);
            Ok(())
        })?;
    }
    Ok(found)
}

/// Writes the key of a partition.
pub(crate) fn key(state: StateId, id: &str, out: &mut Vec<u8>) {
    state.begin_key(0, out);
    out.extend_from_slice(id.as_bytes());
}

/// Deletes what schema 1 left of the partition with this number.
pub(crate) fn delete_first(state: StateId, number: usize, out: &mut Outgoing) {
    if let Ok(number) = u16::try_from(number) {
        out.changes.delete_with(|key| state.begin_key(number, key));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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

    fn resumed(found: &Found) -> (Timestamp, Option<Timestamp>) {
        let mut generator = BoundedDisorder { lateness_ms: 5 };
        let mut clock = PartitionClock::new(&Watermarks::monotonous());
        let watermark = found.resume::<u8, _>(&mut clock, &mut generator).unwrap();
        (clock.latest(), watermark)
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
        let found = find(&stored, state, "c", 3).unwrap();
        assert_eq!(found.position(), Some(&[7, 8, 9][..]));
        assert_eq!(resumed(&found), (1_000.into(), Some(994.into())));
        assert!(matches!(find(&stored, state, "3", 4).unwrap(), Found::Nothing));

        let mut out = Outgoing::default();
        delete_first(state, 3, &mut out);
        let now = StoredPartition {
            latest: 2_000.into(),
            watermark: 1_500.into(),
            generator: vec![1],
            position: vec![2],
        };
        out.put(|out| key(state, "c", out), &now).unwrap();
        for change in Changes::read(out.changes.as_bytes()) {
            match change.unwrap() {
                Change::Put { key, value } => drop(stored.0.insert(key.into(), value.into())),
                Change::Delete { key } => drop(stored.0.remove(key)),
                Change::DeleteRange { .. } => panic!("a range is deleted"),
            }
        }
        assert_eq!(stored.0.len(), 1);
        let found = find(&stored, state, "c", 3).unwrap();
        assert_eq!(found.position(), Some(&[2][..]));
        assert_eq!(resumed(&found), (2_000.into(), Some(1_500.into())));
    }
}
