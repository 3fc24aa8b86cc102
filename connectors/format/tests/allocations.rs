//! Decoding a struct of numbers and short strings allocates nothing in steady state, with or without
//! escapes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use allocation_counter::measure;
use serde::Deserialize;
use thalweg_format::Json;
use thalweg_format::shape::{Extractor, Payload, Shape};
use thalweg_kernel::{Decode, Message, Str, Timestamp};

#[derive(Debug, Deserialize)]
struct Reading {
    device: Str,
    site: Option<Str>,
    temp: f64,
    ts: i64,
}

#[test]
fn decoding_in_steady_state_allocates_nothing() {
    let payloads = [
        r#"{"device":"boiler-12345","temp":21.5,"ts":1700000000000,"x":[{"y":"\u00e9"},1]}"#,
        r#"{"dev\u0069ce":"b\u00f6iler\n","temp":123456789.123456789e-3,"ts":1}"#,
    ];
    let bindings = [("site".into(), "north")];
    let mut json = Json::<Reading>::new();
    let mut decode = || {
        for payload in payloads {
            let mut message = Message::new("t", payload.as_bytes(), Timestamp::default());
            message.bindings = &bindings;
            let read = json.decode(&message).unwrap();
            assert!(
                read.device.len() < 24 && read.site.is_some() && read.temp > 0.0 && read.ts > 0
            );
        }
    };
    decode();
    assert_eq!(measure(|| (0..100).for_each(|_| decode())).count_total, 0);
}

/// So does a shape with paths, an array that is taken apart, a key of several parts and times as text.
#[test]
fn extracting_in_steady_state_allocates_nothing() {
    let shape = Shape::new(Payload::Json)
        .text("key", "{site}/{name}")
        .and_then(|shape| shape.time("at", "r[].t"))
        .and_then(|shape| shape.measurements("what", "value", ["r[].v", "r[].w.x"]))
        .unwrap();
    let payload = r#"{"r":[{"t":"2024-02-24T22:20:38Z","v":"1.5","w":{"x":2}},{"t":5,"w":{"x":true}}],"name":"b\u00f6"}"#;
    let bindings = [("site".into(), "north")];
    let mut extractor = Extractor::new(shape);
    let mut extract = || {
        let mut message = Message::new("t", payload.as_bytes(), Timestamp::default());
        message.bindings = &bindings;
        let mut rows = 0;
        extractor.extract(&message, |row| rows += row.unwrap().len());
        assert_eq!(rows, 3 * 4);
    };
    extract();
    assert_eq!(measure(|| (0..100).for_each(|_| extract())).count_total, 0);
}
