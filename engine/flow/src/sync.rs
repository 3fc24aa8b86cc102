//! The atomics on which shards wait for each other. `tests/interleavings` puts those of a model checker in their place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, fence};
