//! What goes to the shard that owns a key: a record, or some of them added up.

use crate::exchange::route::Routed;

/// See the module.
pub enum Slice<T, K, A> {
    /// A record as it is.
    Record {
        /// The hash of its key.
        hash: u64,
        /// The record.
        value: T,
        /// The shard that owns its key had no room for it yet: see `state.rs`.
        held: bool,
    },
    /// The records of one key and window of one sender, added up.
    Partial(Partial<K, A>),
}

/// Some records of one key and window, added up. Its event time is one in the window.
pub struct Partial<K, A> {
    pub(super) hash: u64,
    pub(super) key: K,
    pub(super) accumulator: A,
    /// How many records it stands for.
    pub(super) records: u64,
    /// As for a record.
    pub(super) held: bool,
}

impl<T: 'static, K: 'static, A: 'static> Routed for Slice<T, K, A> {
    #[inline]
    fn hash(&self) -> u64 {
        match self {
            Self::Record { hash, .. } | Self::Partial(Partial { hash, .. }) => *hash,
        }
    }
}
