//! Averages of a second of 100 devices through a broker and back. A Thalweg job runs beside a loop on a raw
//! socket, each in a process of its own, and the devices run in a third.
//!
//! | module | what it is |
//! |---|---|
//! | [`load`] | the devices: paced bursts in, and the rows that come back |
//! | [`job`] | the job, as a user would write it |
//! | [`hand`] | the loop on a raw socket |
//! | [`work`] | what the loop does with a message |
//! | [`seen`] | how old messages are where they are seen, for [`rates`](crate::rates) |
//! | [`engine`] | a process for either of them |
//! | [`wire`] | as much of MQTT 5 as the two need that have no client library |
//! | [`account`] | what was sent and what came back, window by window |
//!
//! Messages are readings as in [`sensors`](crate::sensors::data), with this machine's clock as `ts`, QoS 0, on
//! `sensors/DEVICE`. Rows go to `results`. The latency of a row is its arrival at the process that sent the
//! readings, minus the end of its window. It holds the wait for the first reading of the next second (a
//! millisecond at most), the way through the engine, and twice the broker.
//!
//! All rows of a window come at once, so the 99th percentile of ten windows is the last rows of the
//! slowest one. CPU time is that of the engine's process alone, from when it has subscribed until
//! it is told to end.

pub mod account;
pub mod engine;
pub mod hand;
pub mod job;
pub mod load;
pub mod seen;
pub mod wire;
pub mod work;

/// Where readings are published, and the device's name behind it.
pub const READINGS: &str = "sensors/";
/// Where rows are published.
pub const RESULTS: &str = "results";
/// The length of a window.
pub const WINDOW_MS: i64 = 1_000;

/// This machine's clock, in microseconds since the epoch.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}
