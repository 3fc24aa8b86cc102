//! What the binaries of this crate share. Each binary answers one question; see `README.md` for
//! the commands and for figures.
//!
//! | binary | question |
//! |---|---|
//! | `latency` | how much later than a bare MQTT client does a job see a message? And when does its result come out of an outbox? |
//! | `footprint` | how large is the `thalweg` binary, how fast does it start, what does it cost idle? |
//! | `sensors` | what does an event cost from a file of JSON lines, beside a loop written by hand? |
//! | `mqtt` | what does a message cost through a broker, beside a loop on a raw socket? What does it cost at a gateway's rates, and what does an idle process cost? |
//! | `yahoo` | what does an event cost in the Yahoo Streaming Benchmark, beside other engines, and how late is a result at a given rate? |
//! | `stand-in` | none: it is `thalweg` under another name, for the tests of `footprint` |
//!
//! They run small under `cargo test -p thalweg-benches`, with a broker of their own, so that they
//! cannot rot.

pub mod broker;
pub mod devices;
pub mod disk;
pub mod footprint;
pub mod latency;
pub mod process;
pub mod quantiles;
pub mod rates;
pub mod report;
pub mod sensors;
pub mod spin;
pub mod yahoo;
