//! The messages that the measurements of JSON decode, and the types they decode into.

use serde::Deserialize;
use thalweg_format::quoted;
use thalweg_kernel::Str;
use thalweg_testing::mix;

/// Messages of a kind: more than any branch predictor learns by heart.
pub(crate) const PAYLOADS: usize = 4096;

/// `count` messages of one kind.
pub(crate) fn payloads(count: usize, message: fn(u64) -> String) -> Vec<Vec<u8>> {
    (0..count as u64).map(|i| message(i).into_bytes()).collect()
}

#[derive(Deserialize)]
pub(crate) struct AdEvent {
    #[serde(deserialize_with = "quoted::hex")]
    pub(crate) ad_id: u64,
    pub(crate) event_type: Str,
    #[serde(deserialize_with = "quoted::decimal")]
    pub(crate) event_time: i64,
}

#[derive(Deserialize)]
pub(crate) struct AdEventText<'a> {
    pub(crate) ad_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) event_time: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Reading {
    pub(crate) device: Str,
    pub(crate) ts: i64,
    pub(crate) temp: f64,
}

#[derive(Deserialize)]
pub(crate) struct ReadingText<'a> {
    pub(crate) device: &'a str,
    pub(crate) ts: i64,
    pub(crate) temp: f64,
}

/// An event of the Yahoo streaming benchmark.
pub(crate) fn ad(i: u64) -> String {
    let h = mix(i);
    format!(
        r#"{{"user_id":"{h:016x}","page_id":"{:016x}","ad_id":"{:016x}","ad_type":"{}","event_type":"{}","event_time":"{}","ip_address":"1.2.3.4"}}"#,
        h.rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15,
        mix(0xAD00_0000 + (((h >> 16 & 0xffff_ffff) * 1000) >> 32)),
        ["banner", "modal", "sponsored-search", "mail", "mobile"][((h & 0xff) % 5) as usize],
        ["view", "click", "purchase"][(((h >> 8 & 0xff) * 3) >> 8) as usize],
        1_700_000_000_000 + i / 1000,
    )
}

/// A line of the sensor benchmark.
pub(crate) fn sensor(i: u64) -> String {
    let h = mix(i ^ 0x5E50_0000_0000);
    let dev = ((h & 0xffff_ffff) * 1000) >> 32;
    let late = if h >> 32 & 3 == 0 { (h >> 34) % 2000 } else { (h >> 34) % 50 };
    let h2 = mix(h);
    let t = 1500 + (dev % 100) * 10 + h2 % 1000;
    let hu = 200 + (h2 >> 20) % 700;
    let status = match (h2 >> 40) % 100 {
        0 => "error",
        1..=4 => "warn",
        _ => "ok",
    };
    format!(
        r#"{{"device":"d{dev:05}","ts":{},"temp":{}.{:02},"humidity":{}.{},"status":"{status}"}}"#,
        1_700_000_000_000 + i / 10 - late,
        t / 100,
        t % 100,
        hu / 10,
        hu % 10
    )
}

/// That message with its keys in another order each time: nothing can be expected.
pub(crate) fn shuffled(i: u64) -> String {
    let text = sensor(i);
    let mut fields: Vec<_> = text[1..text.len() - 1].split(',').collect();
    for j in (1..fields.len()).rev() {
        fields.swap(j, (mix(i * 7 + j as u64) % (j as u64 + 1)) as usize);
    }
    format!("{{{}}}", fields.join(","))
}

/// That message among 35 other fields.
pub(crate) fn wide(i: u64) -> String {
    let text = sensor(i);
    let mut fields: Vec<String> = text[1..text.len() - 1].split(',').map(String::from).collect();
    for j in 0..35u64 {
        let value = mix(i * 64 + j);
        fields.insert(
            (j * 3 % 36) as usize % fields.len(),
            match j % 5 {
                0 => format!(r#""state_{j}":"{value:x}""#),
                1 => format!(r#""count_{j}":{}"#, value % 100_000),
                2 => format!(r#""level_{j}":{}.{:03}"#, value % 1000, value % 997),
                3 => format!(r#""on_{j}":{}"#, value.is_multiple_of(2)),
                _ => format!(r#""list_{j}":[{},{},null]"#, value % 100, value % 7),
            },
        );
    }
    format!("{{{}}}", fields.join(","))
}

/// That message with white space, as Python's `json.dumps` writes it.
pub(crate) fn spaced(i: u64) -> String {
    sensor(i).replace("\":", "\": ").replace(",\"", ", \"")
}
