//! The Yahoo Streaming Benchmark in its extended version: generator and state are inside the engine, so
//! that the engine is what is measured.
//!
//! # The workload
//! Integers are unsigned, of 64 bits, and wrap around. Times are milliseconds since the epoch.
//!
//! - `mix(i)` is SplitMix64: `z = (i + 1) * 0x9E3779B97F4A7C15`, `z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9`,
//!   `z = (z ^ z >> 27) * 0x94D049BB133111EB`, `z ^ z >> 31`.
//! - 1,000 ads, 100 campaigns. Ad `i` has the id `mix(i + 0xAD000000)` and belongs to campaign `i / 10`;
//!   campaign `c` has the id `mix(c + 0xCA000000)`.
//! - Event `i`, with `h = mix(i)`: `user_id = h`, `page_id = rotate_left(h, 32) ^ 0x9E3779B97F4A7C15`,
//!   `ad = ads[((h >> 16 & 0xffffffff) * 1000) >> 32]`, `ad_type = (h & 0xff) % 5`,
//!   `event_type = ((h >> 8 & 0xff) * 3) >> 8` (0 view, 1 click, 2 purchase),
//!   `event_time = T0 + i / 1000`, `T0 = 1700000000000`.
//! - The job keeps views, keeps ad and time of them, looks the ad up in a hash map to get its campaign,
//!   and counts by campaign in windows of 10 s of event time.
//! - The answer: `results` is the number of rows, `total` the sum of their counts, `checksum` the sum of
//!   `mix(campaign_id ^ w << 32 ^ count)` over the rows, `w` being the number of the window from `T0` on.
//!
//! | events | results | total | checksum |
//! |---|---|---|---|
//! | 20,000,000 | 200 | 6,722,491 | `f3050c93a80eb353` |
//! | 100,000,000 | 1,000 | 33,596,818 | `8a6a36a6477ee357` |
//!
//! Runs of those sizes are checked against these numbers, all others against a naive count.
//!
//! # What is run
//! | module | |
//! |---|---|
//! | [`workload`] | the above, and the naive count |
//! | [`source`], [`job`] | Thalweg: a source with a partition for each core (core `p` of `n` has every `n`-th event from `p` on, so each covers all of event time), and the job in the public API |
//! | [`peers`] | a loop by hand, timely, renoir |
//! | [`plan`] | the same job put together at run time from a description in data, with rows as columns |
//! | [`json`] | the same with events in JSON, decoding included |
//! | [`rate`], [`sweep`], [`plot`] | events when they are due, the latency of rows, the highest rate |
//! | [`mqtt`] | events in JSON through a broker |
//! | [`spec`], [`run`], [`line`], [`measure`] | what a run is told, one run in its own process, its report and check; runs in turns |
//! | [`watch`] | a sink that looks at the clock |
//!
//! # What is reported
//! CPU time is user and system time of the measured process, from the start of the job to its end. It is
//! divided by the number of *events*, of which a third are views. Peak memory is `VmHWM` of that process,
//! so in mode `json` with the events in it. With peers the engines run in turns, and the ratios are
//! medians over the rounds. On a machine that does other things too, only these mean anything.

pub mod job;
pub mod json;
pub mod line;
pub mod measure;
pub mod mqtt;
pub mod peers;
pub mod plan;
pub mod plot;
pub mod rate;
pub mod run;
pub mod source;
pub mod spec;
pub mod sweep;
pub mod watch;
pub mod workload;
