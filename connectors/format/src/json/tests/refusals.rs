//! Each refusal with its cause, position and words.

use std::collections::BTreeMap;

use serde::Deserialize;
use thalweg_kernel::{Cause, Decode, Message, Timestamp};

use super::{Reading, Shape, decode, decode_bytes};
use crate::Json;

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Outer {
    #[serde(default)]
    list: Vec<Reading>,
    #[serde(default)]
    map: BTreeMap<String, i8>,
    inner: Option<Reading>,
}

#[test]
fn cause_position_and_reason() {
    let cases: &[(&str, Cause, Option<u64>, &str)] = &[
        ("", Cause::Malformed, Some(0), "the payload is empty"),
        ("  \n", Cause::Malformed, Some(3), "the payload is empty"),
        ("hello", Cause::Malformed, Some(0), "expected a value, found 'h'"),
        ("{} x", Cause::Malformed, Some(3), "expected the end of the message, found 'x'"),
        ("{}{}", Cause::Malformed, Some(2), "expected the end of the message, found '{'"),
        ("{\"a\" 1}", Cause::Malformed, Some(5), "expected `:` after the key, found '1'"),
        ("{a:1}", Cause::Malformed, Some(1), "expected a key in quotes, found 'a'"),
        ("{\"a\":1,}", Cause::Malformed, Some(7), "expected a key in quotes, found '}'"),
        ("{,\"a\":1}", Cause::Malformed, Some(1), "expected a key in quotes, found ','"),
        ("{\"a\":1 \"b\":2}", Cause::Malformed, Some(7), "expected `,` or `}`, found '\"'"),
        ("{\"a\":[1,]}", Cause::Malformed, Some(8), "field `a`: expected a value, found ']'"),
        ("{\"a\":[1}", Cause::Malformed, Some(7), "field `a`: expected `,` or `]`, found '}'"),
        (
            "{\"a\":01}",
            Cause::Malformed,
            Some(5),
            "field `a`: a number must not begin with a superfluous 0",
        ),
        (
            "{\"a\":1.}",
            Cause::Malformed,
            Some(7),
            "field `a`: expected a digit after the decimal point, found '}'",
        ),
        ("{\"a\":tru}", Cause::Malformed, Some(5), "field `a`: expected a value, found 't'"),
        (
            "{\"a\":\"\u{1}\"}",
            Cause::Malformed,
            Some(6),
            "field `a`: a control character within a string must be escaped",
        ),
        (
            "{\"a\":\"\\x\"}",
            Cause::Malformed,
            Some(7),
            "field `a`: expected one of \"\\/bfnrtu after the backslash, found 'x'",
        ),
        ("{\"a\":\"é", Cause::Malformed, Some(8), "field `a`: the message ends within a string"),
        (
            "{\"inner\":{\"device\":\"\\ud800\"}}",
            Cause::Malformed,
            Some(20),
            "field `inner.device`: half of a surrogate pair is no character",
        ),
        (
            "{\"inner\":{\"temp\":1,\"temp\":2}}",
            Cause::Malformed,
            Some(19),
            "field `inner.temp`: given twice",
        ),
        (
            "\u{feff}{}",
            Cause::Malformed,
            Some(0),
            "expected a value, found a byte order mark: send UTF-8 without",
        ),
        (
            "{\"inner\":{\"device\":\"\"}}",
            Cause::MissingField,
            Some(21),
            "field `inner.temp`: missing",
        ),
        (
            "{\"list\":[{\"device\":\"\",\"temp\":1},{\"device\":\"\"}]}",
            Cause::MissingField,
            Some(44),
            "field `list[1].temp`: missing",
        ),
        (
            "{\"inner\":{\"temp\": \"hot\"}}",
            Cause::WrongType,
            Some(18),
            "field `inner.temp`: expected a number, found the string \"hot\"",
        ),
        (
            "{\"inner\":{\"temp\":null}}",
            Cause::WrongType,
            Some(17),
            "field `inner.temp`: expected a number, found null",
        ),
        (
            "{\"inner\":{\"device\":{}}}",
            Cause::WrongType,
            Some(19),
            "field `inner.device`: expected a string, found an object",
        ),
        (
            "{\"inner\":{\"count\":256}}",
            Cause::WrongType,
            Some(18),
            "field `inner.count`: expected an integer (u8), found the integer 256",
        ),
        (
            "{\"inner\":{\"count\":1.5}}",
            Cause::WrongType,
            Some(18),
            "field `inner.count`: expected an integer (u8), found the number 1.5",
        ),
        (
            "{\"map\":{\"x\":1,\"y z\":true}}",
            Cause::WrongType,
            Some(20),
            "field `map.y z`: expected an integer (i8), found true",
        ),
        (
            "{\"list\":3}",
            Cause::WrongType,
            Some(8),
            "field `list`: expected a sequence, found the number 3",
        ),
        (
            "21.5",
            Cause::WrongType,
            Some(0),
            "expected an object (struct Outer), found the number 21.5",
        ),
        (
            "{\"inner\":{\"temp\":NaN}}",
            Cause::NotANumber,
            Some(17),
            "field `inner.temp`: NaN is not a number",
        ),
        ("{\"a\":[-Infinity]}", Cause::NotANumber, Some(6), "field `a`: -Infinity is not a number"),
        (
            "{\"inner\":{\"temp\":nan}}",
            Cause::NotANumber,
            Some(17),
            "field `inner.temp`: nan is not a number",
        ),
        (
            "{\"inner\":{\"temp\":-1e999}}",
            Cause::NotANumber,
            Some(17),
            "field `inner.temp`: the number -1e999 is beyond the range of f64",
        ),
    ];
    for (payload, cause, position, reason) in cases {
        let refused = decode::<Outer>(payload).expect_err(payload);
        let found = (refused.cause, refused.position, refused.reason.as_str());
        assert_eq!(found, (*cause, *position, *reason), "{payload}");
    }
    // An exponent that no float has is still a number where nobody reads it.
    assert!(decode::<Outer>("{\"a\":1e999}").is_ok());
    // So is half a surrogate pair a string.
    assert!(decode::<Outer>("{\"a\":\"\\ud800\"}").is_ok());
}

