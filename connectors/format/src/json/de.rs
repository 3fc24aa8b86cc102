//! serde's view of the parser: each method reads the one kind of value that was asked for.

use serde::de::{Deserializer, Error as _, Unexpected, Visitor};

use super::access::{Elements, Fields, Variant};
use super::digits::Small;
use super::error::Error;
use super::number::Number;
use super::parser::{Chars, Parser};

impl<'de> Chars<'de, '_> {
    #[inline]
    pub(super) fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Borrowed(text) => visitor.visit_borrowed_str(text),
            Self::Copied(text) => visitor.visit_str(text),
        }
    }
}

impl<'de> Parser<'de, '_> {
    /// The number that is due next, with its position.
    #[inline]
    fn due_number<V: Visitor<'de>>(&mut self, visitor: &V) -> Result<(usize, Number<'de>), Error> {
        match self.token() {
            Some(b'-' | b'0'..=b'9') => {
                let position = self.at;
                Ok((position, self.number()?))
            }
            _ => Err(self.another_type(visitor)),
        }
    }

    /// A value of another type stands where `visitor`'s was due; or none at all.
    #[cold]
    #[inline(never)]
    fn another_type<V: Visitor<'de>>(&mut self, visitor: &V) -> Error {
        let position = self.at;
        let error = match self.token() {
            Some(b'{') => Error::invalid_type(Unexpected::Map, visitor),
            Some(b'[') => Error::invalid_type(Unexpected::Seq, visitor),
            Some(b'"') => match self.string() {
                Ok(text) => Error::invalid_type(Unexpected::Str(text.as_str()), visitor),
                Err(error) => error,
            },
            Some(b'-' | b'0'..=b'9') => match self.number() {
                Ok(number) => number_of_another_type(position, &number, visitor),
                Err(error) => error,
            },
            Some(b't') if self.literal("true").is_ok() => {
                Error::invalid_type(Unexpected::Bool(true), visitor)
            }
            Some(b'f') if self.literal("false").is_ok() => {
                Error::invalid_type(Unexpected::Bool(false), visitor)
            }
            Some(b'n') if self.literal("null").is_ok() => {
                Error::invalid_type(Unexpected::Unit, visitor)
            }
            _ => self.no_value(),
        };
        error.or_at(position)
    }

    #[inline]
    fn object<V: Visitor<'de>>(
        &mut self,
        wanted: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut fields = Fields::open(self, wanted, std::any::type_name::<V>())?;
        match visitor.visit_map(&mut fields) {
            Ok(value) => fields.close().map(|()| value),
            Err(error) => Err(error.or_at(fields.position())),
        }
    }

    #[inline]
    fn array<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let mut elements = Elements::open(self)?;
        match visitor.visit_seq(&mut elements) {
            Ok(value) => elements.close().map(|()| value),
            Err(error) => Err(error.or_at(elements.position())),
        }
    }
}

#[cold]
fn number_of_another_type<'de, V: Visitor<'de>>(
    position: usize,
    number: &Number<'de>,
    visitor: &V,
) -> Error {
    let found = format!("the number {}", super::error::shortened(number.text()));
    Error::invalid_type(Unexpected::Other(&found), visitor).or_at(position)
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let position = self.at;
            if let Some(number) = self.small_number(Small::is_integer) {
                let visited = if number.negative && number.mantissa > 0 {
                    visitor.visit_i64(-number.mantissa.cast_signed())
                } else {
                    visitor.visit_u64(number.mantissa)
                };
                return visited.map_err(|error: Error| error.or_at(position));
            }
            let (position, number) = self.due_number(&visitor)?;
            let visited = if let Some(value) = number.as_u64() {
                visitor.visit_u64(value)
            } else if let Some(value) = number.as_i64() {
                visitor.visit_i64(value)
            } else {
                return Err(number_of_another_type(position, &number, &visitor));
            };
            visited.map_err(|error: Error| error.or_at(position))
        }
    )*};
}

