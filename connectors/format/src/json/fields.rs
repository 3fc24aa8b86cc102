//! Records from fields that are values already, as if they stood in a JSON object.

use std::marker::PhantomData;
use std::slice::Iter;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use thalweg_kernel::{DecodeError, DecodeFields, Field, Str};

use super::{Error, Json, JsonSeed};

impl<T: DeserializeOwned> DecodeFields for Json<T> {
    #[inline]
    fn decode_fields(&mut self, fields: &[(Str, Field<'_>)]) -> Result<T, DecodeError> {
        decode(PhantomData, fields)
    }
}

impl<T, S: Clone + for<'de> DeserializeSeed<'de, Value = T>> DecodeFields for JsonSeed<S> {
    #[inline]
    fn decode_fields(&mut self, fields: &[(Str, Field<'_>)]) -> Result<T, DecodeError> {
        decode(self.seed.clone(), fields)
    }
}

#[inline]
fn decode<T>(
    seed: impl for<'de> DeserializeSeed<'de, Value = T>,
    fields: &[(Str, Field<'_>)],
) -> Result<T, DecodeError> {
    let object = Object { rest: fields.iter(), at: None };
    seed.deserialize(object).map_err(Error::into_decode_error)
}

/// The fields as an object.
struct Object<'de> {
    rest: Iter<'de, (Str, Field<'de>)>,
    at: Option<&'de (Str, Field<'de>)>,
}

impl<'de> Deserializer<'de> for Object<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Object<'de> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.at = self.rest.next();
        let key = self.at.map(|(name, _)| seed.deserialize(BorrowedStrDeserializer::new(name)));
        key.transpose()
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, field) = self.at.map_or(("", Field::Null), |(name, field)| (name, *field));
        seed.deserialize(Value(field)).map_err(|error| error.in_field(name))
    }
}

/// One field's value.
struct Value<'de>(Field<'de>);

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Field::Null => visitor.visit_unit(),
            Field::Bool(value) => visitor.visit_bool(value),
            Field::Integer(value) => visitor.visit_i64(value),
            Field::Unsigned(value) => visitor.visit_u64(value),
            Field::Float(value) => visitor.visit_f64(value),
            Field::Text(value) => visitor.visit_borrowed_str(value),
            Field::Time(value) => visitor.visit_i64(value.as_millis()),
        }
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Field::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Field::Text(value) => {
                let value: StrDeserializer<'_, Error> = value.into_deserializer();
                value.deserialize_enum(name, variants, visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use thalweg_kernel::{Cause, Timestamp};

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Id(u32);

    #[derive(Debug, PartialEq, Deserialize)]
    struct Row {
        id: Id,
        name: Str,
        value: f64,
        ts: i64,
        on: bool,
        colour: Colour,
        note: Option<String>,
        #[serde(default)]
        more: Option<u64>,
    }

    fn fields<'a>(changed: &[(&'a str, Field<'a>)]) -> Vec<(Str, Field<'a>)> {
        let mut fields = vec![
            ("unread", Field::Text("x")),
            ("id", Field::Unsigned(7)),
            ("name", Field::Text("boiler")),
            ("value", Field::Integer(21)),
            ("ts", Field::Time(Timestamp::from_millis(12))),
            ("on", Field::Bool(true)),
            ("colour", Field::Text("red")),
            ("note", Field::Null),
        ];
        for (name, field) in changed {
            fields.retain(|(known, _)| known != name);
            fields.push((name, *field));
        }
        fields.into_iter().map(|(name, field)| (name.into(), field)).collect()
    }

    #[test]
    fn fields_are_read_as_an_object_s() {
        let row =
            Json::<Row>::new().decode_fields(&fields(&[("more", Field::Integer(5))])).unwrap();
        let expected = Row {
            id: Id(7),
            name: "boiler".into(),
            value: 21.0,
            ts: 12,
            on: true,
            colour: Colour::Red,
            note: None,
            more: Some(5),
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name() {
        for (name, field, cause, reason) in [
            ("value", Field::Text("hot"), Cause::WrongType, "field `value`: expected a number"),
            ("id", Field::Integer(-1), Cause::WrongType, "field `id`: expected an integer (u32)"),
            ("name", Field::Null, Cause::WrongType, "field `name`: expected a string, found null"),
            ("colour", Field::Text("blue"), Cause::WrongType, "field `colour`: expected `red`"),
            ("ts", Field::Float(0.5), Cause::WrongType, "field `ts`: expected an integer (i64)"),
        ] {
            let error = Json::<Row>::new().decode_fields(&fields(&[(name, field)])).unwrap_err();
            assert_eq!(error.cause, cause);
            assert!(error.reason.starts_with(reason), "{error}");
            assert_eq!(error.position, None);
        }
        let error = Json::<Row>::new().decode_fields(&fields(&[])[..3]).unwrap_err();
        assert_eq!(error.cause, Cause::MissingField);
    }
}
