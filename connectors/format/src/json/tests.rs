//! What decoding promises, case by case; `model` compares it with `serde_json` at random.

mod memory;
mod model;
mod refusals;
mod topic;

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thalweg_kernel::{Decode, DecodeError, Message, Str, Timestamp};

use super::Json;

fn decode_bytes<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    Json::new().decode(&Message::new("t", payload, Timestamp::default()))
}

fn decode<T: DeserializeOwned>(payload: &str) -> Result<T, DecodeError> {
    decode_bytes(payload.as_bytes())
}

#[derive(Debug, PartialEq, Deserialize)]
struct Reading {
    device: Str,
    temp: f64,
    #[serde(default)]
    count: u8,
    note: Option<String>,
}

fn reading(device: &str, temp: f64) -> Reading {
    Reading { device: device.into(), temp, count: 0, note: None }
}

#[test]
fn takes_wanted_fields_in_any_order_and_skips_the_rest() {
    let payload = " {\r\n\t\"x\" : [ {\"y\":[[],{}, null,true , false,-1.5e-3]} ,\"\\u00e9\\\\\" ] , \
                   \"temp\" :21.5, \"device\":\"a\" } \n";
    assert_eq!(decode::<Reading>(payload).unwrap(), reading("a", 21.5));
    let payload = r#"{"note":null,"device":"b","count":255,"temp":-3}"#;
    assert_eq!(decode::<Reading>(payload).unwrap(), Reading { count: 255, ..reading("b", -3.0) });
}

#[test]
fn escapes_in_keys_and_values() {
    let payload = r#"{"d\u0065vice":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z","temp":1}"#;
    let read = decode::<Reading>(payload).unwrap();
    assert_eq!(read.device, "a\"\\/\u{8}\u{c}\n\r\té😀z");
    assert_eq!(decode::<char>(r#""\u20ac""#).unwrap(), '€');
    assert_eq!(decode::<String>(r#""\u0000""#).unwrap(), "\0");
}

#[derive(Debug, PartialEq, Deserialize)]
enum Shape {
    Dot,
    Circle(f64),
    Line(i32, i32),
    Box { w: u16, h: u16 },
}

#[derive(Debug, PartialEq, Deserialize)]
struct Unit;

#[derive(Debug, PartialEq, Deserialize)]
struct Celsius(f64);

#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    A { x: f64 },
    B,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(f64),
    Text(String),
    Many(Vec<i64>),
}

#[test]
fn every_shape_of_type() {
    let shapes =
        r#"["Dot", {"Circle":2}, {"Line":[1,-2]}, {"Box":{"h":3,"w":4,"z":0}}, {"Dot":null}]"#;
    let expected =
        [Shape::Dot, Shape::Circle(2.0), Shape::Line(1, -2), Shape::Box { w: 4, h: 3 }, Shape::Dot];
    assert_eq!(decode::<Vec<Shape>>(shapes).unwrap(), expected);
    assert_eq!(decode::<Unit>("null").unwrap(), Unit);
    assert_eq!(decode::<Celsius>(" 21.5 ").unwrap(), Celsius(21.5));
    assert_eq!(decode::<(u8, bool, [i8; 2])>("[1,true,[-1,2]]").unwrap(), (1, true, [-1, 2]));
    let map = decode::<HashMap<u16, Option<bool>>>(r#"{"7":true,"8":null}"#).unwrap();
    assert_eq!(map, HashMap::from([(7, Some(true)), (8, None)]));
    let by_shape = decode::<BTreeMap<String, Vec<u8>>>(r#"{"":[],"\n":[1]}"#).unwrap();
    assert_eq!(by_shape["\n"], [1]);
    assert_eq!(decode::<Tagged>(r#"{"x":1,"kind":"A"}"#).unwrap(), Tagged::A { x: 1.0 });
    assert_eq!(decode::<Tagged>(r#"{"kind":"B"}"#).unwrap(), Tagged::B);
    let either = decode::<Vec<Either>>(r#"[1,"a",[2]]"#).unwrap();
    assert_eq!(either, [Either::Number(1.0), Either::Text("a".into()), Either::Many(vec![2])]);
    assert_eq!(decode::<Reading>(r#"["a",1.5,2,"n"]"#).unwrap().count, 2);
    for bytes in ["[97,10]", "\"a\\n\""] {
        assert_eq!(decode::<std::ffi::CString>(bytes).unwrap().as_bytes(), b"a\n");
    }
}

#[test]
fn integers_up_to_the_ends_of_their_types() {
    assert_eq!(decode::<u64>("18446744073709551615").unwrap(), u64::MAX);
    assert_eq!(decode::<i64>("-9223372036854775808").unwrap(), i64::MIN);
    assert_eq!(decode::<i128>(&i128::MIN.to_string()).unwrap(), i128::MIN);
    assert_eq!(decode::<u128>(&u128::MAX.to_string()).unwrap(), u128::MAX);
    assert_eq!(decode::<i8>("-128").unwrap(), i8::MIN);
    assert_eq!(decode::<u32>("-0").unwrap(), 0);
    for (payload, ok) in [("18446744073709551616", false), ("10000000000000000000", true)] {
        assert_eq!(decode::<u64>(payload).is_ok(), ok, "{payload}");
    }
    for payload in ["256", "-1", "1.0", "1e2", "99999999999999999999999"] {
        let refused = decode::<u8>(payload).unwrap_err();
        assert_eq!(refused.cause, thalweg_kernel::Cause::WrongType, "{payload}: {refused}");
    }
}

#[test]
fn floats_are_the_nearest_to_what_is_written() {
    let mut texts: Vec<String> = [
        "0",
        "-0.0",
        "0.1",
        "1e22",
        "1e23",
        "9007199254740993",
        "4.9e-324",
        "1e-400",
        "0e999",
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
        "123456789012345678901234567890",
        "0.000000000000000000000000000001",
        "1e-22",
        "1e+22",
        "3.4028235e38",
        "16777217",
        "0.30000000000000004",
        "1E5",
        "100000000000000000000000e-23",
        "0e-99999999999",
    ]
    .map(str::to_owned)
    .into();
    let mut random = model::Random(3);
    for _ in 0..20_000 {
        texts.push(random.number());
    }
    for text in texts {
        let exact: f64 = text.parse().unwrap();
        match decode::<f64>(&text) {
            Ok(value) => assert_eq!(value.to_bits(), exact.to_bits(), "{text}"),
            Err(error) => assert!(exact.is_infinite(), "{text}: {error}"),
        }
        let exact: f32 = text.parse().unwrap();
        match decode::<f32>(&text) {
            Ok(value) => assert_eq!(value.to_bits(), exact.to_bits(), "{text}"),
            Err(error) => assert!(exact.is_infinite(), "{text}: {error}"),
        }
    }
}
