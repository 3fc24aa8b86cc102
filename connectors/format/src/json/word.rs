//! Text that stands for a scalar, as serde sees it: an object's key, or a value bound from the topic.

use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::error::Error;
use super::parser::Chars;

/// Text that stands for a scalar: an object's key, or a value bound from the topic.
pub(super) struct Word<'de, 'a>(pub(super) Chars<'de, 'a>);

macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.as_str().parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Error::invalid_type(Unexpected::Str(self.0.as_str()), &visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Word<'de, '_> {
    type Error = Error;

    parsed! {
        deserialize_bool visit_bool bool
        deserialize_i8 visit_i8 i8  deserialize_i16 visit_i16 i16  deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64  deserialize_i128 visit_i128 i128
        deserialize_u8 visit_u8 u8  deserialize_u16 visit_u16 u16  deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64  deserialize_u128 visit_u128 u128
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.0.as_str();
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => visitor.visit_f64(value),
            Ok(_) => {
                let what = format!("{text:?} is not a finite number");
                Err(Error::new(thalweg_kernel::Cause::NotANumber, what, None))
            }
            Err(_) => Err(Error::invalid_type(Unexpected::Str(text), &visitor)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.0.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}
