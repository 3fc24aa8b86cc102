//! How much state an operator may keep on a shard, and what gives way.
//!
//! The [`Overflow`] policy decides about a record whose key is one more than may be, or whose state needs more bytes than
//! there may be. With [`Overflow::DeadLetter`] the keys that have state go on: at the bound for bytes they may still add
//! a quarter of it. So whoever fills the state with new keys does not stop the known keys at once. With
//! [`Overflow::EvictLeastRecentlyUsed`] other keys give way, each with all its state and its timers.

use super::overflow::Overflow;

/// The default bound on the keys of one operator's state on one shard.
pub const STATE_KEYS_MAX: usize = 1_000_000;

/// The default bound on the bytes of one operator's state on one shard, in memory or not: 1 GiB.
pub const STATE_BYTES_MAX: usize = 1_024 * 1_024 * 1_024;

/// A record drops at most this many keys to make room.
pub(crate) const EVICTED_KEYS_MAX: usize = 16;

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) keys_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) overflow: Overflow,
}

impl Default for Bounds {
    fn default() -> Self {
        let (keys_max, bytes_max) = (STATE_KEYS_MAX, STATE_BYTES_MAX);
        Self { keys_max, bytes_max, overflow: Overflow::default() }
    }
}
