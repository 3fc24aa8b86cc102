//! JSON, decoded straight into the job's record: only the fields it reads are built.
//!
//! [`Json`] is a `serde` deserializer of its own, one pass over the payload. A derived struct names
//! the fields it wants; values of other fields are skipped by a flat loop that still checks them
//! as JSON, so a message that is broken anywhere is refused, whatever the job reads of it. Strings
//! without escapes are borrowed from the payload, others are unescaped into a buffer that is used
//! again: a struct of numbers and short [`Str`](thalweg_kernel::Str)s costs no allocation.
//!
//! # What is accepted
//! RFC 8259, in UTF-8 without byte order mark, keys in any order. Beyond that, and where readers
//! differ:
//! - A wanted field given twice is [`Malformed`](thalweg_kernel::Cause::Malformed); others may repeat.
//! - An integer field takes no fraction and no exponent (`21.0` is a [`WrongType`](thalweg_kernel::Cause::WrongType)),
//!   and `-0` is 0.
//! - Floats are the nearest to what is written; those beyond the type's range and bare `NaN`, `inf`
//!   or `-Infinity` are [`NotANumber`](thalweg_kernel::Cause::NotANumber), not infinite.
//! - `\ud800` without its other half is refused in text that is read, and passes where it is skipped.
//! - A struct also takes an array with its fields in order, unless the topic binds one of them.
//!
//! # Fields from the topic
//! A topic filter such as `sensors/{id}/temp` gives the outermost object, if it is a struct or map, the field
//! `id` as if the payload had it; where the payload has one too, the topic's wins. The text is
//! parsed as the field's type asks: `id: u32` takes `sensors/17/temp` and refuses `sensors/x/temp`.
//! (By way of `#[serde(flatten)]` and untagged enums a bound field is always text.)
//!
//! # Speed
//! Nanoseconds per message on the 2-core development machine, the best of twelve runs
//! (`CARGO_PROFILE_RELEASE_LTO=thin cargo run --release -p thalweg-format --example json_speed`; single runs
//! vary by half with the machine's neighbours):
//!
//! | message | this | `serde_json` | `sonic-rs` |
//! |---|---|---|---|
//! | YSB-like, 238 bytes, 3 of 7 fields | 118 | 206 | 156 |
//! | a sensor's reading, 73 bytes, 3 of 4 fields, with a float and white space | 88 | 104 | 87 |
//!
//! The profile is flat; most of it is branches on bytes that no predictor knows.

use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed};
use thalweg_kernel::{Decode, DecodeError, Message};

mod access;
mod de;
mod error;
mod number;
mod parser;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use error::Error;
pub(crate) use parser::Parser;

/// Payloads are refused beyond this many bytes unless [`Json::payload_bytes_max`] says otherwise.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Nesting is refused beyond this many levels unless [`Json::depth_max`] says otherwise.
pub const DEPTH_MAX: usize = 64;

/// Decodes JSON payloads into `T`. See the [module](self) for what is accepted.
///
/// ```
/// use serde::Deserialize;
/// use thalweg_format::Json;
/// use thalweg_kernel::{Decode, Message, Str, Timestamp};
///
/// #[derive(Debug, PartialEq, Deserialize)]
/// struct Reading {
///     device: Str,
///     temp: f64,
/// }
///
/// let payload = br#"{"temp": 21.5, "battery": {"volts": 3.1}, "device": "boiler"}"#;
/// let message = Message::new("plant/1", payload, Timestamp::default());
/// let reading = Json::<Reading>::new().decode(&message)?;
/// assert_eq!(reading, Reading { device: "boiler".into(), temp: 21.5 });
///
/// let message = Message::new("plant/1", br#"{"device": "boiler", "temp": "hot"}"#, Timestamp::default());
/// let refused = Json::<Reading>::new().decode(&message).unwrap_err();
/// assert_eq!(refused.reason, "field `temp`: expected a number, found the string \"hot\"");
/// assert_eq!(refused.position, Some(29));
/// # Ok::<(), thalweg_kernel::DecodeError>(())
/// ```
pub struct Json<T> {
    payload_bytes_max: usize,
    depth_max: usize,
    /// Strings with escapes are unescaped here; never longer than the longest payload.
    scratch: String,
    item: PhantomData<fn() -> T>,
}

impl<T> Json<T> {
    /// A decoder with the default limits, [`PAYLOAD_BYTES_MAX`] and [`DEPTH_MAX`].
    pub fn new() -> Self {
        Self {
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            depth_max: DEPTH_MAX,
            scratch: String::new(),
            item: PhantomData,
        }
    }

    /// Refuses payloads of more than `bytes` bytes, as [`thalweg_kernel::Cause::TooLarge`].
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// Refuses payloads nested deeper than `levels`, as [`thalweg_kernel::Cause::TooDeep`]: `[]` is one level deep.
    /// Values over 128 mean 128, so that no type can exhaust the stack.
    #[must_use]
    pub fn depth_max(mut self, levels: usize) -> Self {
        self.depth_max = levels.min(parser::DEPTH_MAX);
        self
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Self { payload_bytes_max: self.payload_bytes_max, depth_max: self.depth_max, ..Self::new() }
    }
}

impl<T> std::fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Json")
            .field("payload_bytes_max", &self.payload_bytes_max)
            .field("depth_max", &self.depth_max)
            .finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> Decode for Json<T> {
    type Item = T;

    #[inline]
    fn decode(&mut self, message: &Message<'_>) -> Result<T, DecodeError> {
        let Self { payload_bytes_max, depth_max, scratch, .. } = self;
        decode(PhantomData, message, *payload_bytes_max, *depth_max, scratch)
    }
}

/// Decodes by a serde seed: for shapes that are known only when the program runs, such as fields
/// whose names come from a configuration. Otherwise as [`Json`], with its limits.
#[derive(Clone, Debug)]
pub struct JsonSeed<S> {
    seed: S,
    payload_bytes_max: usize,
    scratch: String,
}

impl<S> JsonSeed<S> {
    /// A decoder that gives a clone of `seed` to each message.
    pub fn new(seed: S) -> Self {
        Self { seed, payload_bytes_max: PAYLOAD_BYTES_MAX, scratch: String::new() }
    }

    /// As [`Json::payload_bytes_max`].
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }
}

impl<T, S: Clone + for<'de> DeserializeSeed<'de, Value = T>> Decode for JsonSeed<S> {
    type Item = T;

    #[inline]
    fn decode(&mut self, message: &Message<'_>) -> Result<T, DecodeError> {
        decode(self.seed.clone(), message, self.payload_bytes_max, DEPTH_MAX, &mut self.scratch)
    }
}

#[inline]
fn decode<T>(
    seed: impl for<'de> DeserializeSeed<'de, Value = T>,
    message: &Message<'_>,
    payload_bytes_max: usize,
    depth_max: usize,
    scratch: &mut String,
) -> Result<T, DecodeError> {
    let text = crate::text::checked(message.payload, payload_bytes_max)?;
    let mut parser = Parser::new(text, depth_max, scratch);
    parser.bindings = message.bindings;
    let value = seed.deserialize(&mut parser).map_err(|error| error.or_at(parser.at));
    value.and_then(|value| parser.end().map(|()| value)).map_err(Error::into_decode_error)
}
