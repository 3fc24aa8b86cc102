//! The atomics on which shards and the work of connections wait for each other. `tests/interleavings` puts those of a model checker in their
//! place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};

pub(crate) use atomic_waker::AtomicWaker;
