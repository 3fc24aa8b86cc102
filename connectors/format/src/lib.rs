//! From bytes to records and back: one module per format.
//!
//! | module | reads | writes |
//! |---|---|---|
//! | [`json`] | [`Json`]: only the fields that a record has | |
//! | [`json_lines`] | | [`JsonLines`] |
//! | [`csv`] | | [`Csv`] |
//! | [`text`] | [`Text`]: a `String` | |
//! | [`shape`] | [`Shaped`]: fields by paths from JSON, SenML, Influx line protocol and bare text, several records of a message | |
//! | [`quoted`] | integers written as strings, within JSON | |
//! | [`raw`] | [`Raw`]: the whole [`RawMessage`] | |
//!
//! A decoder never panics on input and never allocates more than in proportion to a payload, which has a bound
//! ([`PAYLOAD_BYTES_MAX`]). What it refuses says where and why.

pub mod csv;
pub mod json;
pub mod json_lines;
mod payload;
pub mod quoted;
pub mod raw;
#[cfg(feature = "shapes")]
pub mod shape;
pub mod text;

pub use csv::Csv;
pub use json::{Json, JsonSeed};
pub use json_lines::JsonLines;
pub use payload::PAYLOAD_BYTES_MAX;
pub use raw::{Raw, RawMessage};
#[cfg(feature = "shapes")]
pub use shape::{Extractor, Shape, Shaped};
pub use text::Text;
