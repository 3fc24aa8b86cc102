//! Why a message was refused: the cause travels as a value from where it is known, so it is never
//! guessed from a text. Built on cold paths only, and boxed so that results stay small.

use std::fmt;

use serde::de::{self, Expected, Unexpected};
use thalweg_kernel::{Cause, DecodeError};

/// A name or value from the payload is quoted up to this many characters.
const QUOTE_CHARS_MAX: usize = 48;

pub(crate) struct Error(Box<Fault>);

struct Fault {
    cause: Cause,
    what: String,
    /// The path to the value, `readings[2].temp`; grows leftwards as the error travels outwards.
    field: String,
    position: Option<usize>,
    /// The value came from the topic, not from the payload.
    bound: bool,
}

impl Error {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(cause: Cause, what: impl Into<String>, position: Option<usize>) -> Self {
        let (what, field) = (what.into(), String::new());
        Self(Box::new(Fault { cause, what, field, position, bound: false }))
    }

    fn of_field(cause: Cause, field: &str, what: &str) -> Self {
        let mut error = Self::new(cause, what, None);
        error.0.field = shortened(field);
        error
    }

    /// Gives the error a position unless it has one: the innermost is the most exact.
    #[cold]
    pub(super) fn or_at(mut self, position: usize) -> Self {
        self.0.position.get_or_insert(position);
        self
    }

    /// This error, inside the field `name`.
    #[cold]
    pub(super) fn in_field(mut self, name: &str) -> Self {
        let dot = if self.0.field.is_empty() || self.0.field.starts_with('[') { "" } else { "." };
        self.0.field = format!("{}{dot}{}", shortened(name), self.0.field);
        self
    }

    /// This error, inside element `index` of an array.
    #[cold]
    pub(super) fn in_element(self, index: usize) -> Self {
        self.in_field(&format!("[{index}]"))
    }

    /// Notes that the value came from the topic, so that nobody looks for it in the payload.
    #[cold]
    pub(super) fn bound(mut self) -> Self {
        self.0.bound = true;
        self
    }

    /// What goes into the dead letter.
    #[cold]
    pub(super) fn into_decode_error(self) -> DecodeError {
        let position = self.0.position.filter(|_| !self.0.bound);
        DecodeError::new(self.0.cause, self.to_string(), position)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.field.is_empty() {
            write!(f, "field `{}`: ", self.0.field)?;
        }
        f.write_str(&self.0.what)?;
        f.write_str(if self.0.bound { " (bound from the topic)" } else { "" })
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self} at {:?}", self.0.cause, self.0.position)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<M: fmt::Display>(what: M) -> Self {
        Self::new(Cause::WrongType, what.to_string(), None)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let what = format!("expected {}, found {}", in_words(expected), Found(found));
        Self::new(Cause::WrongType, what, None)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let what = format!("expected {}, found {length} elements", in_words(expected));
        Self::new(Cause::WrongType, what, None)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let what = format!("expected {}, found {:?}", one_of(expected), shortened(variant));
        Self::new(Cause::WrongType, what, None)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let what = format!("not a known field; expected {}", one_of(expected));
        Self::of_field(Cause::WrongType, field, &what)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of_field(Cause::MissingField, field, "missing")
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::of_field(Cause::Malformed, field, "given twice")
    }
}

/// serde names what it expects by Rust types; who reads a dead letter thinks in JSON's.
fn in_words(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "f32" | "f64" => "a number".into(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "u8" | "u16" | "u32" | "u64" | "u128"
        | "usize" => format!("an integer ({expected})"),
        "unit" => "null".into(),
        other if other.starts_with("struct ") => format!("an object ({other})"),
        _ => expected,
    }
}

struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Bool(value) => write!(f, "{value}"),
            Unexpected::Unsigned(value) => write!(f, "the integer {value}"),
            Unexpected::Signed(value) => write!(f, "the integer {value}"),
            Unexpected::Float(value) => write!(f, "the number {value}"),
            Unexpected::Str(value) => write!(f, "the string {:?}", shortened(value)),
            Unexpected::Unit | Unexpected::Option => f.write_str("null"),
            Unexpected::Seq => f.write_str("an array"),
            Unexpected::Map => f.write_str("an object"),
            other => write!(f, "{other}"),
        }
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "nothing here".into(),
        [name] => format!("`{name}`"),
        _ => {
            let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("one of {}", quoted.join(", "))
        }
    }
}

/// `text`, cut off so that a hostile payload cannot blow up the message.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
