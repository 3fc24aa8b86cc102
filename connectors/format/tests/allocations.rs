//! Decoding a struct of numbers and short strings allocates nothing in steady state, with or without
//! escapes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use allocation_counter::measure;
use serde::Deserialize;
use thalweg_format::Json;
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
