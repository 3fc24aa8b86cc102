//! [`Overflow`]: what happens to a record that would need more state than its operator may keep.

/// What happens to a record whose key, or bytes, would be more than the operator may keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It goes to the job's [dead letters](crate::Flow::dead_letters), with its key. At the bound for bytes those of keys
    /// that have state are admitted until there is a quarter more.
    #[default]
    DeadLetter,
    /// The state of the key that was used least recently is dropped to make room, with its timers, and counted
    /// (`numKeysEvicted`).
    EvictLeastRecentlyUsed,
}
