//! What a column can hold: the five storage classes that SQL databases share, and integers beyond 64 bits.
//!
//! A cell holds what the record holds, or its row is refused by name. No value becomes another one without a
//! word: an integer that the column cannot hold is neither cut nor wrapped.

use thalweg_kernel::{RowKind, Str, Timestamp};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64 bits, signed. Also booleans, as 0 and 1, and timestamps, in milliseconds since 1970.
    /// What is beyond 64 bits goes into a column that can hold it: `numeric` in PostgreSQL.
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
    /// An integer that is no `i64`; others are [`Integer`](Self::Integer)s. A column that cannot hold it
    /// refuses its row.
    Wide(i128),
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
    Text: RowKind, this => this.name();
    Blob: Vec<u8> bytes::Bytes, this => this;
}

macro_rules! wide_cells {
    ($($type:ty)*) => {$(
        /// A number that is no `i64` is a [`Value::Wide`].
        impl Cell for $type {
            const KIND: Kind = Kind::Integer;

            #[inline]
            fn value(&self) -> Value<'_> {
                i64::try_from(*self).map_or_else(|_| Value::Wide(*self as i128), Value::Integer)
            }
        }
    )*};
}

wide_cells! { u64 usize i128 }

impl<C: Cell> Cell for Option<C> {
    const KIND: Kind = C::KIND;

    #[inline]
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Cell::value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_what_it_is() {
        assert_eq!((i64::MAX as u64).value(), Value::Integer(i64::MAX));
        assert_eq!((i64::MAX as u64 + 1).value(), Value::Wide(1 << 63));
        assert_eq!(usize::MAX.value(), Value::Wide(i128::from(u64::MAX)));
        assert_eq!(i128::from(i64::MIN).value(), Value::Integer(i64::MIN));
        assert_eq!((i128::from(i64::MIN) - 1).value(), Value::Wide(i128::from(i64::MIN) - 1));
        assert_eq!(Some(u64::MAX).value(), Value::Wide(i128::from(u64::MAX)));
    }
}
