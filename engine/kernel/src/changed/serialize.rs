//! A row with its kind as one more field, whatever the format.
//!
//! Only the row's own `Serialize` knows whether it has fields. So a first serializer looks at how the row
//! begins, and a second one passes the fields on behind the kind.

use std::fmt;

use serde::ser::{Impossible, Serialize, SerializeMap, SerializeStruct, Serializer, StdError};

use super::{KIND_FIELD, RowKind};

/// The field of a row that has none.
const VALUE_FIELD: &str = "value";

/// Serializes `row` with its kind.
pub(super) fn with_kind<T: Serialize, S: Serializer>(
    kind: RowKind,
    row: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if matches!(row.serialize(Look), Err(Shape::Fields)) {
        return row.serialize(Fields { kind, serializer });
    }
    let mut fields = serializer.serialize_struct("Changed", 2)?;
    fields.serialize_field(KIND_FIELD, &kind)?;
    fields.serialize_field(VALUE_FIELD, row)?;
    fields.end()
}

#[cold]
fn twice<E: serde::ser::Error>() -> E {
    E::custom(format_args!(
        "the row has a field `{KIND_FIELD}` of its own, where the kind of the change is written: \
         give that field another name"
    ))
}

/// How a row begins.
#[derive(Debug)]
enum Shape {
    /// With fields: a struct or a map.
    Fields,
    /// It is the text [`KIND_FIELD`].
    KindField,
    Other,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl StdError for Shape {}

impl serde::ser::Error for Shape {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Other
    }
}

/// Methods of a serializer that have one answer, whatever they are given.
macro_rules! answers {
    ($answer:expr; $($method:ident($($argument:ty),*) -> $ok:ty;)*) => {$(
        fn $method(self, $(_: $argument),*) -> Result<$ok, Self::Error> {
            Err($answer)
        }
    )*};
}

/// What is not passed on to another serializer, but for text, structs, maps and what is transparent.
macro_rules! others {
    ($answer:expr) => {
        type SerializeSeq = Impossible<Self::Ok, Self::Error>;
        type SerializeTuple = Impossible<Self::Ok, Self::Error>;
        type SerializeTupleStruct = Impossible<Self::Ok, Self::Error>;
        type SerializeTupleVariant = Impossible<Self::Ok, Self::Error>;
        type SerializeStructVariant = Impossible<Self::Ok, Self::Error>;

        answers! {
            $answer;
            serialize_bool(bool) -> Self::Ok;
            serialize_i8(i8) -> Self::Ok;
            serialize_i16(i16) -> Self::Ok;
            serialize_i32(i32) -> Self::Ok;
            serialize_i64(i64) -> Self::Ok;
            serialize_i128(i128) -> Self::Ok;
            serialize_u8(u8) -> Self::Ok;
            serialize_u16(u16) -> Self::Ok;
            serialize_u32(u32) -> Self::Ok;
            serialize_u64(u64) -> Self::Ok;
            serialize_u128(u128) -> Self::Ok;
            serialize_f32(f32) -> Self::Ok;
            serialize_f64(f64) -> Self::Ok;
            serialize_char(char) -> Self::Ok;
            serialize_bytes(&[u8]) -> Self::Ok;
            serialize_none() -> Self::Ok;
            serialize_unit() -> Self::Ok;
            serialize_unit_struct(&'static str) -> Self::Ok;
            serialize_unit_variant(&'static str, u32, &'static str) -> Self::Ok;
            serialize_seq(Option<usize>) -> Self::SerializeSeq;
            serialize_tuple(usize) -> Self::SerializeTuple;
            serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<Self::Ok, Self::Error> {
            Err($answer)
        }

        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self::Ok, Self::Error> {
            value.serialize(self)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<Self::Ok, Self::Error> {
            value.serialize(self)
        }
    };
}

/// Looks at how a value begins, and stops there.
struct Look;

impl Serializer for Look {
    type Ok = ();
    type Error = Shape;
    type SerializeMap = Impossible<(), Shape>;
    type SerializeStruct = Impossible<(), Shape>;

    others!(Shape::Other);

    fn serialize_str(self, text: &str) -> Result<(), Shape> {
        Err(if text == KIND_FIELD { Shape::KindField } else { Shape::Other })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Shape> {
        Err(Shape::Fields)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Shape> {
        Err(Shape::Fields)
    }
}

/// Passes on the fields of a row, behind its kind.
struct Fields<S> {
    kind: RowKind,
    serializer: S,
}

/// [`Look`] has seen fields, and now there are none.
#[cold]
fn changed_its_mind<E: serde::ser::Error>() -> E {
    E::custom("the row has fields at one time and none at another")
}

impl<S: Serializer> Serializer for Fields<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeMap = Behind<S::SerializeMap>;
    type SerializeStruct = Behind<S::SerializeStruct>;

    others!(changed_its_mind());

    fn serialize_str(self, _: &str) -> Result<S::Ok, S::Error> {
        Err(changed_its_mind())
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let mut map = self.serializer.serialize_map(length.map(|length| length + 1))?;
        map.serialize_entry(KIND_FIELD, &self.kind)?;
        Ok(Behind(map))
    }

    fn serialize_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        let mut fields = self.serializer.serialize_struct(name, length + 1)?;
        fields.serialize_field(KIND_FIELD, &self.kind)?;
        Ok(Behind(fields))
    }
}

/// The fields behind the kind.
struct Behind<C>(C);

impl<C: SerializeMap> SerializeMap for Behind<C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        if matches!(key.serialize(Look), Err(Shape::KindField)) {
            return Err(twice());
        }
        self.0.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.0.serialize_value(value)
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.0.end()
    }
}

impl<C: SerializeStruct> SerializeStruct for Behind<C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), C::Error> {
        if name == KIND_FIELD { Err(twice()) } else { self.0.serialize_field(name, value) }
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
        self.0.skip_field(name)
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::super::Changed;
    use super::*;

