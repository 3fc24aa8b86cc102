//! How long decoding takes: a YSB-like message of 238 bytes, 3 of its 7 fields wanted, by this
//! crate, `serde_json` and `sonic-rs`. Prints the best of several rounds in nanoseconds per
//! message: `cargo run --release -p thalweg-format --example json_speed`.

use std::hint::black_box;
use std::time::Instant;

use serde::Deserialize;
use thalweg_format::Json;
use thalweg_kernel::{Decode, Message, Str, Timestamp};

const PAYLOADS: usize = 4096;
const ROUNDS: usize = 60;

#[derive(Deserialize)]
struct AdEvent {
    ad_id: Str,
    event_type: Str,
    event_time: i64,
}

#[derive(Deserialize)]
struct Reading {
    device: Str,
    temp: f64,
    ts: i64,
}

fn main() {
    let ads: Vec<_> = (0..PAYLOADS)
        .map(|i| {
            format!(
                r#"{{"user_id":"{i:08x}-8d3a-4c1b-9e7f-0123456789ab","page_id":"{i:08x}-77aa-4bd0-8c11-abcdefabcdef","ad_id":"ad-{i:020}","ad_type":"sponsored-search","event_type":"{}","event_time":{},"ip_address":"10.1.{}.{}"}}"#,
                ["view", "click", "purchase"][i % 3],
                1_700_000_000_000 + i,
                i % 200 + 50,
                i % 100 + 100,
            )
            .into_bytes()
        })
        .collect();
    let readings: Vec<_> = (0..PAYLOADS)
        .map(|i| {
            format!(
                r#"{{"device": "boiler-{i}", "temp": {:.2}, "ts": {}, "unit": "C"}}"#,
                i as f64 / 37.0,
                1_700_000_000_000 + i
            )
            .into_bytes()
        })
        .collect();
    println!("message, bytes | thalweg | serde_json | sonic-rs   (ns per message)");
    report("ad event", &ads, |event: AdEvent| {
        event.ad_id.len() + event.event_type.len() + event.event_time as usize
    });
    report("sensor reading", &readings, |reading: Reading| {
        reading.device.len() + reading.temp as usize + reading.ts as usize
    });
}

fn report<T: for<'de> Deserialize<'de>>(
    name: &str,
    payloads: &[Vec<u8>],
    digest: impl Fn(T) -> usize,
) {
    let bytes = payloads.iter().map(Vec::len).sum::<usize>() / payloads.len();
    let mut json = Json::<T>::new();
    let thalweg = best_ns(payloads, |payload| {
        let message = Message::new("ads", payload, Timestamp::default());
        json.decode(&message).map_or(0, &digest)
    });
    let serde_json =
        best_ns(payloads, |payload| serde_json::from_slice(payload).map_or(0, &digest));
    let sonic = best_ns(payloads, |payload| sonic_rs::from_slice(payload).map_or(0, &digest));
    println!("{name}, {bytes} | {thalweg:.0} | {serde_json:.0} | {sonic:.0}");
}

fn best_ns(payloads: &[Vec<u8>], mut decode: impl FnMut(&[u8]) -> usize) -> f64 {
    let round = || {
        let start = Instant::now();
        for payload in payloads {
            black_box(decode(black_box(payload)));
        }
        start.elapsed().as_nanos() as f64 / payloads.len() as f64
    };
    std::iter::repeat_with(round).take(ROUNDS).fold(f64::INFINITY, f64::min)
}
