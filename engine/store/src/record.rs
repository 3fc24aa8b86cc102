//! [`EpochRecord`]: what is known about an epoch besides its changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thalweg_kernel::{Epoch, StateInfo, Str, Timestamp};

/// What is known about an epoch. Stored as JSON, for people and for later versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: Epoch,
    /// The job's name.
    pub job: Str,
    /// The job's number of key groups, which never changes.
    pub key_groups: u16,
    /// The number of shards that wrote it.
    pub shards: u32,
    /// When it was written, in milliseconds since the Unix epoch.
    pub at: Timestamp,
    /// The job's states.
    pub states: Vec<StateInfo>,
    /// Counters of the job that go on after a restart, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// The oldest epoch that was kept when this one was written. The store fills it in.
    #[serde(default)]
    pub oldest: Epoch,
    /// The id of the state directory whose epoch it is; empty if it was not noted.
    #[serde(default, skip_serializing_if = "Str::is_empty")]
    pub directory: Str,
}

/// What the store notes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The format of the whole directory.
    pub(crate) format: u32,
    /// The base holds what was changed up to this epoch.
    pub(crate) folded: Epoch,
    /// The base may hold some of what was changed up to this epoch: none before it can be recovered.
    pub(crate) folding: Epoch,
    /// The greatest number that an epoch had which has been dropped: it is not used again.
    #[serde(default)]
    pub(crate) dropped: Epoch,
    /// A savepoint is being imported.
    #[serde(default)]
    pub(crate) importing: bool,
    /// A random id: numbers of epochs mean something within one directory only.
    #[serde(default)]
    pub(crate) id: Str,
    /// The directory of whose savepoint this one was made, and the savepoint's epoch.
    #[serde(default)]
    pub(crate) parent: Option<(Str, Epoch)>,
}

/// The format that is written. In format 2 maps and lists lie entry by entry, and the catalogue has the layouts of
/// states. Directories of format 1 are opened, and are of format 2 from their next epoch on.
pub(crate) const FORMAT: u32 = 2;

/// What an epoch takes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochInfo {
    /// The epoch.
    pub epoch: Epoch,
    /// Whether its record is there.
    pub recorded: bool,
    /// The blocks of its changes that are not folded.
    pub blocks: u32,
    /// The bytes of its record and blocks.
    pub bytes: u64,
}
