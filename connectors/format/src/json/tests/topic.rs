//! Fields that the topic gives.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thalweg_kernel::{
    Cause, Decode, DecodeError, Header, Message, Metadata, Str, Timestamp, WithMetadata,
};

use crate::Json;

fn decode<T: DeserializeOwned>(topic: &[(&str, &str)], payload: &str) -> Result<T, DecodeError> {
    let bindings: Vec<(Str, &str)> = topic.iter().map(|(n, v)| (Str::from(*n), *v)).collect();
    let mut message = Message::new("t", payload.as_bytes(), Timestamp::default());
    message.bindings = &bindings;
    Json::new().decode(&message)
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    id: u32,
    site: Option<Str>,
    temp: f64,
}

const BOUND: &[(&str, &str)] = &[("unread", "x"), ("id", "017"), ("site", "north")];

#[test]
fn the_topic_gives_fields_and_wins_over_the_payload() {
    let expected = Reading { id: 17, site: Some("north".into()), temp: 1.5 };
    for payload in [
        r#"{"temp":1.5}"#,
        r#"{"id":3,"temp":1.5}"#,
        r#"{"id":{"odd":[1]},"temp":1.5,"site":null}"#,
        r#"{"\u0069d":4,"temp":1.5,"id":5}"#,
    ] {
        assert_eq!(decode::<Reading>(BOUND, payload).unwrap(), expected, "{payload}");
    }
    let map = decode::<BTreeMap<String, String>>(BOUND, r#"{"id":1,"a":"b"}"#).unwrap();
    let keys: Vec<_> = map.into_iter().collect();
    let pairs = [("a", "b"), ("id", "017"), ("site", "north"), ("unread", "x")];
    assert_eq!(keys, pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn only_the_outermost_object_is_concerned() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        id: String,
        inner: Inner,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        id: u8,
    }
    let read = decode::<Outer>(&[("id", "t")], r#"{"inner":{"id":1}}"#).unwrap();
    assert_eq!(read, Outer { id: "t".into(), inner: Inner { id: 1 } });
    assert_eq!(decode::<Vec<Inner>>(&[("id", "9")], r#"[{"id":1}]"#).unwrap(), [Inner { id: 1 }]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_field() {
    let refused = decode::<Reading>(&[("id", "x7")], r#"{"temp":1}"#).unwrap_err();
    assert_eq!(refused.cause, Cause::WrongType);
    let reason =
        "field `id`: expected an integer (u32), found the string \"x7\" (bound from the topic)";
    assert_eq!((refused.reason.as_str(), refused.position), (reason, None));

    let refused = decode::<Reading>(&[("temp", "nan")], r#"{"id":1}"#).unwrap_err();
    assert_eq!(refused.cause, Cause::NotANumber);

    // A payload that has no place for fields.
    for payload in ["21.5", "[1,null,2]", "null", "\"on\""] {
        let refused = decode::<Reading>(BOUND, payload).unwrap_err();
        assert_eq!(refused.cause, Cause::WrongType, "{payload}");
        assert!(
            refused.reason.starts_with("expected an object (struct Reading), found"),
            "{refused}"
        );
    }
    // What is skipped because the topic wins is checked nevertheless.
    let refused = decode::<Reading>(BOUND, r#"{"id":[1,],"temp":1}"#).unwrap_err();
    assert_eq!((refused.cause, refused.position), (Cause::Malformed, Some(9)));
}

#[test]
fn bound_text_becomes_any_scalar() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Temp,
        Door,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Newtype(i16);
    #[derive(Debug, PartialEq, Deserialize)]
    struct All {
        kind: Kind,
        on: bool,
        x: f32,
        n: Newtype,
        c: char,
        big: u128,
        later: Option<f64>,
    }
    let topic = [
        ("kind", "door"),
        ("on", "true"),
        ("x", "1.5"),
        ("n", "-7"),
        ("c", "é"),
        ("big", "340282366920938463463374607431768211455"),
        ("later", "2"),
    ];
    let expected = All {
        kind: Kind::Door,
        on: true,
        x: 1.5,
        n: Newtype(-7),
        c: 'é',
        big: u128::MAX,
        later: Some(2.0),
    };
    assert_eq!(decode::<All>(&topic, "{}").unwrap(), expected);
    assert_eq!(decode::<BTreeMap<Kind2, u8>>(&[], r#"{"temp":1}"#).unwrap().len(), 1);
    let refused = decode::<All>(&[("kind", "window")], "{}").unwrap_err();
    assert!(
        refused.reason.contains("expected one of `temp`, `door`, found \"window\""),
        "{refused}"
    );
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind2 {
    Temp,
}

/// Goal: what a message has beside its payload becomes fields, parsed as the record asks.
#[test]
fn metadata_become_fields_of_the_type_that_the_record_has() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Reading {
        device: Str,
        temp: f64,
        offset: u64,
        sent: Option<i64>,
        trace: Option<u32>,
        key: Option<Str>,
    }
    let fields = [
        ("offset", Metadata::Offset),
        ("sent", Metadata::Timestamp),
        ("trace", Metadata::Header("trace-id".into())),
        ("key", Metadata::Key),
    ];
    let mut json = WithMetadata::new(Json::<Reading>::new());
    for (name, metadata) in fields {
        json = json.field(name, metadata);
    }
    let (bindings, headers) = ([("device".into(), "d7")], [Header::new("trace-id", "9")]);
    let mut message = Message {
        bindings: &bindings,
        headers: &headers,
        offset: Some(5),
        timestamp: Some(1_000.into()),
        ..Message::new(
            "t",
            br#"{"temp": 1.5, "offset": "the payload's own"}"#,
            Timestamp::default(),
        )
    };
    let device = Str::from("d7");
    let (sent, trace) = (Some(1_000), Some(9));
    let expected = Reading { device, temp: 1.5, offset: 5, sent, trace, key: None };
    assert_eq!(json.decode(&message), Ok(expected));
    let headers = [Header::new("trace-id", "x")];
    message.headers = &headers;
    assert_eq!(json.decode(&message).unwrap_err().cause, Cause::WrongType);
}
