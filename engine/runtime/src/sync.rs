//! The atomics on which shards sleep. `tests/interleavings` puts those of a model checker in their place.

pub(crate) use std::sync::atomic::AtomicBool;

pub(crate) use atomic_waker::AtomicWaker;
