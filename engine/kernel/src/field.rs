//! [`Field`]: a value of a record's field, for connectors that deal in fields instead of bytes: tables of databases, and
//! sources that make rows.
//!
//! [`DecodeFields`] makes a record of fields as [`Decode`] makes one of bytes. [`Record`] gives a result's fields by
//! their places among [`Column`]s, which are values. A plan that is made at run time describes its rows by them.

use std::fmt;

use crate::{Decode, DecodeError, Str, Timestamp};

/// A value of a field, borrowed from its record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number, 0 or more.
    Unsigned(u64),
    /// A number.
    Float(f64),
    /// UTF-8.
    Text(&'a str),
    /// A time.
    Time(Timestamp),
}

/// As it stands in a topic or a name.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Time(value) => write!(f, "{}", value.as_millis()),
        }
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Yes or no.
    Bool,
    /// A whole number.
    Integer,
    /// A whole number, 0 or more.
    Unsigned,
    /// A number.
    Float,
    /// UTF-8.
    Text,
    /// A time.
    Time,
}

/// A field that records of a kind have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Str,
    /// Its name in a table, where words of SQL are taken.
    pub column: Str,
    /// What it holds.
    pub kind: FieldKind,
    /// It belongs to the key: of two rows with equal keys the later one counts.
    pub key: bool,
}

/// A record whose fields can be asked for.
pub trait Record: serde::Serialize + 'static {
    /// The field at `place` among the columns that describe the record; [`Field::Null`] beyond them.
    fn field(&self, place: usize) -> Field<'_>;
}

/// Makes a record of fields.
pub trait DecodeFields: Decode {
    /// Decodes the fields of one record.
    ///
    /// # Errors
    /// A [`DecodeError`] makes them a dead letter; the stream goes on.
    fn decode_fields(&mut self, fields: &[(Str, Field<'_>)]) -> Result<Self::Item, DecodeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_written_as_its_value() {
        let fields = [
            Field::Null,
            Field::Bool(true),
            Field::Integer(-1),
            Field::Unsigned(u64::MAX),
            Field::Float(1.5),
            Field::Text("x"),
            Field::Time(Timestamp::from_millis(-7)),
        ];
        let written = fields.map(|field| field.to_string());
        assert_eq!(written, ["", "true", "-1", "18446744073709551615", "1.5", "x", "-7"]);
    }
}
