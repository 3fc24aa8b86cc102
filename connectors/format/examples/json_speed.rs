//! How long decoding takes, by this crate, `sonic-rs` and `serde_json`: the two messages of the
//! project's benchmarks, and two that are unkind. Prints nanoseconds per message, the best of many
//! interleaved rounds: `cargo run --profile profiling -p thalweg-format --example json_speed`.

use std::hint::black_box;
use std::time::Instant;

use serde::de::DeserializeOwned;
use thalweg_format::Json;
use thalweg_kernel::{Decode, Message, Timestamp};

#[path = "../benches/messages/mod.rs"]
mod messages;

use messages::{
    AdEvent, AdEventText, PAYLOADS, Reading, ReadingText, ad, payloads, sensor, shuffled, spaced,
    wide,
};

fn hex_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    // For a profiler: `json_speed CASE DECODER ROUNDS`.
    let only = arguments.get(1).map(String::as_str);
    let decoder = arguments.get(2).map(String::as_str);
    let rounds = arguments.get(3).and_then(|n| n.parse().ok()).unwrap_or(200);
    println!("message, bytes | thalweg | sonic-rs | serde_json | ratio to sonic-rs");
    let run = |name: &str| only.is_none_or(|only| only == name);
    if run("yahoo") {
        let digest = |ad: u64, kind: &str, time: i64| {
            (ad as usize).wrapping_add(kind.len()).wrapping_add(time as usize)
        };
        let text = |event: AdEventText<'_>| {
            digest(
                hex_of(event.ad_id).unwrap_or(0),
                event.event_type,
                event.event_time.parse().unwrap_or(0),
            )
        };
        report::<AdEvent>(
            "yahoo",
            &payloads(PAYLOADS, ad),
            rounds,
            decoder,
            |event| digest(event.ad_id, &event.event_type, event.event_time),
            |payload| sonic_rs::from_slice(payload).map_or(0, text),
            |payload| serde_json::from_slice(payload).map_or(0, text),
        );
    }
    let digest = |device: &str, ts: i64, temp: f64| {
        device.len().wrapping_add(ts as usize).wrapping_add(temp.to_bits() as usize)
    };
    let text = |r: ReadingText<'_>| digest(r.device, r.ts, r.temp);
    let cases: [(&str, fn(u64) -> String); 4] =
        [("sensor", sensor), ("spaced", spaced), ("shuffled", shuffled), ("wide", wide)];
    for (name, message) in cases {
        if run(name) {
            report::<Reading>(
                name,
                &payloads(PAYLOADS, message),
                rounds,
                decoder,
                |r| digest(&r.device, r.ts, r.temp),
                |payload| sonic_rs::from_slice(payload).map_or(0, text),
                |payload| serde_json::from_slice(payload).map_or(0, text),
            );
        }
    }
}

fn report<T: DeserializeOwned>(
    name: &str,
    payloads: &[Vec<u8>],
    rounds: usize,
    decoder: Option<&str>,
    digest: impl Fn(T) -> usize,
    sonic: impl Fn(&[u8]) -> usize,
    serde: impl Fn(&[u8]) -> usize,
) {
    let bytes = payloads.iter().map(Vec::len).sum::<usize>() / payloads.len();
    let mut json = Json::<T>::new();
    let mut ours = |payload: &[u8]| {
        let message = Message::new("ads", payload, Timestamp::default());
        json.decode(&message).map_or(0, &digest)
    };
    for payload in payloads {
        assert_eq!(ours(payload), sonic(payload));
        assert_eq!(ours(payload), serde(payload));
    }
    let mut best = [f64::INFINITY; 3];
    for _ in 0..rounds {
        if decoder.is_none_or(|d| d == "thalweg") {
            best[0] = best[0].min(round(payloads, &mut ours));
        }
        if decoder.is_none_or(|d| d == "sonic") {
            best[1] = best[1].min(round(payloads, &sonic));
        }
        if decoder.is_none_or(|d| d == "serde") {
            best[2] = best[2].min(round(payloads, &serde));
        }
    }
    let [ours, sonic, serde] = best;
    println!("{name}, {bytes} | {ours:.1} | {sonic:.1} | {serde:.1} | {:.2}", ours / sonic);
}

fn round(payloads: &[Vec<u8>], mut decode: impl FnMut(&[u8]) -> usize) -> f64 {
    let start = Instant::now();
    for payload in payloads {
        black_box(decode(black_box(payload)));
    }
    start.elapsed().as_nanos() as f64 / payloads.len() as f64
}
