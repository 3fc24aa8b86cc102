//! The partitions of a source: who they are, which shard reads each, and how those are found that appear while the
//! job runs.
//!
//! A partition is known by its id, under which its position is stored. A source either knows its partitions from the
//! start ([`Partitions::Fixed`]) or finds them as it goes, such as files in a folder ([`Partitions::Discovered`]).
//!
//! # Who reads which
//! Partition `p` of a fixed list is read on shard `p % n`. A partition that is discovered is read on
//! [`PartitionId::shard`], which depends on its id and on the number of shards alone. So no shard asks another, and
//! after a restart on another number of shards each finds what is its own.
//!
//! # The life of a discovered partition
//! ```text
//!  found -> open -> ended -> gone           its position is kept while it is open and after its end, until it is gone
//!            ^        |
//!            +--------+  found again: it has grown
//! ```

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::{ConnectorError, Key, Str, Timestamp};

/// A shard knows at most this many partitions of a source, those included that have ended and are not gone.
pub const SOURCE_PARTITIONS_MAX: usize = 65_536;

/// The id of a partition has at most this many bytes.
pub const PARTITION_ID_BYTES_MAX: usize = 4_096;

/// What a partition is known by: a number, or a name such as a path. It must not change while its position is of use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(Str);

impl PartitionId {
    /// A partition with a number.
    pub fn numbered(number: usize) -> Self {
        Self(number.to_string().into())
    }

    /// A partition with a name of at most [`PARTITION_ID_BYTES_MAX`] bytes.
    pub fn new(name: impl Into<Str>) -> Self {
        Self(name.into())
    }

    /// Its name; a number is its decimal digits.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its number, if it has one.
    pub fn number(&self) -> Option<usize> {
        let number = self.0.parse().ok()?;
        (Self::numbered(number) == *self).then_some(number)
    }

    /// The shard, of this many, that reads it where partitions are discovered: a number goes round the shards, a name
    /// goes by its hash.
    pub fn shard(&self, shards: usize) -> usize {
        let shards = shards.max(1);
        match self.number() {
            Some(number) => number % shards,
            None => (self.0.key_hash() % shards as u64) as usize,
        }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The partitions of a source, as far as its description knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// These, at most [`SOURCE_PARTITIONS_MAX`] of them and each once, in the same order on every shard.
    Fixed(Vec<PartitionId>),
    /// Those that [`SourceSpec::discover`](crate::SourceSpec::discover) finds while the job runs.
    Discovered,
}

impl Partitions {
    /// A fixed number of partitions that have numbers.
    pub fn numbered(count: usize) -> Self {
        Self::Fixed((0..count).map(PartitionId::numbered).collect())
    }
}

/// A partition that a job resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPartition {
    /// Its id.
    pub id: PartitionId,
    /// What [`Source::snapshot`](crate::Source::snapshot) wrote last.
    pub position: Bytes,
    /// Whether it had ended there.
    pub ended: bool,
}

/// What has become of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionNews {
    /// It is there: it is opened where it was left, or at its beginning. One that is open is opened once more when it has
    /// ended.
    Found(PartitionId),
    /// It is not there any more: its position is forgotten when it has ended. Should it appear again, it is another.
    Gone(PartitionId),
}

/// What a look for partitions left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// The partitions that are there at the start are not all found yet, so that event time does not go on without
    /// them. Look again when the waker is called.
    Listing,
    /// All that is there was found, or as much as may be open at a time. Look again when the waker is called, or after
    /// this long.
    Listed(Option<Duration>),
    /// No partition will appear any more.
    Ended,
}

/// Finds the partitions of a source on a shard.
pub trait Discover {
    /// Adds what is new to `news`, in the order in which partitions are to be opened, and says what is left to do.
    /// `open` partitions of this shard are open now: one that wants a bound on those holds the rest back. News of
    /// partitions that belong to [other shards](PartitionId::shard) are passed over. Must not block.
    ///
    /// # Errors
    /// Ends the job: only for what waiting cannot mend.
    fn discover(
        &mut self,
        now: Timestamp,
        open: usize,
        news: &mut Vec<PartitionNews>,
    ) -> Result<Discovery, ConnectorError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_as_it_is_written_is_one() {
        for (id, number) in
            [("0", Some(0)), ("17", Some(17)), ("017", None), ("+1", None), ("", None)]
        {
            assert_eq!(PartitionId::new(id).number(), number, "{id:?}");
        }
        assert_eq!(PartitionId::numbered(17), PartitionId::new("17"));
    }

    #[test]
    fn each_partition_has_one_shard_which_never_changes() {
        let shards: Vec<_> = (0..8).map(|n| PartitionId::numbered(n).shard(3)).collect();
        assert_eq!(shards, [0, 1, 2, 0, 1, 2, 0, 1]);
        // Stored positions depend on it in no way, but a job that looks for its files does.
        let named = |name: &str, shards| PartitionId::new(name).shard(shards);
        assert_eq!([named("a", 8), named("b", 8), named("logs/1.jsonl", 8)], [7, 7, 4]);
        let spread: std::collections::BTreeSet<_> =
            (0..100).map(|n| named(&format!("file {n}"), 8)).collect();
        assert_eq!(spread.len(), 8);
    }

    #[test]
    fn a_fixed_list_has_each_number_once() {
        let Partitions::Fixed(ids) = Partitions::numbered(3) else { panic!("they are fixed") };
        assert_eq!(ids.iter().map(PartitionId::as_str).collect::<Vec<_>>(), ["0", "1", "2"]);
        assert_eq!(ids[2].to_string(), "2");
    }
}
