//! JSON, decoded straight into the job's record: only the fields it reads are built.
//!
//! [`Json`] is a `serde` deserializer of its own, one pass over the payload. A derived struct names the fields it
//! wants. A flat loop skips the values of other fields and still checks them as JSON. So a message that is broken
//! anywhere is refused, whatever the job reads of it. Strings without escapes are borrowed from the payload,
//! others are unescaped into a buffer that is used again. So a struct of numbers and short
//! [`Str`](thalweg_kernel::Str)s costs no allocation.
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
//! A topic filter such as `sensors/{id}/temp` gives the outermost object, if that is a struct or map, a field
//! `id`, as if from the payload. Where the payload has one too, the topic's wins. The text is parsed as the
//! field's type asks: `id: u32` takes `sensors/17/temp` and refuses `sensors/x/temp`. (By way of
//! `#[serde(flatten)]` and untagged enums a bound field is always text.)
//!
//! # Without bytes
//! A source that makes its records itself, such as a generator of rows, hands over their fields as values
//! ([`DecodeFields`](thalweg_kernel::DecodeFields)). They are read like fields of an object with these
//! keys.
//!
//! # Speed
//! A decoder remembers which key followed which, with its quotes, colon and white space, and compares them as one
//! piece. A type that ignored a key's value is not asked again (`memory.rs`). Strings are searched sixteen bytes
//! at a time, and digits are read eight at a time. Numbers of few digits have a path of their own. None of it
//! takes anything on trust: see the tests.
//!
//! Nanoseconds per message on the 2-core development machine, the best of 200 interleaved rounds
//! (`cargo run --profile profiling -p thalweg-format --example json_speed`). The others decode into
//! borrowed text; this decodes into an owned record, through [`Decode`].
//!
//! | message | this | `sonic-rs` | `serde_json` |
//! |---|---|---|---|
//! | Yahoo benchmark's event, 180 bytes, 3 of 7 fields, two of them [`quoted`](crate::quoted) | 71 | 121 | 210 |
//! | a sensor's reading, 81 bytes, 3 of 5 fields | 54 | 95 | 117 |
//! | that event with white space | 54 | 93 | 121 |
//! | that event, its keys in another order each time | 125 | 122 | 150 |
//! | that event among 35 other fields, 778 bytes | 500 | 720 | 1020 |
//!
//! The other two read the event's numbers by `from_str_radix` and `parse`, as their users would. With the readers
//! of this crate there too, the ratio to `sonic-rs` was 0.71, not 0.59. (All were measured on the messages that
//! the decoder was tuned on.)

use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed};
use thalweg_kernel::{Decode, DecodeError, Message, Str};

use crate::payload::PAYLOAD_BYTES_MAX;

mod access;
mod de;
pub(crate) mod digits;
mod error;
mod fields;
mod memory;
mod number;
mod parser;
mod scan;
#[cfg(test)]
mod tests;
mod word;

pub(crate) use error::{Error, shortened};
pub(crate) use parser::Parser;

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
    state: State,
    item: PhantomData<fn() -> T>,
}

impl<T> Json<T> {
    /// A decoder with the default limits, [`PAYLOAD_BYTES_MAX`] and [`DEPTH_MAX`].
    pub fn new() -> Self {
        Self {
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            depth_max: DEPTH_MAX,
            state: State::default(),
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
        let Self { payload_bytes_max, depth_max, state, .. } = self;
        decode(PhantomData, message, *payload_bytes_max, *depth_max, state)
    }
}

/// Decodes by a serde seed: for shapes that are known only when the program runs, such as fields
/// whose names come from a configuration. Otherwise as [`Json`], with its limits.
#[derive(Clone, Debug)]
pub struct JsonSeed<S> {
    seed: S,
    payload_bytes_max: usize,
    state: State,
}

impl<S> JsonSeed<S> {
    /// A decoder that gives a clone of `seed` to each message.
    pub fn new(seed: S) -> Self {
        Self { seed, payload_bytes_max: PAYLOAD_BYTES_MAX, state: State::default() }
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
        decode(self.seed.clone(), message, self.payload_bytes_max, DEPTH_MAX, &mut self.state)
    }
}

/// What a decoder keeps from message to message.
pub(crate) struct State {
    /// Strings with escapes are unescaped here; never longer than the longest payload.
    scratch: String,
    memory: Box<memory::Memory>,
}

impl Default for State {
    fn default() -> Self {
        Self { scratch: String::new(), memory: Box::new(memory::Memory::new()) }
    }
}

/// Nothing of it is meant for a copy: that one serves another partition.
impl Clone for State {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

#[inline]
fn decode<T>(
    seed: impl for<'de> DeserializeSeed<'de, Value = T>,
    message: &Message<'_>,
    payload_bytes_max: usize,
    depth_max: usize,
    state: &mut State,
) -> Result<T, DecodeError> {
    let text = crate::payload::checked(message.payload, payload_bytes_max)?;
    read(seed, text, message.bindings, depth_max, state)
}

/// Reads a text as a whole by a seed. `bindings` are fields of the outermost object.
#[inline]
pub(crate) fn read<'de, S: DeserializeSeed<'de>>(
    seed: S,
    text: &'de str,
    bindings: &'de [(Str, &'de str)],
    depth_max: usize,
    state: &mut State,
) -> Result<S::Value, DecodeError> {
    read_as(seed, text, bindings, depth_max, false, state)
}

/// [`read`], for a seed that `is_lenient`: it refuses infinite numbers itself.
#[inline]
pub(crate) fn read_as<'de, S: DeserializeSeed<'de>>(
    seed: S,
    text: &'de str,
    bindings: &'de [(Str, &'de str)],
    depth_max: usize,
    is_lenient: bool,
    state: &mut State,
) -> Result<S::Value, DecodeError> {
    let mut parser = Parser::new(text, depth_max, &mut state.scratch);
    parser.memory = state.memory.begin();
    parser.bindings = bindings;
    parser.is_lenient = is_lenient;
    let value = seed.deserialize(&mut parser).map_err(|error| error.or_at(parser.at));
    value.and_then(|value| parser.end().map(|()| value)).map_err(Error::into_decode_error)
}
