//! One lesson per file, each run with `cargo run -p thalweg-examples --example NAME`:
//!
//! | example | what it teaches |
//! |---|---|
//! | `averages` | the whole of a job: MQTT in, windows of event time, results out |
//! | `word_count` | files and pipes, one record into many, windows without timestamps in the data |
//! | `late_and_dead` | what becomes of input that comes too late or is broken, and side outputs |
//! | `in_order` | operator state: a buffer that is there again after a restart |
