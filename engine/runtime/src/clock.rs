//! This machine's clock, as the engine reads it beside the shards.

use std::time::{SystemTime, UNIX_EPOCH};

use thalweg_kernel::Timestamp;
use thalweg_kernel::time::millis;

/// What it shows.
pub fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_millis(since_epoch.map_or(0, millis))
}
