//! Decoding JSON, one message per call. Each kind stands beside its lower bound (a look at every byte),
//! `sonic-rs` and `serde_json`, which decode into borrowed text. Run `cargo bench -p thalweg-format`.
//!
//! `cargo test` runs every measurement once. For ratios that a noisy machine cannot blur, see the
//! example `json_speed`.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use serde::de::DeserializeOwned;
use thalweg_format::Json;
use thalweg_kernel::{Decode, Message, Timestamp};

mod messages;

use messages::{
    AdEvent, AdEventText, PAYLOADS, Reading, ReadingText, ad, payloads, sensor, shuffled, spaced,
    wide,
};

fn kinds(criterion: &mut Criterion) {
    {
        let payloads = payloads(PAYLOADS, ad);
        let mut group = group(criterion, "yahoo", &payloads);
        ours(&mut group, &payloads, |event: AdEvent| {
            event.ad_id ^ event.event_time.cast_unsigned() ^ event.event_type.len() as u64
        });
        each(&mut group, "sonic-rs", &payloads, |payload| {
            sonic_rs::from_slice::<AdEventText<'_>>(payload).map_or(0, ad_digest)
        });
        each(&mut group, "serde_json", &payloads, |payload| {
            serde_json::from_slice::<AdEventText<'_>>(payload).map_or(0, ad_digest)
        });
    }
    let readings: [(&str, fn(u64) -> String); 4] =
        [("sensor", sensor), ("spaced", spaced), ("shuffled", shuffled), ("wide", wide)];
    for (name, message) in readings {
        let payloads = payloads(PAYLOADS, message);
        let mut group = group(criterion, name, &payloads);
        ours(&mut group, &payloads, |reading: Reading| {
            digest(ReadingText { device: &reading.device, ts: reading.ts, temp: reading.temp })
        });
        each(&mut group, "sonic-rs", &payloads, |payload| {
            sonic_rs::from_slice::<ReadingText<'_>>(payload).map_or(0, digest)
        });
        each(&mut group, "serde_json", &payloads, |payload| {
            serde_json::from_slice::<ReadingText<'_>>(payload).map_or(0, digest)
        });
    }
}

/// What a hand-written loop would make of the text.
fn ad_digest(event: AdEventText<'_>) -> u64 {
    let ad = u64::from_str_radix(event.ad_id, 16).unwrap_or(0);
    let time = event.event_time.parse::<u64>().unwrap_or(0);
    ad ^ time ^ event.event_type.len() as u64
}

fn digest(reading: ReadingText<'_>) -> u64 {
    reading.temp.to_bits() ^ reading.ts.cast_unsigned() ^ reading.device.len() as u64
}

fn group<'c>(
    criterion: &'c mut Criterion,
    name: &str,
    payloads: &[Vec<u8>],
) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(payloads.len() as u64));
    each(&mut group, "every byte", payloads, |payload| {
        payload.iter().filter(|&&byte| byte == b'"').count() as u64
    });
    group
}

fn ours<T: DeserializeOwned>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    payloads: &[Vec<u8>],
    digest: impl Fn(T) -> u64,
) {
    let mut json = Json::<T>::new();
    each(group, "thalweg", payloads, |payload| {
        let message = Message::new("t", payload, Timestamp::default());
        json.decode(&message).map_or(0, &digest)
    });
}

fn each(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    payloads: &[Vec<u8>],
    mut decode: impl FnMut(&[u8]) -> u64,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            payloads.iter().map(|payload| decode(black_box(payload))).fold(0, u64::wrapping_add)
        });
    });
}

criterion_group!(benches, kinds);
criterion_main!(benches);
