//! Latency beside a bare client, in one run: three streams of messages, offset against each other
//! by a third of their period, so that no receiver's work is in another's way.
//!
//! | stream | who receives it |
//! |---|---|
//! | `bare` | an MQTT client that does nothing but look at the clock |
//! | `job` | source, map, filter, sink of a Thalweg job |
//! | `keyed` | source, `key_by`, window, sink: a message's window is closed by the next message, from whose due time the latency counts |
//!
//! **Open loop.** A latency counts from the time a message was *due*, not from when it was sent:
//! if the sender or the broker falls behind, that time is in the figures (no coordinated
//! omission). How late the sender itself was is reported beside them.

pub mod bare;
pub mod job;
pub mod publisher;
pub mod schedule;
