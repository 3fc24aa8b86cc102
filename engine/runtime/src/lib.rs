//! Drivers that step shards.
