//! An equal message reads equally, whatever the decoder has read before: types whose fields overlap, and
//! visitors written by hand.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use thalweg_format::{Json, JsonSeed};
use thalweg_kernel::{Decode, Message, Timestamp};

#[derive(Debug, PartialEq, Deserialize)]
enum E {
    A { x: u32 },
    B { x: u32, yy: u32 },
    C { x: u32, yy: Option<u32> },
}
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adj {
    A { x: u32 },
    B { x: u32, yy: Option<u32> },
}

fn run<T: for<'d> Deserialize<'d> + std::fmt::Debug>(msgs: &[&str]) {
    let mut warm = Json::<T>::new();
    for m in msgs {
        let msg = Message::new("t", m.as_bytes(), Timestamp::default());
        let w = format!("{:?}", warm.decode(&msg));
        let f = format!("{:?}", Json::<T>::new().decode(&msg));
        assert_eq!(w, f, "{m}");
    }
}

#[test]
fn struct_variants_of_one_enum() {
    run::<E>(&[
        r#"{"A":{"x":1,"yy":2}}"#,
        r#"{"A":{"x":1,"yy":2}}"#,
        r#"{"B":{"x":1,"yy":2}}"#,
        r#"{"C":{"x":1,"yy":2}}"#,
    ]);
}
#[test]
fn optional_fields_of_another_variant() {
    run::<E>(&[r#"{"A":{"x":1,"yy":2}}"#, r#"{"A":{"x":1,"yy":2}}"#, r#"{"C":{"x":1,"yy":2}}"#]);
}
#[test]
fn adjacently_tagged_variants() {
    run::<Adj>(&[
        r#"{"t":"A","c":{"x":1,"yy":2}}"#,
        r#"{"t":"A","c":{"x":1,"yy":2}}"#,
        r#"{"t":"B","c":{"x":1,"yy":2}}"#,
    ]);
}
#[derive(Clone)]
struct Shape {
    fields: &'static [&'static str],
    inner: Option<Box<Shape>>,
}
impl<'de> DeserializeSeed<'de> for Shape {
    type Value = Vec<(String, String)>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        let f = self.fields;
        d.deserialize_struct("shape", f, self)
    }
}
impl<'de> Visitor<'de> for Shape {
    type Value = Vec<(String, String)>;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("shape")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = vec![];
        while let Some(k) = map.next_key::<String>()? {
            if !self.fields.contains(&k.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if k == "inner"
                && let Some(shape) = &self.inner
            {
                out.extend(map.next_value_seed((**shape).clone())?);
                continue;
            }
            out.push((k, format!("{:?}", map.next_value::<u32>()?)));
        }
        Ok(out)
    }
}
#[test]
fn a_seed_that_reads_different_fields_in_different_places() {
    let shape = Shape {
        fields: &["a", "inner"],
        inner: Some(Box::new(Shape { fields: &["bb"], inner: None })),
    };
    let mut warm = JsonSeed::new(shape.clone());
    for _ in 0..3 {
        let m = br#"{"a":1,"bb":2,"cc":3,"inner":{"a":1,"bb":2}}"#;
        let msg = Message::new("t", m, Timestamp::default());
        let f = JsonSeed::new(shape.clone()).decode(&msg).unwrap();
        assert_eq!(warm.decode(&msg).unwrap(), f);
    }
}
#[derive(Debug, Deserialize)]
struct Name(#[allow(dead_code)] String);
#[derive(Debug)]
struct Hand(#[allow(dead_code)] Vec<Name>);
impl<'de> Deserialize<'de> for Hand {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Hand;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("hand")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hand, A::Error> {
                let mut out = vec![];
                while let Some(k) = map.next_key::<Name>()? {
                    map.next_value::<u32>()?;
                    out.push(k);
                }
                Ok(Hand(out))
            }
        }
        d.deserialize_struct("Hand", &["a", "b"], V)
    }
}
#[test]
fn keys_that_are_new_types() {
    run::<Hand>(&[r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#]);
}

#[derive(Debug)]
struct HandNum(#[allow(dead_code)] Vec<u32>);
impl<'de> Deserialize<'de> for HandNum {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = HandNum;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("hand")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HandNum, A::Error> {
                let mut out = vec![];
                while let Some(k) = map.next_key::<u32>()? {
                    map.next_value::<u32>()?;
                    out.push(k);
                }
                Ok(HandNum(out))
            }
        }
        d.deserialize_struct("Hand", &["1", "2"], V)
    }
}
#[test]
fn keys_that_are_numbers() {
    run::<HandNum>(&[r#"{"1":1,"2":2}"#, r#"{"1":1,"2":2}"#]);
}

/// Two types of one name in one function.
mod twins {
    use super::*;
    pub(super) fn go() {
        #[derive(Debug, Deserialize)]
        struct Pair<A, B> {
            #[allow(dead_code)]
            first: A,
            #[allow(dead_code)]
            second: B,
        }
        let a = {
            #[derive(Debug, Deserialize)]
            struct X {
                #[allow(dead_code)]
                aaa: Option<u32>,
            }
            std::marker::PhantomData::<X>
        };
        let b = {
            #[derive(Debug, Deserialize)]
            struct X {
                #[allow(dead_code)]
                bbb: Option<u32>,
            }
            std::marker::PhantomData::<X>
        };
        fn r<
            A: for<'d> Deserialize<'d> + std::fmt::Debug,
            B: for<'d> Deserialize<'d> + std::fmt::Debug,
        >(
            _: std::marker::PhantomData<A>,
            _: std::marker::PhantomData<B>,
        ) {
            let m = r#"{"first":{"aaa":1,"bbb":2},"second":{"aaa":1,"bbb":2}}"#;
            run::<Pair<A, B>>(&[m, m, m]);
        }
        r(a, b);
    }
}
#[test]
fn types_of_one_name() {
    twins::go();
}
