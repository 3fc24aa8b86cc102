//! Latency beside a bare client, in one run. Three streams of messages are offset by a third of their period, so
//! that no receiver's work is in another's way.
//!
//! | stream | who receives it |
//! |---|---|
//! | `bare` | an MQTT client that does nothing but look at the clock |
//! | `job` | source, map, filter, sink of a Thalweg job |
//! | `keyed` | source, `key_by`, window, sink: a message's window is closed by the next message, from whose due time the latency counts |
//!
//! `latency --outbox` has two streams instead, of QoS 1, and asks when a *result* arrives:
//!
//! | stream | who receives it |
//! |---|---|
//! | `bare` | as above |
//! | `outbox` | a client that subscribes to the results of a job with state, journal and outbox: [`outbox`] |
//!
//! A result is published when the checkpoint that holds it exists. So it waits for the next barrier: half the
//! interval on average, all of it at most. Then it waits for the syncs of the journal and the store. It passes
//! the broker twice. What the disk alone takes for a sync is measured before and after.
//!
//! **Open loop.** A latency counts from the time a message was *due*, not from when it was sent. If the sender or
//! the broker falls behind, that time is in the figures (no coordinated omission). How late the sender itself was
//! is reported beside them.

pub mod bare;
pub mod job;
pub mod outbox;
pub mod publisher;
pub mod schedule;

use std::time::Duration;

use serde::Serialize;

use crate::quantiles::{Durations, Quantiles};

/// How long sources may take to subscribe.
pub const SUBSCRIBED_MAX: Duration = Duration::from_secs(10);

/// The figures of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Line {
    /// How many messages were recorded.
    pub messages: u64,
    /// How many never came.
    pub missing: u64,
    /// How long they took.
    #[serde(flatten)]
    pub quantiles: Quantiles,
}

impl Line {
    /// The number of messages that should have come.
    pub fn new(durations: &Durations, expected: u64) -> Self {
        let messages = durations.len();
        let missing = expected.saturating_sub(messages);
        Self { messages, missing, quantiles: durations.quantiles() }
    }
}
