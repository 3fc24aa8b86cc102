//! [`Header`]: what a sender put beside a payload.

use std::fmt;
use std::str::Utf8Error;

use bytes::Bytes;

use crate::Str;
use crate::cause::{Cause, DecodeError};

/// What a sender put beside a payload: a header of Kafka, or a user property of MQTT 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name; several headers may have one name.
    pub name: Str,
    /// Its value: text in MQTT, any bytes elsewhere.
    pub value: Bytes,
}

impl Header {
    /// A header.
    pub fn new(name: impl Into<Str>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    /// Its value as text.
    ///
    /// # Errors
    /// [`Cause::InvalidUtf8`] if it is none.
    pub fn text(&self) -> Result<&str, DecodeError> {
        text_of(&self.value, format_args!("the header `{}`", self.name))
    }
}

/// Bytes of a message beside its payload as text; `what` they are.
pub(crate) fn text_of<'a>(
    bytes: &'a [u8],
    what: fmt::Arguments<'_>,
) -> Result<&'a str, DecodeError> {
    let not_utf8 = |error: Utf8Error| {
        let reason = format!("{what} is not UTF-8 at its byte {}", error.valid_up_to());
        DecodeError::new(Cause::InvalidUtf8, reason, None)
    };
    str::from_utf8(bytes).map_err(not_utf8)
}
