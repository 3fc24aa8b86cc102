//! What the binaries of this crate share. Each binary answers one question; see `README.md` for
//! the commands and for figures.
//!
//! | binary | question |
//! |---|---|
//! | `latency` | how much later than a bare MQTT client does a job see a message? |
//! | `footprint` | how large is the `thalweg` binary, how fast does it start, what does it cost idle? |
//! | `stand-in` | none: it is `thalweg` under another name, for the tests of `footprint` |
//!
//! They run small under `cargo test -p thalweg-benches`, with a broker of their own, so that they
//! cannot rot.

pub mod broker;
pub mod footprint;
pub mod latency;
pub mod quantiles;
pub mod spin;