    #[derive(Serialize)]
    struct Row {
        device: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u8>,
        inner: Inner,
    }

    #[derive(Serialize)]
    struct Inner {
        op: u8,
    }

    #[derive(Serialize)]
    enum Word {
        One,
        Two { a: u8 },
    }

    #[derive(Serialize)]
    struct Thin(Row);

    fn row() -> Row {
        Row { device: "d7", limit: None, inner: Inner { op: 1 } }
    }

    fn json(row: impl Serialize) -> String {
        serde_json::to_string(&Changed::delete(row)).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn fields_stand_behind_the_kind() {
        let fields = r#"{"op":"-D","device":"d7","inner":{"op":1}}"#;
        assert_eq!(json(row()), fields);
        assert_eq!(json(Some(Thin(row()))), fields);
        assert_eq!(json(BTreeMap::from([("a", 1)])), r#"{"op":"-D","a":1}"#);
    }

    #[test]
    fn what_has_no_fields_is_a_value() {
        assert_eq!(json(1.5), r#"{"op":"-D","value":1.5}"#);
        assert_eq!(json("op"), r#"{"op":"-D","value":"op"}"#);
        assert_eq!(json(("a", 1)), r#"{"op":"-D","value":["a",1]}"#);
        assert_eq!(json(None::<u8>), r#"{"op":"-D","value":null}"#);
        assert_eq!(json(Word::One), r#"{"op":"-D","value":"One"}"#);
        assert_eq!(json(Word::Two { a: 1 }), r#"{"op":"-D","value":{"Two":{"a":1}}}"#);
    }

    #[test]
    fn a_field_of_the_same_name_is_refused() {
        assert!(json(Inner { op: 1 }).contains("a field `op` of its own"));
        assert!(json(BTreeMap::from([("op", 1)])).contains("a field `op` of its own"));
    }

    #[test]
    fn a_row_of_no_fields_has_its_kind() {
        #[derive(Serialize)]
        struct Nothing {}
        assert_eq!(json(Nothing {}), r#"{"op":"-D"}"#);
        assert_eq!(json(BTreeMap::<u8, u8>::new()), r#"{"op":"-D"}"#);
    }

    /// Says what a format is told of a struct: how many fields it has, and which of them are left out.
    struct Told(String);

    impl Serializer for Told {
        type Ok = String;
        type Error = serde_json::Error;
        type SerializeMap = Impossible<String, serde_json::Error>;
        type SerializeStruct = Self;

        others!(changed_its_mind());

        fn serialize_str(self, _: &str) -> Result<String, Self::Error> {
            Err(changed_its_mind())
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Self::Error> {
            Err(changed_its_mind())
        }

        fn serialize_struct(self, name: &str, length: usize) -> Result<Self, Self::Error> {
            Ok(Self(format!("{name} of {length}:")))
        }
    }

    impl SerializeStruct for Told {
        type Ok = String;
        type Error = serde_json::Error;

        fn serialize_field<T: Serialize + ?Sized>(
            &mut self,
            name: &'static str,
            _: &T,
        ) -> Result<(), Self::Error> {
            self.0 += &format!(" {name}");
            Ok(())
        }

        fn skip_field(&mut self, name: &'static str) -> Result<(), Self::Error> {
            self.0 += &format!(" no {name}");
            Ok(())
        }

        fn end(self) -> Result<String, Self::Error> {
            Ok(self.0)
        }
    }

    /// A format with a fixed number of fields reads nothing else.
    #[test]
    fn a_format_is_told_how_many_fields_there_are_and_which_are_left_out() {
        let told = Changed::delete(row()).serialize(Told(String::new())).unwrap();
        assert_eq!(told, "Row of 3: op device no limit inner");
    }
}
