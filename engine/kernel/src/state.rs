//! What was kept, read back: the seam between operators and the store.
//!
//! A stored key is `u64:state u16:group rest`, big-endian, so that the entries of a state lie together,
//! ordered by key group. A shard reads its own range. For what belongs to no key, such as the position of
//! a source partition, the group is the number of the partition or instance.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{ChangesDamaged, Epoch, Layout, Str, ValueDamaged};

/// The number of a state of an operator in storage. It is a fixed hash of their names, so that it does
/// not depend on where in the job the operator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateId(u64);

impl StateId {
    /// The bytes of a stored key before its own part.
    pub const PREFIX_BYTES: usize = 10;

    /// The state called `name` of the operator whose stable name is `operator`.
    pub fn of(operator: &str, name: &str) -> Self {
        Self(xxh3_64(format!("{operator}\0{name}").as_bytes()))
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Begins a stored key in this state.
    #[inline]
    pub fn begin_key(self, group: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
        out.extend_from_slice(&group.to_be_bytes());
    }

    /// The range of stored keys of these groups.
    pub fn range(self, groups: std::ops::Range<u16>) -> (Vec<u8>, Vec<u8>) {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        self.begin_key(groups.start, &mut from);
        self.begin_key(groups.end, &mut to);
        (from, to)
    }

    /// The group of a stored key, and its own part.
    pub fn split_key(key: &[u8]) -> Option<(u16, &[u8])> {
        let (prefix, rest) = key.split_at_checked(Self::PREFIX_BYTES)?;
        Some((u16::from_be_bytes([prefix[8], prefix[9]]), rest))
    }
}

/// What a state is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// A value per key. (Up to release 0.1 a list or map per key, too.)
    Keyed,
    /// A map per key, entry by entry.
    Map,
    /// A list per key, item by item.
    List,
    /// Timers.
    Timers,
    /// Open windows.
    Windows,
    /// The positions and clocks of a source.
    Source,
    /// What a sink has not committed yet.
    Sink,
    /// The items of an operator's list. They belong to no key: each is under a group of the shard that added it.
    Operator,
}

impl StateKind {
    /// Whether state that is written in this form now may have been written in the other by an earlier release.
    pub fn was_whole(self, earlier: Self) -> bool {
        matches!((self, earlier), (Self::Map | Self::List, Self::Keyed))
    }
}

/// One state of a job: for those who look into it from outside, and to notice that a job has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateInfo {
    /// Its number in storage.
    pub id: StateId,
    /// The operator's stable name.
    pub operator: Str,
    /// Its name within the operator.
    pub name: Str,
    /// What it is for.
    pub kind: StateKind,
    /// The number of its schema.
    pub schema: u32,
    /// The Rust types of key and value when it was written: for people.
    pub types: String,
    /// What its bytes mean. Catalogues of release 0.1 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
}

/// Stored state, as of the last epoch before the job began. Shards read it when they are built, and
/// later for keys that are not in memory.
pub trait StateReader: Send {
    /// The epoch that the job resumes from; `None` if it begins anew.
    fn restored(&self) -> Option<Epoch>;

    /// The states as they were described when that epoch was written.
    fn states(&self) -> &[StateInfo];

    /// Gives `each` the entries with keys from `from` on that are below `to`, in order of their keys.
    ///
    /// # Errors
    /// If storage cannot be read or is damaged, and those of `each`.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError>;

    /// Gives `found` the value of `key` where it lies, if there is one; whether there was.
    ///
    /// # Errors
    /// As for [`scan`](Self::scan).
    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError>;

    /// What was changed up to this epoch can be read here: memory need not keep it.
    fn readable(&self) -> Epoch;
}

/// Stored state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A block of changes is damaged.
    #[error(transparent)]
    Changes(#[from] ChangesDamaged),
    /// A value or key is damaged, or of another type than the job's.
    #[error(transparent)]
    Value(#[from] ValueDamaged),
    /// Anything else; says what to do.
    #[error("{0}")]
    Other(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_states_never_change() {
        assert_eq!(StateId::of("count", "value").number(), 0x938cc20f3628f5da);
    }

    #[test]
    fn keys_of_a_state_lie_together_by_group() {
        let id = StateId::of("a", "b");
        let (from, to) = id.range(3..5);
        let key = |group| {
            let mut key = Vec::new();
            id.begin_key(group, &mut key);
            key.push(9);
            key
        };
        assert!(key(2) < from && from < key(3) && key(4) < to && to < key(5));
        assert_eq!(StateId::split_key(&key(4)), Some((4, &[9][..])));
    }

    #[test]
    fn only_maps_and_lists_were_once_whole_values() {
        use StateKind::{Keyed, List, Map, Sink, Timers};
        assert!(Map.was_whole(Keyed) && List.was_whole(Keyed));
        assert!(!Keyed.was_whole(Keyed) && !Timers.was_whole(Keyed) && !Map.was_whole(Sink));
    }

    #[test]
    fn what_is_shorter_than_a_prefix_is_no_stored_key() {
        let key = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(StateId::split_key(&key), Some((0x102, &[][..])));
        assert_eq!(StateId::split_key(&key[..9]), None);
    }
}
