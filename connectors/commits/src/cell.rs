//! What a column can hold: the five storage classes that SQL databases share.

use thalweg_kernel::{Str, Timestamp};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64 bits, signed. Also booleans, as 0 and 1, and timestamps, in milliseconds since 1970.
    Integer,
    /// A 64-bit float.
    Real,
    /// UTF-8.
    Text,
    /// Bytes.
    Blob,
}

/// What stands in one column of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// See [`Kind::Integer`].
    Integer(i64),
    /// See [`Kind::Real`]. SQLite stores NaN as NULL.
    Real(f64),
    /// See [`Kind::Text`].
    Text(&'a str),
    /// See [`Kind::Blob`].
    Blob(&'a [u8]),
}

/// A type that a column can be bound to.
pub trait Cell {
    /// The column's type.
    const KIND: Kind;

    /// What to store.
    fn value(&self) -> Value<'_>;
}

macro_rules! cells {
    ($($kind:ident: $($type:ty)*, $this:ident => $value:expr;)*) => {$($(
        impl Cell for $type {
            const KIND: Kind = Kind::$kind;

            #[inline]
            fn value(&self) -> Value<'_> {
                let $this = self;
                Value::$kind($value)
            }
        }
    )*)*};
}

cells! {
    Integer: bool i8 i16 i32 u8 u16 u32, this => i64::from(*this);
    Integer: i64, this => *this;
    Integer: Timestamp, this => this.as_millis();
    Real: f32, this => f64::from(*this);
    Real: f64, this => *this;
    Text: &'static str String Str, this => this;
    Blob: Vec<u8> bytes::Bytes, this => this;
}

/// Numbers past `i64::MAX` become `i64::MAX`: databases have no larger ones.
impl Cell for u64 {
    const KIND: Kind = Kind::Integer;

    #[inline]
    fn value(&self) -> Value<'_> {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

/// As `u64`.
impl Cell for usize {
    const KIND: Kind = Kind::Integer;

    #[inline]
    fn value(&self) -> Value<'_> {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl<C: Cell> Cell for Option<C> {
    const KIND: Kind = C::KIND;

    #[inline]
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Cell::value)
    }
}