#[test]
fn enums_name_what_would_do() {
    let reason = |payload| decode::<Shape>(payload).unwrap_err().reason;
    assert_eq!(
        reason("\"Sphere\""),
        "expected one of `Dot`, `Circle`, `Line`, `Box`, found \"Sphere\""
    );
    assert_eq!(reason("\"Circle\""), "expected a variant with a value, found unit variant");
    assert_eq!(
        reason("{\"Circle\":1,\"Dot\":null}"),
        "expected `}` after the only variant, found ','"
    );
    assert_eq!(reason("{\"Line\":[1,2,3]}"), "expected an array of 2 elements, found more");
    assert_eq!(
        reason("{\"Line\":[1]}"),
        "expected tuple variant Shape::Line with 2 elements, found 1 elements"
    );
}

#[test]
fn bytes_that_are_not_utf8_are_found_wherever_they_hide() {
    for payload in [&b"{\"skipped\":\"\xff\",\"device\":\"\",\"temp\":1}"[..], b"{}\xc3", b"\x80"] {
        let refused = decode_bytes::<Reading>(payload).unwrap_err();
        let exact = std::str::from_utf8(payload).unwrap_err().valid_up_to() as u64;
        assert_eq!((refused.cause, refused.position), (Cause::InvalidUtf8, Some(exact)));
    }
}

#[test]
fn payloads_over_their_bound() {
    let mut json = Json::<u8>::new().payload_bytes_max(3);
    let mut cause = |payload: &str| {
        let message = Message::new("t", payload.as_bytes(), Timestamp::default());
        json.decode(&message).map_err(|refused| refused.cause)
    };
    assert_eq!(cause("  1"), Ok(1));
    assert_eq!(cause("   1"), Err(Cause::TooLarge));
}

/// A type that nests without end.
#[derive(Debug, Deserialize)]
struct Nest(#[allow(dead_code)] Vec<Nest>);

#[test]
fn nesting_has_a_bound_however_it_is_read() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for (depth, ok) in [(64, true), (65, false), (30_000, false)] {
            let payload = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            let skipped = decode::<serde::de::IgnoredAny>(&payload);
            assert_eq!(skipped.is_ok(), ok, "{open} {depth}");
            let built = decode::<serde_json::Value>(&payload);
            assert_eq!(built.is_ok(), ok, "{open} {depth}");
            if let Err(refused) = built {
                assert_eq!(refused.cause, Cause::TooDeep);
                assert_eq!(skipped.unwrap_err().position, refused.position);
                assert!(refused.reason.ends_with("nested more than 64 levels deep"), "{refused}");
            }
        }
    }
    let million = "[".repeat(1_000_000);
    let mut json = Json::<Nest>::new().payload_bytes_max(usize::MAX).depth_max(usize::MAX);
    let refused = json.decode(&Message::new("t", million.as_bytes(), Timestamp::default()));
    let refused = refused.unwrap_err();
    assert_eq!((refused.cause, refused.position), (Cause::TooDeep, Some(128)));
    let mut json = Json::<serde::de::IgnoredAny>::new().payload_bytes_max(usize::MAX).depth_max(2);
    let refused = json.decode(&Message::new("t", million.as_bytes(), Timestamp::default()));
    assert_eq!(refused.unwrap_err().position, Some(2));
}

#[test]
fn a_hostile_name_does_not_blow_up_the_reason() {
    let long = "é".repeat(10_000);
    let refused = decode::<Outer>(&format!("{{\"map\":{{\"{long}\":\"{long}\"}}}}")).unwrap_err();
    assert!(refused.reason.len() < 400, "{} bytes", refused.reason.len());
}