macro_rules! wide_integers {
    ($($method:ident $visit:ident $type:ty)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let (position, number) = self.due_number(&visitor)?;
            match number.text().parse::<$type>() {
                Ok(value) => visitor.$visit(value).map_err(|error: Error| error.or_at(position)),
                Err(_) => Err(number_of_another_type(position, &number, &visitor)),
            }
        }
    )*};
}

macro_rules! strings {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.token() {
                Some(b'"') => self.string()?.visit(visitor),
                _ => Err(self.another_type(&visitor)),
            }
        }
    )*};
}

macro_rules! bytes {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.token() {
                Some(b'"') => match self.string()? {
                    Chars::Borrowed(text) => visitor.visit_borrowed_bytes(text.as_bytes()),
                    Chars::Copied(text) => visitor.visit_bytes(text.as_bytes()),
                },
                Some(b'[') => self.array(visitor),
                _ => Err(self.another_type(&visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Parser<'de, '_> {
    type Error = Error;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    wide_integers! { deserialize_i128 visit_i128 i128  deserialize_u128 visit_u128 u128 }

    strings! { deserialize_str deserialize_string deserialize_char deserialize_identifier }

    bytes! { deserialize_bytes deserialize_byte_buf }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'"') => self.string()?.visit(visitor),
            Some(b'{') => self.object(None, visitor),
            Some(b'[') => self.array(visitor),
            Some(b't' | b'f') => self.deserialize_bool(visitor),
            Some(b'n') => self.deserialize_unit(visitor),
            _ => {
                let (position, number) = self.due_number(&visitor)?;
                let visited = match (number.as_u64(), number.as_i64()) {
                    // Only a float keeps the sign of a zero.
                    (Some(0), _) if number.negative => visitor.visit_f64(-0.0),
                    (Some(value), _) => visitor.visit_u64(value),
                    (None, Some(value)) => visitor.visit_i64(value),
                    (None, None) => match number.as_f64(position) {
                        Err(_) if self.is_lenient => visitor.visit_f64(f64::INFINITY),
                        value => visitor.visit_f64(value?),
                    },
                };
                visited.map_err(|error: Error| error.or_at(position))
            }
        }
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b't') => {
                self.literal("true")?;
                visitor.visit_bool(true)
            }
            Some(b'f') => {
                self.literal("false")?;
                visitor.visit_bool(false)
            }
            _ => Err(self.another_type(&visitor)),
        }
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let position = self.at;
        if let Some(number) = self.small_number(|_| true) {
            return visitor
                .visit_f64(number.as_f64())
                .map_err(|error: Error| error.or_at(position));
        }
        let (position, number) = self.due_number(&visitor)?;
        visitor.visit_f64(number.as_f64(position)?).map_err(|error: Error| error.or_at(position))
    }

    #[inline]
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (position, number) = self.due_number(&visitor)?;
        visitor.visit_f32(number.as_f32(position)?).map_err(|error: Error| error.or_at(position))
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'n') => {
                self.literal("null")?;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'n') => {
                self.literal("null")?;
                visitor.visit_unit()
            }
            _ => Err(self.another_type(&visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'[') => self.array(visitor),
            _ => Err(self.another_type(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'{') => self.object(None, visitor),
            _ => Err(self.another_type(&visitor)),
        }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'{') => self.object(Some(fields), visitor),
            // The fields in order; but a field that the topic gives has no place in an array.
            Some(b'[') if !(self.outermost() && self.binds_one_of(fields)) => self.array(visitor),
            _ => Err(self.another_type(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.token() {
            Some(b'"') => {
                let position = self.at;
                visitor
                    .visit_enum(Variant::unit(self))
                    .map_err(|error: Error| error.or_at(position))
            }
            Some(b'{') => {
                let position = self.at;
                self.enter()?;
                let value = visitor
                    .visit_enum(Variant::tagged(self))
                    .map_err(|error: Error| error.or_at(position))?;
                if !self.takes(b'}') {
                    return Err(self.expected("`}` after the only variant"));
                }
                self.leave();
                Ok(value)
            }
            _ => Err(self.another_type(&visitor)),
        }
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip_value()?;
        visitor.visit_unit()
    }
}
