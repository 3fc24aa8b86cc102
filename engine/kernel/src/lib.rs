//! The words and seams that every part of Thalweg shares. They are time, keys, batches and marks,
//! and the traits through which sources, sinks and formats meet the engine.
//!
//! This is the lowest layer. It does no I/O, starts no thread, reads no clock and depends on no
//! other crate of the project. A connector depends on this crate and on nothing else of ours.
//!
//! | module | what it defines |
//! |---|---|
//! | [`time`] | [`Timestamp`]: event time in milliseconds |
//! | [`key`] | [`Key`], its fixed hash, key groups and their owners |
//! | [`ordered`] | [`OrderedKey`]: keys whose stored bytes sort as they do |
//! | [`batch`] | [`Batch`] and [`Mark`]: what flows along a channel, and its grammar |
//! | [`source`] | [`SourceSpec`], [`Source`], [`Emit`]: where records come from |
//! | [`partition`] | [`PartitionId`], [`Discover`]: the partitions of a source, and how they are found |
//! | [`sink`] | [`SinkSpec`], [`Sink`]: where results go |
//! | [`format`] | [`Message`], [`Decode`], [`Encode`]: bytes to records and back |
//! | [`metadata`] | [`WithMetadata`]: key, headers, offset and so on as fields of a record |
//! | [`header`] | [`Header`]: what a sender put beside a payload |
//! | [`cause`] | [`Cause`], [`DecodeError`]: why an input was refused |
//! | [`dead_letter`] | [`DeadLetter`]: what could not become a record |
//! | [`refused`] | [`RefusedResults`]: letters of a sink, on their way to its shard |
//! | [`context`] | [`OpenContext`]: what a connector is told when it opens |
//! | [`field`] | [`Field`]: a value of a record's field, for connectors that deal in fields |
//! | [`connector`] | [`Connector`](connector::Connector): what a connector is, promises and can be told |
//! | [`options`](mod@options) | what can be set, declared once |
//! | [`epoch`] | [`Epoch`]: the number of a checkpoint |
//! | [`durable`] | [`Durable`]: what can be kept in state |
//! | [`changed`] | [`Changed`], [`RowKind`]: a row of a changelog, and what it does |
//! | [`layout`] | [`Layout`]: what the stored bytes of a state mean |
//! | [`changes`] | [`Changes`]: what an epoch changes, as one flat block |
//! | [`state`] | [`StateReader`], [`StateInfo`]: what was kept, read back |
//! | [`journal`] | [`Journals`]: the durable log of input that cannot be replayed |
//! | [`defects`] | [`Defect`](defects::Defect): what is done wrong on purpose, in builds that test the proofs |

pub mod base64;
pub mod batch;
pub mod beside;
pub mod cause;
pub mod changed;
pub mod changes;
pub mod connector;
pub mod context;
pub mod dead_letter;
pub mod defects;
pub mod descriptors;
pub mod durable;
pub mod epoch;
pub mod error;
pub mod field;
pub mod format;
pub mod header;
pub mod journal;
pub mod key;
pub mod layout;
pub mod metadata;
pub mod options;
pub mod ordered;
pub mod partition;
pub mod pending;
pub mod refused;
pub mod sink;
pub mod source;
pub mod state;
pub mod tasks;
mod thread_name;
pub mod time;

pub use batch::{Batch, Collector, Mark};
pub use cause::{Cause, DecodeError};
pub use changed::{Changed, RowKind};
pub use changes::{Change, Changes, ChangesDamaged};
pub use context::{Durability, Lineage, OpenContext, Shared};
pub use dead_letter::{DeadLetter, Origin};
pub use descriptors::{Descriptors, Readiness, Watch};
pub use durable::{Durable, StateWriter, ValueDamaged};
pub use epoch::Epoch;
pub use error::{ConfigError, ConnectorError, Fault, message_of_panic};
pub use field::{Column, DecodeFields, Field, FieldKind, Record};
pub use format::{Decode, Encode, Message};
pub use header::Header;
pub use journal::{JournalError, JournalReader, JournalRecord, JournalWriter, Journals};
pub use key::{Key, KeyGroups, Owned};
pub use layout::Layout;
pub use metadata::{Metadata, WithMetadata};
pub use ordered::OrderedKey;
pub use partition::{Discover, Discovery, KnownPartition, PartitionId, PartitionNews, Partitions};
pub use pending::{Pending, PendingId};
pub use refused::RefusedResults;
pub use sink::{Sink, SinkSpec};
pub use source::{Emit, Generated, Source, SourceSpec, SourceStatus};
pub use state::{StateError, StateId, StateInfo, StateKind, StateReader};
pub use tasks::{Task, TaskHandle, TaskStatus, Tasks};
pub use thread_name::thread_name;
pub use time::Timestamp;

/// A string that stays inline up to 24 bytes. It is the right type for device names and other keys,
/// because cloning a short one does not allocate.
pub type Str = compact_str::CompactString;
