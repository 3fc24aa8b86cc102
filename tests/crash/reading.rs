//! [`Reading`]: what the fleet sends, and what the job passes on.

use serde::{Deserialize, Serialize};
use thalweg::kernel::Str;

/// A reading as it comes in and goes out.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Reading {
    /// From the topic.
    pub(crate) device: Str,
    pub(crate) sequence: u64,
    pub(crate) time_ms: i64,
    pub(crate) value: i64,
}
