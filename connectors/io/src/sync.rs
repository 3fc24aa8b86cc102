//! The atomics on which a thread waits. `tests/interleavings` puts those of a model checker in their place.

pub(crate) use std::sync::atomic::AtomicBool;
