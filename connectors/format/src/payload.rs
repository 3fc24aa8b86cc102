//! What all decoders ask of a payload: that it is within its bound, and, for most, that it is UTF-8.

use thalweg_kernel::{Cause, DecodeError};

/// Payloads are refused beyond this many bytes unless its decoder says otherwise.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// The payload as text, if it is within its bound and UTF-8 throughout.
#[inline]
pub(crate) fn checked(payload: &[u8], bytes_max: usize) -> Result<&str, DecodeError> {
    within(payload, bytes_max)?;
    simdutf8::basic::from_utf8(payload).map_err(|_| not_utf8(payload))
}

/// Refuses a payload over its bound.
#[inline]
pub(crate) fn within(payload: &[u8], bytes_max: usize) -> Result<(), DecodeError> {
    if payload.len() <= bytes_max { Ok(()) } else { Err(too_large(payload.len(), bytes_max)) }
}

#[cold]
fn too_large(bytes: usize, bytes_max: usize) -> DecodeError {
    let reason = format!("the payload has {bytes} bytes; {bytes_max} are allowed");
    DecodeError::new(Cause::TooLarge, reason, None)
}

#[cold]
fn not_utf8(payload: &[u8]) -> DecodeError {
    let position = std::str::from_utf8(payload).map_or_else(|error| error.valid_up_to(), str::len);
    let byte = payload.get(position).copied().unwrap_or_default();
    let reason = format!("byte {byte:#04x} is not UTF-8 here");
    DecodeError::new(Cause::InvalidUtf8, reason, Some(position))
}
